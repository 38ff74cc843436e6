"""The SHA-256 of a checkpoint, compared before anything of it is loaded.

`python -m workers.engines.pin PATH` prints what MODEL_SHA256 has to be set to.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from shared.errors import SettingsError


def checkpoint_sha256(path: Path) -> str:
    """A file's SHA-256; of a folder, that of the sorted lines `<sha256>  <relative path>` of its files."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{checkpoint_sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_pin(model: str, expected: str) -> None:
    """Raise `SettingsError` unless the checkpoint is the pinned one."""
    path = Path(model)
    if not path.exists():
        raise SettingsError(
            ["MODEL_SHA256 pins a file or folder; a hub id cannot be checked before it is loaded."]
        )
    if checkpoint_sha256(path) != expected.strip().lower():
        raise SettingsError(
            [
                "MODEL_SHA256 is not that of the checkpoint: it was changed, or damaged on its way."
                " Nothing was loaded."
            ]
        )


if __name__ == "__main__":
    print(checkpoint_sha256(Path(sys.argv[1])))  # noqa: T201
