"""One picture with its depth and its camera, ready to become points or a mesh."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from datool.depth import Camera, DepthMap, same_aspect
from datool.errors import DatoolError
from datool.geometry.cloud import Cloud
from datool.geometry.mesh import Mesh, surface_mesh
from datool.geometry.projection import turned_down
from datool.geometry.surface import CUT, Cut, Surface, find_surface


@dataclass(frozen=True, eq=False)
class Shot:
    """A map, its camera, and its picture in the map's size.

    Args:
        depth: (H, W) depth.
        camera: of a picture of that size, y down.
        image: (H, W, 3) uint8 RGB.
        photo: (H', W', 3) uint8 RGB, as it came.
        surface: what of the map counts.
        cut: what it was found with.
        unit: ``m``, or empty.
    """

    depth: DepthMap
    camera: Camera
    image: np.ndarray
    photo: np.ndarray
    surface: Surface
    cut: Cut
    unit: str

    @classmethod
    def of(
        cls,
        depth: DepthMap,
        camera: Camera,
        photo: np.ndarray,
        cut: Cut = CUT,
        usable: np.ndarray | None = None,
        unit: str = "m",
    ) -> Shot:
        """Return the shot; camera and photo are brought to the map's size.

        Args:
            depth: (H, W) depth, metric or up to scale.
            camera: of the photo.
            photo: (H', W', 3) uint8 RGB of the map's aspect.
            cut, usable: as for `find_surface`.
            unit: of the depth.
        Raises:
            DatoolError: not depth, or the photo has another aspect than the map.
        """
        if not same_aspect(depth.shape, photo.shape[:2]):
            raise DatoolError(
                f"the map is {depth.shape[1]}x{depth.shape[0]}, its photo {photo.shape[1]}x{photo.shape[0]}: "
                "not the same picture."
            )
        camera = turned_down(camera).resized(*depth.shape)
        image = photo
        if photo.shape[:2] != depth.shape:
            image = cv2.resize(photo, depth.shape[::-1], interpolation=cv2.INTER_AREA)
        return cls(depth, camera, image, photo, find_surface(depth, camera, cut, usable), cut, unit)

    def cloud(self) -> Cloud:
        """Return the points that are kept, in the camera's axes."""
        return Cloud.of(self.depth, self.camera, self.image, self.surface, self.unit)

    def mesh(self) -> Mesh:
        """Return the surface with the photo as its texture."""
        return surface_mesh(self.depth, self.camera, self.photo, self.surface, self.cut)
