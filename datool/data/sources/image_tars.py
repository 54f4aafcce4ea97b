"""Unlabelled images in tar files of any members: SA-1B, Google Landmarks, Open Images.

Every member with an image's suffix is a row; others (SA-1B's json) are passed over, and so are hidden ones ("._x.jpg").
Nothing is ever unpacked to disk. All the same a tar with a member that would leave its folder ("..", an absolute name),
a link or a device is refused whole: it is not what it says it is.

A row holds the place of its member in the tar, so that reading it costs one seek. A compressed tar (.tar.gz, .tgz) has
no places to seek to: it is read through once for the list, and again for the images, in the order in which they are
stored. Ask for its rows in that order, and in one go, or pack it first.

A split is ``all`` or a folder below the root.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from datool.data.sample import Sample
from datool.data.shards.tars import COMPRESSED, members, read_member
from datool.data.sources.base import Row, expect, unlabelled
from datool.data.sources.image_folders import ALL, part
from datool.files import decode_image
from datool.files.listing import IMAGE_SUFFIXES

SUFFIXES = (".tar", ".tar.gz", ".tgz")
LAYOUT = "<any folders>/<name>.tar (or .tar.gz, .tgz), each with images below any folders"


def index(root: Path, split: str, layout: str = LAYOUT) -> Iterator[Row]:
    """Return a row for every image in the tars below ``root``, tar by tar.

    Args:
        root: a folder.
        split: ``all``, or a folder below ``root``.
        layout: for messages.
    Raises:
        DatoolError: no such folder, no tar in it, or a tar that is broken or refused.
    """
    paths = tars(part(root, split, layout))
    expect(root, bool(paths), "file *.tar, *.tar.gz or *.tgz", layout)
    return _rows(root, paths)


def read(row: Row) -> Sample:
    """Return the image.

    Raises:
        DatoolError: the tar or the image is unreadable.
    """
    assert isinstance(row.member, int), "index gives the offset"
    name, data = read_member(row.image, row.member)
    return Sample(row.id, decode_image(data, f"{name} in {row.image}"))


def tars(folder: Path) -> list[Path]:
    """Return the tars below ``folder``, in the order of the ids of what they hold."""
    named = (path for path in folder.rglob("*") if path.name.endswith(SUFFIXES) and not path.name.startswith("."))
    found = [path for path in named if path.is_file()]
    return sorted(found, key=lambda path: f"{path.relative_to(folder).as_posix()}/")


def is_image(name: str) -> bool:
    """Tell whether a member is an image that is not hidden."""
    path = PurePosixPath(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


image_tars = unlabelled(index, read, LAYOUT, ALL)


def _rows(root: Path, paths: list[Path]) -> Iterator[Row]:
    for path in paths:
        place = path.relative_to(root).as_posix()
        found = [(member.name, member.offset) for member in members(path) if is_image(member.name)]
        for name, offset in found if path.name.endswith(COMPRESSED) else sorted(found):
            yield Row(f"{place}/{name}", path, member=offset)
