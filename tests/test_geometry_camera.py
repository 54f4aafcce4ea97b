"""Where cameras come from: EXIF, files, flags; and poses."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from datool.depth import Camera
from datool.errors import DatoolError
from datool.files import read_image
from datool.geometry import CameraFinder, exif_camera, focal_camera, read_intrinsics, read_poses
from datool.geometry.poses import to_pose, turned_down

DIAGONAL_MM = math.hypot(36, 24)


def photo(path, size=(400, 300), orientation=None, **tags):
    """A JPEG of (width, height) as stored, with EXIF tags by their names."""
    names = {
        "focal_35": 0xA405,
        "focal": 0x920A,
        "plane_x": 0xA20E,
        "plane_unit": 0xA210,
        "width": 0xA002,
        "height": 0xA003,
        "zoom": 0xA404,
    }
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    for name, tag in (("make", 0x010F), ("model", 0x0110)):
        if name in tags:
            exif[tag] = tags.pop(name)
    exif.get_ifd(0x8769).update({names[name]: value for name, value in tags.items()})
    Image.new("RGB", size).save(path, exif=exif)
    return path


def told(path):
    height, width = read_image(path).shape[:2]
    camera, words = exif_camera(path, height, width)
    assert (camera.height_px, camera.width_px, camera.cx_px, camera.cy_px) == (height, width, width / 2, height / 2)
    return camera.fx_px, words


def test_the_35_mm_equivalent_goes_by_the_diagonal(tmp_path):
    focal, words = told(photo(tmp_path / "a.jpg", focal_35=26, focal=IFDRational(42, 10)))
    assert focal == pytest.approx(26 / DIAGONAL_MM * 500)
    assert words == "EXIF FocalLengthIn35mmFilm 26 mm"
    # On a 3:2 photo it is the focal length by the width too: 36 mm wide film.
    assert told(photo(tmp_path / "b.jpg", (600, 400), focal_35=36))[0] == pytest.approx(600)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_has_the_same_focal_length(tmp_path, orientation):
    path = photo(tmp_path / "a.jpg", orientation=orientation, focal_35=50, width=400, height=300)
    assert read_image(path).shape[:2] == ((300, 400) if orientation < 5 else (400, 300))
    assert told(path)[0] == pytest.approx(50 / DIAGONAL_MM * 500)


def test_the_resolution_of_the_sensor_tells_where_the_equivalent_is_missing(tmp_path):
    # 8 mm at 100 pixels a mm, then the 800x600 photo was halved.
    tags = {"focal": 8.0, "width": 800, "height": 600, "focal_35": 0}
    assert told(photo(tmp_path / "a.jpg", plane_x=1000.0, plane_unit=3, **tags))[0] == pytest.approx(400)
    assert told(photo(tmp_path / "b.jpg", plane_x=2540.0, plane_unit=2, **tags))[0] == pytest.approx(400)


def test_the_resolution_of_a_photo_made_smaller_since_is_not_believed_if_the_sensor_is_known(tmp_path):
    """As Lightroom exports: the size in EXIF is the new one, the resolution still the camera's."""
    pytest.importorskip("lensfunpy")
    tags = {"focal": 50.0, "plane_x": IFDRational(3888000, 876), "plane_unit": 2}
    tags |= {"make": "Canon", "model": "Canon EOS 40D"}
    whole = told(photo(tmp_path / "a.jpg", (3888, 2592), width=3888, height=2592, **tags))[0]
    small = told(photo(tmp_path / "b.jpg", (972, 648), width=972, height=648, **tags))[0]
    assert small == pytest.approx(whole / 4) and whole == pytest.approx(50 * 3888 / 22.2, rel=0.03)


def test_digital_zoom_lengthens_what_the_sensor_tells_and_not_the_equivalent(tmp_path):
    tags = {"focal": 8.0, "width": 400, "height": 300, "plane_x": 1000.0, "plane_unit": 3}
    plain, zoomed = told(photo(tmp_path / "a.jpg", **tags)), told(photo(tmp_path / "b.jpg", zoom=2.0, **tags))
    assert zoomed[0] == pytest.approx(2 * plain[0]) and "DigitalZoomRatio 2" in zoomed[1]
    assert told(photo(tmp_path / "c.jpg", zoom=IFDRational(0, 0), **tags))[0] == plain[0]
    assert told(photo(tmp_path / "d.jpg", zoom=2.0, focal_35=52))[0] == pytest.approx(52 / DIAGONAL_MM * 500)


def test_the_table_of_sensors_tells_where_the_equivalent_is_missing(tmp_path):
    pytest.importorskip("lensfunpy")
    path = photo(tmp_path / "a.jpg", focal=50.0, make="Canon", model="Canon EOS 5D Mark III")
    focal, words = told(path)
    assert focal == pytest.approx(50 / DIAGONAL_MM * 500, rel=0.02) and "Lensfun" in words
    with pytest.raises(DatoolError, match="not in Lensfun"):
        told(photo(tmp_path / "b.jpg", focal=50.0, make="Nobody", model="Nothing"))


def test_what_exif_cannot_tell_is_said(tmp_path):
    with pytest.raises(DatoolError, match="no focal length"):
        told(photo(tmp_path / "a.jpg"))
    with pytest.raises(DatoolError, match="cropped: EXIF is of 4000x3000"):
        told(photo(tmp_path / "b.jpg", (300, 300), focal_35=26, width=4000, height=3000))
    with pytest.raises(DatoolError, match="no focal length"):
        told(photo(tmp_path / "c.jpg", focal=IFDRational(0, 0)))


# Files


def intrinsics(tmp_path, content, name="k.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_intrinsics(path)


MATRIX = [[500.0, 0, 319.5], [0, 510.0, 239.5], [0, 0, 1]]


@pytest.mark.parametrize(
    "content",
    [
        "500 510 319.5 239.5",
        "500 0 319.5\n0 510 239.5\n0 0 1\n",
        "fx, fy: 500, 510; cx, cy: 319.5, 239.5",
        MATRIX,
        {"K": MATRIX},
        {"camera_matrix": {"rows": 3, "cols": 3, "data": [500, 0, 319.5, 0, 510, 239.5, 0, 0, 1]}},
        {
            "width": 640,
            "height": 480,
            "intrinsic_matrix": [500, 0, 0, 0, 510, 0, 319.5, 239.5, 1],
        },  # Open3D: by columns
        {"fx": 500, "fy": 510, "cx": 319.5, "cy": 239.5, "width": 1280 // 2, "height": 480},
        {"fl_x": 500, "fl_y": 510, "cx": 320, "cy": 240, "w": 640, "h": 480},  # nerfstudio: from the corner
        "500 510 319.5 239.5 640 480",
        "500 0 319.5\n0 510 239.5\n0 0 1\n640 480",
        {"camera_px": [500, 510, 320, 240]},
        {"fx_px": 500, "fy_px": 510, "cx_px": 320, "cy_px": 240, "width_px": 640, "height_px": 480},
    ],
)
def test_every_form_of_intrinsics_is_the_same_camera(tmp_path, content):
    known = intrinsics(tmp_path, content).of(tmp_path / "any.jpg")
    assert known.camera(480, 640) == Camera(500, 510, 320, 240, 480, 640)


def test_intrinsics_are_rescaled_with_the_image(tmp_path):
    known = intrinsics(tmp_path, {"K": MATRIX, "width": 640, "height": 480}).of(tmp_path / "a.jpg")
    assert known.camera(960, 1280) == Camera(1000, 1020, 640, 480, 960, 1280)
    with pytest.raises(DatoolError, match="cropped or turned"):
        known.camera(640, 480)
    known = intrinsics(tmp_path, "500 510 319.5 239.5 640 480").of(tmp_path / "a.jpg")
    assert known.camera(240, 320) == Camera(250, 255, 160, 120, 240, 320)


@pytest.mark.parametrize("size", [(120, 160), (960, 1280), (3000, 4000)])
def test_numbers_of_another_size_are_not_taken_for_this_one(tmp_path, size):
    with pytest.raises(DatoolError, match="numbers of another size"):
        intrinsics(tmp_path, "500 510 319.5 239.5").of(tmp_path / "a.jpg").camera(*size)
    with pytest.raises(DatoolError, match="numbers of another size"):  # normalised by width and height
        intrinsics(tmp_path, "0.8 1.1 0.5 0.5").of(tmp_path / "a.jpg").camera(*size)


@pytest.mark.parametrize("focal_px", [4.2, 26, 300])
def test_millimetres_are_not_pixels(tmp_path, focal_px):
    path = photo(tmp_path / "a.jpg")
    with pytest.raises(DatoolError, match=r"would see 1[678]\d degrees") as caught:
        CameraFinder(focal_px=focal_px).find(path, path, (3000, 4000), None)
    assert "millimetres" in caught.value.hint
    assert CameraFinder(focal_px=360).find(path, path, (3000, 4000), None)[0].fx_px == 360


@pytest.mark.parametrize(
    "stated", [{"focal_px": -5.0}, {"focal_px": math.nan}, {"fov_deg": 0.0}, {"assume_fov": 400.0}]
)
def test_what_cannot_be_is_refused_before_any_photo(stated):
    with pytest.raises(DatoolError, match="cannot be"):
        CameraFinder(**stated)


def test_a_file_may_have_a_row_an_image(tmp_path):
    lines = [{"image": "b/1.jpg", "camera_px": [1, 1, 1, 1]}, {"image": "1.jpg", "camera_px": [2, 2, 1, 1]}]
    file = intrinsics(tmp_path, "\n".join(map(json.dumps, lines)), "k.jsonl")
    assert file.of(tmp_path / "a/b/1.jpg").fx_px == 1 and file.of(tmp_path / "c/1.jpg").fx_px == 2
    assert file.of(tmp_path / "2.jpg") is None
    many = [{"image": f"{number}.jpg", "camera_px": [number, 1, 1, 1]} for number in range(1, 10)]
    assert intrinsics(tmp_path, "\n".join(map(json.dumps, many)), "k.jsonl").of(tmp_path / "9.jpg").fx_px == 9
    named = intrinsics(tmp_path, {"1.jpg": {"K": MATRIX}, "2.jpg": MATRIX})
    assert named.of(tmp_path / "2.jpg").fx_px == 500
    # What `predict` records is read back.
    camera = dict(fx_px=5.0, fy_px=5.0, cx_px=2.0, cy_px=2.0, height_px=4, width_px=4)
    rows = intrinsics(tmp_path, [{"input": str(tmp_path / "x.jpg"), "camera": camera}])
    assert rows.of(tmp_path / "x.jpg").camera(4, 4) == Camera(**camera)


@pytest.mark.parametrize(
    "content", ["1 2 3", {"fx": 1}, [], [1, 2], [[1, 2], [3]], {"camera_px": [0, 1, 1, 1]}, "{", [{"K": MATRIX}]]
)
def test_what_is_no_camera_is_refused(tmp_path, content):
    with pytest.raises(DatoolError, match=r"k\.json"):
        intrinsics(tmp_path, content)


# The order of what is known


def test_statements_come_before_the_photos_own_and_nothing_is_assumed_unasked(tmp_path):
    path, size, own = photo(tmp_path / "a.jpg", focal_35=26), (300, 400), focal_camera(777, 300, 400)
    assert CameraFinder(focal_px=123).find(path, path, size, own)[0].fx_px == 123
    assert CameraFinder(fov_deg=90).find(path, path, size, own)[0].fx_px == pytest.approx(200)
    assert CameraFinder().find(path, path, size, own) == (own, "the data set")
    for wrong in (Camera(777, 777, 960, 540, *size), Camera(777, 777, 0, 0, *size), Camera(0.9, 1.2, 0.5, 0.5, *size)):
        with pytest.raises(DatoolError, match=r"outside of the image|would see"):
            CameraFinder().find(path, path, size, wrong)
    assert "EXIF" in CameraFinder(assume_fov=60).find(path, path, size, None)[1]
    bare = photo(tmp_path / "b.jpg")
    with pytest.raises(DatoolError, match="no camera is known") as caught:
        CameraFinder().find(bare, bare, size, None)
    assert "--assume-fov 60" in caught.value.hint
    assert CameraFinder(assume_fov=90).find(bare, bare, size, None)[1] == "--assume-fov 90"
    with pytest.raises(DatoolError, match="--focal-px and --fov-deg"):
        CameraFinder(focal_px=1, fov_deg=1)


# Poses


def test_poses_of_every_form_are_the_same(tmp_path):
    angle = np.radians(30)
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    pose[:3, 3] = 1, 2, 3
    quaternion = [0, np.sin(angle / 2), 0, np.cos(angle / 2)]
    for name, text in {
        "kitti.txt": " ".join(map(str, pose[:3].ravel())),
        "flat.txt": " ".join(map(str, pose.ravel())),
        "tum.txt": "# time x y z qx qy qz qw\n0.5 " + " ".join(map(str, [1, 2, 3, *quaternion])),
        "rows.jsonl": json.dumps({"image": "a.jpg", "pose": pose.tolist()}),
    }.items():
        (tmp_path / name).write_text(text + "\n")
        assert np.allclose(read_poses(tmp_path / name).of(tmp_path / "a.jpg", 0), pose)
    assert read_poses(tmp_path / "rows.jsonl").of(tmp_path / "b.jpg", 0) is None
    assert read_poses(tmp_path / "kitti.txt").of(tmp_path / "b.jpg", 1) is None
    assert np.linalg.det(turned_down(pose)[:3, :3]) == pytest.approx(1)
    read_poses(tmp_path / "rows.jsonl").check_number(5)
    read_poses(tmp_path / "kitti.txt").check_number(1)
    with pytest.raises(DatoolError, match="has 1 poses, the inputs are 5"):
        read_poses(tmp_path / "kitti.txt").check_number(5)


def test_what_is_no_pose_is_refused(tmp_path):
    with pytest.raises(DatoolError, match="no rotation"):
        to_pose(np.diag([2.0, 1, 1, 1]))
    with pytest.raises(DatoolError, match="mirrors"):
        to_pose(np.diag([1.0, -1, 1, 1]))
    by_columns = np.eye(4)
    by_columns[3, :3] = 1, 2, 3
    with pytest.raises(DatoolError, match="expected 0 0 0 1") as caught:
        to_pose(by_columns)
    assert "by columns" in caught.value.hint
    with pytest.raises(DatoolError, match="mirrors the scene, or is not finite"):
        to_pose([1, 0, 0, math.inf, 0, 1, 0, 0, 0, 0, 1, 0])
    (tmp_path / "p.txt").write_text("1 2 3\n")
    with pytest.raises(DatoolError, match=r"p\.txt.*3 numbers"):
        read_poses(tmp_path / "p.txt")
    (tmp_path / "p.jsonl").write_text('{"image": "a.jpg"}\n')
    with pytest.raises(DatoolError, match="pose"):
        read_poses(tmp_path / "p.jsonl")
