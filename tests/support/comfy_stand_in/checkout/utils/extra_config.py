"""Files of further model folders."""

from pathlib import Path

import folder_paths


def load_extra_path_config(yaml_path: str) -> None:
    """Add the folders of a file with lines `KIND: FOLDER`; raises ValueError for anything else."""
    for line in Path(yaml_path).read_text().splitlines():
        kind, found, folder = line.partition(": ")
        if not found:
            raise ValueError(line)
        folder_paths.add_model_folder_path(kind, folder)
