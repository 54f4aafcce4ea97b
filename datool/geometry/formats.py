"""The files that clouds and meshes are written to."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from datool.depth import Camera
from datool.errors import DatoolError, require
from datool.geometry.cloud import Cloud
from datool.geometry.mesh import Mesh, encode_glb, load_trimesh
from datool.geometry.splat import splat
from datool.geometry.viewer import view_page

# Rows of a text file that are put together at once.
TEXT_ROWS = 1 << 16
LAS_STEPS = 2e9


@dataclass(frozen=True, eq=False)
class Scene:
    """What one picture, or several fused, came to.

    Args:
        cloud: the points, in the camera's axes.
        mesh: makes the surface, in the axes that the result is to have; called if a format wants it.
        camera: that saw it (the first of several).
        pose: (4, 4) camera to world, where the points and the mesh are to be in the world.
        axes: name of `AXES`, for the points in the file.
        voxel: side of the voxels that points stand for; 0 = each stands for its pixel.
        share: of the pixels' points that are in the cloud.
        name: for the page's title.
        comments: lines of ASCII for formats that keep them: unit, axes, where it comes from.
    """

    cloud: Cloud
    mesh: Callable[[], Mesh]
    camera: Camera
    pose: np.ndarray | None = None
    axes: str = "y-down"
    voxel: float = 0.0
    share: float = 1.0
    name: str = ""
    comments: tuple[str, ...] = ()

    def points(self) -> Cloud:
        """Return the points as they go into a file."""
        return (self.cloud if self.pose is None else self.cloud.moved(self.pose)).turned(self.axes)


@dataclass(frozen=True)
class CloudFormat:
    """One way to write a scene.

    Args:
        suffix: what follows the input's name.
        encode: scene -> the file's bytes.
        prepare: raises a DatoolError where a library that it needs is not installed.
    """

    suffix: str
    encode: Callable[[Scene], bytes | bytearray]
    prepare: Callable[[], object] = lambda: None


def encode_ply(scene: Scene) -> bytes | bytearray:
    """Return binary little-endian PLY: float positions and normals, 8-bit colours.

    Source: Turk 1994, The PLY polygon file format.
    """
    cloud = scene.points()
    fields = [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")]
    fields += [(name, "u1") for name in ("red", "green", "blue")]
    types = {"<f4": "float", "u1": "uchar"}
    header = [
        "ply",
        "format binary_little_endian 1.0",
        *(f"comment {' '.join(line.split())}" for line in scene.comments),
    ]
    header += [f"element vertex {len(cloud)}", *(f"property {types[kind]} {name}" for name, kind in fields)]
    head = "\n".join([*header, "end_header\n"]).encode("ascii", "replace")
    data = bytearray(len(head) + len(cloud) * np.dtype(fields).itemsize)  # 2.7 GB of 100 megapixels: made once
    data[: len(head)] = head
    rows = np.frombuffer(data, fields, offset=len(head))
    columns = (*cloud.points_n3.T, *cloud.normals_n3.T, *cloud.colours_n3.T)
    for (name, _), column in zip(fields, columns, strict=True):
        rows[name] = column
    return data


def encode_xyz(scene: Scene) -> bytes:
    """Return text, ``x y z red green blue`` a line, 0 to 255, without a header (which few programs expect)."""
    cloud, out = scene.points(), io.StringIO()
    for start in range(0, len(cloud), TEXT_ROWS):
        part = slice(start, start + TEXT_ROWS)
        numbers = np.concatenate([cloud.points_n3[part].astype(np.float64), cloud.colours_n3[part]], axis=1)
        out.write("%.6g %.6g %.6g %d %d %d\n" * len(numbers) % tuple(numbers.ravel()))
    return out.getvalue().encode("ascii")


def encode_pcd(scene: Scene) -> bytes:
    """Return PCL's binary PCD, by Open3D, which writes to a name only."""
    import open3d as o3d

    cloud = scene.points()
    points = o3d.t.geometry.PointCloud(o3d.core.Tensor.from_numpy(cloud.points_n3))
    points.point.colors = o3d.core.Tensor.from_numpy(cloud.colours_n3)
    points.point.normals = o3d.core.Tensor.from_numpy(cloud.normals_n3)
    with tempfile.TemporaryDirectory(prefix="datool-") as folder:
        path = Path(folder) / "cloud.pcd"
        if not o3d.t.io.write_point_cloud(path, points):
            raise DatoolError("Open3D cannot write the cloud as .pcd.", "Choose --format ply.")
        return path.read_bytes()


def encode_las(scene: Scene) -> bytes:
    """Return LAS 1.2 with colours (point format 2), by laspy.

    LAS keeps whole steps: the finest power of ten that the cloud's size fits in.

    Raises:
        DatoolError: laspy is not installed.
    """
    laspy = _laspy()
    cloud = scene.points()
    points = cloud.points_n3.astype(np.float64)
    header = laspy.LasHeader(point_format=2, version="1.2")
    low, high = (points.min(0), points.max(0)) if len(points) else (np.zeros(3), np.ones(3))
    step = 10.0 ** np.ceil(np.log10(max(float(np.max(high - low)), 1e-6) / LAS_STEPS))
    header.offsets, header.scales = np.floor(low), np.full(3, step)
    las = laspy.LasData(header)
    las.x, las.y, las.z = points.T
    # LAS keeps 16 bits a colour: 255 becomes 65535.
    las.red, las.green, las.blue = cloud.colours_n3.T.astype(np.uint16) * 257
    out = io.BytesIO()
    las.write(out)
    return out.getvalue()


def _laspy() -> ModuleType:
    return require("laspy", "las", "writing .las files")


def encode_picture(scene: Scene) -> bytes:
    """Return a PNG of the cloud, seen from a little beside its camera."""
    picture = splat(scene.cloud, scene.camera, scene.voxel, scene.share)
    return cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes()


def encode_page(scene: Scene) -> bytes:
    """Return an HTML page that turns the cloud in a browser, offline."""
    return view_page(scene.cloud, scene.camera, scene.name, scene.voxel, scene.share)


CLOUD_FORMATS: dict[str, CloudFormat] = {
    "ply": CloudFormat(".ply", encode_ply),
    "pcd": CloudFormat(".pcd", encode_pcd),
    "xyz": CloudFormat(".xyz", encode_xyz),
    "las": CloudFormat(".las", encode_las, _laspy),
    "glb": CloudFormat(".glb", lambda scene: encode_glb(scene.mesh()), load_trimesh),
    "html": CloudFormat(".html", encode_page),
    "png": CloudFormat(".cloud.png", encode_picture),
}
