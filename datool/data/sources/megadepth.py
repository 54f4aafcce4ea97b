"""MegaDepth v1: about 130,000 internet photos of 196 landmarks, depth from multi-view stereo.

Depth is array ``depth`` of an HDF5 file, of the picture's size, planar, in a unit that is another in every scene and
unknown (depth up to scale). 0 is unknown: sky and people were removed, sky is not marked. The authors' evaluation
also drops values below the 1st and above the 98th percentile; that is not done here.

Under the same names some files hold no depth but an order (foreground and background classes). A file with any
negative value (COTR's rule), or with whole numbers up to 3 only (issue 38), is taken as such: nothing is known then,
every pixel is NaN. UNVERIFIED: the encoding of those files; the set's own README could not be read.

Splits: ``all``; ``train``, ``val`` and ``test`` as COTR cuts them by scene (0000 to 0240 without 0204; 0204; the
rest), since there is no official split by scene; or a list file, one picture a line, whose paths count from the scene
(``0000/dense0/imgs/NAME.jpg``). The authors' own test lists are pickles, which can run code, and are not read.

Camera: only where the second archive, MegaDepth_v1_SfM, lies beside the first. Its COLMAP cameras (SIMPLE_RADIAL) are
of the original photos; those of v1 are undistorted and resized, so the camera is OpenCV's optimal new one without
black borders and with a centred principal point, as DUSt3R takes it (UNVERIFIED: that the authors rectified exactly
so). COLMAP's pixel centres are at +0.5, as in datool. A photo that the reconstruction does not list has no camera.

Source: Li, Snavely 2018, arXiv:1804.00607; github.com/zhengqili/MegaDepth (README, data/image_folder.py, issues 1, 38);
github.com/naver/dust3r datasets_preprocess/preprocess_megadepth.py; COTR prepare_data.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from datool.data.sample import Sample
from datool.data.sources.base import Row, Source, expect
from datool.data.sources.decode import depth_map, read_hdf5
from datool.data.sources.trees import find_list, find_root, folders, inside, keys, listed, read_list
from datool.depth import Ambiguity, Camera, Quantity
from datool.errors import DatoolError
from datool.files.images import explained, read_image

TITLE = "MegaDepth v1 (Li and Snavely 2018, github.com/zhengqili/MegaDepth)"
SPLITS = ("all", "train", "val", "test")
LAYOUT = """\
MegaDepth_v1/0000/dense0/imgs/NAME.jpg          (or phoenix/S6/zl548/MegaDepth_v1/...)
MegaDepth_v1/0000/dense0/depths/NAME.h5
MegaDepth_v1_SfM/0000/sparse/manhattan/0/{cameras,images}.txt   (only for cameras)"""

ARCHIVE, SFM = "phoenix/S6/zl548/MegaDepth_v1", "MegaDepth_v1_SfM"
SCENE, MODEL = re.compile(r"\d{4}"), re.compile(r"dense(\d+)")
IMAGE_SUFFIXES = (".jpg", ".JPG", ".png")
VAL_SCENE, LAST_TRAIN_SCENE = 204, 240
# The authors' limit of a known depth, and the largest class of an ordinal file.
MIN_DEPTH, MAX_CLASS = 1e-8, 3

# Width, height, focal length, principal point and radial distortion of a photo before it was undistorted.
Radial = tuple[int, int, float, float, float, float]


def index(root: Path, split: str) -> Iterator[Row]:
    """Return the rows of ``split``, sorted by id.

    Args:
        root: the folder of the scenes, or one that holds ``MegaDepth_v1`` or ``phoenix``.
        split: a name of ``SPLITS``, or a list file.
    Raises:
        DatoolError: the tree, the split or a listed file is not there, or a scene lacks its depth.
    """
    path = find_list(root, split, SPLITS, "MegaDepth")
    below = ("MegaDepth_v1", ARCHIVE, f"MegaDepth_v1/{ARCHIVE}")
    scenes = find_root(root, below, lambda place: bool(_scenes(place)))
    expect(root, bool(_scenes(scenes)), "scene folder of four digits with dense0", LAYOUT)
    sfm = next((place for place in (root / SFM, scenes.parent / SFM, root.parent / SFM) if place.is_dir()), None)
    if path is not None:
        names = [inside(words[0], SCENE, path) for words in read_list(path)]
        return listed([_row(scenes, name, sfm) for name in names], path, LAYOUT)
    wanted = [scene for scene in _scenes(scenes) if split in ("all", _split_of(scene))]
    expect(root, bool(wanted), f"scene of split {split}", LAYOUT)
    return _rows(scenes, wanted, sfm)


def read(row: Row) -> Sample:
    """Return the sample with depth up to scale, and its camera where the reconstruction is there.

    Raises:
        DatoolError: a file is unreadable.
    """
    assert row.depth is not None, "index names the depth"
    image = read_image(row.image)
    values = read_hdf5(row.depth, "depth")
    depth = depth_map(values, Ambiguity.SCALE, np.zeros_like(values, bool) if is_order(values) else values > MIN_DEPTH)
    photo = None if row.camera is None else _cameras(row.camera).get(row.image.name)
    return Sample(row.id, image, depth, None if photo is None else rectified(photo, *image.shape[:2]))


def is_order(values: np.ndarray) -> bool:
    """Tell whether a file holds an order of classes and no depth: a negative value, or small whole numbers only.

    A file of zeros, where nothing was reconstructed, holds nothing either and counts too.
    """
    return bool((values < 0).any() or ((values <= MAX_CLASS) & (values == np.floor(values))).all())


def rectified(camera: Radial, height_px: int, width_px: int) -> Camera:
    """Return the camera of the undistorted, resized photo.

    Args:
        camera: of the original photo, by COLMAP.
        height_px, width_px: of the photo in MegaDepth v1.
    """
    width, height, focal_px, cx_px, cy_px, radial = camera
    # OpenCV counts pixel centres from whole numbers.
    matrix = np.array([[focal_px, 0, cx_px - 0.5], [0, focal_px, cy_px - 0.5], [0, 0, 1]])
    distortion, size = np.array([radial, 0.0, 0.0, 0.0]), (width_px, height_px)
    new, _ = cv2.getOptimalNewCameraMatrix(
        matrix, distortion, (width, height), alpha=0, newImgSize=size, centerPrincipalPoint=True
    )
    return Camera(
        float(new[0, 0]), float(new[1, 1]), float(new[0, 2]) + 0.5, float(new[1, 2]) + 0.5, height_px, width_px
    )


@lru_cache(maxsize=64)
def _cameras(folder: Path) -> Mapping[str, Radial]:
    """Return the cameras of a COLMAP text model by name of photo."""
    cameras: dict[str, Radial] = {}
    with explained(f"cameras {folder / 'cameras.txt'}"), open(folder / "cameras.txt") as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                number, model, width, height, *numbers = line.split()
                if model != "SIMPLE_RADIAL":
                    raise DatoolError(f"cannot read {folder / 'cameras.txt'}: got {model}, expected SIMPLE_RADIAL.")
                focal_px, cx_px, cy_px, radial = map(float, numbers)
                cameras[number] = int(width), int(height), focal_px, cx_px, cy_px, radial
    photos: dict[str, Radial] = {}
    with explained(f"cameras {folder / 'images.txt'}"), open(folder / "images.txt") as file:
        for line in file:
            if line.startswith("#"):
                continue
            *_, number, name = line.split()
            photos[name] = cameras[number]
            # The line of the photo's points, which may be empty.
            next(file, None)
    return photos


def _scenes(place: Path) -> list[str]:
    return [name for name in folders(place) if SCENE.fullmatch(name) and _models(place / name)]


def _models(scene: Path) -> list[str]:
    return [name for name in folders(scene) if MODEL.fullmatch(name)]


def _split_of(scene: str) -> str:
    if int(scene) == VAL_SCENE:
        return "val"
    return "train" if int(scene) <= LAST_TRAIN_SCENE else "test"


def _rows(root: Path, scenes: list[str], sfm: Path | None) -> Iterator[Row]:
    for scene in scenes:
        for model in _models(root / scene):
            images, depths = root / scene / model / "imgs", root / scene / model / "depths"
            known = set(keys(depths, "", ".h5"))
            names = sorted(f"{key}{end}" for end in IMAGE_SUFFIXES for key in keys(images, "", end) if key in known)
            expect(root, bool(names), f"picture in {images} with its .h5 in depths beside it", LAYOUT)
            for name in names:
                yield _row(root, f"{scene}/{model}/imgs/{name}", sfm)


def _row(root: Path, image: str, sfm: Path | None) -> Row:
    path = root / image
    scene, model = image.split("/")[:2]
    camera = None
    if sfm is not None:
        folder = sfm / scene / "sparse" / "manhattan" / model.removeprefix("dense")
        camera = folder if (folder / "images.txt").is_file() else None
    return Row(image, path, path.parent.parent / "depths" / f"{path.stem}.h5", camera=camera)


MEGADEPTH = Source(index, read, SPLITS, LAYOUT, Quantity.DEPTH, Ambiguity.SCALE, TITLE)
