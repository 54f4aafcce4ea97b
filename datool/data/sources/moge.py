"""MoGe's evaluation bundle: ten benchmarks in one form, a folder a sample.

``depth.png`` is 16-bit grey with texts ``near`` and ``far``: 0 = unknown, 65535 = sky (infinite), else with t = (value
- 1) / 65533 depth = near^(1-t) x far^t, times the text ``unit`` in older files. ``meta.json`` has the camera as a 3x3
matrix in parts of the image's width and height, whose pixel centres are at (column + 0.5) / width, as datool's.

A split is the folder of one benchmark, as in MoGe's configuration: NYUv2, KITTI, ETH3D, iBims-1, GSO, Sintel, DDAD,
DIODE, Spring, HAMMER (UNVERIFIED names), or any folder that has an ``.index.txt``. Its depth is given as metres, though
the unit of GSO's rendered objects (and Sintel's film) is nobody's metre: score those up to scale.

MoGe's loader turns and cuts every image by a homography to a size of each benchmark (KITTI 750x375) before it is
scored, and drops pixels beyond 1000 times the 1 % quantile; both are the protocol's and not done here.
``segmentation.png`` is not read.

Source: Wang et al. 2024 (MoGe), arXiv:2410.19115; MoGe moge/utils/io.py, moge/test/dataloader.py; Hugging Face
Ruicheng/monocular-geometry-evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from datool.data.sample import Sample
from datool.data.sources.base import Row, Source, expect
from datool.data.sources.decode import depth_map, read_png16, unreadable
from datool.data.sources.trees import folders, listed
from datool.depth import Ambiguity, Camera, Quantity
from datool.errors import DatoolError
from datool.files.images import explained, read_image

TITLE = "MoGe's evaluation bundle (Wang et al. 2024)"
SPLITS = ("NYUv2", "KITTI", "ETH3D", "iBims-1", "GSO", "Sintel", "DDAD", "DIODE", "Spring", "HAMMER")
LAYOUT = """\
NYUv2/.index.txt                 (folders of the samples, one a line; each benchmark is one zip)
NYUv2/<sample>/image.jpg
NYUv2/<sample>/depth.png
NYUv2/<sample>/meta.json"""

INDEX = ".index.txt"
UNKNOWN, SKY = 0, 65535
STEPS = 65533


def index(root: Path, split: str) -> Iterator[Row]:
    """Return the rows of one benchmark, sorted by id (``<benchmark>/<sample>``).

    Args:
        root: the folder of the unpacked benchmarks.
        split: the benchmark's folder.
    Raises:
        DatoolError: it is not there, or a sample lacks its image or depth.
    """
    there = [name for name in folders(root) if (root / name / INDEX).is_file()]
    expect(root, bool(there), f"folder with {INDEX}", LAYOUT)
    if split not in there:
        raise DatoolError(f"{root} holds no benchmark '{split}'.", f"There: {', '.join(there)}; or unpack {split}.zip.")
    path = root / split / INDEX
    with explained(f"list {path}"):
        names = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    expect(root / split, bool(names), f"sample in {INDEX}", LAYOUT)
    if unsafe := [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]:
        raise DatoolError(f"{path} names '{unsafe[0]}', expected folders below it.", "Fetch it again.")
    return listed((_row(root, f"{split}/{PurePosixPath(name).as_posix()}") for name in names), path, LAYOUT)


def read(row: Row) -> Sample:
    """Return the sample with depth in metres, sky ``+inf``.

    Raises:
        DatoolError: a file is unreadable.
    """
    assert row.depth is not None and row.camera is not None, "index names them"
    image = read_image(row.image)
    pixels = read_png16(row.depth, "logarithmic depth (MoGe)")
    near, far, unit = _range(row.depth)
    share = (pixels.astype(np.float64) - 1) / STEPS
    values = near ** (1 - share) * far**share * unit
    depth = depth_map(values, Ambiguity.NONE, valid=pixels != UNKNOWN, sky=pixels == SKY)
    return Sample(row.id, image, depth, _camera(row.camera, image.shape[0], image.shape[1]))


def _range(path: Path) -> tuple[float, float, float]:
    """Return near, far and unit from the PNG's texts."""
    with explained(f"depth {path}"), Image.open(path) as header:
        texts = dict(header.info)
    if not {"near", "far"} <= texts.keys():
        raise unreadable(path, f"a PNG with texts {', '.join(map(str, texts)) or 'none'}", "'near' and 'far'")
    try:
        near, far, unit = float(texts["near"]), float(texts["far"]), float(texts.get("unit", 1))
    except ValueError as error:
        raise unreadable(path, f"near {texts['near']}, far {texts['far']}", "numbers") from error
    if not 0 < near <= far < np.inf:
        raise unreadable(path, f"near {near:g}, far {far:g}", "0 < near <= far")
    return near, far, unit


def _camera(path: Path, height: int, width: int) -> Camera:
    with explained(f"camera {path}"):
        meta = json.loads(path.read_bytes())
        k = np.array(meta["intrinsics"], np.float64)
    if k.shape != (3, 3):
        raise DatoolError(f"cannot read camera {path}: intrinsics of {k.shape}, expected (3, 3).", "Fetch it again.")
    return Camera(k[0, 0] * width, k[1, 1] * height, k[0, 2] * width, k[1, 2] * height, height, width)


def _row(root: Path, id: str) -> Row:
    folder = root / id
    return Row(id, folder / "image.jpg", folder / "depth.png", camera=folder / "meta.json")


MOGE = Source(index, read, SPLITS, LAYOUT, Quantity.DEPTH, Ambiguity.NONE, TITLE, scored=SPLITS)
