"""DIODE: indoor and outdoor laser-scan depth in metres, 1024x768.

``*_depth.npy`` is (768, 1024, 1) float32, planar; ``*_depth_mask.npy`` is 1 where the scanner returned and 0 elsewhere,
and is applied. Sky does not return, so it is unknown. No near or far limit is set (Marigold keeps 0.6 to 350 m).

Splits: ``val-indoors`` (325 images; what the V2 paper most likely scores), ``val-outdoor`` (446), ``val`` (771; the
devkit's diode_meta.json lists 612 of them), ``train-indoors`` (8,574), ``train-outdoor`` (16,884), ``train``; or a list
file with Marigold's lines.

Camera: fx 886.81, fy 927.06, cx 512, cy 384 of the devkit, of the virtual camera that cut the images out of the scan.
That the centre of 1024x768 is (512, 384) says that it counts from the corner of the first pixel, as datool
(UNVERIFIED).

Source: Vasiljevic et al. 2019, arXiv:1908.00463; github.com/diode-dataset/diode-devkit (README, intrinsics.txt).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datool.data.sample import Sample
from datool.data.sources.base import Row, Source, expect
from datool.data.sources.decode import depth_map, unreadable
from datool.data.sources.trees import find_list, find_root, folders, inside, keys, listed, read_list
from datool.depth import Ambiguity, Camera, Quantity
from datool.files.images import explained, read_image

TITLE = "DIODE (Vasiljevic et al. 2019)"
SPLITS = ("val-indoors", "val-outdoor", "val", "train-indoors", "train-outdoor", "train")
LAYOUT = """\
val/indoors/scene_00019/scan_00183/00019_00183_indoors_000_010.png
val/indoors/scene_00019/scan_00183/00019_00183_indoors_000_010_depth.npy
val/indoors/scene_00019/scan_00183/00019_00183_indoors_000_010_depth_mask.npy
val/outdoor/..., train/indoors/..., train/outdoor/..."""

TYPES = ("indoors", "outdoor")
PART = re.compile(r"val|train|indoors|outdoor")
CAMERA = Camera(886.81, 927.06, 512.0, 384.0, 768, 1024)


def index(root: Path, split: str) -> Iterator[Row]:
    """Return the rows of ``split``, sorted by id.

    Args:
        root: the folder that holds ``val`` and ``train``.
        split: a name of ``SPLITS``, or a list file.
    Raises:
        DatoolError: the tree or the list is not there, or an image lacks its depth or mask.
    """
    expect(root, root.is_dir(), "folder", LAYOUT)
    path = find_list(root, split, SPLITS, "DIODE")
    if path is not None:
        place = find_root(root, ("val", "train"), lambda place: (place / read_list(path)[0][0]).is_file())
        names = (inside(words[0], PART, path) for words in read_list(path))
        return listed((_row(root, place / name) for name in names), path, LAYOUT)
    part, _, kind = split.partition("-")
    return _rows(root, part, (kind,) if kind else TYPES)


def read(row: Row) -> Sample:
    """Return the sample with depth in metres, the mask applied.

    Raises:
        DatoolError: a file is unreadable.
    """
    assert row.depth is not None and row.mask is not None, "index names them"
    image = read_image(row.image)
    values, mask = _array(row.depth), _array(row.mask)
    if mask.shape != values.shape:
        raise unreadable(row.mask, f"a mask of {mask.shape}", f"{values.shape}, as its depth")
    depth = depth_map(values, Ambiguity.NONE, valid=mask > 0)
    return Sample(row.id, image, depth, CAMERA.resized(*image.shape[:2]))


def _array(path: Path) -> np.ndarray:
    """Return a .npy of (H, W) or (H, W, 1) as (H, W)."""
    with explained(f"depth {path}"):
        values = np.load(path, allow_pickle=False)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim != 2 or values.dtype.kind not in "fiub":
        raise unreadable(path, f"{values.dtype} {values.shape}", "numbers of (H, W) or (H, W, 1)")
    return values


def _rows(root: Path, part: str, kinds: tuple[str, ...]) -> Iterator[Row]:
    found = False
    for kind in kinds:
        place = root / part / kind
        for scene in folders(place):
            for scan in folders(place / scene):
                folder = place / scene / scan
                rows = [_row(root, folder / f"{key}.png") for key in keys(folder, "", ".png")]
                found = found or bool(rows)
                yield from listed(rows, folder, LAYOUT)
    expect(root, found, f"picture {part}/{kinds[0]}/scene_*/scan_*/*.png", LAYOUT)


def _row(root: Path, image: Path) -> Row:
    depth, mask = (image.with_name(f"{image.stem}_depth{end}.npy") for end in ("", "_mask"))
    return Row(image.relative_to(root).as_posix(), image, depth, mask)


DIODE = Source(
    index, read, SPLITS, LAYOUT, Quantity.DEPTH, Ambiguity.NONE, TITLE, scored=("val-indoors", "val-outdoor", "val")
)
