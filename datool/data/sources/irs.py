"""IRS (Indoor Robotics Stereo): 103,316 rendered indoor images, 960x540, disparity of a stereo pair in pixels.

``d_<k>.exr`` is float32; a file with several channels repeats the value, and the one called G is taken. With a focal
length of 480 px and 0.1 m between the cameras depth is 48 / disparity metres. Disparity that is not above 0, or not
finite, is unknown; there is no sky indoors. A third party says that the depth of some Office scenes is wrong
(UNVERIFIED).

Both naming versions are found (``l_00001.png`` and ``l_1960.png``): pictures and disparity are paired by what follows
``l_`` and ``d_``. Lists of both versions are accepted, with or without the leading ``IRSDataset/``.

Splits: ``all``; ``train`` and ``test`` by the official lists, looked for in the root and in ``lists`` (UNVERIFIED:
the name ``irs_train.list``); or a list file with lines ``left right disparity normal``.

Camera: fx = fy = 480, cx = 480, cy = 270. With a field of view of 90 degrees over 960 px that is the middle of the
picture measured from its edge (ASSUMED: the source gives the focal length only).

Source: Wang et al. 2021, arXiv:1912.09678; github.com/HKBU-HPML/IRS (README, dataloader/IRSLoader.py, lists).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datool.data.sample import Sample
from datool.data.sources.base import Row, Source, expect
from datool.data.sources.decode import depth_map, read_exr_channel
from datool.data.sources.trees import find_list, find_root, folders, inside, keys, listed, read_list, require_pairs
from datool.depth import Ambiguity, Camera, Quantity
from datool.errors import DatoolError
from datool.files.images import read_image

TITLE = "IRS, Indoor Robotics Stereo (Wang et al. 2021, github.com/HKBU-HPML/IRS)"
SPLITS = ("all", "train", "test")
LAYOUT = """\
IRSDataset/Home/ArchVizInterior03Data/l_00001.png  (or l_1.png)
IRSDataset/Home/ArchVizInterior03Data/d_00001.exr
and so on for Office, Restaurant and Store
lists/irs_train.list, lists/irs_test.list          (train and test)"""

PLACES = ("Home", "Office", "Restaurant", "Store")
PLACE = re.compile("|".join(PLACES))
LIST_FOLDERS = (".", "lists", "IRSDataset/lists", "lists/v1", "../lists")
LISTS = {"train": ("irs_train.list", "IRSDataset_TRAIN.list"), "test": ("irs_test.list", "IRSDataset_TEST.list")}

FOCAL_PX, BASELINE_M = 480.0, 0.1
CAMERA = Camera(FOCAL_PX, FOCAL_PX, 480.0, 270.0, 540, 960)


def index(root: Path, split: str) -> Iterator[Row]:
    """Return the rows of ``split``, sorted by id.

    Args:
        root: the folder of Home, Office, Restaurant and Store, or the one that holds ``IRSDataset``.
        split: a name of ``SPLITS``, or a list file.
    Raises:
        DatoolError: the tree, the split or its list is not there, or pictures lack their disparity.
    """
    path = find_list(root, split, SPLITS, "IRS")
    places = find_root(root, ("IRSDataset",), lambda place: bool(_places(place)))
    expect(root, bool(_places(places)), f"folder {', '.join(PLACES)}", LAYOUT)
    if path is None and split != "all":
        options = (root / folder / name for name in LISTS[split] for folder in LIST_FOLDERS)
        path = next((option for option in options if option.is_file()), None)
        expect(root, path is not None, f"list {' or '.join(LISTS[split])} of split {split}", LAYOUT)
    if path is not None:
        return listed([_listed_row(places, words, path) for words in read_list(path)], path, LAYOUT)
    return _rows(places)


def read(row: Row) -> Sample:
    """Return the sample with depth in metres: focal length x baseline / disparity.

    Raises:
        DatoolError: a file is unreadable, or OpenEXR is not installed.
    """
    assert row.depth is not None, "index names the depth"
    image = read_image(row.image)
    disparity_px = read_exr_channel(row.depth, "G")
    known = np.isfinite(disparity_px) & (disparity_px > 0)
    depth_m = np.divide(FOCAL_PX * BASELINE_M, disparity_px, out=np.full(disparity_px.shape, np.nan), where=known)
    return Sample(row.id, image, depth_map(depth_m, Ambiguity.NONE), CAMERA.resized(*image.shape[:2]))


def _places(folder: Path) -> list[str]:
    return [name for name in folders(folder) if name in PLACES]


def _rows(root: Path) -> Iterator[Row]:
    found = False
    for place in _places(root):
        for scene in folders(root / place):
            folder = root / place / scene
            image_keys = keys(folder, "l_", ".png")
            require_pairs(folder / "l_*.png", image_keys, folder / "d_*.exr", keys(folder, "d_", ".exr"), LAYOUT)
            for key in image_keys:
                found = True
                yield Row(f"{place}/{scene}/l_{key}.png", folder / f"l_{key}.png", folder / f"d_{key}.exr")
    expect(root, found, "picture Home/*/l_*.png", LAYOUT)


def _listed_row(root: Path, words: list[str], path: Path) -> Row:
    if len(words) < 3:
        raise DatoolError(f"cannot read list {path}: got '{' '.join(words)}', expected 'left right disparity normal'.")
    image, disparity = inside(words[0], PLACE, path), inside(words[2], PLACE, path)
    return Row(image, root / image, root / disparity)


IRS = Source(index, read, SPLITS, LAYOUT, Quantity.DEPTH, Ambiguity.NONE, TITLE)
