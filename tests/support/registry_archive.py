"""The archive that `comfy node publish` uploads to the Comfy registry, and that ComfyUI-Manager installs.

It holds what comfy-cli packs: each file in git that no pattern of `.comfyignore` matches, under its path.

    python -m tests.support.registry_archive ARCHIVE.zip
"""

from __future__ import annotations

import argparse
import os
import subprocess
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from pathspec import GitIgnoreSpec

REPOSITORY = Path(__file__).resolve().parents[2]


def packed_files(root: Path = REPOSITORY) -> list[str]:
    """Return the paths of the files that the archive holds, relative to `root`, with ``/`` between their parts."""
    return _not_ignored(root, _in_git(root) if (root / ".git").exists() else _on_disk(root))


def new_files(root: Path = REPOSITORY) -> list[str]:
    """Return the paths of files that the archive will hold once they are added to git."""
    is_clone = (root / ".git").exists()
    return _not_ignored(root, _in_git(root, "--others", "--exclude-standard")) if is_clone else []


def pack(archive: Path, root: Path = REPOSITORY) -> None:
    """Write the archive, a zip file."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in packed_files(root):
            packed.write(root / path, path)


def _not_ignored(root: Path, paths: Iterable[str]) -> list[str]:
    ignored = _patterns(root / ".comfyignore")
    # A file may be gone from the disk and still be in git's index: comfy-cli leaves it out with a warning.
    return [path for path in paths if not ignored.match_file(path) and (root / path).exists()]


def _in_git(root: Path, *options: str) -> list[str]:
    command = ["git", "-C", str(root), "ls-files", "-z", *options]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [path for path in listed.split("\0") if path]


def _on_disk(root: Path) -> Iterator[str]:
    """Yield the paths of all files in a copy of the repository without git's folder, as of a downloaded archive."""
    ignored = _patterns(root / ".gitignore")
    for folder, folders, files in os.walk(root):
        above = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if not ignored.match_file(f"{(above / name).as_posix()}/")]
        paths = ((above / name).as_posix() for name in files)
        yield from (path for path in paths if not ignored.match_file(path))


def _patterns(file: Path) -> GitIgnoreSpec:
    return GitIgnoreSpec.from_lines(file.read_text(encoding="utf-8").splitlines())


def main() -> None:
    """Pack this repository, and print how many files the archive holds and its size."""
    parser = argparse.ArgumentParser(description="Pack what the Comfy registry would distribute.")
    parser.add_argument("archive", type=Path)
    archive = parser.parse_args().archive
    pack(archive)
    with zipfile.ZipFile(archive) as packed:
        files = packed.infolist()
    unpacked = sum(file.file_size for file in files)
    print(f"{archive}: {len(files)} files, {archive.stat().st_size:,} bytes packed, {unpacked:,} bytes unpacked")


if __name__ == "__main__":
    main()
