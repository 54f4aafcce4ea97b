"""Virtual KITTI 2: 21,260 rendered driving stereo pairs, 1242x375, planar depth in centimetres.

Depth is a 16-bit grey PNG, 1 unit = 1 cm along the optical axis; 65535 (655.35 m, the far plane) is sky, 0 cannot be
and is unknown. No far limit is set here: V2's metric training and ZoeDepth drop what is beyond 80 m.

Splits: ``train`` is the left camera (Camera_0) of every scene and weather, as in V2's list; ``both-cameras`` adds
Camera_1; or a list file with V2's lines ``<rgb> <depth>`` (19,559 of the 21,260 left frames; which rule left out the
rest is not published) or Marigold's, whose paths count from ``SceneXX``.

Camera: fx = fy = 725.0087, cx = 620.5, cy = 187 for every frame, as ``intrinsic.txt`` repeats (UNVERIFIED for every
file). (620.5, 187) is the middle of 1242x375 pixels counted from whole numbers, so it is (621, 187.5) in datool.

Source: Cabon, Murray, Humenberger 2020, arXiv:2001.10773; Depth-Anything-V2 metric_depth/dataset/vkitti2.py and
issues 109, 181, 220.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from datool.data.sample import Sample
from datool.data.sources.base import Row, Source, expect
from datool.data.sources.decode import depth_map, read_png16
from datool.data.sources.trees import find_list, folders, inside, keys, listed, read_list, require_pairs
from datool.depth import Ambiguity, Camera, Quantity
from datool.errors import DatoolError
from datool.files.images import read_image

TITLE = "Virtual KITTI 2 (Cabon et al. 2020)"
SPLITS = ("train", "both-cameras")
LAYOUT = """\
Scene01/clone/frames/rgb/Camera_0/rgb_00000.jpg      (vkitti_2.0.3_rgb.tar)
Scene01/clone/frames/depth/Camera_0/depth_00000.png  (vkitti_2.0.3_depth.tar)"""

SCENE = re.compile(r"Scene\d{2}")
CENTIMETRES_PER_METRE = 100
SKY = 65535
CAMERA = Camera(725.0087, 725.0087, 621.0, 187.5, 375, 1242)


def index(root: Path, split: str) -> Iterator[Row]:
    """Return the rows of ``split``, sorted by id.

    Args:
        root: the folder of the ``SceneXX`` folders.
        split: a name of ``SPLITS``, or a list file.
    Raises:
        DatoolError: the tree or the split is not there, or pictures lack their depth.
    """
    path = find_list(root, split, SPLITS, "Virtual KITTI 2")
    scenes = [name for name in folders(root) if SCENE.fullmatch(name)]
    expect(root, bool(scenes), "folder SceneXX", LAYOUT)
    if path is not None:
        return listed((_listed_row(root, words, path) for words in read_list(path)), path, LAYOUT)
    return _rows(root, scenes, ("Camera_0",) if split == "train" else ("Camera_0", "Camera_1"))


def read(row: Row) -> Sample:
    """Return the sample with depth in metres, sky ``+inf``.

    Raises:
        DatoolError: a file is unreadable.
    """
    assert row.depth is not None, "index names the depth"
    image = read_image(row.image)
    values = read_png16(row.depth, "centimetres (Virtual KITTI 2)")
    depth = depth_map(values / CENTIMETRES_PER_METRE, Ambiguity.NONE, sky=values == SKY)
    return Sample(row.id, image, depth, CAMERA.resized(*image.shape[:2]))


def _rows(root: Path, scenes: Sequence[str], cameras: Sequence[str]) -> Iterator[Row]:
    found = False
    for scene in scenes:
        for weather in folders(root / scene):
            frames = root / scene / weather / "frames"
            for camera in cameras:
                images, truth = frames / "rgb" / camera, frames / "depth" / camera
                image_keys = keys(images, "rgb_", ".jpg")
                require_pairs(images, image_keys, truth, keys(truth, "depth_", ".png"), LAYOUT)
                for key in image_keys:
                    found = True
                    yield _row(root, f"{scene}/{weather}/frames/rgb/{camera}/rgb_{key}.jpg")
    expect(root, found, "picture SceneXX/*/frames/rgb/Camera_0/rgb_*.jpg", LAYOUT)


def _row(root: Path, image: str) -> Row:
    depth = image.replace("/rgb/", "/depth/").replace("/rgb_", "/depth_").replace(".jpg", ".png")
    return Row(image, root / image, root / depth)


def _listed_row(root: Path, words: list[str], path: Path) -> Row:
    row = _row(root, inside(words[0], SCENE, path))
    if len(words) > 1 and root / inside(words[1], SCENE, path) != row.depth:
        raise DatoolError(f"list {path} pairs {words[0]} with {words[1]}, expected the depth of the same frame.")
    return row


VKITTI2 = Source(index, read, SPLITS, LAYOUT, Quantity.DEPTH, Ambiguity.NONE, TITLE)
