"""ETH3D high-resolution multi-view, training scenes: 454 photos of 6048x4032 with laser-scan depth in metres.

Depth is raw float32 (little endian, rows from the top, no header), although its name ends in .JPG; ``inf`` = no data,
which is unknown here, since it is not the sky. It lies on the photos as taken (``dslr_images``), not on the undistorted
ones. 34 photos were taken upright and are stored lying, as is their depth; so the stored pixels are read, whatever the
EXIF orientation says.

Splits: ``train``, every photo of the 13 scenes that is there; or a list file with Marigold's lines, whose paths hold
``<scene>/images/dslr_images/<name>.JPG``.

Camera: focal lengths and principal point of ``cameras.txt`` (COLMAP, from the corner of the first pixel, as datool).
The photos' model is THIN_PRISM_FISHEYE; its distortion, some tens of pixels at the corners, is left out (UNVERIFIED how
many).

Source: Schoeps et al. 2017; eth3d.net/documentation; Marigold src/dataset/eth3d_dataset.py; MapAnything's conversion
script.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from datool.data.sample import Sample
from datool.data.sources.base import Row, Source, expect
from datool.data.sources.decode import depth_map, unreadable
from datool.data.sources.trees import find_list, find_root, folders, keys, listed, read_list, require_pairs
from datool.depth import Ambiguity, Camera, Quantity
from datool.errors import DatoolError
from datool.files.images import explained

TITLE = "ETH3D, high-resolution multi-view training (Schoeps et al. 2017)"
SPLITS = ("train",)
LAYOUT = """\
courtyard/images/dslr_images/DSC_0286.JPG              (courtyard_dslr_jpg.7z)
courtyard/dslr_calibration_jpg/cameras.txt, images.txt (the same)
courtyard/ground_truth_depth/dslr_images/DSC_0286.JPG  (courtyard_dslr_depth.7z; raw float32)
or Marigold's rgb/courtyard/..., depth/courtyard_dslr_depth/courtyard/..."""

LISTED = re.compile(r"([^/]+)/images/dslr_images/([^/]+\.JPG)$")


def index(root: Path, split: str) -> Iterator[Row]:
    """Return the rows of ``split``, sorted by id.

    Args:
        root: the folder of the scenes, or of Marigold's ``rgb`` and ``depth``.
        split: ``train``, or a list file.
    Raises:
        DatoolError: the tree or the list is not there, or photos lack their depth.
    """
    expect(root, root.is_dir(), "folder", LAYOUT)
    path = find_list(root, split, SPLITS, "ETH3D")
    photos = find_root(root, ("rgb",), lambda place: bool(_scenes(place)))
    scenes = _scenes(photos)
    expect(root, bool(scenes), "folder <scene>/images/dslr_images", LAYOUT)
    if path is not None:
        return listed(_listed(root, photos, path), path, LAYOUT)
    return _rows(root, photos, scenes)


def read(row: Row) -> Sample:
    """Return the sample with depth in metres.

    Raises:
        DatoolError: a file is unreadable, or the depth has not a number a pixel.
    """
    assert row.depth is not None, "index names the depth"
    image = _read_stored(row.image)
    height, width = image.shape[:2]
    with explained(f"depth {row.depth}"):
        data = row.depth.read_bytes()
    if len(data) != 4 * height * width:
        raise unreadable(row.depth, f"{len(data)} bytes", f"{width}x{height} float32 = {4 * height * width} bytes")
    depth = depth_map(np.frombuffer(data, "<f4").reshape(height, width), Ambiguity.NONE)
    camera = None
    if row.camera is not None and isinstance(row.member, int):
        camera = _camera(row.camera, row.member, height, width)
    return Sample(row.id, image, depth, camera)


def _scenes(place: Path) -> list[str]:
    return [name for name in folders(place) if (place / name / "images" / "dslr_images").is_dir()]


def _rows(root: Path, photos: Path, scenes: list[str]) -> Iterator[Row]:
    for scene in scenes:
        images, truth = photos / scene / "images" / "dslr_images", _truth(root, scene)
        names = keys(images, "", ".JPG")
        require_pairs(images, names, truth, keys(truth, "", ".JPG"), LAYOUT)
        cameras = _cameras_of(photos / scene)
        yield from (_row(root, photos, scene, f"{name}.JPG", cameras) for name in names)


def _listed(root: Path, photos: Path, path: Path) -> Iterator[Row]:
    cameras = cache(_cameras_of)
    for words in read_list(path):
        match = LISTED.search(words[0])
        if match is None:
            raise DatoolError(f"cannot place '{words[0]}' of list {path}.", f"Expected layout:\n{LAYOUT}")
        yield _row(root, photos, match[1], match[2], cameras(photos / match[1]))


def _truth(root: Path, scene: str) -> Path:
    below = (scene, f"{scene}_dslr_depth/{scene}", f"depth/{scene}_dslr_depth/{scene}", f"depth/{scene}")
    return (
        find_root(root, below, lambda place: (place / "ground_truth_depth").is_dir()) / "ground_truth_depth/dslr_images"
    )


def _row(root: Path, photos: Path, scene: str, name: str, cameras: dict[str, int]) -> Row:
    return Row(
        f"{scene}/images/dslr_images/{name}",
        photos / scene / "images" / "dslr_images" / name,
        _truth(root, scene) / name,
        camera=photos / scene / "dslr_calibration_jpg" / "cameras.txt" if name in cameras else None,
        member=cameras.get(name),
    )


def _cameras_of(scene: Path) -> dict[str, int]:
    """Return the camera's number by photo; empty where the calibration is not there (Marigold's archive has none)."""
    path = scene / "dslr_calibration_jpg" / "images.txt"
    if not path.is_file():
        return {}
    with explained(f"camera {path}"), open(path, encoding="utf-8") as file:
        # Every photo has a second line, its key points, which may be empty.
        lines = [line.split() for line in file if not line.startswith("#")][::2]
    if any(len(words) < 10 or not words[8].isdigit() for words in lines if words):
        raise DatoolError(f"cannot read camera {path}: not COLMAP's images.txt.", f"Expected layout:\n{LAYOUT}")
    return {words[9].split("/")[-1]: int(words[8]) for words in lines if words}


def _camera(path: Path, number: int, height: int, width: int) -> Camera:
    with explained(f"camera {path}"):
        lines = [line.split() for line in path.read_text("utf-8").splitlines() if not line.startswith("#")]
    for words in lines:
        if len(words) >= 8 and words[0] == str(number):
            if [int(word) for word in words[2:4]] != [width, height]:
                raise DatoolError(f"{path}: camera {number} is of {words[2]}x{words[3]}, the photo {width}x{height}.")
            fx_px, fy_px, cx_px, cy_px = (float(word) for word in words[4:8])
            return Camera(fx_px, fy_px, cx_px, cy_px, height, width)
    raise DatoolError(f"{path} has no camera {number} with focal lengths and centre.", "Fetch it again.")


ETH3D = Source(index, read, SPLITS, LAYOUT, Quantity.DEPTH, Ambiguity.NONE, TITLE, scored=SPLITS)


def _read_stored(path: Path) -> np.ndarray:
    """Return the pixels as they are stored, (H, W, 3) uint8 RGB, whatever the EXIF orientation says.

    For sets whose truth lies on the stored pixels.

    Raises:
        DatoolError: missing, no image, or cut short.
    """
    with explained(str(path)), Image.open(path) as image:
        return np.array(image.convert("RGB"))
