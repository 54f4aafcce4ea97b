"""BlendedMVS, BlendedMVS+ and BlendedMVS++ (together BlendedMVG): over 110,000 pictures of 502 reconstructed scenes.

Depth is rendered from a textured mesh, planar, in a PFM of the picture's size (768x576, or 2048x1536). Its unit is
another in every scene and unknown (depth up to scale). 0 is where no mesh is, unknown here: sky is not marked and
cannot be told from other background. A few maps and pictures are empty; they are rows like others, with nothing
known. The pictures are ``<k>.jpg``, blended with the background, not ``<k>_masked.jpg``.

Splits: ``all``; ``val``, the seven scenes of the official validation list; ``train``, the others (495 of 502, 106 of
BlendedMVS alone); or an official project list, one scene a line, all of which must be there.

Camera: K of ``<k>_cam.txt``. MVSNet, whose format this is, puts pixel centres at +0.5, so K is taken as it is
(ASSUMED for this set).

Source: Yao et al. 2020, arXiv:1911.10127; github.com/YoYo000/BlendedMVS (README, project_lists, validation_list.txt);
github.com/YoYo000/MVSNet. UNVERIFIED: that the 2048x1536 release nests a scene's name (``PID/PID/PID``), which is
followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from datool.data.sample import Sample
from datool.data.sources.base import Row, Source, expect
from datool.data.sources.decode import depth_map, read_pfm
from datool.data.sources.trees import find_list, folders, keys, read_list
from datool.depth import Ambiguity, Camera, Quantity
from datool.errors import DatoolError
from datool.files.images import explained, read_image

TITLE = "BlendedMVS, BlendedMVS+, BlendedMVS++ (Yao et al. 2020, github.com/YoYo000/BlendedMVS)"
SPLITS = ("train", "val", "all")
LAYOUT = """\
57f8d9bbe73f6760f10e916a/blended_images/00000000.jpg        (a scene's name has 24 hexadecimal digits)
57f8d9bbe73f6760f10e916a/rendered_depth_maps/00000000.pfm
57f8d9bbe73f6760f10e916a/cams/00000000_cam.txt"""

SCENE = re.compile(r"[0-9a-f]{24}")
PICTURE = re.compile(r"\d{8}")
# How many folders with other names may stand above the scenes: one for each of the three parts, and one of the archive.
FOLDERS_ABOVE = 2
VALIDATION = frozenset(
    {
        "59817e4a1bd4b175e7038d19",
        "59d2657f82ca7774b1ec081d",
        "5a6400933d809f1d8200af15",
        "5b7a3890fc8fcf6781e2593a",
        "5b950c71608de421b1e7318f",
        "5ba19a8a360c7c30c1c169df",
        "5c189f2326173c3a09ed7ef3",
    }
)


def index(root: Path, split: str) -> Iterator[Row]:
    """Return the rows of ``split``, sorted by id.

    Args:
        root: the folder of the scenes, or one that holds such folders.
        split: a name of ``SPLITS``, or a project list.
    Raises:
        DatoolError: the tree, the split or a listed scene is not there, a scene lacks its depth or cameras, or is there
            twice (in both sizes).
    """
    path = find_list(root, split, SPLITS, "BlendedMVS")
    scenes: dict[str, Path] = {}
    for name, folder in sorted(_scenes(root, FOLDERS_ABOVE)):
        if name in scenes:
            raise DatoolError(f"scene {name} is in both {scenes[name]} and {folder}.", "Name one release as the root.")
        scenes[name] = folder
    expect(root, bool(scenes), "scene folder with blended_images", LAYOUT)
    wanted = _wanted(scenes, split) if path is None else _listed(scenes, path)
    expect(root, bool(wanted), f"scene of split {split}", LAYOUT)
    return _rows(root, wanted)


def read(row: Row) -> Sample:
    """Return the sample with depth up to scale, and its camera.

    Raises:
        DatoolError: a file is unreadable.
    """
    assert row.depth is not None and row.camera is not None, "index names depth and camera"
    image = read_image(row.image)
    depth = depth_map(read_pfm(row.depth), Ambiguity.SCALE)
    return Sample(row.id, image, depth, read_camera(row.camera, *image.shape[:2]))


def read_camera(path: Path, height_px: int, width_px: int) -> Camera:
    """Return the camera of a ``_cam.txt``.

    The file holds ``extrinsic``, 4 lines of 4 numbers, ``intrinsic``, 3 lines of 3, and a line of depth range, which
    may be nonsense and is not read.

    Args:
        path: the file.
        height_px, width_px: of the picture that it belongs to.
    Raises:
        DatoolError: missing, cut short, or of another form.
    """
    with explained(f"camera {path}"):
        words = path.read_text("utf-8").split()
    numbers = words[words.index("intrinsic") + 1 :][:9] if "intrinsic" in words else []
    try:
        matrix = np.array(numbers, np.float64).reshape(3, 3)
    except ValueError as error:
        got = f"'{' '.join(numbers)}' after 'intrinsic'" if numbers else "no line 'intrinsic' with numbers"
        raise DatoolError(f"cannot read camera {path}: got {got}, expected 3x3 numbers.", "Fetch it again.") from error
    fx_px, fy_px, cx_px, cy_px = (float(value) for value in (*np.diag(matrix)[:2], *matrix[:2, 2]))
    return Camera(fx_px, fy_px, cx_px, cy_px, height_px, width_px)


def _scenes(folder: Path, above: int) -> Iterator[tuple[str, Path]]:
    """Yield scene names and folders below ``folder``, at most ``above`` folders with other names deeper."""
    for name in folders(folder):
        path = folder / name
        if SCENE.fullmatch(name):
            yield from [(name, path)] if (path / "blended_images").is_dir() else _scenes(path, 0)
        elif above:
            yield from _scenes(path, above - 1)


def _wanted(scenes: Mapping[str, Path], split: str) -> dict[str, Path]:
    return {name: path for name, path in scenes.items() if split in ("all", "val" if name in VALIDATION else "train")}


def _listed(scenes: Mapping[str, Path], path: Path) -> dict[str, Path]:
    names = sorted({words[0] for words in read_list(path)})
    missing = [name for name in names if name not in scenes]
    if missing:
        raise DatoolError(
            f"{len(missing)} of the {len(names)} scenes of the list {path} are not there, first {missing[0]}.",
            f"Is the download unpacked whole, and the list of the right part? Expected layout:\n{LAYOUT}",
        )
    return {name: scenes[name] for name in names}


def _rows(root: Path, scenes: Mapping[str, Path]) -> Iterator[Row]:
    for name, scene in scenes.items():
        images, depths, cameras = scene / "blended_images", scene / "rendered_depth_maps", scene / "cams"
        image_keys = [key for key in keys(images, "", ".jpg") if PICTURE.fullmatch(key)]
        whole = set(image_keys) & set(keys(depths, "", ".pfm")) & set(keys(cameras, "", "_cam.txt"))
        expect(root, bool(whole), f"picture with depth and camera in scene {scene}", LAYOUT)
        for key in sorted(whole):
            yield Row(
                f"{name}/blended_images/{key}.jpg",
                images / f"{key}.jpg",
                depths / f"{key}.pfm",
                camera=cameras / f"{key}_cam.txt",
            )


BLENDEDMVS = Source(index, read, SPLITS, LAYOUT, Quantity.DEPTH, Ambiguity.SCALE, TITLE)
