"""TartanAir (V1): about 306,000 rendered left images of outdoor and indoor flights, 640x480, planar depth in metres.

Depth is a .npy array; its documentation says 16-bit, files in use are said to be float32 (UNVERIFIED), so any type is
taken. 0 and NaN are unknown. The sky is a sphere far away (10,000 m and more): what is at 1,000 m or beyond is sky.

In environment ``amusement`` an invisible dome stands nearer than that, and its distance cannot be told from real
depth. Segmentation class 182 covers the dome but some trees too, so there it is marked unknown, neither sky nor
depth, which needs ``seg_left``. The split ``train`` leaves that environment out (27,190 of 613,274 images of both
cameras).

Both unpackings are found: ``ENV/Easy/P000/image_left/`` and ``ENV/Easy/image_left/P000/image_left/``, with further
folders above or between; ids do not depend on which. The set has no official split: Easy and Hard are both for
training.

Camera: fx = fy = 320, cx = 320, cy = 240. With a field of view of 90 degrees over 640 px that is the middle of the
picture measured from its edge (ASSUMED: the source does not say where pixel centres are).

Source: Wang et al. 2020, arXiv:2003.14338; github.com/castacks/tartanair_tools (README, data_type.md, issues 46, 67);
Depth-Anything-V2 issue 144.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from datool.data.sample import Sample
from datool.data.sources.base import Row, Source, expect
from datool.data.sources.decode import depth_map, read_npy, unreadable
from datool.data.sources.trees import check_split, folders, keys, require_pairs
from datool.depth import Ambiguity, Camera, Quantity
from datool.errors import DatoolError
from datool.files.images import read_image

TITLE = "TartanAir (Wang et al. 2020, github.com/castacks/tartanair_tools)"
SPLITS = ("train", "amusement", "all")
LAYOUT = """\
abandonedfactory/Easy/P000/image_left/000000_left.png
abandonedfactory/Easy/P000/depth_left/000000_left_depth.npy
amusement/Easy/P001/seg_left/000000_left_seg.npy   (only for amusement)
or abandonedfactory/Easy/image_left/P000/image_left/..., abandonedfactory/Easy/depth_left/P000/depth_left/..."""

LEVELS = ("Easy", "Hard")
SEQUENCE = re.compile(r"P\d{3}")
NOT_PICTURES = frozenset({"image_right", "depth_left", "depth_right", "seg_left", "seg_right", "flow"})
RGB, DEPTH, CLASSES = ("", "_left.png"), ("", "_left_depth.npy"), ("", "_left_seg.npy")

# How many folders may stand above Easy and Hard, and below the root at all: a wrong root must not be searched for ever.
FOLDERS_ABOVE, FOLDERS = 3, 8
SKY_M = 1000
DOME_ENVIRONMENT, DOME_CLASS = "amusement", 182
CAMERA = Camera(320.0, 320.0, 320.0, 240.0, 480, 640)


@dataclass(frozen=True)
class _Sequence:
    """The folders of one flight, and its name however it was unpacked."""

    name: str
    environment: str
    images: Path
    depths: Path
    classes: Path


def index(root: Path, split: str) -> Iterator[Row]:
    """Return the rows of ``split``, sorted by id.

    Args:
        root: the folder of the environments, or one environment.
        split: a name of ``SPLITS``.
    Raises:
        DatoolError: the tree or the split is not there, pictures lack their depth (amusement: or their classes), or a
            flight is there twice.
    """
    check_split(split, SPLITS, "TartanAir")
    flights = sorted(_flights(root, root), key=lambda flight: flight.name + "/")
    expect(root, bool(flights), "folder of pictures ENV/Easy/P000/image_left", LAYOUT)
    for one, other in pairwise(flights):
        if one.name == other.name:
            raise DatoolError(
                f"{one.name} is in both {one.images} and {other.images}.", "Name one of them as the root."
            )
    wanted = [flight for flight in flights if split in ("all", "train" if not _has_dome(flight) else "amusement")]
    expect(root, bool(wanted), f"environment of split {split}", LAYOUT)
    return _rows(root, wanted)


def read(row: Row) -> Sample:
    """Return the sample with depth in metres, sky ``+inf``.

    Raises:
        DatoolError: a file is unreadable.
    """
    assert row.depth is not None, "index names the depth"
    image = read_image(row.image)
    values = read_npy(row.depth)
    valid = None
    if row.mask is not None:
        classes = read_npy(row.mask)
        if classes.shape != values.shape:
            raise unreadable(row.mask, f"classes {classes.shape}", f"the size of the depth, {values.shape}")
        valid = classes != DOME_CLASS
    sky = values >= SKY_M if valid is None else (values >= SKY_M) & valid
    return Sample(row.id, image, depth_map(values, Ambiguity.NONE, valid, sky), CAMERA.resized(*image.shape[:2]))


def _has_dome(flight: _Sequence) -> bool:
    return flight.environment == DOME_ENVIRONMENT


def _flights(folder: Path, root: Path) -> Iterator[_Sequence]:
    """Yield every folder of left pictures below ``folder``."""
    above = folder.relative_to(root).parts
    if len(above) >= (FOLDERS if set(LEVELS) & set(above) else FOLDERS_ABOVE + 1):
        return
    for name in folders(folder):
        path = folder / name
        if name in NOT_PICTURES:
            continue
        if name != "image_left" or folders(path):
            yield from _flights(path, root)
            continue
        flight = _flight(path, root)
        if flight is not None:
            yield flight


def _flight(images: Path, root: Path) -> _Sequence | None:
    parts = images.relative_to(root).parts
    levels = [number for number, part in enumerate(parts) if part in LEVELS]
    number = next((part for part in reversed(parts) if SEQUENCE.fullmatch(part)), None)
    if not levels or number is None:
        return None
    environment = parts[levels[-1] - 1] if levels[-1] > 0 else root.resolve().name
    depths, classes = (
        root.joinpath(*(other if part == "image_left" else part for part in parts))
        for other in ("depth_left", "seg_left")
    )
    return _Sequence(f"{environment}/{parts[levels[-1]]}/{number}", environment, images, depths, classes)


def _rows(root: Path, flights: list[_Sequence]) -> Iterator[Row]:
    found = False
    for flight in flights:
        image_keys = keys(flight.images, *RGB)
        require_pairs(flight.images, image_keys, flight.depths, keys(flight.depths, *DEPTH), LAYOUT)
        if _has_dome(flight):
            require_pairs(flight.images, image_keys, flight.classes, keys(flight.classes, *CLASSES), LAYOUT)
        for key in image_keys:
            found = True
            yield Row(
                f"{flight.name}/image_left/{key}_left.png",
                flight.images / f"{key}_left.png",
                flight.depths / f"{key}_left_depth.npy",
                mask=flight.classes / f"{key}_left_seg.npy" if _has_dome(flight) else None,
            )
    expect(root, found, "picture image_left/*_left.png", LAYOUT)


TARTANAIR = Source(index, read, SPLITS, LAYOUT, Quantity.DEPTH, Ambiguity.NONE, TITLE)
