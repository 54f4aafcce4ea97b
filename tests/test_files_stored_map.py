"""One reader of map files: eval, calibrate, pointcloud and manifests read the same file as the same values."""

import json
import math

import cv2
import numpy as np
import pytest
from PIL import Image

from datool.data.sources.manifest import Manifest, read_entry
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.estimators.saved import SavedMaps
from datool.files import MAP_FORMATS, write_map
from datool.files.exr import encode_exr
from datool.files.stored_map import MapMeaning, WrongValuesError, read_stored_map, refuse_depth
from datool.jobs.pointcloud.inputs import list_views

DEPTH, DISPARITY = Quantity.DEPTH, Quantity.DISPARITY
METRES, AFFINE, SCALE = Ambiguity.NONE, Ambiguity.SCALE_AND_SHIFT, Ambiguity.SCALE
NAN, INF = math.nan, math.inf
SHAPE = (6, 8)


def filled(value, first, dtype=np.float32):
    values = np.full(SHAPE, value, dtype)
    values[0, 0] = first
    return values


def stored(folder, name, values):
    """The file of another program that holds ``values`` as they are."""
    path = folder / name
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".exr":
        pytest.importorskip("OpenEXR")
        path.write_bytes(encode_exr({"Z": values}, {}))
    elif path.suffix == ".tif":
        Image.fromarray(values).save(path)
    else:
        cv2.imwrite(str(path), values)
    return path


def by_eval(path, meaning):
    found = SavedMaps(path.parent, meaning).find(path.stem, path)
    assert found is not None
    return found.read()


def by_pointcloud(path, meaning):
    (view,) = list_views([str(path)], meaning)
    return view.read()[1]


def by_manifest(path, meaning):
    cv2.imwrite(str(path.parent / "photo.jpg"), np.full((*SHAPE, 3), 90, np.uint8))
    row = {"image": "photo.jpg", "depth": path.name}
    for name in ("quantity", "ambiguity", "divisor", "unit", "invalid"):
        value = getattr(meaning, name)
        if value is not None:
            row[name] = getattr(value, "value", value)
    rows = path.parent / "rows.jsonl"
    rows.write_text(json.dumps(row) + "\n")
    return read_entry(Manifest(rows)[0]).depth


def read_by_all(path, meaning):
    """What each command takes the file for, which is the same."""
    maps = [read(path, meaning) for read in (by_eval, by_pointcloud, by_manifest)]
    for other in maps[1:]:
        assert (other.quantity, other.ambiguity) == (maps[0].quantity, maps[0].ambiguity)
        np.testing.assert_array_equal(other.values, maps[0].values)
    return maps[0]


ZEROS = {
    "depth, whole": ("a.png", np.uint16, {"divisor": 1000.0}, 2000, 0, 2, NAN),
    "depth, whole, npy": ("a.npy", np.uint16, {"divisor": 1000.0}, 2000, 0, 2, NAN),
    "depth, whole, TIFF": ("a.tif", np.uint16, {"divisor": 256.0}, 512, 0, 2, NAN),
    "depth, 8 bits": ("a.png", np.uint8, {"divisor": 10.0}, 20, 0, 2, NAN),
    "depth, floats with a divisor": ("a.npy", np.float32, {"divisor": 1000.0}, 2000, 0, 2, NAN),
    "depth, floats": ("a.npy", np.float32, {"quantity": DEPTH}, 2, INF, 2, INF),
    "disparity, whole": (
        "a.png",
        np.uint16,
        {"quantity": DISPARITY, "ambiguity": SCALE, "divisor": 64.0},
        128,
        0,
        2,
        NAN,
    ),
    "disparity, floats": ("a.npy", np.float32, {"quantity": DISPARITY, "ambiguity": METRES}, 2, 0, 2, 0),
    "disparity, floats with a divisor": (
        "a.npy",
        np.float32,
        {"quantity": DISPARITY, "ambiguity": SCALE, "divisor": 64.0},
        128,
        0,
        2,
        0,
    ),
    "disparity, EXR": ("a.exr", np.float32, {"quantity": DISPARITY, "ambiguity": SCALE}, 2, 0, 2, 0),
    "disparity, floats, infinite": ("a.pfm", np.float32, {"quantity": DISPARITY, "ambiguity": SCALE}, 2, INF, 2, NAN),
    "disparity of a model, infinite": (
        "a.npy",
        np.float32,
        {"quantity": DISPARITY, "ambiguity": AFFINE},
        2,
        INF,
        2,
        NAN,
    ),
    "said to be unknown": ("a.npy", np.float32, {"quantity": DEPTH, "invalid": (0,)}, 2, 0, 2, NAN),
    "said to be known": (
        "a.png",
        np.uint16,
        {"quantity": DISPARITY, "ambiguity": SCALE, "divisor": 1.0, "invalid": ()},
        2,
        0,
        2,
        0,
    ),
}


@pytest.mark.parametrize("case", ZEROS)
def test_zero_and_infinity_mean_the_same_to_every_command(tmp_path, case):
    name, dtype, said, number, first, value, expected = ZEROS[case]
    path = stored(tmp_path, name, filled(number, first, dtype))
    found = read_by_all(path, MapMeaning(**said))
    np.testing.assert_allclose(found.values, filled(value, expected))


def test_three_equal_channels_are_one(tmp_path):
    grey = filled(2000, 0, np.uint16)
    path = stored(tmp_path, "a.png", np.stack([grey] * 3, axis=2))
    np.testing.assert_allclose(read_by_all(path, MapMeaning(divisor=1000)).values, filled(2, NAN))
    path = stored(tmp_path, "b.npy", np.stack([filled(2, NAN)] * 3, axis=2))
    np.testing.assert_allclose(read_by_all(path, MapMeaning(quantity=DEPTH)).values, filled(2, NAN))
    colours = np.stack([grey, grey, grey + 1], axis=2)
    path = stored(tmp_path, "c.png", colours)
    for read in (by_eval, by_pointcloud, by_manifest):
        with pytest.raises(DatoolError, match=r"got uint16 \(6, 8, 3\), expected \(H, W\) numbers"):
            read(path, MapMeaning(divisor=1000))


@pytest.mark.parametrize("channel", ["Z", "Y", "R", "V", "Depth.V"])
def test_the_only_channel_of_an_exr_is_the_map(tmp_path, channel):
    pytest.importorskip("OpenEXR")
    path = tmp_path / "a.exr"
    path.write_bytes(encode_exr({channel: filled(2, INF)}, {}))
    np.testing.assert_array_equal(read_by_all(path, MapMeaning(quantity=DEPTH)).values, filled(2, INF))


def test_an_exr_of_several_channels_needs_one_that_is_depth(tmp_path):
    pytest.importorskip("OpenEXR")
    depth, path = filled(2, NAN), tmp_path / "a.exr"
    for channels in ({"R": depth, "G": depth, "B": depth}, {"R": depth, "G": depth + 1, "B": depth, "Z": depth}):
        path.write_bytes(encode_exr(channels, {}))
        np.testing.assert_array_equal(read_by_all(path, MapMeaning(quantity=DEPTH)).values, depth)
    path.write_bytes(encode_exr({"R": depth, "G": depth + 1, "B": depth}, {}))
    with pytest.raises(DatoolError, match="EXR channels B, G, R, expected one"):
        read_stored_map(path, MapMeaning(quantity=DEPTH))


# datool's own


@pytest.mark.parametrize(
    "format", [name for name, row in MAP_FORMATS.items() if not row.picture and name not in ("npy", "pfm")]
)
def test_a_divisor_for_a_map_of_datools_is_refused(tmp_path, format):
    if format.startswith("exr"):
        pytest.importorskip("OpenEXR")
    path = tmp_path / f"a{MAP_FORMATS[format].suffix}"
    depth = DepthMap(np.linspace(1, 9, 48, dtype=np.float32).reshape(SHAPE), DEPTH, METRES)
    write_map(path, depth, format)
    np.testing.assert_allclose(read_by_all(path, MapMeaning()).values, depth.values, rtol=1e-3)
    for read in (by_eval, by_pointcloud, by_manifest):
        with pytest.raises(DatoolError, match=r"says divisor 1000, but .* is datool's own") as error:
            read(path, MapMeaning(divisor=1000))
        assert "Drop the divisor" in str(error.value)
        with pytest.raises(DatoolError, match=r"says quantity 'disparity', .* says 'depth'"):
            read(path, MapMeaning(quantity=DISPARITY, ambiguity=AFFINE))
        with pytest.raises(DatoolError, match=r"says unit mm, but .* is datool's own"):
            read_stored_map(path, MapMeaning(unit="mm"))


def test_a_picture_of_a_map_holds_no_values(tmp_path):
    path = tmp_path / "a.png"
    write_map(path, DepthMap(filled(2, 3), DEPTH, METRES), "grey")
    for read in (by_eval, by_pointcloud, by_manifest):
        with pytest.raises(DatoolError, match="a picture of a map"):
            read(path, MapMeaning(divisor=1000))


# What is not said


def test_whole_numbers_need_a_divisor_or_a_unit(tmp_path):
    for path in (
        stored(tmp_path, "a.png", filled(2000, 0, np.uint16)),
        stored(tmp_path, "b.npy", filled(2000, 0, np.uint16)),
    ):
        for read in (by_eval, by_pointcloud, by_manifest):
            with pytest.raises(DatoolError, match="--divisor 256"):
                read(path, MapMeaning(quantity=DEPTH))
        millimetres = read_stored_map(path, MapMeaning(unit="mm"))
        np.testing.assert_allclose(millimetres.values, filled(2, NAN))


def test_a_zero_among_plain_floats_of_depth_is_no_depth(tmp_path):
    path = stored(tmp_path, "a.npy", filled(2, 0))
    for read in (by_eval, by_pointcloud, by_manifest):
        with pytest.raises(DatoolError, match=r"depth must be above 0, got 0[^$]*--divisor 1\."):
            read(path, MapMeaning(quantity=DEPTH))
    with pytest.raises(WrongValuesError):
        by_eval(path, MapMeaning(quantity=DEPTH))


def test_disparity_needs_its_ambiguity(tmp_path):
    path = stored(tmp_path, "a.npy", filled(2, 0))
    for read in (by_eval, by_pointcloud, by_manifest):
        with pytest.raises(DatoolError, match="neither unit nor ambiguity"):
            read(path, MapMeaning(quantity=DISPARITY))


@pytest.mark.parametrize("divisor", [0.0, -1.0, NAN, INF])
def test_a_divisor_is_a_number_above_zero(divisor):
    with pytest.raises(DatoolError, match=r"--divisor is .*, expected a number above 0"):
        MapMeaning(divisor=divisor)


# Maps that would be taken for photos


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_one_channel_of_sixteen_bits_is_no_photo(tmp_path, name):
    path = tmp_path / name
    Image.fromarray(filled(2000, 0, np.uint16)).save(path, "TIFF" if name == "a.tif" else "PNG")  # content decides
    with pytest.raises(DatoolError, match=r"one channel of 16 bits.*--divisor 1000.*--as-photo"):
        refuse_depth(path)
    for pixels in (np.full(SHAPE, 90, np.uint8), np.full((*SHAPE, 3), 90, np.uint8)):
        Image.fromarray(pixels).save(path, "PNG")
        refuse_depth(path)
    write_map(path, DepthMap(filled(2, 3), DEPTH, METRES), "png16")
    with pytest.raises(DatoolError, match="is a map of datool's"):
        refuse_depth(path)
    refuse_depth(tmp_path / "absent.png")  # reading it tells why
