"""What no tar that datool reads may hold."""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath, PureWindowsPath

from datool.errors import DatoolError


def refuse_unsafe(info: tarfile.TarInfo, path: Path) -> None:
    """Raise unless a member is a folder or a plain file that stays below the folder it would be unpacked into.

    Args:
        info: header of the member.
        path: of the tar, for the message.
    Raises:
        DatoolError: an absolute name, ``..`` in it, a link, a device or a sparse file.
    """
    name = PurePosixPath(info.name)
    if name.is_absolute() or ".." in name.parts or PureWindowsPath(info.name).is_absolute():
        raise refused(path, info.name, "it would leave the folder")
    if not info.isdir() and (not info.isreg() or info.issparse()):
        raise refused(path, info.name, "it is a link, a device or sparse, not a plain file")


def refused(path: Path, name: str, reason: str) -> DatoolError:
    """Return the error of a member that datool will not read."""
    return DatoolError(f"refused {path}: member '{name}': {reason}.", "Do not trust it; fetch it from its authors.")
