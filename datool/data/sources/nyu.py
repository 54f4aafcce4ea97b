"""NYU Depth V2: 1,449 labelled indoor images of a Kinect, 640x480, depth in metres.

Two forms are read, by what lies in the root:

- ``nyu_depth_v2_labeled.mat`` (MATLAB 7.3, which is HDF5) with ``splits.mat``: arrays ``images``, ``rawDepths`` (the
  sensor's, 0 = missing, about 24 %) and ``depths`` (holes painted in), float32 metres;
- pictures, as BTS and its heirs keep them (``<scene>/rgb_00045.jpg`` with ``sync_depth_00045.png``) or Marigold
  (``rgb_0001.png`` with ``depth_0001.png`` and ``filled_0001.png``): 16-bit grey PNG in millimetres, 0 = missing.

Splits: ``test`` (654 images) and ``train`` (795) of splits.mat, whose numbers count from 1; ``all``; each with
``-filled`` for the painted-in depth, which belongs in no score that does not say so; or a list file with the lines of
BTS or Marigold. Sky is not in the set. The white border of about 7 px and Eigen's crop are the benchmark's.

Camera: fx 518.8579, fy 519.4696, cx 325.5824, cy 253.7362 of the toolbox, for every image. The toolbox does not say
where it counts from (UNVERIFIED); the middle of the first pixel is taken, as everybody does, so 0.5 is added.
UNVERIFIED: that BTS's ``sync_depth`` of the test images is ``rawDepths``.

Source: Silberman et al. 2012 (toolbox camera_params.m); Lee et al. 2019 (BTS), arXiv:1907.10326; UniDepth
unidepth/datasets/nyuv2.py; Marigold src/dataset.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from types import ModuleType

import numpy as np

from datool.data.sample import Sample
from datool.data.sources.base import Row, Source, expect
from datool.data.sources.cameras import opencv_camera
from datool.data.sources.decode import depth_map, read_png16, unreadable
from datool.data.sources.trees import find_list, find_root, folders, keys, listed, read_list
from datool.depth import Ambiguity, Quantity
from datool.errors import DatoolError, require
from datool.files.images import explained, read_image

TITLE = "NYU Depth V2 (Silberman et al. 2012)"
SPLITS = ("test", "train", "all", "test-filled", "train-filled", "all-filled")
LAYOUT = """\
nyu_depth_v2_labeled.mat and splits.mat
or
test/bathroom/rgb_00045.jpg, test/bathroom/sync_depth_00045.png                          (BTS)
test/bathroom/rgb_0046.png, test/bathroom/depth_0046.png, test/bathroom/filled_0046.png  (Marigold)"""

LABELLED, NUMBERS = "nyu_depth_v2_labeled.mat", "splits.mat"
FILLED = "-filled"
RAW_ARRAY, FILLED_ARRAY = "rawDepths", "depths"
MILLIMETRES_PER_METRE = 1000
CAMERA_PX = (518.8579, 519.4696, 325.5824, 253.7362)
PICTURE = re.compile(r"([^/]+)/rgb_(\d+)\.(?:jpg|png)$")


def index(root: Path, split: str) -> Iterator[Row]:
    """Return the rows of ``split``, sorted by id.

    Args:
        root: the folder of the .mat files, or of the pictures.
        split: a name of ``SPLITS``, or a list file.
    Raises:
        DatoolError: the files or the split are not there, or scipy or h5py, which the .mat files need.
    """
    expect(root, root.is_dir(), "folder", LAYOUT)
    path = find_list(root, split, SPLITS, "NYU Depth V2")
    if path is not None:
        return _listed(root, path)
    part, filled = split.removesuffix(FILLED), split.endswith(FILLED)
    if (root / LABELLED).is_file():
        return _labelled(root, part, FILLED_ARRAY if filled else RAW_ARRAY)
    return _pictures(root, part, filled)


def read(row: Row) -> Sample:
    """Return the sample with depth in metres.

    Raises:
        DatoolError: a file is unreadable, or h5py is not installed.
    """
    assert row.depth is not None, "index names the depth"
    if isinstance(row.member, str):
        array, number = row.member.split("/")
        image = np.ascontiguousarray(_slice(row.image, "images", int(number), 3).transpose(2, 1, 0), np.uint8)
        values = _slice(row.depth, array, int(number), 2).T
    else:
        image = read_image(row.image)
        values = read_png16(row.depth, "millimetres (NYU Depth V2)") / MILLIMETRES_PER_METRE
    return Sample(row.id, image, depth_map(values, Ambiguity.NONE), opencv_camera(CAMERA_PX, image.shape))


def _labelled(root: Path, part: str, array: str) -> Iterator[Row]:
    """Yield the rows of the .mat file; ids are the official numbers, from 1."""
    path = root / LABELLED
    with explained(str(path)), _h5py(path).File(path, "r") as file:
        for name, dimensions in (("images", 4), (array, 3)):
            if name not in file or file[name].ndim != dimensions:
                raise unreadable(path, f"arrays {', '.join(file) or 'none'}", f"'{name}' with {dimensions} axes")
        count = file["images"].shape[0]
    numbers = range(1, count + 1) if part == "all" else _official(root, part)
    for number in numbers:
        if not 1 <= number <= count:
            raise DatoolError(f"{root / NUMBERS} names image {number}, but {path} holds {count}.", "Fetch both again.")
        yield Row(f"{number:04d}", path, path, member=f"{array}/{number - 1}")


def _official(root: Path, part: str) -> list[int]:
    """Return the numbers of a split, from 1, sorted."""
    path = root / NUMBERS
    expect(root, path.is_file(), f"{NUMBERS} (the split 'all' needs none)", LAYOUT)
    scipy_io = require("scipy.io", "data", f"reading {path}")
    with explained(str(path)):
        arrays = scipy_io.loadmat(path)
    name = f"{part}Ndxs"
    if name not in arrays:
        found = [key for key in arrays if not key.startswith("__")]
        raise DatoolError(f"{path} holds {', '.join(found) or 'nothing'}, expected '{name}'.", "Fetch it again.")
    return sorted(int(number) for number in arrays[name].ravel())


def _slice(path: Path, array: str, number: int, dimensions: int) -> np.ndarray:
    """Return one image or map of an array, its axes still in MATLAB's order reversed: (..., W, H)."""
    with explained(f"image {number + 1} of '{array}' in {path}"), _h5py(path).File(path, "r") as file:
        values = np.asarray(file[array][number])
    if values.ndim != dimensions:
        raise unreadable(path, f"'{array}' of {values.shape} an image", f"{dimensions} axes an image")
    return values


def _h5py(path: Path) -> ModuleType:
    return require("h5py", "data", f"reading {path}")


def _pictures(root: Path, part: str, filled: bool) -> Iterator[Row]:
    """Yield the rows of a folder of scenes; ``all`` is whatever split folders there are."""
    parts = ("test", "train") if part == "all" else (part,)
    places = [path for name in parts for path in (root / name, root / "official_splits" / name) if path.is_dir()]
    rows = [row for place in places for scene in folders(place) for row in _scene(root, place / scene, filled)]
    what = f"{LABELLED}, and no picture {parts[0]}/<scene>/rgb_*" + (" with filled_*" if filled else "")
    expect(root, bool(rows), what, LAYOUT)
    yield from listed(rows, root, LAYOUT)


def _scene(root: Path, scene: Path, filled: bool) -> Iterator[Row]:
    for suffix in (".jpg", ".png"):
        for key in keys(scene, "rgb_", suffix):
            yield _picture(root, scene / f"rgb_{key}{suffix}", key, filled)


def _picture(root: Path, image: Path, key: str, filled: bool) -> Row:
    names: Sequence[str] = (f"filled_{key}.png",) if filled else (f"sync_depth_{key}.png", f"depth_{key}.png")
    depth = next(
        (image.with_name(name) for name in names if image.with_name(name).is_file()), image.with_name(names[0])
    )
    return Row(image.relative_to(root).as_posix(), image, depth)


def _listed(root: Path, path: Path) -> Iterator[Row]:
    lines = read_list(path)
    names = [words[0].lstrip("/") for words in lines]
    below = ("test", "train", "sync", "official_splits/test", "official_splits/train")
    place = find_root(root, below, lambda place: (place / names[0]).is_file())
    rows = []
    for name in names:
        match = PICTURE.search(name)
        if match is None or ".." in PurePosixPath(name).parts:
            raise DatoolError(f"cannot place '{name}' of list {path}: expected '<scene>/rgb_<number>.jpg'.")
        rows.append(_picture(root, place / name, match[2], filled=False))
    return listed(rows, path, LAYOUT)


NYU = Source(
    index,
    read,
    SPLITS,
    LAYOUT,
    Quantity.DEPTH,
    Ambiguity.NONE,
    TITLE,
    scored=("test", "all", "test-filled", "all-filled"),
)
