"""Laws of the labelled training sets: a small tree in the real format gives exactly the depth computed by hand."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from datool.data.sources import hypersim, megadepth
from datool.data.sources.base import Row, Source
from datool.data.sources.blendedmvs import BLENDEDMVS, VALIDATION
from datool.data.sources.decode import read_exr_channel, read_hdf5, read_npy, read_pfm, read_png8, read_png16
from datool.data.sources.diml import DIML
from datool.data.sources.hrwsi import HRWSI
from datool.data.sources.hypersim import HYPERSIM, HYPERSIM_EXACT
from datool.data.sources.irs import IRS
from datool.data.sources.megadepth import MEGADEPTH
from datool.data.sources.tartanair import TARTANAIR
from datool.data.sources.vkitti2 import VKITTI2
from datool.depth import Camera
from datool.errors import DatoolError

h5py = pytest.importorskip("h5py")
OpenEXR = pytest.importorskip("OpenEXR")

HEIGHT, WIDTH = 6, 8
NAN, SKY = math.nan, math.inf


def picture(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), 90, np.uint8))
    return path


def png(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), values)
    return path


def npy(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)
    return path


def h5(path: Path, key: str, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file[key] = values
    return path


def exr(path: Path, **channels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with OpenEXR.File(header, {name: np.ascontiguousarray(values) for name, values in channels.items()}) as file:
        file.write(str(path))
    return path


def pfm(path: Path, values: np.ndarray, order: str = "<", magic: str = "Pf") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = f"{magic}\n{values.shape[1]} {values.shape[0]}\n{-1.0 if order == '<' else 1.0}\n"
    path.write_bytes(header.encode() + values[::-1].astype(f"{order}f4").tobytes())
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def filled(value: float, dtype: type, **at: float) -> np.ndarray:
    """A map of ``value``; ``r0c1=5`` puts 5 at row 0, column 1."""
    values = np.full((HEIGHT, WIDTH), value, dtype)
    for place, other in at.items():
        row, column = place[1:].split("c")
        values[int(row), int(column)] = other
    return values


def rows(source: Source, root: Path, split: str | None = None) -> list[Row]:
    return list(source.index(root, source.splits[0] if split is None else split))


def ids(source: Source, root: Path, split: str | None = None) -> list[str]:
    return [row.id for row in rows(source, root, split)]


# Trees: each holds two samples or more of its default split


def tree_hypersim(root: Path) -> Path:
    table = "scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,split_partition_name\n"
    for scene, split in (("ai_001_001", "train"), ("ai_001_002", "val"), ("ai_001_003", "test")):
        for frame in range(3):
            images = root / scene / "images"
            picture(images / "scene_cam_00_final_preview" / f"frame.{frame:04d}.tonemap.jpg")
            picture(images / "scene_cam_00_final_preview" / f"frame.{frame:04d}.color.jpg")
            distance = filled(2, np.float16, r0c0=NAN, r0c1=0, r0c2=-1)
            h5(images / "scene_cam_00_geometry_hdf5" / f"frame.{frame:04d}.depth_meters.hdf5", "dataset", distance)
            released = ("True,,", split) if frame != 1 else ("False,CONTENT FLAGGED FOR REMOVAL,", "")
            table += f"{scene},cam_00,{frame},{''.join(released)}\n"
    text(root / "metadata_images_split_scene_v1.csv", table)
    names = ["scene_name", *(f"M_cam_from_uv_{i}{j}" for i in range(3) for j in range(3))]
    lines = [",".join(map(str, (scene, *PLAIN))) for scene in ("ai_001_001", "ai_001_002", "ai_001_003")]
    text(root / "metadata_camera_parameters.csv", "\n".join([",".join(names), *lines]))
    return root


def tree_vkitti2(root: Path) -> Path:
    for scene in ("Scene01", "Scene20"):
        for weather in ("15-deg-left", "clone"):
            for camera in ("Camera_0", "Camera_1"):
                frames = root / scene / weather / "frames"
                picture(frames / "rgb" / camera / "rgb_00000.jpg", (5, 16))
                values = np.full((5, 16), 1234, np.uint16)
                values[0, :3] = 65535, 0, 65534
                png(frames / "depth" / camera / "depth_00000.png", values)
    return root


def tree_tartanair(root: Path, nested: bool = False) -> Path:
    for environment in ("abandonedfactory", "abandonedfactory_night", "amusement"):
        for level, sequence in (("Easy", "P000"), ("Hard", "P001")):
            for kind, end, values in (
                ("image", "left.png", None),
                ("depth", "left_depth.npy", filled(12.5, np.float32, r0c0=0, r0c1=NAN, r0c2=10000, r0c3=999, r0c4=SKY)),
                ("seg", "left_seg.npy", filled(7, np.uint8, r5c0=182, r0c2=182)),
            ):
                folder = Path(f"{kind}_left", sequence, f"{kind}_left") if nested else Path(sequence, f"{kind}_left")
                path = root / environment / level / folder / f"000000_{end}"
                picture(path) if values is None else npy(path, values)
            picture(root / environment / level / sequence / "image_right" / "000000_right.png")
    return root


def tree_irs(root: Path) -> Path:
    for place, scene, number in (("Home", "A", "00001"), ("Home", "A_Dark", "00002"), ("Store", "B", "1960")):
        folder = root / "IRSDataset" / place / scene
        picture(folder / f"l_{number}.png")
        picture(folder / f"r_{number}.png")
        disparity = filled(24, np.float32, r0c0=0, r0c1=-3, r0c2=NAN, r0c3=SKY, r0c4=96, r0c5=0.5)
        if place == "Store":
            exr(folder / f"d_{number}.exr", R=disparity, G=disparity, B=disparity)
        else:
            exr(folder / f"d_{number}.exr", G=disparity)
    return root


CAM = """extrinsic
1 0 0 0
0 1 0 0
0 0 1 0
0 0 0 1

intrinsic
575.5 0.0 3.75
0.0 574.25 2.5
0 0 1

0.5 0.01 128 -3.0
"""


def tree_blendedmvs(root: Path) -> Path:
    for part, scene in (("BlendedMVS", "5a8aa0fab18050187cbe060e"), ("BlendedMVS+", sorted(VALIDATION)[0])):
        for number in ("00000000", "00000010"):
            picture(root / part / scene / "blended_images" / f"{number}.jpg")
            picture(root / part / scene / "blended_images" / f"{number}_masked.jpg")
            values = filled(0.75, np.float32, r0c0=0, r0c1=2.5, r0c2=NAN)
            pfm(root / part / scene / "rendered_depth_maps" / f"{number}.pfm", values)
            text(root / part / scene / "cams" / f"{number}_cam.txt", CAM)
        text(root / part / scene / "cams" / "pair.txt", "2\n")
    return root


def tree_diml(root: Path) -> Path:
    depth = filled(1500, np.uint16, r0c0=0, r0c1=65535)
    confidence = filled(255, np.uint8, r5c0=153, r5c1=154)
    for scene in ("1", "10. Corridor", "16. Billiard Hall"):
        folder = root / "indoor" / scene / "16.02.02" / "1"
        picture(folder / "col" / "in_1_c.png")
        png(folder / "up_png" / "in_1_ud.png", depth)
        picture(folder / "col" / "without_depth_c.png")
    for scene in ("160408_C0", "170721_C0"):
        folder = root / "outdoor" / scene / "A"
        picture(folder / "left" / "out_1_left.png")
        png(folder / "depth" / "out_1_depth.png", depth)
        png(folder / "conf" / "out_1_conf.png", confidence)
    for size in ("HR", "LR"):
        picture(root / "sample" / "test" / size / "cafe" / "color" / "in_2_c.png")
        png(root / "sample" / "test" / size / "cafe" / "depth_filled" / "in_2_depth_filled.png", depth)
    picture(root / "sample" / "train" / "outleft" / "0001.png")
    png(root / "sample" / "train" / "depthmap" / "0001.png", depth)
    return root


def tree_hrwsi(root: Path) -> Path:
    for split, names in (("train", ("a", "a-b", "lonely")), ("val", ("c",))):
        for name in names:
            folder = root / "HR-WSI" / split
            picture(folder / "imgs" / f"{name}.jpg")
            png(folder / "gts" / f"{name}.png", filled(40, np.uint8, r0c0=0, r0c1=0, r0c2=255))
            if name != "lonely":
                png(folder / "valid_masks" / f"{name}.png", filled(255, np.uint8, r0c1=0))
    return root


CAMERAS = "# Camera list\n# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n7 SIMPLE_RADIAL 16 12 20.5 8 6 0.0\n"
IMAGES = "# Image list\n#\n1 1 0 0 0 0 0 0 7 a.jpg\n\n2 1 0 0 0 0 0 0 7 b.JPG\n1.5 2.5 -1 3.5 4.5 12\n"


def tree_megadepth(root: Path) -> Path:
    base = root / "phoenix" / "S6" / "zl548" / "MegaDepth_v1"
    for scene in ("0001", "0204", "0300"):
        for name in ("a.jpg", "b.JPG", "without_depth.jpg"):
            picture(base / scene / "dense0" / "imgs" / name)
        h5(base / scene / "dense0" / "depths" / "a.h5", "depth", filled(3.25, np.float32, r0c0=0, r0c1=0.5))
        h5(base / scene / "dense0" / "depths" / "b.h5", "depth", filled(-1, np.float32, r0c0=2))
    text(root / "MegaDepth_v1_SfM" / "0001" / "sparse" / "manhattan" / "0" / "cameras.txt", CAMERAS)
    text(root / "MegaDepth_v1_SfM" / "0001" / "sparse" / "manhattan" / "0" / "images.txt", IMAGES)
    return root


# M_cam_from_uv: tan(30 degrees) and 3/4 of it, as most scenes have; a shifted lens; one tilted; one tilted both ways.
TAN = math.tan(math.radians(30))
PLAIN = (TAN, 0, 0, 0, 0.75 * TAN, 0, 0, 0, -1)
SHIFTED = (0.6, 0, 0.06, 0, 0.45, -0.09, 0, 0, -1.2)
TILTED = (0.6, 0, 0.06, 0, 0.45, -0.09, 0, 0.2, -1.2)
TILTED_TWICE = (0.6, 0, 0.06, 0, 0.45, -0.09, 0.1, 0.2, -1.2)


class Case(NamedTuple):
    """A source, its tree, and a folder or file without which the tree is half unpacked."""

    source: Source
    tree: Callable[[Path], Path]
    needed: str


CASES = {
    "hypersim": Case(HYPERSIM, tree_hypersim, "ai_001_001/images/scene_cam_00_geometry_hdf5"),
    "hypersim-exact": Case(HYPERSIM_EXACT, tree_hypersim, "ai_001_001/images/scene_cam_00_geometry_hdf5"),
    "vkitti2": Case(VKITTI2, tree_vkitti2, "Scene20/clone/frames/depth"),
    "tartanair": Case(TARTANAIR, tree_tartanair, "abandonedfactory/Easy/P000/depth_left"),
    "irs": Case(IRS, tree_irs, "IRSDataset/Home/A/d_00001.exr"),
    "blendedmvs": Case(BLENDEDMVS, tree_blendedmvs, "BlendedMVS/5a8aa0fab18050187cbe060e/rendered_depth_maps"),
    "diml": Case(DIML, tree_diml, "indoor/1/16.02.02/1/up_png"),
    "hrwsi": Case(HRWSI, tree_hrwsi, "HR-WSI/train/gts"),
    "megadepth": Case(MEGADEPTH, tree_megadepth, "phoenix/S6/zl548/MegaDepth_v1/0001/dense0/depths"),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


# What holds for every source


def test_rows_are_sorted_unique_relative_and_read_as_the_source_says(case: Case, tmp_path: Path) -> None:
    root = case.tree(tmp_path)
    for split in case.source.splits:
        if case.source is IRS and split != "all":
            continue
        found = ids(case.source, root, split)
        assert found and found == sorted(set(found))
        assert not any(name.startswith("/") or "\\" in name or ".." in name for name in found)
        for row in rows(case.source, root, split):
            sample = case.source.read(row)
            assert sample.id == row.id and sample.depth is not None and not sample.pseudo
            assert (sample.depth.quantity, sample.depth.ambiguity) == (case.source.quantity, case.source.ambiguity)


def test_ids_do_not_depend_on_where_the_root_is(case: Case, tmp_path: Path) -> None:
    here, there = case.tree(tmp_path / "a"), case.tree(tmp_path / "b" / "c")
    assert ids(case.source, here) == ids(case.source, there)


def test_no_folder_and_a_wrong_root_name_the_layout(case: Case, tmp_path: Path) -> None:
    layout = case.source.layout.splitlines()[0]
    with pytest.raises(DatoolError) as error:
        rows(case.source, tmp_path / "nowhere")
    assert "no folder" in error.value.problem and layout in error.value.hint
    text(tmp_path / "other" / "photos" / "a.txt", "not a data set")
    with pytest.raises(DatoolError) as error:
        rows(case.source, tmp_path / "other")
    assert str(tmp_path / "other") in error.value.problem and layout in error.value.hint


def test_a_half_unpacked_download_names_the_layout(case: Case, tmp_path: Path) -> None:
    root = case.tree(tmp_path)
    needed = root / case.needed
    shutil.rmtree(needed) if needed.is_dir() else needed.unlink()
    with pytest.raises(DatoolError) as error:
        rows(case.source, root)
    assert case.source.layout.splitlines()[0] in error.value.hint


def test_an_unknown_split_names_the_known_ones(case: Case, tmp_path: Path) -> None:
    root = case.tree(tmp_path)
    with pytest.raises(DatoolError, match="unknown split") as error:
        rows(case.source, root, case.source.splits[0] + "x")
    assert all(split in error.value.hint for split in case.source.splits)


@pytest.mark.parametrize("share", [0.0, 0.6, 0.97])
def test_a_truncated_depth_file_says_what_was_got_and_expected(case: Case, share: float, tmp_path: Path) -> None:
    row = rows(case.source, case.tree(tmp_path))[0]
    assert row.depth is not None
    data = row.depth.read_bytes()
    row.depth.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DatoolError) as error:
        case.source.read(row)
    assert all(word in error.value.problem for word in (str(row.depth), "got", "expected"))


def test_a_missing_picture_is_named(case: Case, tmp_path: Path) -> None:
    row = rows(case.source, case.tree(tmp_path))[0]
    row.image.unlink()
    with pytest.raises(DatoolError, match="not there"):
        case.source.read(row)


# Hypersim


def test_hypersim_v2_turns_distance_into_planar_depth(tmp_path: Path) -> None:
    sample = HYPERSIM.read(rows(HYPERSIM, tree_hypersim(tmp_path))[0])
    assert np.isnan(sample.depth.values[0, :3]).all() and sample.depth.valid.sum() == HEIGHT * WIDTH - 3
    # Focal length 886.81 px for 1024 px is 6.9282 px for 8; the last pixel is 3.5 and 2.5 px off the middle.
    focal_px = 886.81 * 8 / 1024
    expected = 2 * focal_px / math.sqrt(3.5**2 + 2.5**2 + focal_px**2)
    assert sample.depth.values[-1, -1] == pytest.approx(expected, rel=1e-6)
    assert sample.camera == Camera(focal_px, focal_px, 4, 3, 6, 8)


def test_hypersim_v2_equals_the_published_code_at_full_size(tmp_path: Path) -> None:
    distance = np.linspace(0.5, 30, 768 * 1024, dtype=np.float32).reshape(768, 1024).astype(np.float16)
    path = h5(tmp_path / "d.hdf5", "dataset", distance)
    row = Row("x", picture(tmp_path / "x.jpg", (768, 1024)), path)
    x = np.linspace(-512 + 0.5, 512 - 0.5, 1024)[None, :]
    y = np.linspace(-384 + 0.5, 384 - 0.5, 768)[:, None]
    expected = distance.astype(np.float64) / np.sqrt(x**2 + y**2 + 886.81**2) * 886.81
    np.testing.assert_allclose(HYPERSIM.read(row).depth.values, expected, rtol=1e-6)
    assert HYPERSIM.read(row).camera == Camera(886.81, 886.81, 512, 384, 768, 1024)


def test_hypersim_exact_equals_v2_where_v2_is_exact(tmp_path: Path) -> None:
    root = tree_hypersim(tmp_path)
    exact, v2 = (source.read(rows(source, root)[0]) for source in (HYPERSIM_EXACT, HYPERSIM))
    np.testing.assert_allclose(exact.depth.values, v2.depth.values, rtol=1e-5)
    assert exact.camera.fx_px == pytest.approx(v2.camera.fx_px, rel=1e-5)
    assert (exact.camera.cx_px, exact.camera.cy_px) == (4, 3)


def test_hypersim_camera_follows_the_projection_matrix() -> None:
    # M_proj maps the ray M (u, v, 1) to (u, v): for a lens that is shifted, not tilted, by hand:
    m_00, m_02 = 1.2 / 0.6, 0.06 / 0.6
    m_11, m_12 = 1.2 / 0.45, -0.09 / 0.45
    camera = hypersim.camera_of(SHIFTED, 768, 1024)
    assert camera.fx_px == pytest.approx(m_00 * 512) and camera.fy_px == pytest.approx(m_11 * 384)
    assert camera.cx_px == pytest.approx((1 - m_02) * 512) and camera.cy_px == pytest.approx((1 + m_12) * 384)


@pytest.mark.parametrize("matrix", [PLAIN, SHIFTED, TILTED])
def test_hypersim_exact_depth_and_camera_give_back_the_distance(matrix: hypersim.Matrix, tmp_path: Path) -> None:
    root = tree_hypersim(tmp_path)
    names = ["scene_name", *(f"M_cam_from_uv_{i}{j}" for i in range(3) for j in range(3))]
    text(root / "metadata_camera_parameters.csv", f"{','.join(names)}\n{','.join(map(str, ('ai_001_001', *matrix)))}\n")
    row = rows(HYPERSIM_EXACT, root)[0]
    sample = HYPERSIM_EXACT.read(row)
    camera, depth = sample.camera, sample.depth.values
    x = (np.arange(WIDTH) + 0.5 - camera.cx_px) / camera.fx_px * depth
    y = (np.arange(HEIGHT)[:, None] + 0.5 - camera.cy_px) / camera.fy_px * depth
    np.testing.assert_allclose(np.sqrt(x**2 + y**2 + depth**2)[1:], 2, rtol=1e-6)


def test_hypersim_exact_depth_of_an_untilted_lens_is_the_ray_along_minus_z(tmp_path: Path) -> None:
    planar = hypersim._planar(SHIFTED, HEIGHT, WIDTH)
    u, v = (2 * 7.5 / 8 - 1), (1 - 2 * 0.5 / 6)
    ray = np.array([0.6 * u + 0.06, 0.45 * v - 0.09, -1.2])
    assert planar[0, 7] == pytest.approx(-ray[2] / np.linalg.norm(ray), rel=1e-6)


def test_hypersim_lens_tilted_both_ways_has_no_camera() -> None:
    assert hypersim.camera_of(TILTED_TWICE, 768, 1024) is None
    assert (hypersim._planar(TILTED_TWICE, HEIGHT, WIDTH) > 0).all()


def test_hypersim_splits_come_from_the_table_and_leave_out_removed_frames(tmp_path: Path) -> None:
    root = tree_hypersim(tmp_path)
    folder = "images/scene_cam_00_final_preview"
    assert ids(HYPERSIM, root, "train") == [f"ai_001_001/{folder}/frame.{n:04d}.tonemap.jpg" for n in (0, 2)]
    assert ids(HYPERSIM, root, "val") == [f"ai_001_002/{folder}/frame.{n:04d}.tonemap.jpg" for n in (0, 2)]
    assert len(ids(HYPERSIM, root, "all")) == 9
    shutil.rmtree(root / "ai_001_003")
    with pytest.raises(DatoolError, match="no frame of split test"):
        ids(HYPERSIM, root, "test")
    (root / "metadata_images_split_scene_v1.csv").unlink()
    with pytest.raises(DatoolError, match=r"no metadata_images_split_scene_v1\.csv"):
        ids(HYPERSIM, root, "train")


def test_hypersim_takes_v2_lists_with_foreign_roots(tmp_path: Path) -> None:
    root = tree_hypersim(tmp_path / "hypersim")
    base = "/mnt/disk/Hypersim/ai_001_002/images/scene_cam_00"
    line = f"{base}_final_preview/frame.0001.tonemap.jpg {base}_geometry_hdf5/frame.0001.depth_meters.hdf5\n"
    path = text(tmp_path / "val.txt", line)
    (row,) = rows(HYPERSIM, root, str(path))
    assert row.id == "ai_001_002/images/scene_cam_00_final_preview/frame.0001.tonemap.jpg"
    assert HYPERSIM.read(row).depth.valid.any()
    assert rows(HYPERSIM_EXACT, root, str(path))[0].member == "ai_001_002"
    text(path, line.replace("0001", "0009"))
    with pytest.raises(DatoolError, match="2 of the files"):
        rows(HYPERSIM, root, str(path))
    text(path, line.replace("0001.depth", "0002.depth"))
    with pytest.raises(DatoolError, match="same frame"):
        rows(HYPERSIM, root, str(path))


def test_hypersim_exact_names_a_scene_without_camera(tmp_path: Path) -> None:
    root = tree_hypersim(tmp_path)
    table = root / "metadata_camera_parameters.csv"
    table.write_text(table.read_text().replace("ai_001_001", "ai_009_001"))
    with pytest.raises(DatoolError, match="no row for scene ai_001_001"):
        HYPERSIM_EXACT.read(rows(HYPERSIM_EXACT, root)[0])


# Virtual KITTI 2


def test_vkitti2_depth_sky_and_camera(tmp_path: Path) -> None:
    sample = VKITTI2.read(rows(VKITTI2, tree_vkitti2(tmp_path))[0])
    assert sample.depth.values[0, 0] == SKY and np.isnan(sample.depth.values[0, 1])
    assert sample.depth.values[0, 2] == np.float32(655.34) and sample.depth.values[0, 3] == np.float32(12.34)
    row = Row("x", picture(tmp_path / "x.jpg", (375, 1242)), png(tmp_path / "x.png", np.ones((375, 1242), np.uint16)))
    # The published (620.5, 187) counts whole numbers as centres of pixels.
    assert VKITTI2.read(row).camera == Camera(725.0087, 725.0087, 621, 187.5, 375, 1242)


def test_vkitti2_splits_and_lists(tmp_path: Path) -> None:
    root = tree_vkitti2(tmp_path / "vkitti")
    assert len(ids(VKITTI2, root, "train")) == 4 and len(ids(VKITTI2, root, "both-cameras")) == 8
    name = "Scene20/clone/frames/{}/Camera_0/{}_00000.{}"
    line = f"/mnt/x/vKitti2/{name.format('rgb', 'rgb', 'jpg')} /mnt/x/vKitti2/{name.format('depth', 'depth', 'png')}\n"
    text(root / "train.txt", line + "\n" + line.replace("Scene20", "Scene01"))
    assert ids(VKITTI2, root, "train.txt") == [
        name.format("rgb", "rgb", "jpg").replace("Scene20", "Scene01"),
        name.format("rgb", "rgb", "jpg"),
    ]
    with pytest.raises(DatoolError, match="no list"):
        rows(VKITTI2, root, "other.txt")
    text(root / "train.txt", "")
    with pytest.raises(DatoolError, match="names nothing"):
        rows(VKITTI2, root, "train.txt")
    text(root / "train.txt", "photos/a.jpg photos/a.png")
    with pytest.raises(DatoolError, match="cannot place"):
        rows(VKITTI2, root, "train.txt")


def test_vkitti2_eight_bit_depth_is_refused(tmp_path: Path) -> None:
    row = rows(VKITTI2, tree_vkitti2(tmp_path))[0]
    png(row.depth, np.ones((5, 16), np.uint8))
    with pytest.raises(DatoolError, match="got 8 bits x 1 channels, expected a 16-bit grey PNG, centimetres"):
        VKITTI2.read(row)


# TartanAir


def test_tartanair_depth_sky_and_camera(tmp_path: Path) -> None:
    sample = TARTANAIR.read(rows(TARTANAIR, tree_tartanair(tmp_path))[0])
    np.testing.assert_array_equal(sample.depth.values[0, :6], [NAN, NAN, SKY, 999, SKY, 12.5])
    assert sample.depth.values[5, 0] == 12.5
    row = Row("x", picture(tmp_path / "x.png", (480, 640)), npy(tmp_path / "x.npy", np.ones((480, 640), np.float16)))
    assert TARTANAIR.read(row).camera == Camera(320, 320, 320, 240, 480, 640)


def test_tartanair_dome_of_amusement_is_unknown_not_sky(tmp_path: Path) -> None:
    row = rows(TARTANAIR, tree_tartanair(tmp_path), "amusement")[0]
    values = TARTANAIR.read(row).depth.values
    np.testing.assert_array_equal(values[0, :6], [NAN, NAN, NAN, 999, SKY, 12.5])
    assert np.isnan(values[5, 0])
    shutil.rmtree(row.mask.parent)
    with pytest.raises(DatoolError, match="seg_left"):
        rows(TARTANAIR, tmp_path, "amusement")
    assert ids(TARTANAIR, tmp_path, "train")


def test_tartanair_both_unpackings_give_the_same_rows(tmp_path: Path) -> None:
    flat, nested = tree_tartanair(tmp_path / "flat"), tree_tartanair(tmp_path / "nested", nested=True)
    expected = [
        "abandonedfactory/Easy/P000/image_left/000000_left.png",
        "abandonedfactory/Hard/P001/image_left/000000_left.png",
        "abandonedfactory_night/Easy/P000/image_left/000000_left.png",
        "abandonedfactory_night/Hard/P001/image_left/000000_left.png",
    ]
    assert ids(TARTANAIR, flat) == ids(TARTANAIR, nested) == expected
    assert len(ids(TARTANAIR, flat, "all")) == 6 and len(ids(TARTANAIR, flat, "amusement")) == 2
    for split in TARTANAIR.splits:
        for one, other in zip(rows(TARTANAIR, flat, split), rows(TARTANAIR, nested, split), strict=True):
            np.testing.assert_array_equal(TARTANAIR.read(one).depth.values, TARTANAIR.read(other).depth.values)


def test_tartanair_folders_named_twice_and_one_environment_alone(tmp_path: Path) -> None:
    root = tree_tartanair(tmp_path / "x" / "abandonedfactory")
    assert ids(TARTANAIR, tmp_path / "x") == ids(TARTANAIR, root)
    alone = ids(TARTANAIR, root / "abandonedfactory")
    assert alone == [name for name in ids(TARTANAIR, root) if name.startswith("abandonedfactory/")]


def test_the_same_scene_twice_is_refused(tmp_path: Path) -> None:
    tree_tartanair(tmp_path / "a"), tree_tartanair(tmp_path / "b", nested=True)
    with pytest.raises(DatoolError, match="abandonedfactory/Easy/P000 is in both"):
        rows(TARTANAIR, tmp_path)
    tree_blendedmvs(tmp_path / "low"), tree_blendedmvs(tmp_path / "high")
    with pytest.raises(DatoolError, match="is in both"):
        rows(BLENDEDMVS, tmp_path)


# IRS


def test_irs_depth_of_one_and_of_three_channels(tmp_path: Path) -> None:
    for row in rows(IRS, tree_irs(tmp_path)):
        sample = IRS.read(row)
        np.testing.assert_array_equal(sample.depth.values[0, :7], [NAN, NAN, NAN, NAN, 0.5, 96, 2])
    row = Row("x", picture(tmp_path / "x.png", (540, 960)), exr(tmp_path / "x.exr", G=np.ones((540, 960), np.float32)))
    assert IRS.read(row).camera == Camera(480, 480, 480, 270, 540, 960)


def test_irs_ids_and_lists_of_both_versions(tmp_path: Path) -> None:
    root = tree_irs(tmp_path)
    assert ids(IRS, root) == ["Home/A/l_00001.png", "Home/A_Dark/l_00002.png", "Store/B/l_1960.png"]
    assert ids(IRS, root / "IRSDataset") == ids(IRS, root)
    text(root / "new.list", "Home/A/l_00001.png Home/A/r_00001.png Home/A/d_00001.exr Home/A/n_00001.exr\n")
    old = "IRSDataset/Store/B/{}_1960.{}"
    line = " ".join(old.format(*pair) for pair in (("l", "png"), ("r", "png"), ("d", "exr"), ("n", "exr")))
    text(root / "lists" / "IRSDataset_TEST.list", line + "\t\n")
    assert ids(IRS, root, "new.list") == ["Home/A/l_00001.png"]
    assert ids(IRS, root, "test") == ["Store/B/l_1960.png"]
    with pytest.raises(DatoolError, match=r"irs_train\.list"):
        ids(IRS, root, "train")


# BlendedMVS


def test_blendedmvs_depth_and_camera(tmp_path: Path) -> None:
    root = tree_blendedmvs(tmp_path)
    found = rows(BLENDEDMVS, root, "all")
    assert [row.id.split("/")[2] for row in found] == ["00000000.jpg", "00000010.jpg"] * 2
    sample = BLENDEDMVS.read(found[0])
    np.testing.assert_array_equal(sample.depth.values[0, :4], [NAN, 2.5, NAN, 0.75])
    assert sample.camera == Camera(575.5, 574.25, 3.75, 2.5, 6, 8)


def test_blendedmvs_splits_lists_and_empty_maps(tmp_path: Path) -> None:
    root = tree_blendedmvs(tmp_path)
    val, train = sorted(VALIDATION)[0], "5a8aa0fab18050187cbe060e"
    assert {name.split("/")[0] for name in ids(BLENDEDMVS, root, "train")} == {train}
    assert {name.split("/")[0] for name in ids(BLENDEDMVS, root, "val")} == {val}
    text(root / "BlendedMVS.txt", f"{train}\n")
    assert ids(BLENDEDMVS, root, "BlendedMVS.txt") == ids(BLENDEDMVS, root, "train")
    text(root / "BlendedMVS.txt", f"{train}\n{'0' * 24}\n")
    with pytest.raises(DatoolError, match=f"1 of the 2 scenes .* first {'0' * 24}"):
        ids(BLENDEDMVS, root, "BlendedMVS.txt")
    row = rows(BLENDEDMVS, root, "val")[0]
    pfm(row.depth, np.zeros((HEIGHT, WIDTH)))
    assert not BLENDEDMVS.read(row).depth.valid.any()


def test_blendedmvs_finds_scenes_nested_in_their_own_name(tmp_path: Path) -> None:
    root = tree_blendedmvs(tmp_path / "a")
    scene = sorted(VALIDATION)[0]
    (tmp_path / "b" / scene / scene).mkdir(parents=True)
    shutil.copytree(root / "BlendedMVS+" / scene, tmp_path / "b" / scene / scene / scene)
    assert ids(BLENDEDMVS, tmp_path / "b", "all") == ids(BLENDEDMVS, root, "val")


def test_blendedmvs_broken_camera_is_named(tmp_path: Path) -> None:
    row = rows(BLENDEDMVS, tree_blendedmvs(tmp_path))[0]
    text(row.camera, CAM[:80])
    with pytest.raises(DatoolError, match="expected 3x3 numbers") as error:
        BLENDEDMVS.read(row)
    assert str(row.camera) in error.value.problem
    text(row.camera, "")
    with pytest.raises(DatoolError, match="no line 'intrinsic'"):
        BLENDEDMVS.read(row)


# DIML


def test_diml_depth_and_confidence(tmp_path: Path) -> None:
    root = tree_diml(tmp_path)
    indoor, outdoor = DIML.read(rows(DIML, root, "indoor")[0]), DIML.read(rows(DIML, root, "outdoor")[0])
    np.testing.assert_array_equal(indoor.depth.values[0, :3], np.float32([NAN, 65.535, 1.5]))
    np.testing.assert_array_equal(outdoor.depth.values[0, :3], np.float32([NAN, 65.535, 1.5]))
    # 153 / 255 = 0.6 is not above 0.6.
    np.testing.assert_array_equal(outdoor.depth.values[5, :2], np.float32([NAN, 1.5]))
    assert indoor.camera is None


def test_diml_layouts_and_splits(tmp_path: Path) -> None:
    root = tree_diml(tmp_path)
    indoor = [f"indoor/{scene}/16.02.02/1/col/in_1_c.png" for scene in ("1", "10. Corridor", "16. Billiard Hall")]
    outdoor = [f"outdoor/{scene}/A/left/out_1_left.png" for scene in ("160408_C0", "170721_C0")]
    sample = ["sample/test/HR/cafe/color/in_2_c.png", "sample/train/outleft/0001.png"]
    assert ids(DIML, root) == [*indoor, *outdoor, *sample]
    assert ids(DIML, root, "indoor") == [*indoor, sample[0]]
    assert ids(DIML, root, "outdoor") == [*outdoor, sample[1]]
    assert ids(DIML, root, "val") == [indoor[2], outdoor[1], sample[0]]
    assert ids(DIML, root, "train") == [*indoor[:2], outdoor[0], sample[1]]


# HRWSI


def test_hrwsi_disparity_and_mask(tmp_path: Path) -> None:
    root = tree_hrwsi(tmp_path)
    # "a-b.jpg" comes before "a.jpg"; the picture without mask is left out.
    assert ids(HRWSI, root) == ["train/imgs/a-b.jpg", "train/imgs/a.jpg"]
    assert ids(HRWSI, root / "HR-WSI", "val") == ["val/imgs/c.jpg"]
    sample = HRWSI.read(rows(HRWSI, root)[0])
    np.testing.assert_array_equal(sample.depth.values[0, :4], [0, NAN, 255, 40])
    assert sample.camera is None


def test_hrwsi_sixteen_bits_and_another_size_of_mask_are_refused(tmp_path: Path) -> None:
    row = rows(HRWSI, tree_hrwsi(tmp_path))[0]
    png(row.mask, np.full((3, 4), 255, np.uint8))
    with pytest.raises(DatoolError, match="the size of the disparity"):
        HRWSI.read(row)
    png(row.depth, filled(40, np.uint16))
    with pytest.raises(DatoolError, match="expected an 8-bit grey PNG"):
        HRWSI.read(row)


# MegaDepth


def test_megadepth_depth_and_order(tmp_path: Path) -> None:
    depth, order = (MEGADEPTH.read(row) for row in rows(MEGADEPTH, tree_megadepth(tmp_path))[:2])
    np.testing.assert_array_equal(depth.depth.values[0, :3], [NAN, 0.5, 3.25])
    assert not order.depth.valid.any()


def test_megadepth_order_is_told_by_negative_values_or_small_whole_numbers() -> None:
    assert megadepth.is_order(np.float32([[0.5, -1.0]]))
    assert megadepth.is_order(np.float32([[0, 1, 2, 3]]))
    assert not megadepth.is_order(np.float32([[0, 1, 2, 4]]))
    assert not megadepth.is_order(np.float32([[0, 1.5]]))


def test_megadepth_splits_and_lists(tmp_path: Path) -> None:
    root = tree_megadepth(tmp_path)
    assert ids(MEGADEPTH, root, "train") == ["0001/dense0/imgs/a.jpg", "0001/dense0/imgs/b.JPG"]
    assert ids(MEGADEPTH, root, "val")[0].startswith("0204/") and ids(MEGADEPTH, root, "test")[0].startswith("0300/")
    assert ids(MEGADEPTH, root / "phoenix/S6/zl548/MegaDepth_v1") == ids(MEGADEPTH, root)
    text(root / "mine.txt", "/data/MegaDepth_v1/0204/dense0/imgs/a.jpg\n# a remark\n0001/dense0/imgs/b.JPG\n")
    assert ids(MEGADEPTH, root, "mine.txt") == ["0001/dense0/imgs/b.JPG", "0204/dense0/imgs/a.jpg"]
    text(root / "mine.txt", "0204/dense0/imgs/without_depth.jpg")
    with pytest.raises(DatoolError, match=r"without_depth\.h5"):
        ids(MEGADEPTH, root, "mine.txt")


def test_megadepth_camera_of_the_rectified_photo(tmp_path: Path) -> None:
    found = rows(MEGADEPTH, tree_megadepth(tmp_path))
    # No distortion, half the size, principal point in the middle: focal length 20.5 / 2.
    for row in found[:2]:
        camera = MEGADEPTH.read(row).camera
        assert (camera.height_px, camera.width_px) == (HEIGHT, WIDTH)
        assert (camera.cx_px, camera.cy_px) == pytest.approx((4, 3))
        assert camera.fx_px == pytest.approx(10.25, rel=0.08)
    assert MEGADEPTH.read(found[2]).camera is None
    centred = megadepth.rectified((1001, 601, 800.0, 500.5, 300.5, 0.0), 601, 1001)
    assert (centred.fx_px, centred.cx_px, centred.cy_px) == pytest.approx((800, 500.5, 300.5))
    # Barrel distortion: the undistorted picture without borders shows less, so its focal length grows.
    assert megadepth.rectified((1001, 601, 800.0, 500.5, 300.5, 0.1), 601, 1001).fx_px > 800


def test_megadepth_another_camera_model_is_refused(tmp_path: Path) -> None:
    root = tree_megadepth(tmp_path)
    cameras = root / "MegaDepth_v1_SfM/0001/sparse/manhattan/0/cameras.txt"
    text(cameras, CAMERAS.replace("SIMPLE_RADIAL", "PINHOLE"))
    with pytest.raises(DatoolError, match="got PINHOLE, expected SIMPLE_RADIAL"):
        MEGADEPTH.read(rows(MEGADEPTH, root)[0])


# Decoders


@pytest.mark.parametrize("order", ["<", ">"])
def test_pfm_rows_run_from_bottom_to_top_in_both_byte_orders(order: str, tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(read_pfm(pfm(tmp_path / "a.pfm", values, order)), values)


def test_pfm_of_three_channels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatoolError, match="one channel"):
        read_pfm(pfm(tmp_path / "a.pfm", np.zeros((2, 6)), magic="PF"))


def test_arrays_of_other_names_and_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatoolError, match=r"got only depth, expected .* 'dataset'"):
        read_hdf5(h5(tmp_path / "a.h5", "depth", np.ones((2, 2))), "dataset")
    with pytest.raises(DatoolError, match=r"\(2, 2, 3\)"):
        read_hdf5(h5(tmp_path / "a.h5", "depth", np.ones((2, 2, 3))), "depth")
    with pytest.raises(DatoolError, match=r"expected a \.npy file of a 2-D array"):
        read_npy(npy(tmp_path / "a.npy", np.array(["text"])))
    with pytest.raises(DatoolError, match="channels X, Y"):
        read_exr_channel(exr(tmp_path / "a.exr", X=np.ones((2, 2), "f4"), Y=np.ones((2, 2), "f4")), "G")


def test_grey_pngs_keep_their_bits_and_colour_is_refused(tmp_path: Path) -> None:
    values = np.array([[0, 1], [300, 65535]], np.uint16)
    np.testing.assert_array_equal(read_png16(png(tmp_path / "a.png", values), "mm"), values)
    grey = np.repeat(np.uint8([[[7]], [[9]]]), 3, axis=2)
    np.testing.assert_array_equal(read_png8(png(tmp_path / "b.png", grey), "x"), [[7], [9]])
    with pytest.raises(DatoolError, match="8 bits x 3 channels"):
        read_png8(png(tmp_path / "c.png", np.uint8([[[1, 2, 3]]])), "x")


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    readers = (read_pfm, read_npy, lambda path: read_hdf5(path, "x"), lambda path: read_png16(path, "mm"))
    for read in (*readers, lambda path: read_exr_channel(path, "G")):
        with pytest.raises(DatoolError, match=r"gone\.x"):
            read(tmp_path / "gone.x")
        with pytest.raises(DatoolError, match=str(tmp_path)):
            read(tmp_path)


def test_h5py_missing_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(DatoolError, match=r"datool\[data\]"):
        read_hdf5(tmp_path / "a.h5", "dataset")
