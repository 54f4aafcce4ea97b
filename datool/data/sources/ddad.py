"""DDAD: driving, six cameras of 1936x1216 and a lidar that reaches 250 m; depth is the lidar projected into the camera.

The scenes are in TRI's dataset governance format (DGP), of which ``ddad.json``, the scenes' json, ``calibration``,
``rgb`` and ``point_cloud`` are read here. The points (N, 4: x, y, z in metres, intensity) go through the lidar's pose
at its own time to the world, and through the camera's pose at its time into the camera, so that the car's motion
between the two is undone. A point's depth is its z, planar; it fills the one pixel that it falls into, and of several
points in a pixel the nearest counts. Points that the camera cannot see, since something nearer hides them, are kept, as
in every protocol. Pixels without a point are unknown; sky returns none.

packnet-sfm projects the same way but cuts coordinates that count from the middle of a pixel, which shifts its maps by
half a pixel up and left, and lets the last point win; its cached ``depth/lidar`` is not read.

Splits: ``val`` (50 scenes, 3,950 frames) and ``train`` (150, 12,650) with CAMERA_01, the front; ``val-all`` and
``train-all`` with all six.

Camera: intrinsics of the scene's calibration, which count from the middle of the first pixel (DGP's scale_intrinsics),
so 0.5 is added; images are rectified. UNVERIFIED on the real files: read from DGP's own test scenes, which have the
same format.

Source: Guizilini et al. 2020, arXiv:1905.02693; github.com/TRI-ML/DDAD; github.com/TRI-ML/dgp (proto/*.proto,
utils/camera.py); packnet-sfm packnet_sfm/datasets/dgp_dataset.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from datool.data.sample import Sample
from datool.data.sources.base import Row, Source, expect
from datool.data.sources.cameras import opencv_camera
from datool.data.sources.decode import depth_map, unreadable
from datool.data.sources.trees import find_root, listed
from datool.depth import Ambiguity, Camera, Quantity
from datool.errors import DatoolError, lookup
from datool.files.images import explained, read_image

TITLE = "DDAD (Guizilini et al. 2020, github.com/TRI-ML/DDAD)"
SPLITS = ("val", "train", "val-all", "train-all")
LAYOUT = """\
ddad_train_val/ddad.json
ddad_train_val/000150/scene_<hash>.json
ddad_train_val/000150/calibration/<hash>.json
ddad_train_val/000150/rgb/CAMERA_01/<time>.png
ddad_train_val/000150/point_cloud/LIDAR/<time>.npz"""

FRONT, LIDAR = "CAMERA_01", "LIDAR"
# What DGP calls its splits in ddad.json.
NUMBERS = {"train": "0", "val": "1"}


def index(root: Path, split: str) -> Iterator[Row]:
    """Return the rows of ``split``, sorted by id.

    Args:
        root: the folder of ``ddad.json``, or the one above.
        split: a name of ``SPLITS``.
    Raises:
        DatoolError: the tree or the split is not there, or pictures or point clouds are missing.
    """
    lookup(dict.fromkeys(SPLITS), split, "split of DDAD")
    expect(root, root.is_dir(), "folder", LAYOUT)
    place = find_root(root, ("ddad_train_val",), lambda place: (place / "ddad.json").is_file())
    expect(root, (place / "ddad.json").is_file(), "ddad_train_val/ddad.json", LAYOUT)
    part, _, cameras = split.partition("-")
    table = _object(place / "ddad.json")
    scenes = _get(place / "ddad.json", table, "scene_splits", NUMBERS[part], "filenames")
    expect(root, bool(scenes), f"scene of {part} in ddad.json", LAYOUT)
    return _rows(place, sorted(str(name) for name in scenes), all_cameras=bool(cameras))


def read(row: Row) -> Sample:
    """Return the sample with the depth of the lidar's points in metres.

    Raises:
        DatoolError: a file is unreadable.
    """
    assert row.depth is not None and row.camera is not None and isinstance(row.member, str), "index names them"
    image = read_image(row.image)
    scene = _scene(row.camera)
    number, name = row.member.split("/")
    sample = scene[int(number)]
    calibration = row.camera.parent / "calibration" / f"{sample['calibration']}.json"
    camera = _camera(calibration, name, image.shape)
    points = _points(row.depth)
    world = points @ sample[LIDAR]["rotation"].T + sample[LIDAR]["translation"]
    seen = (world - sample[name]["translation"]) @ sample[name]["rotation"]
    return Sample(row.id, image, depth_map(project(seen, camera), Ambiguity.NONE), camera)


def project(points: np.ndarray, camera: Camera) -> np.ndarray:
    """Return the depth map of points: (H, W) float32 of the camera, 0 where no point falls.

    Args:
        points: (N, 3) in metres in the camera's axes, x right, y down, z along the optical axis.
        camera: with principal point from the corner of the first pixel.
    """
    x, y, z = points[np.isfinite(points).all(1) & (points[:, 2] > 0)].T
    column = np.floor(camera.fx_px * x / z + camera.cx_px)
    row = np.floor(camera.fy_px * y / z + camera.cy_px)
    inside = (column >= 0) & (column < camera.width_px) & (row >= 0) & (row < camera.height_px)
    depth = np.full((camera.height_px, camera.width_px), np.inf, np.float32)
    np.minimum.at(depth, (row[inside].astype(int), column[inside].astype(int)), z[inside].astype(np.float32))
    depth[np.isinf(depth)] = 0
    return depth


def rotation(w: float, x: float, y: float, z: float) -> np.ndarray:
    """Return the (3, 3) matrix of a quaternion, whatever its length."""
    w, x, y, z = np.array([w, x, y, z]) / np.linalg.norm([w, x, y, z])
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _rows(place: Path, scenes: list[str], all_cameras: bool) -> Iterator[Row]:
    for name in scenes:
        path = place / name
        expect(place, path.is_file(), name, LAYOUT)
        rows = [
            Row(
                (path.parent / found["file"]).relative_to(place).as_posix(),
                path.parent / found["file"],
                path.parent / sample[LIDAR]["file"],
                camera=path,
                member=f"{number}/{camera}",
            )
            for number, sample in enumerate(_scene(path))
            for camera, found in sample.items()
            if camera.startswith("CAMERA_") and (all_cameras or camera == FRONT)
        ]
        yield from listed(rows, path, LAYOUT)


@lru_cache(maxsize=4)
def _scene(path: Path) -> list[dict[str, Any]]:
    """Return a scene's samples: calibration, and by sensor file, rotation (3, 3) and translation (3,) to the world."""
    scene = _object(path)
    data = {str(_get(path, datum, "key")): datum for datum in _get(path, scene, "data")}
    samples: list[dict[str, Any]] = []
    for entry in _get(path, scene, "samples"):
        sample: dict[str, Any] = {"calibration": _get(path, entry, "calibration_key")}
        for key in _get(path, entry, "datum_keys"):
            datum = _get(path, data, key)
            held = _get(path, datum, "datum")
            held = held.get("image") or held.get("point_cloud")
            if held is not None:
                pose = _get(path, held, "pose")
                # Numbers that are 0 may be left out, as protocol buffers do.
                turn, shift = pose.get("rotation", {}), pose.get("translation", {})
                sample[str(_get(path, datum, "id", "name"))] = {
                    "file": _get(path, held, "filename"),
                    "rotation": rotation(*(turn.get(name, 0.0) for name in ("qw", "qx", "qy", "qz"))),
                    "translation": np.array([shift.get(name, 0.0) for name in ("x", "y", "z")]),
                }
        if LIDAR not in sample:
            raise DatoolError(f"{path}, sample {len(samples)}: no {LIDAR}, got {', '.join(sample)}.", "Fetch it again.")
        samples.append(sample)
    return samples


def _camera(path: Path, name: str, shape: tuple[int, ...]) -> Camera:
    calibration = _object(path)
    names = _get(path, calibration, "names")
    if name not in names:
        raise DatoolError(f"{path} calibrates {', '.join(names)}, expected {name}.", "Fetch it again.")
    k = _get(path, calibration, "intrinsics")[names.index(name)]
    return opencv_camera([float(k.get(part, 0.0)) for part in ("fx", "fy", "cx", "cy")], shape)


def _points(path: Path) -> np.ndarray:
    expected = "an .npz file whose 'data' is (N, 3 or more)"
    with explained(f"point cloud {path}"), np.load(path, allow_pickle=False) as arrays:
        if "data" not in arrays:
            raise unreadable(path, f"arrays {', '.join(arrays.files) or 'none'}", expected)
        points = arrays["data"]
    if points.ndim != 2 or points.shape[1] < 3:
        raise unreadable(path, f"{points.dtype} {points.shape}", expected)
    return points[:, :3].astype(np.float64)


def _object(path: Path) -> Mapping[str, Any]:
    with explained(str(path)):
        found = json.loads(path.read_bytes())
    if not isinstance(found, dict):
        raise DatoolError(f"cannot read {path}: got {type(found).__name__}, expected a JSON object.", "Fetch it again.")
    return found


def _get(path: Path, found: Any, *names: str) -> Any:
    """Return ``found[a][b]...``."""
    for name in names:
        if not isinstance(found, Mapping) or name not in found:
            raise DatoolError(f"{path} has no {'.'.join(names)}, as DGP's files do.", f"Expected layout:\n{LAYOUT}")
        found = found[name]
    return found


DDAD = Source(index, read, SPLITS, LAYOUT, Quantity.DEPTH, Ambiguity.NONE, TITLE, scored=("val", "val-all"))
