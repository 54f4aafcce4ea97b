"""Laws of the evaluation sets: a small tree in the real format gives exactly the depth computed by hand."""

import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from datool.data.sources import ddad, kitti
from datool.data.sources.base import Row, Source
from datool.data.sources.da2k import DA2K, Pair, read_pairs
from datool.data.sources.ddad import DDAD
from datool.data.sources.diode import DIODE
from datool.data.sources.eth3d import ETH3D
from datool.data.sources.ibims import IBIMS
from datool.data.sources.kitti import KITTI
from datool.data.sources.moge import MOGE
from datool.data.sources.nyu import NYU
from datool.data.sources.sintel import SINTEL
from datool.depth import Camera
from datool.errors import DatoolError

h5py = pytest.importorskip("h5py")
scipy_io = pytest.importorskip("scipy.io")

HEIGHT, WIDTH = 6, 8
NAN, SKY = math.nan, math.inf


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def picture(path: Path, blue: int = 90) -> Path:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[..., 0] = blue
    return write(path, cv2.imencode(path.suffix.lower(), pixels)[1].tobytes())


def png(path: Path, values: np.ndarray) -> Path:
    return write(path, cv2.imencode(".png", values)[1].tobytes())


def npy(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)
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


def same(got: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-6)


# KITTI

DRIVE = "2011_09_28_drive_0002_sync"
LISTED = f"2011_09_28/{DRIVE}/image_02/data"


def kitti_tree(root: Path, frames: tuple[int, ...] = (5, 6, 7), raw: str = "", suffix: str = ".png") -> Path:
    for frame in (4, *frames):
        picture(root / raw / LISTED / f"{frame:010d}{suffix}")
    for frame in frames:
        png(
            root / f"train/{DRIVE}/proj_depth/groundtruth/image_02/{frame:010d}.png",
            filled(frame * 256, np.uint16, r0c0=0, r1c1=1),
        )
    return root


def kitti_line(frame: int, truth: bool = True) -> str:
    depth = f"{DRIVE}/proj_depth/groundtruth/image_02/{frame:010d}.png" if truth else "None"
    return f"{LISTED}/{frame:010d}.png {depth} 707.0493\n"


def test_kitti_is_metres_with_the_camera_of_the_day(tmp_path: Path) -> None:
    kitti_tree(tmp_path)
    write(tmp_path / "eigen_test_files_with_gt.txt", kitti_line(7) + kitti_line(5) + kitti_line(4, truth=False))
    found = rows(KITTI, tmp_path)
    assert [row.id for row in found] == [f"{LISTED}/{frame:010d}.png" for frame in (5, 7)]
    sample = KITTI.read(found[0])
    assert sample.depth is not None
    same(sample.depth.values, filled(5, float, r0c0=NAN, r1c1=1 / 256))
    assert sample.camera == Camera(707.0493, 707.0493, 604.5814, 181.0066, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    "line",
    [
        "/home/me/raw_data/" + LISTED + "/0000000006.png /home/me/val/" + DRIVE + "/x/image_02/0000000006.png",
        f"2011_09_28/{DRIVE} 0000000006 l",
        f"2011_09_28/{DRIVE} 6 l",
    ],
)
def test_kitti_takes_the_lines_of_v2_and_of_monodepth2(tmp_path: Path, line: str) -> None:
    kitti_tree(tmp_path, raw="raw_data", suffix=".jpg")
    path = write(tmp_path / "own.txt", f"{line}\n")
    assert [(row.id, row.image.suffix) for row in rows(KITTI, tmp_path, str(path))] == [
        (f"{LISTED}/0000000006.png", ".jpg")
    ]


def test_kitti_leaves_out_only_the_frames_that_the_annotation_leaves_out(tmp_path: Path) -> None:
    kitti_tree(tmp_path, frames=(5, 7))
    path = write(tmp_path / "own.txt", "".join(f"2011_09_28/{DRIVE} {frame} l\n" for frame in (4, 5, 8)))
    assert [row.id[-5:] for row in rows(KITTI, tmp_path, str(path))] == ["5.png"]
    write(path, f"2011_09_28/{DRIVE} 6 l\n")
    with pytest.raises(DatoolError, match=r"not there, first .*0000000006.png"):
        rows(KITTI, tmp_path, str(path))


def test_kitti_annotation_and_selection(tmp_path: Path) -> None:
    kitti_tree(tmp_path)
    assert len(rows(KITTI, tmp_path, "train")) == 3
    with pytest.raises(DatoolError, match=r"val/\*_drive"):
        rows(KITTI, tmp_path, "val")
    place = tmp_path / "depth_selection/val_selection_cropped"
    picture(place / f"image/{DRIVE}_image_0000000005_image_03.png")
    png(place / f"groundtruth_depth/{DRIVE}_groundtruth_depth_0000000005_image_03.png", filled(512, np.uint16))
    write(place / f"intrinsics/{DRIVE}_image_0000000005_image_03.txt", "7.0e+02 0 596.5 0 701 149.25 0 0 1\n")
    sample = KITTI.read(rows(KITTI, tmp_path, "val-selection")[0])
    assert sample.depth is not None
    same(sample.depth.values, filled(2, float))
    assert sample.camera == Camera(700, 701, 597, 149.75, HEIGHT, WIDTH)


def test_kittis_training_images_of_eigen_are_a_list_of_their_own(tmp_path: Path) -> None:
    kitti_tree(tmp_path)
    write(tmp_path / "eigen_test_files_with_gt.txt", kitti_line(7))
    with pytest.raises(DatoolError, match="no list of Eigen's images for 'eigen-train'"):
        rows(KITTI, tmp_path, "eigen-train")
    write(tmp_path / "kitti_eigen_train_files_with_gt.txt", kitti_line(5) + kitti_line(6))
    assert [row.id[-5:] for row in rows(KITTI, tmp_path, "eigen-train")] == ["5.png", "6.png"]


def test_kitti_without_list_or_drive_says_what_is_missing(tmp_path: Path) -> None:
    kitti_tree(tmp_path)
    with pytest.raises(DatoolError, match="no list of Eigen's images for 'eigen'"):
        rows(KITTI, tmp_path)
    other = kitti_line(5).replace("0002", "0001")
    with pytest.raises(DatoolError, match="no depth of drive 2011_09_28_drive_0001_sync"):
        rows(KITTI, tmp_path, str(write(tmp_path / "own.txt", other)))
    with pytest.raises(DatoolError, match=r"cannot place 'what is this'"):
        rows(KITTI, tmp_path, str(write(tmp_path / "own.txt", "what is this\n")))
    assert set(kitti.CAMERAS) == {"2011_09_26", "2011_09_28", "2011_09_29", "2011_09_30", "2011_10_03"}


# NYU Depth V2


def nyu_tree(root: Path) -> Path:
    root.mkdir(exist_ok=True)
    number = np.arange(1, 5, dtype=np.float32)[:, None, None]
    raw = np.broadcast_to(number, (4, WIDTH, HEIGHT)).copy()
    raw[:, 3, 2] = 0  # column 3, row 2: MATLAB's axes come reversed
    images = np.zeros((4, 3, WIDTH, HEIGHT), np.uint8)
    images[:, 0] = 200
    images[:, 2, 3, 2] = 9
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"], file["rawDepths"], file["depths"] = images, raw, np.broadcast_to(number, raw.shape)
    scipy_io.savemat(root / "splits.mat", {"trainNdxs": np.array([[1], [4]]), "testNdxs": np.array([[3], [2]])})
    return root


def test_nyu_labelled_is_raw_depth_with_the_right_axes(tmp_path: Path) -> None:
    nyu_tree(tmp_path)
    found = rows(NYU, tmp_path)
    assert [row.id for row in found] == ["0002", "0003"]
    sample = NYU.read(found[0])
    assert sample.depth is not None
    same(sample.depth.values, filled(2, float, r2c3=NAN))
    assert sample.image[2, 3].tolist() == [200, 0, 9] and sample.image[3, 2].tolist() == [200, 0, 0]
    assert sample.camera == Camera(518.8579, 519.4696, 326.0824, 254.2362, HEIGHT, WIDTH)


def test_nyu_filled_and_other_splits(tmp_path: Path) -> None:
    nyu_tree(tmp_path)
    sample = NYU.read(rows(NYU, tmp_path, "train-filled")[1])
    assert sample.id == "0004" and sample.depth is not None
    same(sample.depth.values, filled(4, float))
    assert len(rows(NYU, tmp_path, "all")) == 4


def test_nyu_pictures_of_bts_and_marigold(tmp_path: Path) -> None:
    picture(tmp_path / "bts/test/bathroom/rgb_00045.jpg")
    png(tmp_path / "bts/test/bathroom/sync_depth_00045.png", filled(1500, np.uint16, r0c0=0))
    picture(tmp_path / "marigold/test/bathroom/rgb_0046.png")
    png(tmp_path / "marigold/test/bathroom/depth_0046.png", filled(2500, np.uint16, r0c0=0))
    png(tmp_path / "marigold/test/bathroom/filled_0046.png", filled(3500, np.uint16))
    for root, split, metres, hole in (
        ("bts", "test", 1.5, NAN),
        ("marigold", "test", 2.5, NAN),
        ("marigold", "all-filled", 3.5, 3.5),
    ):
        sample = NYU.read(rows(NYU, tmp_path / root, split)[0])
        assert sample.depth is not None
        same(sample.depth.values, filled(metres, float, r0c0=hole))
    path = write(tmp_path / "own.txt", "/bathroom/rgb_00045.jpg /bathroom/sync_depth_00045.png 518.8579\n")
    assert [row.id for row in rows(NYU, tmp_path / "bts", str(path))] == ["test/bathroom/rgb_00045.jpg"]


def test_nyu_half_a_download_is_told(tmp_path: Path) -> None:
    nyu_tree(tmp_path)
    (tmp_path / "splits.mat").unlink()
    with pytest.raises(DatoolError, match=r"no splits.mat"):
        rows(NYU, tmp_path)
    path = tmp_path / "nyu_depth_v2_labeled.mat"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DatoolError, match=r"nyu_depth_v2_labeled.mat"):
        rows(NYU, tmp_path, "all")


# Sintel


def dpt(values: np.ndarray) -> bytes:
    return struct.pack("<fii", 202021.25, values.shape[1], values.shape[0]) + values.astype("<f4").tobytes()


def sintel_tree(root: Path) -> Path:
    for name in ("frame_0001", "frame_0002"):
        for part in ("final", "clean"):
            picture(root / f"training/{part}/alley_1/{name}.png")
        write(root / f"training/depth/alley_1/{name}.dpt", dpt(filled(2.5, float, r0c0=0, r1c2=1e5)))
        k = [1120, 0, 511.5, 0, 1121, 217.5, 0, 0, 1]
        write(root / f"training/camdata_left/alley_1/{name}.cam", struct.pack("<f21d", 202021.25, *k, *[0.0] * 12))
    return root


def test_sintel_is_metres_with_its_camera(tmp_path: Path) -> None:
    found = rows(SINTEL, sintel_tree(tmp_path))
    assert [row.id for row in found] == ["final/alley_1/frame_0001.png", "final/alley_1/frame_0002.png"]
    sample = SINTEL.read(found[0])
    assert sample.depth is not None
    same(sample.depth.values, filled(2.5, float, r0c0=NAN, r1c2=1e5))
    assert sample.camera == Camera(1120, 1121, 512, 218, HEIGHT, WIDTH)
    path = write(tmp_path / "own.txt", "clean/alley_1/frame_0002.png\n")
    assert [row.id for row in rows(SINTEL, tmp_path / "training", str(path))] == ["clean/alley_1/frame_0002.png"]


def test_sintel_that_is_cut_short_is_named(tmp_path: Path) -> None:
    row = rows(SINTEL, sintel_tree(tmp_path))[0]
    assert row.depth is not None and row.camera is not None
    for path in (row.depth, row.camera):
        whole = path.read_bytes()
        for broken in (whole[:-1], b"", b"\0" + whole[1:]):
            path.write_bytes(broken)
            with pytest.raises(DatoolError, match=path.name):
                SINTEL.read(row)
        path.write_bytes(whole)


# DDAD


def pose(w: float = 1, x: float = 0, y: float = 0, z: float = 0, at: tuple[float, ...] = (0, 0, 0)) -> dict[str, Any]:
    """A pose as DGP writes it; numbers that are 0 are left out, as protocol buffers may."""
    rotation = {"qw": w, "qx": x, "qy": y, "qz": z}
    return {
        "rotation": {name: value for name, value in rotation.items() if value},
        "translation": {name: value for name, value in zip("xyz", at, strict=True) if value},
    }


def ddad_tree(root: Path, points: list[list[float]], lidar: dict[str, Any], camera: dict[str, Any]) -> Path:
    place = root / "ddad_train_val"
    scene = place / "000150"
    data, keys = [], []
    for name in ("LIDAR", "CAMERA_01", "CAMERA_05"):
        kind, file = ("point_cloud", f"point_cloud/{name}/1.npz") if name == "LIDAR" else ("image", f"rgb/{name}/1.png")
        held = {"filename": file, "pose": lidar if name == "LIDAR" else camera}
        data.append({"key": name + "-key", "id": {"name": name}, "datum": {kind: held}})
        keys.append(name + "-key")
        if kind == "image":
            picture(scene / file)
    (scene / "point_cloud/LIDAR").mkdir(parents=True)
    np.savez(scene / "point_cloud/LIDAR/1.npz", data=np.array(points, np.float32).reshape(-1, 4))
    k = {"fx": 4.0, "fy": 5.0, "cx": 3.5, "cy": 2.5}
    write(
        scene / "calibration/abc.json",
        json.dumps({"names": ["LIDAR", "CAMERA_01", "CAMERA_05"], "intrinsics": [{}, k, k], "extrinsics": []}),
    )
    samples = [{"calibration_key": "abc", "datum_keys": keys}]
    write(scene / "scene_0.json", json.dumps({"data": data, "samples": samples}))
    splits = {"0": {"filenames": []}, "1": {"filenames": ["000150/scene_0.json"]}}
    write(place / "ddad.json", json.dumps({"scene_splits": splits}))
    return root


def test_ddad_projects_the_lidar_and_the_nearest_point_of_a_pixel_counts(tmp_path: Path) -> None:
    points = [
        [0, 0, 10, 1],  # u = 3.5 + 0.5 = 4.0, v = 3.0: column 4, row 3
        [0.1, 0.1, 8, 1],  # u = 4.05, v = 3.06: the same pixel, nearer
        [-9.5, -5.8, 10, 1],  # u = 0.2, v = 0.1: column 0, row 0
        [-10.5, 0, 10, 1],  # u = -0.2: outside, not rounded into column 0
        [0, 0, -5, 1],  # behind the camera
    ]
    found = rows(DDAD, ddad_tree(tmp_path, points, pose(), pose()))
    assert [row.id for row in found] == ["000150/rgb/CAMERA_01/1.png"]
    sample = DDAD.read(found[0])
    assert sample.depth is not None
    same(sample.depth.values, filled(NAN, float, r3c4=8, r0c0=10))
    assert sample.camera == Camera(4, 5, 4, 3, HEIGHT, WIDTH)


def test_ddad_undoes_the_motion_between_lidar_and_camera(tmp_path: Path) -> None:
    half = math.sqrt(0.5)
    # The lidar is turned by 90 degrees about z and 1 m to the right; the camera has driven 2 m on by its time.
    lidar, camera = pose(w=half, z=half, at=(1, 0, 0)), pose(at=(0, 0, 2))
    ddad_tree(tmp_path, [[0, 1, 10, 7]], lidar, camera)  # the world's (-1 + 1, 0, 10) = the camera's (0, 0, 8)
    sample = DDAD.read(rows(DDAD, tmp_path / "ddad_train_val", "val-all")[1])
    assert sample.depth is not None and "CAMERA_05" in sample.id
    same(sample.depth.values, filled(NAN, float, r3c4=8))


def test_ddad_turns_the_world_into_the_camera(tmp_path: Path) -> None:
    half = math.sqrt(0.5)
    # The camera looks along the world's x: its z is the world's x, its x the world's -z.
    ddad_tree(tmp_path, [[10, 1.1, -0.5, 7]], pose(), pose(w=half, y=half))  # (0.5, 1.1, 10): u 4.2, v 3.55
    sample = DDAD.read(rows(DDAD, tmp_path)[0])
    assert sample.depth is not None
    same(sample.depth.values, filled(NAN, float, r3c4=10))


def test_a_point_projects_back_to_where_it_came_from() -> None:
    camera = Camera(40, 41, 4.3, 2.9, HEIGHT, WIDTH)
    depth = np.arange(1, HEIGHT * WIDTH + 1, dtype=np.float64).reshape(HEIGHT, WIDTH)
    row, column = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    points = np.stack([(column - 4.3) / 40 * depth, (row - 2.9) / 41 * depth, depth], 2).reshape(-1, 3)
    same(ddad.project(points, camera), depth)


@pytest.mark.parametrize("missing", ["rgb/CAMERA_01/1.png", "point_cloud/LIDAR/1.npz", "scene_0.json"])
def test_ddad_half_unpacked_is_told(tmp_path: Path, missing: str) -> None:
    ddad_tree(tmp_path, [], pose(), pose())
    (tmp_path / "ddad_train_val/000150" / missing).unlink()
    with pytest.raises(DatoolError, match=missing.split("/")[-1]) as error:
        rows(DDAD, tmp_path)
    assert "ddad_train_val/ddad.json" in error.value.hint


def test_ddad_point_clouds_and_jsons_that_are_broken_are_named(tmp_path: Path) -> None:
    row = rows(DDAD, ddad_tree(tmp_path, [[0, 0, 1, 1]], pose(), pose()))[0]
    assert row.depth is not None
    row.depth.write_bytes(row.depth.read_bytes()[:50])
    with pytest.raises(DatoolError, match=r"1\.npz"):
        DDAD.read(row)
    write(tmp_path / "ddad_train_val/ddad.json", "{}")
    with pytest.raises(DatoolError, match="scene_splits"):
        rows(DDAD, tmp_path)


# ETH3D


def eth3d_tree(root: Path) -> Path:
    image = Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: the depth lies on the stored pixels
    (root / "office/images/dslr_images").mkdir(parents=True)
    image.save(root / "office/images/dslr_images/DSC_0219.JPG", exif=exif)
    values = filled(3.25, np.float32, r0c1=SKY, r5c7=1)
    write(root / "office/ground_truth_depth/dslr_images/DSC_0219.JPG", values.astype("<f4").tobytes())
    calibration = root / "office/dslr_calibration_jpg"
    write(
        calibration / "cameras.txt",
        f"# Camera list\n7 THIN_PRISM_FISHEYE {WIDTH} {HEIGHT} 34.0 35.0 4.1 3.2 0.1 0 0 0 0 0 0 0\n",
    )
    write(calibration / "images.txt", "# Image list\n1 1 0 0 0 0 0 0 7 dslr_images/DSC_0219.JPG\n1.5 2.5 -1 3 4 5\n")
    return root


def test_eth3d_is_metres_on_the_stored_pixels(tmp_path: Path) -> None:
    found = rows(ETH3D, eth3d_tree(tmp_path))
    assert [row.id for row in found] == ["office/images/dslr_images/DSC_0219.JPG"]
    sample = ETH3D.read(found[0])
    assert sample.image.shape == (HEIGHT, WIDTH, 3) and sample.depth is not None
    same(sample.depth.values, filled(3.25, float, r0c1=NAN, r5c7=1))
    assert sample.camera == Camera(34, 35, 4.1, 3.2, HEIGHT, WIDTH)


def test_eth3d_as_marigold_keeps_it(tmp_path: Path) -> None:
    eth3d_tree(tmp_path / "rgb")
    (tmp_path / "depth/office_dslr_depth/office").mkdir(parents=True)
    truth = tmp_path / "depth/office_dslr_depth/office/ground_truth_depth"
    (tmp_path / "rgb/office/ground_truth_depth").rename(truth)
    path = write(tmp_path / "own.txt", "rgb/office/images/dslr_images/DSC_0219.JPG depth/office_dslr_depth/x.JPG\n")
    (row,) = rows(ETH3D, tmp_path, str(path))
    assert row.depth == truth / "dslr_images/DSC_0219.JPG" and row.member == 7
    row.depth.write_bytes(row.depth.read_bytes()[:-4])
    with pytest.raises(DatoolError, match=r"got 188 bytes, expected 8x6 float32 = 192 bytes"):
        ETH3D.read(row)


# DIODE


def diode_tree(root: Path) -> Path:
    for kind in ("indoors", "outdoor"):
        stem = root / f"val/{kind}/scene_00019/scan_00183/00019_00183_{kind}_000_010"
        picture(stem.with_name(f"{stem.name}.png"))
        npy(stem.with_name(f"{stem.name}_depth.npy"), filled(7.5, np.float32, r0c0=0)[..., None])
        npy(stem.with_name(f"{stem.name}_depth_mask.npy"), filled(1, np.float32, r1c1=0))
    return root


def test_diode_is_metres_where_the_scanner_returned(tmp_path: Path) -> None:
    found = rows(DIODE, diode_tree(tmp_path))
    assert [row.id for row in found] == ["val/indoors/scene_00019/scan_00183/00019_00183_indoors_000_010.png"]
    sample = DIODE.read(found[0])
    assert sample.depth is not None and sample.camera is not None
    same(sample.depth.values, filled(7.5, float, r0c0=NAN, r1c1=NAN))
    assert sample.camera == Camera(886.81, 927.06, 512, 384, 768, 1024).resized(HEIGHT, WIDTH)
    assert len(rows(DIODE, tmp_path, "val")) == 2 and "outdoor" in rows(DIODE, tmp_path, "val-outdoor")[0].id
    line = "indoors/scene_00019/scan_00183/00019_00183_indoors_000_010.png a_depth.npy a_depth_mask.npy\n"
    assert rows(DIODE, tmp_path, str(write(tmp_path / "own.txt", line))) == found


# DA-2K


def da2k_tree(root: Path, **changes: Any) -> Path:
    pair = {"point1": [3, 7], "point2": [1, 2], "closer_point": "point1"} | changes
    picture(root / "DA-2K/images/indoor/a.jpg")
    picture(root / "DA-2K/images/object/b.png")
    found = {"images/indoor/a.jpg": [pair, pair], "images/object/b.png": [], "images/object/gone.jpg": [pair]}
    write(root / "DA-2K/annotations.json", json.dumps(found))
    return root


def test_da2k_pairs_are_row_column_and_say_which_is_nearer(tmp_path: Path) -> None:
    da2k_tree(tmp_path)
    pairs = read_pairs(tmp_path)
    assert pairs["images/indoor/a.jpg"] == (Pair(nearer=(3, 7), farther=(1, 2)),) * 2
    assert read_pairs(da2k_tree(tmp_path, closer_point="point2"))["images/indoor/a.jpg"][0].nearer == (1, 2)
    found = rows(DA2K, tmp_path)
    assert {row.id for row in found} == set(pairs)
    assert DA2K.read(found[0]).depth is None
    with pytest.raises(DatoolError, match=r"gone\.jpg"):
        DA2K.read(found[2])


@pytest.mark.parametrize(
    "changes", [{"closer_point": "point3"}, {"point1": [1]}, {"point2": [1, -2]}, {"point1": [1.5, 2]}]
)
def test_da2k_of_another_form_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(DatoolError, match=r"annotations.json, image images/indoor/a.jpg: got"):
        rows(DA2K, da2k_tree(tmp_path, **changes))


# iBims-1


def ibims_tree(root: Path) -> Path:
    place = root / "ibims1_core_raw"
    for name in ("corridor_01", "attic_01"):
        picture(place / f"rgb/{name}.png")
        png(place / f"depth/{name}.png", filled(13107, np.uint16, r0c0=0))  # 13107 / 65535 = 1/5 of 50 m
        png(place / f"mask_invalid/{name}.png", filled(255, np.uint8, r1c1=0))
        png(place / f"mask_transp/{name}.png", filled(1, np.uint8, r2c2=0))
        write(place / f"calib/{name}.txt", "5.5e+02,551,319.5,240\n")
    write(root / "imagelist.txt", "corridor_01\n")
    return root


def test_ibims_is_metres_with_both_masks(tmp_path: Path) -> None:
    found = rows(IBIMS, ibims_tree(tmp_path))
    assert [row.id for row in found] == ["rgb/corridor_01.png"]
    assert len(rows(IBIMS, tmp_path / "ibims1_core_raw")) == 2
    sample = IBIMS.read(found[0])
    assert sample.depth is not None
    same(sample.depth.values, filled(10, float, r0c0=NAN, r1c1=NAN, r2c2=NAN))
    assert sample.camera == Camera(550, 551, 320, 240.5, HEIGHT, WIDTH)


# MoGe's bundle


def moge_tree(root: Path, **texts: str) -> Path:
    picture(root / "GSO/a/image.jpg")
    info = PngInfo()
    for name, value in ({"near": "2.0", "far": "32.0"} | texts).items():
        info.add_text(name, value)
    # 1 is near, 65534 far; 1 + 65533 / 4 is not whole, so a quarter of the way is not met exactly.
    values = filled(1, np.uint16, r0c0=0, r0c1=65535, r0c2=65534)
    Image.fromarray(values).save(root / "GSO/a/depth.png", pnginfo=info)
    k = [[1.25, 0, 0.5], [0, 1.5, 0.25], [0, 0, 1]]
    write(root / "GSO/a/meta.json", json.dumps({"intrinsics": k}))
    write(root / "GSO/.index.txt", "a\n")
    return root


def test_moge_is_exponential_between_near_and_far(tmp_path: Path) -> None:
    found = rows(MOGE, moge_tree(tmp_path), "GSO")
    assert [row.id for row in found] == ["GSO/a"]
    sample = MOGE.read(found[0])
    assert sample.depth is not None
    same(sample.depth.values, filled(2, float, r0c0=NAN, r0c1=SKY, r0c2=32))
    assert sample.camera == Camera(10, 9, 4, 1.5, HEIGHT, WIDTH)


def test_moge_between_and_unit(tmp_path: Path) -> None:
    moge_tree(tmp_path, unit="0.5")
    path = tmp_path / "GSO/a/depth.png"
    texts = Image.open(path).info
    values = filled(1 + 13106, np.uint16)  # t = 13106 / 65533 = 0.19999084...
    info = PngInfo()
    for name, value in texts.items():
        info.add_text(str(name), value)
    Image.fromarray(values).save(path, pnginfo=info)
    sample = MOGE.read(rows(MOGE, tmp_path, "GSO")[0])
    assert sample.depth is not None
    same(sample.depth.values, filled(0.5 * 2 * 16 ** (13106 / 65533), float))


@pytest.mark.parametrize("texts", [{"near": "no"}, {"near": "0"}, {"far": "1"}])
def test_moge_with_nonsense_is_refused(tmp_path: Path, texts: dict[str, str]) -> None:
    (row,) = rows(MOGE, moge_tree(tmp_path, **texts), "GSO")
    with pytest.raises(DatoolError, match=r"near .*, far"):
        MOGE.read(row)


def test_moge_names_the_benchmarks_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(DatoolError, match=r"no benchmark 'KITTI'") as error:
        rows(MOGE, moge_tree(tmp_path), "KITTI")
    assert "There: GSO" in error.value.hint


# What every set owes


class Tree(NamedTuple):
    source: Source
    build: Callable[[Path], object]
    split: str
    gone: str  # a part without which the download is half unpacked


def eigen_tree(root: Path) -> None:
    write(kitti_tree(root) / "eigen_test_files_with_gt.txt", kitti_line(5))


def bts_tree(root: Path) -> None:
    picture(root / "test/bathroom/rgb_00045.jpg")
    png(root / "test/bathroom/sync_depth_00045.png", filled(1500, np.uint16))


TREES = {
    "kitti": Tree(KITTI, eigen_tree, "eigen", f"train/{DRIVE}/proj_depth/groundtruth/image_02/0000000005.png"),
    "kitti, raw": Tree(KITTI, eigen_tree, "eigen", "2011_09_28"),
    "nyu": Tree(NYU, bts_tree, "test", "test/bathroom/sync_depth_00045.png"),
    "nyu, mat": Tree(NYU, nyu_tree, "test", "nyu_depth_v2_labeled.mat"),
    "sintel": Tree(SINTEL, sintel_tree, "final", "training/depth/alley_1/frame_0002.dpt"),
    "sintel, all depth": Tree(SINTEL, sintel_tree, "final", "training/depth"),
    "ddad": Tree(DDAD, lambda root: ddad_tree(root, [], pose(), pose()), "val", "ddad_train_val/ddad.json"),
    "eth3d": Tree(ETH3D, eth3d_tree, "train", "office/ground_truth_depth"),
    "diode": Tree(DIODE, diode_tree, "val", "val/outdoor/scene_00019/scan_00183/00019_00183_outdoor_000_010_depth.npy"),
    "da2k": Tree(DA2K, da2k_tree, "test", "DA-2K/images/indoor"),
    "ibims": Tree(IBIMS, ibims_tree, "test", "ibims1_core_raw/mask_transp"),
    "moge": Tree(MOGE, moge_tree, "GSO", "GSO/a/depth.png"),
}


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_half_a_download_names_the_expected_layout(tmp_path: Path, tree: Tree) -> None:
    tree.build(tmp_path)
    assert rows(tree.source, tmp_path, tree.split)
    gone = tmp_path / tree.gone
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(DatoolError) as error:
        rows(tree.source, tmp_path, tree.split)
    assert tree.source.layout in error.value.hint


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_a_wrong_root_names_the_expected_layout(tmp_path: Path, tree: Tree) -> None:
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(DatoolError) as error:
            rows(tree.source, root, tree.split)
        assert tree.source.layout in error.value.hint


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_files_that_are_cut_short_are_named(tmp_path: Path, tree: Tree) -> None:
    tree.build(tmp_path)
    row = rows(tree.source, tmp_path, tree.split)[0]
    for path in {row.image, row.depth, row.mask, row.confidence} - {None}:
        assert path is not None
        whole = path.read_bytes()
        for keep in (0, len(whole) // 3):
            path.write_bytes(whole[:keep])
            with pytest.raises(DatoolError, match=path.name.replace(".", r"\.")):
                tree.source.read(row)
        path.write_bytes(whole)
    assert tree.source.read(row).id == row.id


def test_ids_are_sorted_and_name_a_sample_once(tmp_path: Path) -> None:
    for name, tree in TREES.items():
        tree.build(tmp_path / name)
        ids = [row.id for row in rows(tree.source, tmp_path / name, tree.split)]
        assert ids == sorted(set(ids))
