"""DA-2K: about 1,000 photos of eight kinds with pairs of points of which one is nearer. There is no depth.

``annotations.json`` maps an image path to its pairs; points are [row, column] in pixels of the upright image (the
authors read with cv2.imread, which turns by EXIF). `read_pairs` gives them to the benchmark by row id; `index` and
`read` give the images. Third parties count 2,068 pairs on 1,029 to 1,040 images. An image that the annotations name may
be missing in the official archive (Depth-Anything-V2 issue 328), so one missing file is no error here but when it is
read; a kind of scene without any is.

Source: Yang et al. 2024 (Depth Anything V2), arXiv:2406.09414, section 6; Depth-Anything-V2 DA-2K.md; Hugging Face
depth-anything/DA-2K (Apache-2.0).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from datool.data.sample import Sample
from datool.data.sources.base import Row, Source, expect
from datool.data.sources.trees import find_root
from datool.errors import DatoolError, lookup
from datool.files.images import explained, read_image

TITLE = "DA-2K (Yang et al. 2024)"
SPLITS = ("test",)
LAYOUT = """\
DA-2K/annotations.json
DA-2K/images/indoor/<name>.jpg, outdoor, non_real, transparent_reflective, adverse_style, aerial, underwater, object"""

ANNOTATIONS = "annotations.json"
POINTS = ("point1", "point2")


@dataclass(frozen=True)
class Pair:
    """Two points of an image.

    Args:
        nearer, farther: (row, column) in pixels, the first pixel being (0, 0).
    """

    nearer: tuple[int, int]
    farther: tuple[int, int]


def index(root: Path, split: str) -> Iterator[Row]:
    """Return a row for every annotated image, sorted by id (``images/<kind>/<name>``).

    Args:
        root: the folder of ``annotations.json``, or the one above.
        split: ``test``.
    Raises:
        DatoolError: the annotations, or all images of a kind, are not there.
    """
    lookup(dict.fromkeys(SPLITS), split, "split of DA-2K")
    place = _place(root)
    rows = [Row(name, place / name) for name in sorted(read_pairs(root))]
    folders = {row.image.parent: False for row in rows}
    for row in rows:
        folders[row.image.parent] = folders[row.image.parent] or row.image.is_file()
    for folder, found in folders.items():
        expect(root, found, f"image in {folder.relative_to(place)}", LAYOUT)
    return iter(rows)


def read(row: Row) -> Sample:
    """Return the image.

    Raises:
        DatoolError: it is missing or unreadable.
    """
    return Sample(row.id, read_image(row.image))


def read_pairs(root: Path) -> dict[str, tuple[Pair, ...]]:
    """Return the pairs of every annotated image by row id.

    Args:
        root: the folder of ``annotations.json``, or the one above.
    Raises:
        DatoolError: the annotations are not there, or not of their form.
    """
    path = _place(root) / ANNOTATIONS
    with explained(str(path)):
        found = json.loads(path.read_bytes())
    if not isinstance(found, dict) or not found:
        raise DatoolError(f"{path} is {type(found).__name__}, expected an object of images and their pairs.", LAYOUT)
    return {_id(path, name): tuple(_pair(path, name, entry) for entry in entries) for name, entries in found.items()}


def _place(root: Path) -> Path:
    expect(root, root.is_dir(), "folder", LAYOUT)
    place = find_root(root, ("DA-2K",), lambda place: (place / ANNOTATIONS).is_file())
    expect(root, (place / ANNOTATIONS).is_file(), f"DA-2K/{ANNOTATIONS}", LAYOUT)
    return place


def _id(path: Path, name: str) -> str:
    """Return the row id of an annotated path, which may begin with ``./``."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise DatoolError(f"{path} names '{name}', expected a path below it.", "Fetch it again.")
    return parts.as_posix()


def _pair(path: Path, name: str, entry: object) -> Pair:
    problem = f"{path}, image {name}: got {entry!r:.120}, expected"
    if not isinstance(entry, dict) or entry.get("closer_point") not in POINTS:
        raise DatoolError(f"{problem} point1, point2 and closer_point, which names one of them.", "Fetch it again.")
    points = []
    for point in POINTS:
        place = entry.get(point)
        if not isinstance(place, list) or len(place) != 2 or not all(type(at) is int and at >= 0 for at in place):
            raise DatoolError(f"{problem} {point} as [row, column] in whole pixels.", "Fetch it again.")
        points.append((place[0], place[1]))
    return Pair(*points) if entry["closer_point"] == "point1" else Pair(*reversed(points))


DA2K = Source(index, read, SPLITS, LAYOUT, None, None, TITLE, scored=SPLITS)
