"""ComfyUI's folders of model files: for each kind the folders, and the suffixes of its files."""

from pathlib import Path

folder_names_and_paths: dict[str, tuple[list[str], set[str]]] = {
    name: ([], {".safetensors", ".ckpt", ".pt"})
    for name in (
        *("diffusion_models", "checkpoints", "controlnet", "loras", "text_encoders", "vae", "clip_vision"),
        *("vae_approx", "upscale_models", "audio_encoders", "custom_nodes"),
    )
}
user_directory = ""


def get_folder_paths(folder_name: str) -> list[str]:
    """Return the folders of one kind."""
    return folder_names_and_paths[folder_name][0][:]


def get_filename_list(folder_name: str) -> list[str]:
    """Return the names of the files of one kind."""
    folders = map(Path, get_folder_paths(folder_name))
    return [file.name for folder in folders for file in sorted(folder.glob("*")) if file.is_file()]


def add_model_folder_path(folder_name: str, full_folder_path: str, is_default: bool = False) -> None:
    """Add a folder; in front where it is the default."""
    folders = folder_names_and_paths.setdefault(folder_name, ([], set()))[0]
    folders.insert(0 if is_default else len(folders), full_folder_path)


def get_user_directory() -> str:
    """Return the folder of users' settings."""
    return user_directory
