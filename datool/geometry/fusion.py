"""Several maps whose places are known, as one surface."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from datool.errors import DatoolError
from datool.geometry.cloud import Cloud
from datool.geometry.mesh import Mesh
from datool.geometry.shot import Shot

# How far behind and before a surface the distances to it are kept, in voxels.
TRUNCATION_VOXELS = 4.0
# Voxels along a block's side, and blocks that memory is taken for at first.
BLOCK_VOXELS, FIRST_BLOCKS = 16, 1000
# A voxel seen once counts.
LEAST_WEIGHT = 0.5


@dataclass(frozen=True, eq=False)
class Frame:
    """A shot and where it was taken.

    Args:
        shot: in metres.
        pose: (4, 4) camera to world, y down.
    """

    shot: Shot
    pose: np.ndarray


def fuse(frames: Iterable[Frame], voxel_m: float) -> tuple[Cloud, Mesh]:
    """Return the points and the mesh of the mean of all frames' surfaces, in world axes, by Open3D.

    A truncated signed distance to the surface is averaged in the voxels near it, and its zero is the result. Frames are
    taken one at a time; memory grows with the surface, not with their number.

    Args:
        frames: maps with poses.
        voxel_m: side of a voxel, in metres.
    Raises:
        DatoolError: nothing is left of them.

    Source: Curless and Levoy, A volumetric method for building complex models from range images, SIGGRAPH 1996.
    """
    import open3d as o3d

    def tensor(values: np.ndarray) -> Any:
        return o3d.core.Tensor.from_numpy(np.ascontiguousarray(values))

    floats = o3d.core.float32
    grid = o3d.t.geometry.VoxelBlockGrid(
        attr_names=("tsdf", "weight", "color"),
        attr_dtypes=(floats, floats, floats),
        attr_channels=(1, 1, 3),  # type: ignore[arg-type]
        voxel_size=voxel_m,
        block_resolution=BLOCK_VOXELS,
        block_count=FIRST_BLOCKS,
        device=o3d.core.Device("CPU:0"),
    )
    for frame in frames:
        shot, camera = frame.shot, frame.shot.camera
        # Open3D passes depth 0 over. This part of it counts pixels from their corner, as we do.
        z = np.where(shot.surface.kept, shot.depth.values, np.float32(0))
        if not z.any():
            continue
        depth = o3d.t.geometry.Image(tensor(z))
        colour = o3d.t.geometry.Image(tensor(shot.image.astype(np.float32) / 255))
        lens = np.array([[camera.fx_px, 0, camera.cx_px], [0, camera.fy_px, camera.cy_px], [0, 0, 1]])
        view = tensor(lens), tensor(np.linalg.inv(frame.pose))
        beyond = float(z.max()) + 1.0
        blocks = grid.compute_unique_block_coordinates(depth, *view, 1.0, beyond, TRUNCATION_VOXELS)
        grid.integrate(blocks, depth, colour, view[0], *view, 1.0, beyond, TRUNCATION_VOXELS)
    if not grid.hashmap().size():
        raise DatoolError("no frame has a surface to fuse.", "Loosen --edge, --grazing-deg and --max-depth-m.")
    points = grid.extract_point_cloud(weight_threshold=LEAST_WEIGHT)
    mesh = grid.extract_triangle_mesh(weight_threshold=LEAST_WEIGHT)
    if points.is_empty() or mesh.is_empty():
        raise DatoolError("nothing is left to fuse.", "Check the poses (camera to world, metres) and --voxel-m.")
    positions = points.point.positions.numpy()
    order = np.lexsort(positions.T)  # Open3D's own order is another in every run
    cloud = Cloud(positions, _colours(points.point.colors.numpy()), points.point.normals.numpy()).part(order)
    corners = mesh.vertex.positions.numpy()
    order = np.lexsort(corners.T)
    number = np.empty(len(order), np.int32)
    number[order] = np.arange(len(order), dtype=np.int32)
    faces = number[mesh.triangle.indices.numpy()]
    # A triangle may begin at any of its corners: here at the first.
    faces = np.take_along_axis(faces, (faces.argmin(1)[:, None] + np.arange(3)) % 3, 1)
    colours = _colours(mesh.vertex.colors.numpy())
    return cloud, Mesh(corners[order], faces[np.lexsort(faces.T)], colours_n3=colours[order])


def _colours(shares: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)
