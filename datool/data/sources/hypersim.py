"""Hypersim: 74,619 rendered indoor images, 1024x768, with the distance to the camera in metres.

``frame.IIII.depth_meters.hdf5`` (array ``dataset``) holds the length of the ray, not depth. Two sources turn it into
planar depth:

- ``HYPERSIM`` as Depth Anything V2 does: one camera for all scenes, focal length 886.81 px, centred. That is exact for
  213 of the 482 rows of the camera table, an approximation for the rest; V2's metric models were trained with it.
- ``HYPERSIM_EXACT`` by each scene's own camera. It needs ``metadata_camera_parameters.csv`` of the repository.

Pixels without geometry are NaN in the files and unknown here; so is anything not above 0. The set does not tell sky,
seen through windows, from other holes. ``render_entity_id`` is not consulted (Marigold does), and no far limit is set
(V2's metric training keeps 0.001 to 20 m). The pictures are the tone-mapped previews that V2 uses; the set's README
advises against them for training. Some scenes are broken in the official splits (ai_004_009 cam_01, ai_038_007
cam_00, more in issue 22 of the repository); they are not left out.

Splits: train, val and test of ``metadata_images_split_scene_v1.csv`` (59,543, 7,386 and 7,690 frames), of the scenes
that are there; ``all``, which needs no csv; or a list file with V2's lines ``<rgb> <depth>``, whose paths count from
``ai_...``.

Cameras: Hypersim's projection puts the edges of the picture at -1 and 1, so pixel centres are at +0.5, as in datool.

Source: Roberts et al. 2021, arXiv:2011.02523; github.com/apple/ml-hypersim (README, contrib/mikeroberts3000);
Depth-Anything-V2 metric_depth/dataset/hypersim.py. UNVERIFIED: that no frame of the public release lacks its depth; a
frame with one of the two files only is left out.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Set
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from datool.data.sample import Sample
from datool.data.sources.base import Row, Source, expect
from datool.data.sources.decode import depth_map, read_hdf5
from datool.data.sources.trees import find_list, find_root, folders, inside, keys, listed, read_list
from datool.depth import Ambiguity, Camera, DepthMap, Quantity
from datool.errors import DatoolError
from datool.files.images import explained, read_image

TITLE = "Hypersim (Roberts et al. 2021, github.com/apple/ml-hypersim)"
SPLITS = ("train", "val", "test", "all")
LAYOUT = """\
ai_001_001/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg
ai_001_001/images/scene_cam_00_geometry_hdf5/frame.0000.depth_meters.hdf5
metadata_images_split_scene_v1.csv   (train, val, test; evermotion_dataset/analysis of github.com/apple/ml-hypersim)
metadata_camera_parameters.csv       (hypersim-exact; contrib/mikeroberts3000 of the same)"""

SPLIT_TABLE = "metadata_images_split_scene_v1.csv"
CAMERA_TABLE = "metadata_camera_parameters.csv"
TABLE_FOLDERS = (".", "analysis", "evermotion_dataset/analysis", "contrib/mikeroberts3000", "../analysis")
SCENE = re.compile(r"ai_\d{3}_\d{3}")
CAMERA_FOLDER = re.compile(r"scene_(cam_\d+)_final_preview")
RGB, DEPTH = ("frame.", ".tonemap.jpg"), ("frame.", ".depth_meters.hdf5")

V2_CAMERA = Camera(886.81, 886.81, 512.0, 384.0, 768, 1024)
# Two directions count as square to each other below this cosine.
SQUARE = 1e-6

# The nine numbers of a scene's M_cam_from_uv, row by row.
Matrix = tuple[float, ...]


def index(root: Path, split: str, exact: bool = False) -> Iterator[Row]:
    """Return the rows of ``split``, sorted by id.

    Args:
        root: the folder of the ``ai_...`` folders, or the one that holds ``scenes`` or ``evermotion_dataset/scenes``.
        split: a name of ``SPLITS``, or a list file.
        exact: name each scene's own camera in the rows.
    Raises:
        DatoolError: the tree, the split or a table is not there.
    """
    path = find_list(root, split, SPLITS, "Hypersim")
    scenes = find_root(root, ("scenes", "evermotion_dataset/scenes"), lambda place: bool(_scenes(place)))
    expect(root, bool(_scenes(scenes)), "scene folder ai_VVV_NNN", LAYOUT)
    cameras = _table(root, CAMERA_TABLE) if exact else None
    if path is not None:
        return listed((_listed_row(scenes, words, path, cameras) for words in read_list(path)), path, LAYOUT)
    frames = None if split == "all" else _frames(_table(root, SPLIT_TABLE), split)
    return _rows(scenes, frames, split, cameras)


def read_v2(row: Row) -> Sample:
    """Return the sample with planar depth in metres by V2's one camera: z = distance * f / sqrt(x^2 + y^2 + f^2)."""
    return _read(row, lambda height, width: (_v2_planar(height, width), V2_CAMERA))


def read_exact(row: Row) -> Sample:
    """Return the sample with planar depth in metres by its scene's camera.

    The ray of pixel (x, y) is M (u, v, 1) with M = M_cam_from_uv, u = 2x/W - 1, v = 1 - 2y/H. Depth is taken along
    the normal of the plane that M spans, which is what a pinhole picture's depth is. Where the lens is not tilted
    (all but a few scenes) that is Hypersim's camera-space -z, and fx = M_proj_00 W/2, fy = M_proj_11 H/2, cx = (1 -
    M_proj_02) W/2, cy = (1 + M_proj_12) H/2. For a tilted lens -z would belong to no picture plane: walls parallel to
    the picture would not be of one depth. The camera is None where the picture's axes are not square (a lens tilted
    both ways).

    Raises:
        DatoolError: a file is unreadable, or the table has no such scene.
    """
    assert row.camera is not None and isinstance(row.member, str), "index(exact=True) names the table and the scene"
    matrices = _matrices(row.camera)
    if row.member not in matrices:
        raise DatoolError(f"{row.camera} has no row for scene {row.member}.", f"Fetch {CAMERA_TABLE} again.")
    matrix = matrices[row.member]
    return _read(row, lambda height, width: (_planar(matrix, height, width), camera_of(matrix, 768, 1024)))


def camera_of(matrix: Matrix, height_px: int, width_px: int) -> Camera | None:
    """Return the pinhole camera of M_cam_from_uv for a picture of that size, None where its axes are not square."""
    right, up, centre = np.array(matrix, np.float64).reshape(3, 3).T
    per_u, per_v = np.linalg.norm(right), np.linalg.norm(up)
    if abs(right @ up) > SQUARE * per_u * per_v:
        return None
    distance = _normal(matrix) @ centre
    half_width, half_height = width_px / 2, height_px / 2
    return Camera(
        fx_px=float(distance / per_u * half_width),
        fy_px=float(distance / per_v * half_height),
        cx_px=float((1 - centre @ right / per_u**2) * half_width),
        cy_px=float((1 + centre @ up / per_v**2) * half_height),
        height_px=height_px,
        width_px=width_px,
    )


def _read(row: Row, lens: Callable[[int, int], tuple[np.ndarray, Camera | None]]) -> Sample:
    assert row.depth is not None, "index names the depth"
    image = read_image(row.image)
    distance = read_hdf5(row.depth, "dataset")
    planar, camera = lens(*distance.shape)
    depth: DepthMap = depth_map(distance * planar, Ambiguity.NONE)
    return Sample(row.id, image, depth, camera and camera.resized(*image.shape[:2]))


@lru_cache(maxsize=4)
def _v2_planar(height: int, width: int) -> np.ndarray:
    """Return depth per length of ray, (H, W)."""
    camera = V2_CAMERA.resized(height, width)
    x = (np.arange(width) + 0.5 - camera.cx_px) / camera.fx_px
    y = (np.arange(height) + 0.5 - camera.cy_px) / camera.fy_px
    return (1 / np.sqrt(x[None, :] ** 2 + y[:, None] ** 2 + 1)).astype(np.float32)


@lru_cache(maxsize=8)
def _planar(matrix: Matrix, height: int, width: int) -> np.ndarray:
    """Return depth per length of ray, (H, W)."""
    u = 2 * (np.arange(width) + 0.5) / width - 1
    v = 1 - 2 * (np.arange(height) + 0.5) / height
    uv1_hw3 = np.stack([*np.meshgrid(u, v), np.ones((height, width))], axis=2)
    rays_hw3 = uv1_hw3 @ np.array(matrix, np.float64).reshape(3, 3).T
    return (rays_hw3 @ _normal(matrix) / np.linalg.norm(rays_hw3, axis=2)).astype(np.float32)


def _normal(matrix: Matrix) -> np.ndarray:
    """Return the unit normal of the picture's plane, away from the camera."""
    right, up, centre = np.array(matrix, np.float64).reshape(3, 3).T
    normal = np.cross(right, up)
    return normal / np.linalg.norm(normal) * np.sign(normal @ centre)


def _scenes(place: Path) -> list[str]:
    return [name for name in folders(place) if SCENE.fullmatch(name)]


def _rows(
    scenes: Path, frames: Mapping[tuple[str, str], Set[str]] | None, split: str, cameras: Path | None
) -> Iterator[Row]:
    found = False
    for scene in _scenes(scenes):
        images = scenes / scene / "images"
        for folder in folders(images):
            match = CAMERA_FOLDER.fullmatch(folder)
            if match is None:
                continue
            truth = folder.replace("_final_preview", "_geometry_hdf5")
            both = set(keys(images / folder, *RGB)) & set(keys(images / truth, *DEPTH))
            expect(scenes, bool(both), f"frame with both picture and depth in {images / folder} and {truth}", LAYOUT)
            wanted = both if frames is None else both & frames.get((scene, match[1]), frozenset())
            for key in sorted(wanted):
                found = True
                yield _row(scenes, f"{scene}/images/{folder}/frame.{key}.tonemap.jpg", cameras)
    expect(scenes, found, f"frame of split {split}", LAYOUT)


def _row(scenes: Path, image: str, cameras: Path | None) -> Row:
    depth = image.replace("_final_preview/", "_geometry_hdf5/").replace(".tonemap.jpg", ".depth_meters.hdf5")
    return Row(image, scenes / image, scenes / depth, camera=cameras, member=image.split("/")[0] if cameras else None)


def _listed_row(scenes: Path, words: list[str], path: Path, cameras: Path | None) -> Row:
    row = _row(scenes, inside(words[0], SCENE, path), cameras)
    if len(words) > 1 and scenes / inside(words[1], SCENE, path) != row.depth:
        raise DatoolError(f"list {path} pairs {words[0]} with {words[1]}, expected the depth of the same frame.")
    return row


def _table(root: Path, name: str) -> Path:
    found = next((path for folder in TABLE_FOLDERS if (path := root / folder / name).is_file()), None)
    expect(root, found is not None, name, LAYOUT)
    assert found is not None, "expect raised"
    return found


def _frames(table: Path, split: str) -> Mapping[tuple[str, str], Set[str]]:
    """Return the frames of ``split`` that were released, by scene and camera."""
    frames: dict[tuple[str, str], set[str]] = defaultdict(set)
    with explained(f"table {table}"), open(table, newline="") as file:
        for line in csv.DictReader(file):
            if line["split_partition_name"] == split and line["included_in_public_release"] == "True":
                frames[line["scene_name"], line["camera_name"]].add(f"{int(line['frame_id']):04d}")
    return frames


@lru_cache(maxsize=2)
def _matrices(table: Path) -> Mapping[str, Matrix]:
    names = [f"M_cam_from_uv_{row}{column}" for row in range(3) for column in range(3)]
    with explained(f"table {table}"), open(table, newline="") as file:
        return {line["scene_name"]: tuple(float(line[name]) for name in names) for line in csv.DictReader(file)}


HYPERSIM = Source(index, read_v2, SPLITS, LAYOUT, Quantity.DEPTH, Ambiguity.NONE, TITLE)
HYPERSIM_EXACT = Source(
    partial(index, exact=True), read_exact, SPLITS, LAYOUT, Quantity.DEPTH, Ambiguity.NONE, f"{TITLE}, exact cameras"
)
