"""iBims-1: 100 indoor photos, 640x480, with laser-scan depth in metres.

Depth is a 16-bit grey PNG, metres = value x 50 / 65535, 0 = missing. Applied, as in the authors' evaluation:
``mask_invalid`` and ``mask_transp``, both above 0 where the pixel counts (the names say the opposite). Sky is not in
the set. Edges and planes, for the set's own metrics, are the benchmark's.

Camera: ``calib/<name>.txt`` holds fx, fy, cx, cy. Where it counts from is not said (UNVERIFIED); the middle of the
first pixel is taken, so 0.5 is added.

Source: Koch et al. 2018, arXiv:1805.01328 (and its evaluation script); UniDepth unidepth/datasets/ibims.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from datool.data.sample import Sample
from datool.data.sources.base import Row, Source, expect
from datool.data.sources.cameras import opencv_camera, read_numbers
from datool.data.sources.decode import depth_map, read_png16, unreadable
from datool.data.sources.trees import find_list, find_root, keys, listed, read_list
from datool.depth import Ambiguity, Quantity
from datool.files.images import explained, read_image

TITLE = "iBims-1 (Koch et al. 2018)"
SPLITS = ("test",)
LAYOUT = """\
imagelist.txt                                 (names, one a line)
ibims1_core_raw/rgb/corridor_01.png           (ibims1_core_raw.zip)
ibims1_core_raw/depth/corridor_01.png
ibims1_core_raw/mask_invalid/corridor_01.png
ibims1_core_raw/mask_transp/corridor_01.png
ibims1_core_raw/calib/corridor_01.txt"""

NAMES = "imagelist.txt"
METRES_AT_TOP, TOP = 50, 65535


def index(root: Path, split: str) -> Iterator[Row]:
    """Return the rows, sorted by id: the images of ``imagelist.txt`` where it is there, else all.

    Args:
        root: the folder of ``ibims1_core_raw``, or that itself.
        split: ``test``, or a list file.
    Raises:
        DatoolError: the tree is not there, or an image lacks its depth or a mask.
    """
    expect(root, root.is_dir(), "folder", LAYOUT)
    path = find_list(root, split, SPLITS, "iBims-1")
    place = find_root(root, ("ibims1_core_raw",), lambda place: (place / "depth").is_dir())
    there = keys(place / "rgb", "", ".png")
    expect(root, bool(there), "picture ibims1_core_raw/rgb/*.png", LAYOUT)
    if path is None and (root / NAMES).is_file():
        path = root / NAMES
    names = there if path is None else [Path(words[0]).stem for words in read_list(path)]
    return listed((_row(place, name) for name in names), path or place, LAYOUT)


def read(row: Row) -> Sample:
    """Return the sample with depth in metres, both masks applied.

    Raises:
        DatoolError: a file is unreadable.
    """
    assert row.depth is not None and row.mask is not None and row.confidence is not None, "index names them"
    image = read_image(row.image)
    values = read_png16(row.depth, "metres x 65535 / 50 (iBims-1)")
    valid = _mask(row.mask, values.shape) & _mask(row.confidence, values.shape)
    depth = depth_map(values * (METRES_AT_TOP / TOP), Ambiguity.NONE, valid)
    camera = None
    if row.camera is not None:
        camera = opencv_camera(read_numbers(row.camera, 4, "fx, fy, cx, cy"), image.shape)
    return Sample(row.id, image, depth, camera)


def _mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return where a mask, of any bit depth, is above 0."""
    with explained(f"mask {path}"):
        pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    if pixels is None or pixels.shape != shape:
        got = "bytes that do not decode" if pixels is None else f"{pixels.shape}"
        raise unreadable(path, got, f"a mask of {shape}")
    return pixels > 0


def _row(place: Path, name: str) -> Row:
    camera = place / "calib" / f"{name}.txt"
    return Row(
        f"rgb/{name}.png",
        place / "rgb" / f"{name}.png",
        place / "depth" / f"{name}.png",
        mask=place / "mask_invalid" / f"{name}.png",
        confidence=place / "mask_transp" / f"{name}.png",
        camera=camera if camera.is_file() else None,
    )


IBIMS = Source(index, read, SPLITS, LAYOUT, Quantity.DEPTH, Ambiguity.NONE, TITLE, scored=SPLITS)
