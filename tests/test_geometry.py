from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from room import HIGH, LOW, plane, render, turned

from datool.depth import Ambiguity, Camera, DepthMap, Quantity
from datool.errors import DatoolError
from datool.geometry import (
    AXES,
    CLOUD_FORMATS,
    Cloud,
    Cut,
    Frame,
    Scene,
    Shot,
    back_project,
    find_surface,
    focal_camera,
    fov_camera,
    fuse,
    project,
    splat,
    to_relative,
    view_page,
)
from datool.geometry.mesh import encode_glb
from datool.geometry.projection import turned_down


def metres(values):
    return DepthMap(np.asarray(values, np.float32), Quantity.DEPTH, Ambiguity.NONE)


def seen(fov_deg=60.0, pose=None, height=120, width=160, focal=1.0):
    """A shot of the room, and the wall of each point; ``focal`` scales what is believed of the camera."""
    camera = fov_camera(fov_deg, height, width)
    depth, image, walls = render(camera, turned(25, -8) if pose is None else pose)
    shot = Shot.of(depth, focal_camera(camera.fx_px * focal, height, width), image)
    return shot, walls[shot.surface.kept]


# Projection


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(20, 2000),
    st.floats(0.5, 2),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_projecting_what_was_back_projected_is_the_pixel(height, width, fx, aspect, centre, up, seed):
    camera = Camera(fx, fx * aspect * (-1 if up else 1), centre[0] * width, centre[1] * height, height, width)
    depth = metres(np.exp(np.random.default_rng(seed).uniform(-3, 6, (height, width))))
    pixels = project(back_project(depth, camera).reshape(-1, 3), camera).reshape(height, width, 2)
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    assert np.abs(pixels - np.stack([columns, rows], 2)).max() < 1e-4


def test_back_projection_is_planar_and_resizing_keeps_the_points():
    camera = Camera(100, 100, 20, 10, 20, 40)
    points = back_project(metres(np.full((20, 40), 5.0)), camera)
    assert np.all(points[:, :, 2] == 5)  # a plane across the axis has one depth
    small = back_project(metres(np.full((10, 20), 5.0)), camera.resized(10, 20))
    assert np.allclose(small, points.reshape(10, 2, 20, 2, 3).mean((1, 3)), atol=1e-5)


def test_what_is_not_depth_is_not_back_projected():
    disparity = DepthMap(np.ones((4, 4), np.float32), Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)
    with pytest.raises(DatoolError, match="back-project disparity"):
        back_project(disparity, fov_camera(60, 4, 4))
    with pytest.raises(DatoolError, match="8x4"):
        back_project(metres(np.ones((4, 4))), fov_camera(60, 4, 8))


def test_a_field_of_view_is_horizontal():
    camera = fov_camera(90, 300, 400)
    assert camera.fx_px == camera.fy_px == pytest.approx(200)
    with pytest.raises(DatoolError, match="180"):
        fov_camera(180, 3, 4)


# The room


@pytest.mark.parametrize("fov_deg", [35.0, 60.0, 95.0])
def test_a_room_has_flat_walls_right_angles_and_its_size(fov_deg):
    found = {}
    for yaw, pitch in ((25, -12), (-30, 10), (0, 0)):
        pose = turned(yaw, pitch)
        shot, walls = seen(fov_deg, pose)
        points = shot.cloud().points_n3.astype(np.float64) @ pose[:3, :3].T
        for wall in np.unique(walls):
            if np.count_nonzero(walls == wall) > 200:
                normal, distance, residual = plane(points[walls == wall])
                assert residual < 1e-3, f"a wall is {residual * 1000:.2f} mm off flat"
                axis, side = divmod(wall, 2)
                assert distance == pytest.approx((HIGH if side else -LOW)[axis], abs=1e-3)
                found[wall] = normal
    assert len(found) >= 3
    for one, normal in found.items():
        for other, second in found.items():
            if one // 2 != other // 2:
                assert abs(np.degrees(np.arccos(normal @ second)) - 90) < 0.02


def corner_deg(focal):
    """The angle between the right and the far wall, reconstructed with ``focal`` times the right focal length."""
    shot, walls = seen(60, turned(35), focal=focal)
    right, far = (plane(shot.cloud().points_n3[walls == wall].astype(np.float64))[0] for wall in (1, 5))
    return np.degrees(np.arccos(right @ far))


def test_a_wrong_focal_length_makes_the_room_crooked():
    assert corner_deg(1.0) == pytest.approx(90, abs=0.02)
    assert abs(corner_deg(1.5) - 90) > 5 and abs(corner_deg(0.7) - 90) > 5
    assert (corner_deg(1.5) - 90) * (corner_deg(0.7) - 90) < 0  # too long and too short err to either side


def test_normals_are_those_of_the_walls_up_to_their_edges():
    shot, walls = seen()
    pose = turned(25, -8)
    normals = shot.cloud().normals_n3 @ pose[:3, :3].T.astype(np.float32)
    for wall in np.unique(walls):
        axis, side = divmod(wall, 2)
        inward = np.zeros(3)
        inward[axis] = -1 if side else 1
        if np.count_nonzero(walls == wall) > 200:
            assert (normals[walls == wall] @ inward > 0.999).mean() > 0.97
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)


def test_y_up_cameras_see_no_mirror_image():
    camera = fov_camera(60, 60, 80)
    up = Camera(camera.fx_px, -camera.fy_px, camera.cx_px, camera.cy_px, 60, 80)
    depth, image, _ = render(camera, turned(20, -5))
    assert np.array_equal(Shot.of(depth, up, image).cloud().points_n3, Shot.of(depth, camera, image).cloud().points_n3)
    assert turned_down(up) == camera


# What is left out


def step_map(ramp, near=2.0, far=3.0):
    """A near surface left of a far one, with ``ramp`` pixels between them as networks blur them."""
    row = np.concatenate([np.full(20, near), np.linspace(near, far, ramp + 2)[1:-1], np.full(20, far)])
    return metres(np.tile(row, (15, 1)))


@pytest.mark.parametrize("ramp", [0, 1, 2, 4, 7])
def test_pixels_between_two_surfaces_fly_and_the_surfaces_stay(ramp):
    depth = step_map(ramp)
    kept = find_surface(depth, focal_camera(500, *depth.shape)).kept
    between = (depth.values > 2.02) & (depth.values < 2.98)
    assert not kept[between].any()
    assert kept[~between].all()


def test_a_floor_far_ahead_is_no_edge():
    camera = focal_camera(720, 375, 1242)
    rows = np.arange(375) + 0.5 - camera.cy_px
    z = np.where(rows > 0, 1.65 * 720 / np.maximum(rows, 1e-6), np.inf)
    depth = metres(np.tile(z[:, None], (1, 1242)))
    surface = find_surface(depth, camera)
    camera_to_floor = np.linalg.norm(back_project(depth, camera), axis=2)
    assert surface.kept[camera_to_floor < 0.99 * 1.65 / np.sin(np.radians(3))].all()
    assert surface.dropped["sky"] == np.count_nonzero(np.isinf(depth.values))


def test_every_pixel_is_kept_or_counted_once():
    rng = np.random.default_rng(0)
    values = rng.uniform(1, 30, (40, 50)).astype(np.float32)
    values[:5], values[5:8], values[:, 7] = np.nan, np.inf, np.nan
    usable = rng.random((40, 50)) > 0.2
    surface = find_surface(metres(values), fov_camera(70, 40, 50), Cut(edge=0.3, max_depth=20), usable)
    assert list(surface.dropped) == ["unknown", "sky", "masked", "far", "edge", "grazing"]
    assert surface.kept.sum() + sum(surface.dropped.values()) == 40 * 50
    assert usable[surface.kept].all() and values[surface.kept].max() <= 20


def test_lonely_pixels_of_sparse_depth_stay():
    values = np.full((21, 21), np.nan, np.float32)
    values[::4, ::4] = 7
    assert find_surface(metres(values), fov_camera(60, 21, 21)).kept.sum() == 36


# Clouds


def test_thinning_draws_the_same_points_again_and_no_more_than_asked():
    cloud = seen()[0].cloud()
    thin = cloud.thinned(1000, seed=3)
    assert len(thin) == 1000 and np.array_equal(thin.points_n3, cloud.thinned(1000, seed=3).points_n3)
    assert not np.array_equal(thin.points_n3, cloud.thinned(1000, seed=4).points_n3)
    assert {tuple(p) for p in thin.points_n3.tolist()} <= {tuple(p) for p in cloud.points_n3.tolist()}
    assert cloud.thinned(10**9) is cloud


def test_a_voxel_has_one_point_inside_it():
    cloud = seen()[0].cloud()
    thin = cloud.by_voxel(0.25)
    cells = np.floor(thin.points_n3 / 0.25)
    assert 50 < len(thin) < len(cloud) / 5
    assert len(np.unique(cells, axis=0)) >= 0.95 * len(thin)
    assert np.allclose(np.linalg.norm(thin.normals_n3, axis=1), 1, atol=1e-4)


@pytest.mark.parametrize("axes", sorted(AXES))
def test_axes_turn_and_never_mirror(axes):
    assert np.linalg.det(np.array(AXES[axes])) == pytest.approx(1)
    up = Cloud(np.array([[0, -1, 0]], np.float32), np.zeros((1, 3), np.uint8), np.array([[0, 0, -1]], np.float32))
    assert (
        up.turned(axes).points_n3.tolist() == {"y-down": [[0, -1, 0]], "y-up": [[0, 1, 0]], "z-up": [[0, 0, 1]]}[axes]
    )


# Relative


def test_depth_up_to_scale_keeps_its_shape():
    depth = DepthMap(np.array([[2.0, 4.0, np.inf, np.nan]], np.float32), Quantity.DEPTH, Ambiguity.SCALE)
    turned_depth, words = to_relative(depth)
    assert np.array_equal(turned_depth.values, depth.values, equal_nan=True) and "scale" in words
    stereo = DepthMap(np.array([[0.5, 0.25, 0.0]], np.float32), Quantity.DISPARITY, Ambiguity.SCALE)
    assert to_relative(stereo)[0].values.tolist() == [[2, 4, np.inf]]


@given(st.floats(0.01, 100), st.floats(-50, 50))
@settings(deadline=None, max_examples=30)
def test_relative_disparity_means_the_same_whatever_its_scale_and_shift(scale, shift):
    values = np.random.default_rng(0).uniform(0, 1, (30, 40))
    first, again = (
        to_relative(DepthMap(v.astype(np.float32), Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT))[0].values
        for v in (values, values * scale + shift)
    )
    assert np.allclose(1 / first, 1 / again, atol=2e-3 + 2e-5 * abs(shift) / scale)
    near, far = np.quantile(first, [0.01, 0.99])
    assert near == pytest.approx(1, abs=0.02) and far == pytest.approx(10, rel=0.1)


def test_what_a_model_clips_at_zero_is_sky_and_does_not_count():
    values = np.random.default_rng(0).uniform(1, 2, (30, 40)).astype(np.float32)
    shape = to_relative(DepthMap(values[10:], Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT))[0]
    values[:10] = 0
    clipped = to_relative(DepthMap(values, Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT))[0]
    assert np.isposinf(clipped.values[:10]).all() and np.array_equal(clipped.values[10:], shape.values)
    near = DepthMap(values, Quantity.DEPTH, Ambiguity.SCALE_AND_SHIFT)
    assert np.isfinite(to_relative(near)[0].values[10:]).all()
    with pytest.raises(DatoolError, match="flat"):
        to_relative(DepthMap(np.zeros((3, 4), np.float32), Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT))


def test_relative_depth_has_no_far_outliers():
    values = np.linspace(0.5, 1, 10_000, dtype=np.float32).reshape(100, 100)
    values[0, :50] = np.linspace(0.3, 0.5, 50)
    depth = to_relative(DepthMap(values, Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT))[0].values
    assert depth[np.isfinite(depth)].max() <= 1000 and np.isposinf(depth[0, 0])


# Pictures


def test_the_picture_from_the_cameras_own_place_is_the_photo():
    shot, _ = seen(height=120, width=160)
    picture = splat(shot.cloud(), shot.camera, turn_deg=0, lift_deg=0)
    assert picture.shape == (720, 960, 3)
    small = picture.reshape(120, 6, 160, 6, 3).mean((1, 3))
    assert np.abs(small - shot.image).mean() < 12
    aside = splat(shot.cloud(), shot.camera)
    assert np.abs(aside.astype(int) - picture).mean() > 10


def test_the_page_holds_the_cloud_and_asks_for_nothing():
    shot, _ = seen()
    page = view_page(shot.cloud(), shot.camera, "a</script><b>").decode("utf-8")
    assert not re.search(r"https?:|src=|href=|import |fetch\(", page) and "a</script>" not in page
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.S).group(1))
    places = np.frombuffer(base64.b64decode(data["places"]), "<u2").reshape(-1, 3)
    points = np.array(data["low"]) + places / 65535 * data["extent"]
    truth = shot.cloud().turned("y-up").points_n3
    assert np.abs(points - truth).max() <= max(data["extent"]) / 65535
    assert np.array_equal(
        np.frombuffer(base64.b64decode(data["colours"]), np.uint8).reshape(-1, 3), shot.cloud().colours_n3
    )
    widths = np.frombuffer(base64.b64decode(data["widths"]), np.uint8)
    assert len(widths) == len(places) and f"{len(truth):,} points, in metres" == data["facts"]


# Files


@pytest.fixture(scope="module")
def scene():
    shot, _ = seen()
    return Scene(shot.cloud(), shot.mesh, shot.camera, comments=("unit:\nmetres",)), shot


def write(tmp_path, name, scene):
    path = tmp_path / f"cloud{CLOUD_FORMATS[name].suffix}"
    path.write_bytes(CLOUD_FORMATS[name].encode(scene))
    return path


def test_ply_is_read_by_others(tmp_path, scene):
    plyfile, o3d = pytest.importorskip("plyfile"), pytest.importorskip("open3d")
    cloud, path = scene[0].cloud, write(tmp_path, "ply", scene[0])
    read = plyfile.PlyData.read(path)
    assert read.comments == ["unit: metres"]
    vertex = read["vertex"]
    assert np.array_equal(np.stack([vertex[name] for name in "xyz"], 1), cloud.points_n3)
    assert np.array_equal(np.stack([vertex[name] for name in ("nx", "ny", "nz")], 1), cloud.normals_n3)
    assert np.array_equal(np.stack([vertex[name] for name in ("red", "green", "blue")], 1), cloud.colours_n3)
    again = o3d.io.read_point_cloud(str(path))
    assert np.allclose(np.asarray(again.points), cloud.points_n3)
    assert np.allclose(np.asarray(again.colors) * 255, cloud.colours_n3, atol=0.6)
    assert np.allclose(np.asarray(again.normals), cloud.normals_n3, atol=1e-6)


def test_pcd_is_read_by_others(tmp_path, scene):
    o3d = pytest.importorskip("open3d")
    cloud = scene[0].cloud
    again = o3d.io.read_point_cloud(str(write(tmp_path, "pcd", scene[0])))
    assert np.allclose(np.asarray(again.points), cloud.points_n3, atol=1e-6)
    assert np.allclose(np.asarray(again.colors) * 255, cloud.colours_n3, atol=0.6)
    assert np.allclose(np.asarray(again.normals), cloud.normals_n3, atol=1e-6)


def test_xyz_is_six_numbers_a_line(tmp_path, scene):
    cloud = scene[0].cloud
    again = np.loadtxt(write(tmp_path, "xyz", scene[0]))
    assert np.allclose(again[:, :3], cloud.points_n3, rtol=1e-5, atol=1e-6)
    assert np.array_equal(again[:, 3:], cloud.colours_n3)


def test_las_is_read_by_its_library(tmp_path, scene):
    laspy = pytest.importorskip("laspy")
    cloud = scene[0].cloud
    again = laspy.read(write(tmp_path, "las", scene[0]))
    assert np.abs(again.xyz - cloud.points_n3).max() < 1e-6
    assert np.array_equal(np.stack([again.red, again.green, again.blue], 1) >> 8, cloud.colours_n3)


def test_glb_is_the_surface_with_the_photo_on_it(tmp_path, scene):
    trimesh = pytest.importorskip("trimesh")
    shot = scene[1]
    path = write(tmp_path, "glb", scene[0])
    (again,) = trimesh.load(path).geometry.values()
    points = shot.cloud().turned("y-up").points_n3
    assert np.allclose(again.bounds, [points.min(0), points.max(0)], atol=1e-4)
    # Flat walls lose no area, and a room's corner none either: two triangles a square of pixels but at its border.
    assert len(again.faces) > 1.9 * 119 * 159 * 0.99
    front = np.einsum("nc,nc->n", again.face_normals, again.triangles_center)
    assert (front < 0).mean() > 0.999, "triangles face the camera at the origin"
    texture = np.asarray(again.visual.material.baseColorTexture.convert("RGB"))
    uv = again.visual.uv
    place = np.stack([(1 - uv[:, 1]) * texture.shape[0], uv[:, 0] * texture.shape[1]], 1).astype(int)
    pixels = project(again.vertices * (1, -1, -1), shot.camera)
    assert np.abs(pixels[:, ::-1] - (place + 0.5)).max() < 0.51
    assert np.abs(texture[place[:, 0], place[:, 1]].astype(int) - shot.image[place[:, 0], place[:, 1]]).mean() < 10
    tree = json.loads(path.read_bytes()[20:].split(b"\0")[0][: int.from_bytes(path.read_bytes()[12:16], "little")])
    assert tree["materials"][0]["extensions"] == {"KHR_materials_unlit": {}}
    assert tree["images"][0]["mimeType"] == "image/jpeg"


def test_a_texture_fits_graphics_cards():
    trimesh = pytest.importorskip("trimesh")
    photo = np.zeros((20, 9000, 3), np.uint8)
    shot = Shot.of(metres(np.full((2, 900), 5.0)), focal_camera(9000, 20, 9000), photo)
    again = trimesh.load(io.BytesIO(encode_glb(shot.mesh())), file_type="glb")
    (mesh,) = again.geometry.values()
    assert mesh.visual.material.baseColorTexture.size == (8192, 18)


def test_a_mesh_is_torn_where_depth_breaks(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    depth = step_map(0)
    shot = Shot.of(depth, focal_camera(500, *depth.shape), np.zeros((*depth.shape, 3), np.uint8))
    (again,) = trimesh.load(write(tmp_path, "glb", Scene(shot.cloud(), shot.mesh, shot.camera))).geometry.values()
    assert sorted(np.unique(np.round(-again.vertices[:, 2], 3))) == [2, 3]
    assert np.all(np.ptp(again.vertices[again.faces][:, :, 2], axis=1) == 0)
    assert len(again.faces) == 2 * 14 * 19 * 2


def test_a_large_map_becomes_a_mesh_of_fewer_corners():
    from datool.geometry.mesh import surface_mesh

    shot, _ = seen()
    mesh = surface_mesh(shot.depth, shot.camera, shot.photo, shot.surface, shot.cut, max_vertices=5000)
    assert 3000 < len(mesh.vertices_n3) <= 5000
    assert mesh.faces_m3.max() == len(mesh.vertices_n3) - 1


# Fusion


def test_frames_with_poses_become_one_room():
    frames = []
    for yaw, place in ((-35, (0.3, 0, 0)), (0, (0, 0, 0.5)), (35, (-0.2, 0.1, 0))):
        pose = turned(yaw, 0, place)
        frames.append(Frame(seen(70, pose)[0], pose))
    cloud, mesh = fuse(frames, 0.03)
    for points in (cloud.points_n3, mesh.vertices_n3):
        off = np.minimum(np.abs(points - LOW), np.abs(points - HIGH)).min(axis=1)
        assert np.median(off) < 0.005 and np.quantile(off, 0.99) < 0.03
    assert np.ptp(cloud.points_n3[:, 0]) == pytest.approx(4.5, abs=0.05), "from the left wall to the right one"
    assert len(mesh.colours_n3) == len(mesh.vertices_n3)
    towards = np.einsum("nc,nc->n", cloud.normals_n3, (0, 0, 1) - cloud.points_n3)
    assert (towards > 0).mean() > 0.9, "normals look into the room"


def test_frames_without_a_surface_do_not_fuse():
    nothing = Shot.of(metres(np.full((8, 8), np.nan)), fov_camera(60, 8, 8), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DatoolError, match="no frame"):
        fuse([Frame(nothing, np.eye(4))], 0.1)
