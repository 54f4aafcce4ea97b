"""MPI Sintel with depth: 1,064 frames of 23 rendered scenes, 1024x436, planar depth in the film's metres.

``.dpt``: float32 tag 202021.25, int32 width and height, then the rows from the top in float32, all little endian.
Values that are not finite or not above 0 are unknown. Sky is not marked: it has very large finite values (about 1e5 m,
UNVERIFIED), which are left as they are; every protocol caps the depth (70, 72 or 80 m), and the cap is the benchmark's.
The masks ``occlusions`` and ``invalid`` are of optical flow and not applied.

Splits: ``final`` (with blur and fog, what MiDaS scores) and ``clean``; or a list file with ``<scene>/frame_0001`` in
each line, taken in the pass that the line names, else in ``final``.

Camera: ``.cam`` of each frame, whose principal point (511.5, 217.5) counts from the middle of the first pixel, so 0.5
is added.

Source: Butler et al. 2012; sintel.is.tue.mpg.de/depth (its SDK's sintel_io).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datool.data.sample import Sample
from datool.data.sources.base import Row, Source, expect
from datool.data.sources.cameras import opencv_camera
from datool.data.sources.decode import depth_map, unreadable
from datool.data.sources.trees import find_list, find_root, folders, keys, listed, read_list, require_pairs
from datool.depth import Ambiguity, Quantity
from datool.errors import DatoolError
from datool.files.images import explained, read_image

TITLE = "MPI Sintel, depth (Butler et al. 2012)"
SPLITS = ("final", "clean")
LAYOUT = """\
training/final/alley_1/frame_0001.png            (MPI-Sintel-complete or -training_images)
training/clean/alley_1/frame_0001.png
training/depth/alley_1/frame_0001.dpt            (MPI-Sintel-depth-training)
training/camdata_left/alley_1/frame_0001.cam     (the same)"""

TAG = 202021.25
LISTED = re.compile(r"(?:(final|clean)/)?([a-z]+_\d+)/(frame_\d{4})")


def index(root: Path, split: str) -> Iterator[Row]:
    """Return the rows of ``split``, sorted by id.

    Args:
        root: the folder that holds ``training``, or ``training`` itself.
        split: a name of ``SPLITS``, or a list file.
    Raises:
        DatoolError: the tree or the list is not there, or frames lack their depth.
    """
    expect(root, root.is_dir(), "folder", LAYOUT)
    path = find_list(root, split, SPLITS, "Sintel")
    place = find_root(root, ("training",), lambda place: (place / "depth").is_dir())
    scenes = folders(place / "depth")
    expect(root, bool(scenes), "folder training/depth/<scene>", LAYOUT)
    if path is not None:
        return listed((_listed_row(place, words, path) for words in read_list(path)), path, LAYOUT)
    return _rows(place, scenes, split)


def read(row: Row) -> Sample:
    """Return the sample with depth in metres.

    Raises:
        DatoolError: a file is unreadable.
    """
    assert row.depth is not None, "index names the depth"
    image = read_image(row.image)
    camera = None
    if row.camera is not None:
        k = read_cam(row.camera)
        camera = opencv_camera((k[0, 0], k[1, 1], k[0, 2], k[1, 2]), image.shape)
    return Sample(row.id, image, depth_map(read_dpt(row.depth), Ambiguity.NONE), camera)


def read_dpt(path: Path) -> np.ndarray:
    """Return Sintel's depth as (H, W) float32.

    Raises:
        DatoolError: missing, cut short, or not a .dpt file.
    """
    with explained(f"depth {path}"):
        data = path.read_bytes()
    if len(data) < 12 or struct.unpack("<f", data[:4])[0] != TAG:
        raise unreadable(path, f"a file that starts with {data[:4]!r}", "Sintel's .dpt, which starts with b'PIEH'")
    width, height = struct.unpack("<ii", data[4:12])
    if width < 1 or height < 1 or len(data) != 12 + 4 * width * height:
        raise unreadable(path, f"{len(data)} bytes", f"12 and {width}x{height} float32")
    return np.frombuffer(data, "<f4", offset=12).reshape(height, width)


def read_cam(path: Path) -> np.ndarray:
    """Return the (3, 3) float64 camera matrix of a .cam file, as it stands there.

    Raises:
        DatoolError: missing, cut short, or not a .cam file.
    """
    with explained(f"camera {path}"):
        data = path.read_bytes()
    if len(data) != 4 + 21 * 8 or struct.unpack("<f", data[:4])[0] != TAG:
        raise DatoolError(
            f"cannot read camera {path}: got {len(data)} bytes that start with {data[:4]!r}, expected Sintel's .cam: "
            "172 bytes that start with b'PIEH'.",
            "Fetch it again.",
        )
    return np.frombuffer(data, "<f8", count=9, offset=4).reshape(3, 3)


def _rows(place: Path, scenes: list[str], split: str) -> Iterator[Row]:
    for scene in scenes:
        images, truth = place / split / scene, place / "depth" / scene
        names = keys(images, "", ".png")
        require_pairs(images, names, truth, keys(truth, "", ".dpt"), LAYOUT)
        yield from (_row(place, split, scene, name) for name in names)


def _row(place: Path, split: str, scene: str, name: str) -> Row:
    # The cameras are a folder of the same archive as the depth; whoever left it out gets none.
    cameras = place / "camdata_left"
    return Row(
        f"{split}/{scene}/{name}.png",
        place / split / scene / f"{name}.png",
        place / "depth" / scene / f"{name}.dpt",
        camera=cameras / scene / f"{name}.cam" if cameras.is_dir() else None,
    )


def _listed_row(place: Path, words: list[str], path: Path) -> Row:
    match = LISTED.search(words[0])
    if match is None:
        raise DatoolError(f"cannot place '{words[0]}' of list {path}: expected '<scene>/frame_0001'.")
    return _row(place, match[1] or SPLITS[0], match[2], match[3])


SINTEL = Source(index, read, SPLITS, LAYOUT, Quantity.DEPTH, Ambiguity.NONE, TITLE, scored=SPLITS)
