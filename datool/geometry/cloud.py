"""Points with colours and normals: taken from a map, thinned, turned to another program's axes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from datool.depth import Camera, DepthMap
from datool.errors import DatoolError, lookup
from datool.geometry.projection import rays
from datool.geometry.surface import Surface

# Of surfaces more oblique than this (the sine of the angle of sight) points are drawn no wider.
LEAST_FACING = 0.25


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points that a camera saw.

    Args:
        points_n3: (N, 3) float32; x right, y down, z ahead until `turned`.
        colours_n3: (N, 3) uint8 RGB.
        normals_n3: (N, 3) float32 of length 1, towards the camera.
        unit: ``m``, or empty where the scale is unknown.
    """

    points_n3: np.ndarray
    colours_n3: np.ndarray
    normals_n3: np.ndarray
    unit: str = "m"

    def __len__(self) -> int:
        return len(self.points_n3)

    @classmethod
    def of(cls, depth: DepthMap, camera: Camera, image: np.ndarray, surface: Surface, unit: str = "m") -> Cloud:
        """Return the points of the pixels that the surface keeps, by rows.

        Args:
            depth: (H, W) depth.
            camera: of a picture of that size.
            image: (H, W, 3) uint8 RGB.
            surface: of that map.
            unit: of the depth.
        """
        rows, columns = np.nonzero(surface.kept)
        x_w, y_h = rays(camera)
        z = depth.values[rows, columns]
        points = np.stack([x_w[columns] * z, y_h[rows] * z, z], axis=1)
        return cls(points, image[rows, columns], surface.normals_hw3[rows, columns], unit)

    def part(self, numbers: np.ndarray) -> Cloud:
        """Return some of the points.

        Args:
            numbers: (K,) int, or (N,) bool.
        """
        points, colours, normals = self.points_n3[numbers], self.colours_n3[numbers], self.normals_n3[numbers]
        return replace(self, points_n3=points, colours_n3=colours, normals_n3=normals)

    def thinned(self, num: int, seed: int = 0) -> Cloud:
        """Return at most ``num`` of the points, drawn at random without bias and kept in their order.

        Raises:
            DatoolError: ``num`` is below 1.
        """
        if num < 1:
            raise DatoolError(f"at most {num} points is no cloud.", "Give --max-points a number above 0.")
        if len(self) <= num:
            return self
        drawn = np.random.default_rng(seed).choice(len(self), num, replace=False, shuffle=False)
        return self.part(np.sort(drawn))

    def by_voxel(self, side: float) -> Cloud:
        """Return one point a cube of that side: the mean of its points, colours and normals, by Open3D.

        Args:
            side: of the cubes, in the cloud's unit.
        Raises:
            DatoolError: not above 0.
        """
        if not side > 0:
            raise DatoolError(f"a voxel of side {side:g} cannot be.", "Give --voxel-m a number above 0.")
        if not len(self):
            return self
        import open3d as o3d

        cloud = o3d.t.geometry.PointCloud(o3d.core.Tensor.from_numpy(self.points_n3))
        cloud.point.colors = o3d.core.Tensor.from_numpy(self.colours_n3.astype(np.float32))
        cloud.point.normals = o3d.core.Tensor.from_numpy(self.normals_n3)
        thin = cloud.voxel_down_sample(float(side))
        normals = thin.point.normals.numpy()
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        return replace(
            self,
            points_n3=np.ascontiguousarray(thin.point.positions.numpy()),
            colours_n3=np.rint(thin.point.colors.numpy()).astype(np.uint8),
            normals_n3=normals / np.where(length > 0, length, 1),
        )

    def widths(self, fx_px: float, voxel: float = 0.0, share: float = 1.0) -> np.ndarray:
        """Return how wide a piece of the surface each point stands for, (N,) float32, in the cloud's unit.

        A pixel covers z / fx of a surface that faces it, and more of one that is oblique.

        Args:
            fx_px: focal length of the camera that saw the cloud, in pixels of its map.
            voxel: side of the voxels that points stand for; 0 = each stands for its pixel.
            share: of the pixels' points that are in the cloud.
        """
        if voxel:
            return np.full(len(self), voxel / np.sqrt(share), np.float32)
        along = np.abs(np.einsum("nc,nc->n", self.points_n3, self.normals_n3))
        facing = along / np.maximum(np.linalg.norm(self.points_n3, axis=1), 1e-12)
        return self.points_n3[:, 2] / np.maximum(facing, LEAST_FACING) / np.float32(fx_px * np.sqrt(share))

    def turned(self, axes: str) -> Cloud:
        """Return the cloud in the axes of that name.

        Args:
            axes: a name of ``AXES``.
        """
        if axes == CAMERA_AXES:
            return self
        turn = np.array(lookup(AXES, axes, "axes"), np.float32)
        return replace(self, points_n3=self.points_n3 @ turn.T, normals_n3=self.normals_n3 @ turn.T)

    def moved(self, pose: np.ndarray) -> Cloud:
        """Return the cloud in the world of a camera-to-world matrix (4, 4)."""
        rotation = pose[:3, :3]
        points = self.points_n3 @ rotation.T + pose[:3, 3]
        normals = self.normals_n3 @ rotation.T
        return replace(self, points_n3=points.astype(np.float32), normals_n3=normals.astype(np.float32))


CAMERA_AXES = "y-down"
# Rows are the new x, y and z in the camera's axes (x right, y down, z ahead). None of them mirrors.
AXES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "y-down": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),  # OpenCV, COLMAP, Open3D
    "y-up": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),  # OpenGL, glTF, MeshLab
    "z-up": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),  # Blender, surveying, ROS with x to the right
}
