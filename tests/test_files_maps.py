"""Laws of maps on disk: write then read gives the same map, with its meaning, and other programs read the pixels."""

import json
from pathlib import Path

import cv2
import hypothesis.extra.numpy as hnp
import imageio.v3 as iio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.files import MAP_FORMATS, output_path, read_image, read_map, read_meta, write_map

MEANINGS = [(quantity, ambiguity) for quantity in Quantity for ambiguity in Ambiguity]
MAPS = [name for name, row in MAP_FORMATS.items() if not row.picture]
PICTURES = [name for name, row in MAP_FORMATS.items() if row.picture]
LOSSLESS = [name for name, row in MAP_FORMATS.items() if row.lossless]
META = {"model": "tiny", "sha256": "0" * 64, "size": "518", "version": "0.1.0"}

pytest.importorskip("OpenEXR")


def elements(quantity: Quantity, ambiguity: Ambiguity, limit: float) -> st.SearchStrategy:
    """Values that the meaning allows: negative where the shift is unknown, sky in depth, and unknown ones."""
    if ambiguity is Ambiguity.SCALE_AND_SHIFT:
        known = st.floats(-limit, limit, width=32)
    elif quantity is Quantity.DISPARITY:
        known = st.floats(0, limit, width=32)
    else:
        known = st.floats(2.0**-20, limit, width=32) | st.just(np.inf)
    return known | st.just(np.nan)


@st.composite
def maps(draw: st.DrawFn, limit: float = 2.0**100) -> DepthMap:
    quantity, ambiguity = draw(st.sampled_from(MEANINGS))
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))
    values = draw(hnp.arrays(np.float32, shape, elements=elements(quantity, ambiguity, limit)))
    return DepthMap(values, quantity, ambiguity)


def written(folder: Path, depth: DepthMap, format: str, image: np.ndarray | None = None) -> Path:
    path = output_path(folder, Path("map"), format)
    write_map(path, depth, format, image, META)
    return path


def wavy(quantity: Quantity = Quantity.DISPARITY, ambiguity: Ambiguity = Ambiguity.SCALE_AND_SHIFT) -> DepthMap:
    """A map like those of a small published model: values between 0.1 and 2.6, some unknown."""
    y, x = np.mgrid[:40, :60].astype(np.float32)
    values = 1.35 + 1.25 * np.sin(x / 9) * np.cos(y / 7)
    values[3:5, 3:7] = np.nan
    return DepthMap(values.astype(np.float32), quantity, ambiguity)


same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)


@pytest.mark.parametrize("format", LOSSLESS)
@same_folder
@given(depth=maps())
def test_lossless_formats_return_every_bit(tmp_path: Path, format: str, depth: DepthMap) -> None:
    back = read_map(written(tmp_path, depth, format), depth.quantity, depth.ambiguity)
    assert back.values.dtype == np.float32
    assert np.array_equal(back.values, depth.values, equal_nan=True)
    assert (back.quantity, back.ambiguity) == (depth.quantity, depth.ambiguity)


@same_folder
@given(depth=maps())
def test_png16_is_within_half_a_step(tmp_path: Path, depth: DepthMap) -> None:
    path = tmp_path / "map.png"
    numbers = write_map(path, depth, "png16", None, META)
    back = read_map(path)
    assert (back.quantity, back.ambiguity) == (depth.quantity, depth.ambiguity)
    assert np.array_equal(back.valid, depth.valid)
    assert np.array_equal(np.isinf(back.values), np.isinf(depth.values))
    finite = np.isfinite(depth.values)
    values, read = depth.values[finite].astype(np.float64), back.values[finite].astype(np.float64)
    assert (np.abs(read - values) <= numbers["scale"] * 0.5000001 + np.spacing(np.abs(values).astype(np.float32))).all()
    if finite.any():
        assert (read.min(), read.max()) == (values.min(), values.max()), "the ends are exact"


@same_folder
@given(depth=maps(limit=65504))
def test_half_floats_are_within_their_precision(tmp_path: Path, depth: DepthMap) -> None:
    back = read_map(written(tmp_path, depth, "exr-half"))
    assert (back.quantity, back.ambiguity) == (depth.quantity, depth.ambiguity)
    assert np.array_equal(back.valid, depth.valid)
    assert np.array_equal(np.isinf(back.values), np.isinf(depth.values))
    finite = np.isfinite(depth.values)
    assert np.allclose(back.values[finite], depth.values[finite], rtol=2**-11, atol=2**-25)


@pytest.mark.parametrize("value", [70_000.0, 1e-9])
def test_half_floats_refuse_what_they_cannot_hold(tmp_path: Path, value: float) -> None:
    depth = DepthMap(np.full((2, 2), value, np.float32), Quantity.DEPTH, Ambiguity.NONE)
    with pytest.raises(DatoolError, match=r"half floats cannot hold .*Choose exr, tiff or npz"):
        write_map(tmp_path / "a.half.exr", depth, "exr-half")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", MAPS)
@pytest.mark.parametrize(("quantity", "ambiguity"), MEANINGS)
@pytest.mark.parametrize("value", [2.5, 1e-5, np.nan])
def test_constant_and_empty_maps(
    tmp_path: Path, format: str, quantity: Quantity, ambiguity: Ambiguity, value: float
) -> None:
    depth = DepthMap(np.full((3, 4), value, np.float32), quantity, ambiguity)
    back = read_map(written(tmp_path, depth, format), quantity, ambiguity)
    tolerance = 2**-10 * 1e-2 if format == "exr-half" else 0
    assert np.allclose(back.values, depth.values, rtol=0, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("format", MAPS)
def test_views_are_written_as_they_look(tmp_path: Path, format: str) -> None:
    values = np.arange(1, 41, dtype=np.float32).reshape(5, 8)
    for view in (values[::-1], values[:, ::2], values.T):
        depth = DepthMap(view, Quantity.DEPTH, Ambiguity.SCALE)
        back = read_map(written(tmp_path, depth, format), depth.quantity, depth.ambiguity)
        assert np.allclose(back.values, view, atol=1e-3)


def test_sixteen_bits_are_fully_used_and_decode_alone(tmp_path: Path) -> None:
    """No other knowledge than the PNG: pixels, and the text chunk's scale and offset."""
    depth = wavy()
    numbers = write_map(tmp_path / "a.png", depth, "png16", None, META)
    with Image.open(tmp_path / "a.png") as picture:
        fields = json.loads(picture.text["datool"])  # type: ignore[attr-defined]
        pixels = np.asarray(picture)
    assert pixels.dtype == np.uint16
    assert (pixels[~depth.valid] == 0).all()
    assert (pixels[depth.valid].min(), pixels[depth.valid].max()) == (1, 65534)
    assert {name: fields[name] for name in numbers} == numbers
    assert {name: fields[name] for name in META} == META
    assert (fields["quantity"], fields["ambiguity"]) == ("disparity", "scale-and-shift")
    decoded = pixels * fields["scale"] + fields["offset"]
    assert np.abs(decoded - depth.values)[depth.valid].max() < 2e-5


def test_sky_has_its_code(tmp_path: Path) -> None:
    depth = DepthMap(np.array([[1, 2, np.inf, np.nan]], np.float32), Quantity.DEPTH, Ambiguity.NONE)
    write_map(tmp_path / "a.png", depth, "png16")
    assert cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED).tolist() == [[1, 65534, 65535, 0]]


def test_other_programs_read_the_same_numbers(tmp_path: Path) -> None:
    import OpenEXR

    depth = wavy(Quantity.DEPTH, Ambiguity.NONE)
    paths = {name: written(tmp_path, depth, name) for name in MAPS}
    png = cv2.imread(str(paths["png16"]), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(png, np.asarray(Image.open(paths["png16"])))
    assert np.array_equal(png, iio.imread(paths["png16"]))
    floats = {
        "tiff by Pillow": np.asarray(Image.open(paths["tiff"])),
        "tiff by cv2": cv2.imread(str(paths["tiff"]), cv2.IMREAD_UNCHANGED),
        "tiff by imageio": iio.imread(paths["tiff"], plugin="pillow"),
        "pfm by cv2": cv2.imread(str(paths["pfm"]), cv2.IMREAD_UNCHANGED),
        "npy": np.load(paths["npy"]),
        "npz": np.load(paths["npz"])["values"],
        "exr": OpenEXR.File(str(paths["exr"])).channels()["Z"].pixels,
    }
    for name, values in floats.items():
        assert np.array_equal(values, depth.values, equal_nan=True), name
    half = OpenEXR.File(str(paths["exr-half"])).channels()["Z"].pixels
    assert half.dtype == np.float16
    assert np.array_equal(half, depth.values.astype(np.float16), equal_nan=True)


@pytest.mark.parametrize("format", PICTURES)
def test_pictures_are_pictures(tmp_path: Path, format: str) -> None:
    depth, image = wavy(), np.full((40, 60, 3), 77, np.uint8)
    path = written(tmp_path, depth, format, image)
    picture = read_image(path)
    assert picture.shape[0] == 40
    assert picture.std() > 10, "not black"
    assert np.array_equal(np.asarray(Image.open(path).convert("RGB")), picture)
    assert np.array_equal(cv2.imread(str(path))[:, :, ::-1], picture)
    assert {name: read_meta(path)[name] for name in META} == META
    with pytest.raises(DatoolError, match="got a picture of a map"):
        read_map(path)
    if format == "side-by-side":
        assert (picture[:, :60] == 77).all()
        with pytest.raises(DatoolError, match="side-by-side needs the photo"):
            write_map(path, depth, format)


def test_grey_is_ready_for_controlnet(tmp_path: Path) -> None:
    path = written(tmp_path, wavy(), "grey")
    pixels = np.asarray(Image.open(path))
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 2
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert pixels.flat[np.nanargmax(wavy().values)] == 255, "near is white"


@pytest.mark.parametrize("format", MAP_FORMATS)
def test_fields_come_back(tmp_path: Path, format: str) -> None:
    meta = {"model": "größe 🦊", "size": "518"}
    path = output_path(tmp_path, Path("map"), format)
    write_map(path, wavy(), format, np.zeros((40, 60, 3), np.uint8), meta)
    fields = read_meta(path)
    if format in ("npy", "pfm"):
        assert fields == {}
    else:
        assert meta.items() <= fields.items()
        assert fields["quantity"] == "disparity"
        assert all(isinstance(value, str) for value in fields.values())


def test_own_fields_cannot_be_overwritten(tmp_path: Path) -> None:
    with pytest.raises(DatoolError, match="quantity, scale belong to the format"):
        write_map(tmp_path / "a.png", wavy(), "png16", None, {"quantity": "depth", "scale": "1", "model": "x"})


@pytest.mark.parametrize("format", ["npy", "pfm"])
def test_meaning_is_never_guessed(tmp_path: Path, format: str) -> None:
    path = written(tmp_path, wavy(), format)
    with pytest.raises(DatoolError, match=r"does not say its quantity.*read_map\(path, quantity="):
        read_map(path)
    with pytest.raises(DatoolError, match="does not say its ambiguity"):
        read_map(path, Quantity.DISPARITY)


@pytest.mark.parametrize("format", [name for name in MAPS if name not in ("npy", "pfm")])
def test_a_contradicted_meaning_is_an_error(tmp_path: Path, format: str) -> None:
    path = written(tmp_path, wavy(), format)
    assert read_map(path, Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT).shape == (40, 60)
    with pytest.raises(DatoolError, match="its quantity is 'disparity', expected 'depth'"):
        read_map(path, Quantity.DEPTH)


def test_float_files_of_others_are_read_with_a_given_meaning(tmp_path: Path) -> None:
    import OpenEXR

    values = wavy().values
    np.save(tmp_path / "a.npy", values.astype(np.float64))
    np.savez(tmp_path / "a.npz", anything=values)
    cv2.imwrite(str(tmp_path / "a.tif"), values)
    cv2.imwrite(str(tmp_path / "a.pfm"), values)
    with OpenEXR.File({"type": OpenEXR.scanlineimage}, {"ViewLayer.Depth.Z": values}) as file:
        file.write(str(tmp_path / "a.exr"))
    for path in sorted(tmp_path.iterdir()):
        depth = read_map(path, Quantity.DEPTH, Ambiguity.SCALE)
        assert np.array_equal(depth.values, values, equal_nan=True), path


def test_what_is_no_map_is_named(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "plain.png"), np.ones((4, 4), np.uint16))
    np.save(tmp_path / "deep.npy", np.ones((4, 4, 3), np.float32))
    np.save(tmp_path / "whole.npy", np.ones((4, 4), np.int32))
    np.save(tmp_path / "negative.npy", -np.ones((4, 4), np.float32))
    np.savez(tmp_path / "two.npz", a=np.ones(3), b=np.ones(3))
    (tmp_path / "pickle.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "empty.tiff").write_bytes(b"")
    for name, message in [
        ("plain.png", "got a PNG without datool's text"),
        ("deep.npy", r"got float32 \(4, 4, 3\), expected \(H, W\) floats"),
        ("whole.npy", r"got int32 \(4, 4\)"),
        ("negative.npy", "depth must be above 0"),
        ("two.npz", "arrays a, b, expected 'values' or one"),
        ("pickle.npy", "cut short or broken"),
        ("empty.tiff", "broken"),
        ("gone.exr", "it is not there"),
        ("gone.npy", "it is not there"),
        ("depth.jpg", "got '.jpg', expected .png, .npy"),
    ]:
        with pytest.raises(DatoolError, match=message) as caught:
            read_map(tmp_path / name, Quantity.DEPTH, Ambiguity.NONE)
        assert name in str(caught.value)


@pytest.mark.parametrize("format", MAPS)
def test_a_cut_map_is_an_error(tmp_path: Path, format: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, wavy(), format)
    data = path.read_bytes()
    for percent in (0, 1, 10, 50, 90, 99):
        path.write_bytes(data[: len(data) * percent // 100])
        with pytest.raises(DatoolError, match="map"):
            read_map(path, Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("format", MAP_FORMATS)
def test_the_same_map_gives_the_same_bytes(format: str) -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    encode = MAP_FORMATS[format].encode
    assert encode(wavy(), image, META) == encode(wavy(), image, META)


def test_unknown_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatoolError, match="Did you mean 'png16'"):
        write_map(tmp_path / "a.png", wavy(), "png61")
