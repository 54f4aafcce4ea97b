"""A map as one textured surface, cut where depth breaks."""

from __future__ import annotations

import io
from dataclasses import dataclass
from math import ceil, sqrt
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from PIL import Image

from datool.depth import Camera, DepthMap
from datool.errors import DatoolError, require
from datool.geometry.cloud import AXES
from datool.geometry.projection import back_project
from datool.geometry.surface import CUT, Cut, Surface

# A browser turns a million corners with ease; more detail than that is in the texture.
MAX_VERTICES = 1_000_000
JPEG_QUALITY = 92
# The longest side of a texture that graphics cards of ten years take.
MAX_TEXTURE_PX = 8192


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles, coloured by a picture or by corner.

    Args:
        vertices_n3: (N, 3) float32; x right, y down, z ahead.
        faces_m3: (M, 3) int32, counter-clockwise seen from the camera.
        uv_n2: (N, 2) float32 place in the texture, (0, 0) its top-left corner; None = colours are given.
        texture: (H, W, 3) uint8 RGB.
        colours_n3: (N, 3) uint8 RGB; None = a texture is given.
    """

    vertices_n3: np.ndarray
    faces_m3: np.ndarray
    uv_n2: np.ndarray | None = None
    texture: np.ndarray | None = None
    colours_n3: np.ndarray | None = None


def surface_mesh(
    depth: DepthMap,
    camera: Camera,
    texture: np.ndarray,
    surface: Surface,
    cut: Cut = CUT,
    max_vertices: int = MAX_VERTICES,
) -> Mesh:
    """Return the surface as triangles between neighbouring pixels, without those that span a break in depth.

    Of a map with more pixels than ``max_vertices`` every second (third, ...) row and column is taken. A triangle is
    left out where one of its corners is, where its depths differ by more than ``cut.edge`` a step, or where it is seen
    under less than ``cut.grazing_deg``.

    Args:
        depth, camera, surface: of one picture.
        texture: (H', W', 3) uint8 RGB, the photo, of any size of the same aspect.
        cut: as the surface was found with.
        max_vertices: before pixels are left out.
    """
    height, width = depth.shape
    stride = max(1, ceil(sqrt(height * width / max_vertices)))
    rows, columns = np.arange(stride // 2, height, stride), np.arange(stride // 2, width, stride)
    points = back_project(depth, camera)[rows[:, None], columns]
    kept = surface.kept[rows[:, None], columns]
    points[~kept] = np.nan
    faces = _cut(points.reshape(-1, 3), _faces(points[:, :, 2]), cut, stride)
    used = np.zeros(kept.size, bool)
    used[faces.ravel()] = True
    number = np.cumsum(used, dtype=np.int32) - 1
    uv = np.stack(np.meshgrid((columns + 0.5) / width, (rows + 0.5) / height), axis=2).astype(np.float32)
    return Mesh(points.reshape(-1, 3)[used], number[faces], uv.reshape(-1, 2)[used], texture)


def _faces(z: np.ndarray) -> np.ndarray:
    """Return (M, 3) corner numbers, two triangles a square of four pixels, split along the flatter diagonal."""
    number = np.arange(z.size, dtype=np.int32).reshape(z.shape)
    a, b, c, d = (part.ravel() for part in (number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]))
    inverse = 1 / z.ravel()
    falling = np.abs(inverse[a] - inverse[d]) <= np.abs(inverse[b] - inverse[c])
    # Where a corner is unknown, the triangle of the other three stands only on the diagonal that leaves it out.
    falling |= np.isnan(inverse[b]) | np.isnan(inverse[c])
    first = np.where(falling[:, None], np.stack([a, c, d], 1), np.stack([a, c, b], 1))
    second = np.where(falling[:, None], np.stack([a, d, b], 1), np.stack([b, c, d], 1))
    return np.concatenate([first, second])


def _cut(points_n3: np.ndarray, faces: np.ndarray, cut: Cut, stride: int) -> np.ndarray:
    """Return the triangles that lie on a surface."""
    z = points_n3[:, 2][faces]
    faces = faces[np.max(z, axis=1) < (1 + cut.edge * stride) * np.min(z, axis=1)]  # false where a corner is unknown
    one, two, three = (points_n3[faces[:, corner]] for corner in range(3))
    normal = np.cross(two - one, three - one)
    middle = (one + two + three) / 3
    sine = np.abs(np.einsum("nc,nc->n", normal, middle))
    limit = np.sin(np.radians(cut.grazing_deg)) * np.linalg.norm(normal, axis=1) * np.linalg.norm(middle, axis=1)
    return faces[sine > limit]


def encode_glb(mesh: Mesh) -> bytes:
    """Return a binary glTF, by trimesh: y up as glTF wants it, unlit, so that the photo keeps its colours.

    Raises:
        DatoolError: trimesh is not installed, or there is no triangle.
    """
    if not len(mesh.faces_m3):
        raise DatoolError("there is no surface to write as a mesh: no triangle is left.", "Write points: --format ply.")
    trimesh = load_trimesh()
    vertices = mesh.vertices_n3 @ np.array(AXES["y-up"], np.float32).T
    if mesh.texture is None:
        assert mesh.colours_n3 is not None, "a mesh has a texture or colours"
        visual: Any = trimesh.visual.ColorVisuals(vertex_colors=_linear(mesh.colours_n3))
    else:
        material = trimesh.visual.material.PBRMaterial(
            baseColorTexture=_jpeg(mesh.texture), metallicFactor=0.0, roughnessFactor=1.0, doubleSided=True
        )
        assert mesh.uv_n2 is not None, "a textured mesh has places in its texture"
        # trimesh counts the texture's rows from below.
        uv = np.stack([mesh.uv_n2[:, 0], 1 - mesh.uv_n2[:, 1]], axis=1)
        visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    shape = trimesh.Trimesh(vertices, mesh.faces_m3, visual=visual, process=False)
    data = shape.export(file_type="glb", tree_postprocessor=_unlit)
    assert isinstance(data, bytes), "glb is binary"
    return data


def load_trimesh() -> ModuleType:
    """Return trimesh.

    Raises:
        MissingLibraryError: it is not installed.
    """
    return require("trimesh", "glb", "writing .glb files")


def _jpeg(texture: np.ndarray) -> Image.Image:
    """Return the texture as Pillow's view of a JPEG, which trimesh then writes as one."""
    smaller = MAX_TEXTURE_PX / max(texture.shape)
    if smaller < 1:
        height, width = (max(1, round(side * smaller)) for side in texture.shape[:2])
        texture = cv2.resize(texture, (width, height), interpolation=cv2.INTER_AREA)
    data = io.BytesIO()
    Image.fromarray(texture).save(data, "JPEG", quality=JPEG_QUALITY)
    return Image.open(data)


def _linear(colours_n3: np.ndarray) -> np.ndarray:
    """Return sRGB colours as the linear light that glTF has at corners (not in textures). Source: IEC 61966-2-1."""
    shares = np.arange(256) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return np.rint(linear * 255).astype(np.uint8)[colours_n3]


def _unlit(tree: dict[str, Any]) -> None:
    """Mark the material of a glTF as its own light; one is added to a mesh whose corners have the colours.

    Source: Khronos, glTF 2.0 and KHR_materials_unlit.
    """
    if not tree.get("materials"):
        tree["materials"] = [{"doubleSided": True}]
        for mesh in tree["meshes"]:
            for primitive in mesh["primitives"]:
                primitive["material"] = 0
    for material in tree["materials"]:
        material["extensions"] = {"KHR_materials_unlit": {}}
    tree["extensionsUsed"] = ["KHR_materials_unlit"]
