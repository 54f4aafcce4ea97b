"""Unlabelled images in folders, as `datool.files.list_images` lists them: ImageNet, Places365, Objects365, one's own.

A split is ``all`` or a folder below the root (``train``, ``images/100k/train``); ids stay relative to the root. The
list of files is kept in memory, about 1 kB an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from datool.data.sample import Sample
from datool.data.sources.base import Row, expect, unlabelled
from datool.errors import DatoolError
from datool.files.images import read_image
from datool.files.listing import list_images

ALL = "all"
LAYOUT = "<any folders>/<name>.jpg (or .png, .webp, ... whatever `datool predict` reads)"


def index(root: Path, split: str, layout: str = LAYOUT) -> Iterator[Row]:
    """Return a row for every image below ``root``, sorted by id.

    Args:
        root: a folder.
        split: ``all``, or a folder below ``root``.
        layout: for messages.
    Raises:
        DatoolError: no such folder, or no image in it.
    """
    folder = part(root, split, layout)
    files = list_images([str(folder)])
    rows = [Row(file.path.relative_to(root).as_posix(), file.path) for file in files]
    rows.sort(key=lambda row: row.id)
    return iter(rows)


def read(row: Row) -> Sample:
    """Return the image.

    Raises:
        DatoolError: it is unreadable.
    """
    return Sample(row.id, read_image(row.image))


def part(root: Path, split: str, layout: str) -> Path:
    """Return the folder that ``split`` names.

    Raises:
        DatoolError: there is none.
    """
    expect(root, root.is_dir(), "folder", layout)
    if split == ALL:
        return root
    folder = root / split
    if Path(split).is_absolute() or ".." in Path(split).parts or not folder.is_dir():
        raise DatoolError(
            f"{root} has no folder '{split}'.", f"A split is '{ALL}' or a folder in it. Layout:\n{layout}"
        )
    return folder


image_folders = unlabelled(index, read, LAYOUT, ALL)
