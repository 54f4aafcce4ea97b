"""From depth to points: cameras, back-projection, what to leave out, clouds and meshes, and how they are written."""

from datool.geometry.cloud import AXES, Cloud
from datool.geometry.exif import exif_camera
from datool.geometry.finder import CameraFinder
from datool.geometry.formats import CLOUD_FORMATS, CloudFormat, Scene
from datool.geometry.fusion import Frame, fuse
from datool.geometry.intrinsics import Intrinsics, focal_camera, fov_camera, read_intrinsics
from datool.geometry.mesh import Mesh, surface_mesh
from datool.geometry.poses import read_poses
from datool.geometry.projection import back_project, project
from datool.geometry.relative import to_relative
from datool.geometry.scale import ScaleFinder
from datool.geometry.shot import Shot
from datool.geometry.splat import splat
from datool.geometry.surface import Cut, Surface, find_surface
from datool.geometry.viewer import view_page

__all__ = [
    "AXES",
    "CLOUD_FORMATS",
    "CameraFinder",
    "Cloud",
    "CloudFormat",
    "Cut",
    "Frame",
    "Intrinsics",
    "Mesh",
    "ScaleFinder",
    "Scene",
    "Shot",
    "Surface",
    "back_project",
    "exif_camera",
    "find_surface",
    "focal_camera",
    "fov_camera",
    "fuse",
    "project",
    "read_intrinsics",
    "read_poses",
    "splat",
    "surface_mesh",
    "to_relative",
    "view_page",
]
