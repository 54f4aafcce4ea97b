"""Laws of reading: every kind of picture gives the same pixels, every kind of rubbish gives a reason."""

import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, features

from datool.errors import DatoolError
from datool.files import read_image

RGB = cv2.resize(
    np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8), (60, 40), interpolation=cv2.INTER_CUBIC
)
PHOTO = Image.fromarray(RGB)
GREY = np.asarray(PHOTO.convert("L"))
GREY3 = np.repeat(GREY[:, :, None], 3, axis=2)
ALPHA = Image.fromarray(np.linspace(0, 255, RGB[:, :, 0].size).astype(np.uint8).reshape(GREY.shape))


def with_alpha(picture: Image.Image) -> Image.Image:
    picture = picture.copy()
    picture.putalpha(ALPHA)
    return picture


def saved(path: Path, picture: Image.Image, **options: object) -> Path:
    if path.suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow is built without AVIF")
    picture.save(path, **options)  # type: ignore[arg-type]
    return path


EXACT = {
    "rgb.png": (PHOTO, {}, RGB),
    "grey.png": (PHOTO.convert("L"), {}, GREY3),
    "alpha.png": (with_alpha(PHOTO), {}, RGB),
    "grey-alpha.png": (with_alpha(PHOTO.convert("L")), {}, GREY3),
    "transparent-colour.png": (PHOTO, {"transparency": (1, 2, 3)}, RGB),
    "rgb.bmp": (PHOTO, {}, RGB),
    "rgb.ppm": (PHOTO, {}, RGB),
    "grey.pgm": (PHOTO.convert("L"), {}, GREY3),
    "rgb.jp2": (PHOTO, {}, RGB),
    "lossless.webp": (PHOTO, {"lossless": True}, RGB),
    "animated.webp": (PHOTO, {"lossless": True, "save_all": True, "append_images": [PHOTO.rotate(180)]}, RGB),
    "animated.png": (PHOTO, {"save_all": True, "append_images": [PHOTO.rotate(180)]}, RGB),
    "plain.tiff": (PHOTO, {}, RGB),
    "lzw.tiff": (PHOTO, {"compression": "tiff_lzw"}, RGB),
    "deflate.tif": (PHOTO, {"compression": "tiff_adobe_deflate"}, RGB),
    "alpha.tif": (with_alpha(PHOTO), {}, RGB),
    "two-pages.tif": (PHOTO, {"save_all": True, "append_images": [PHOTO.rotate(180)]}, RGB),
}
LOSSY = {
    "rgb.jpg": (PHOTO, {"quality": 95}),
    "progressive.jpeg": (PHOTO, {"quality": 95, "progressive": True}),
    "rgb.webp": (PHOTO, {"quality": 95}),
    "rgb.avif": (PHOTO, {"quality": 95}),
    "cmyk.jpg": (PHOTO.convert("CMYK"), {"quality": 95}),
    "cmyk.tif": (PHOTO.convert("CMYK"), {}),
    "jpeg.tif": (PHOTO, {"compression": "jpeg", "quality": 95}),
}


@pytest.mark.parametrize("name", EXACT)
def test_lossless_pictures_give_their_pixels(tmp_path: Path, name: str) -> None:
    picture, options, expected = EXACT[name]
    image = read_image(saved(tmp_path / name, picture, **options))
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    assert np.array_equal(image, expected)


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_pictures_give_nearly_their_pixels(tmp_path: Path, name: str) -> None:
    picture, options = LOSSY[name]
    image = read_image(saved(tmp_path / name, picture, **options))
    assert image.shape == RGB.shape
    assert np.abs(image.astype(int) - RGB).mean() < 6


def test_grey_jpeg_has_three_equal_channels(tmp_path: Path) -> None:
    image = read_image(saved(tmp_path / "a.jpg", PHOTO.convert("L")))
    assert (image == image[:, :, :1]).all()


@pytest.mark.parametrize("name", ["a.gif", "a.png", "bytes.png"])
def test_palettes_and_the_first_frame(tmp_path: Path, name: str) -> None:
    palette = PHOTO.quantize(64, dither=Image.Dither.NONE)
    options: dict = {"transparency": bytes(range(0, 256, 4))} if name == "bytes.png" else {}
    if name == "a.gif":
        options = {"save_all": True, "append_images": [palette.rotate(180)]}
    image = read_image(saved(tmp_path / name, palette, **options))
    assert np.array_equal(image, np.asarray(palette.convert("RGB")))


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    deep = RGB.astype(np.uint16) * 257
    for name, pixels, expected in [("rgb.png", deep, RGB), ("rgb.tiff", deep, RGB), ("grey.png", deep[:, :, 1], None),
                                   ("grey.tiff", deep[:, :, 1], None)]:  # fmt: skip
        stored = pixels[:, :, ::-1] if pixels.ndim == 3 else pixels
        assert cv2.imwrite(str(tmp_path / name), stored)
        image = read_image(tmp_path / name)
        assert np.array_equal(image, RGB[:, :, [1, 1, 1]] if expected is None else expected), name


def test_bilevel(tmp_path: Path) -> None:
    bits = PHOTO.convert("1")
    for name in ("a.png", "a.tif", "a.bmp"):
        assert np.array_equal(read_image(saved(tmp_path / name, bits)), np.asarray(bits.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "cmyk.jpg", "a.png", "a.tif", "a.webp", "a.avif", "a.heic"])
def test_exif_turns_every_format_alike(tmp_path: Path, name: str, orientation: int) -> None:
    """The picture is stored turned so that it must come out upright: red top left, green top right, blue below."""
    upright = np.zeros((64, 96, 3), np.uint8)
    upright[:32, :48], upright[:32, 48:], upright[32:] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    stored = Image.fromarray(upright)
    if undo is not None:
        stored = stored.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    if name.startswith("cmyk"):
        stored = stored.convert("CMYK")
    if name.endswith("heic"):
        heif = pytest.importorskip("pillow_heif")
        heif.from_pillow(stored).save(tmp_path / name, exif=exif.tobytes(), quality=95)
    else:
        saved(tmp_path / name, stored, exif=exif.tobytes())
    image = read_image(tmp_path / name).astype(int)
    assert image.shape == upright.shape
    assert np.abs(image - upright).mean() < 8
    if name in ("a.jpg", "a.png"):
        assert np.abs(cv2.imread(str(tmp_path / name))[:, :, ::-1] - image).max() == 0, "as cv2 turns it itself"


def test_unreadable_exif_means_upright(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", PHOTO, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f rubbish")
    assert read_image(path).shape == RGB.shape


def test_heic(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(PHOTO).save(tmp_path / "a.heic", quality=95)
    assert np.abs(read_image(tmp_path / "a.heic").astype(int) - RGB).mean() < 8


def test_exr_is_linear_light(tmp_path: Path) -> None:
    openexr = pytest.importorskip("OpenEXR")
    srgb = RGB / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)
    linear[0, 0], linear[0, 1] = (np.inf, 7, -1), np.nan
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    with openexr.File(header, {"RGB": linear}) as file:
        file.write(str(tmp_path / "a.exr"))
    image = read_image(tmp_path / "a.exr")
    assert np.array_equal(image[1:], RGB[1:])
    assert image[0, 0].tolist() == [255, 255, 0]
    assert image[0, 1].tolist() == [0, 0, 0]
    with openexr.File(header, {"Y": linear[:, :, 0].copy()}) as file:
        file.write(str(tmp_path / "grey.exr"))
    assert np.array_equal(read_image(tmp_path / "grey.exr")[1:], RGB[1:, :, [0, 0, 0]])
    with openexr.File(header, {"Z": linear[:, :, 0].copy()}) as file:
        file.write(str(tmp_path / "z.exr"))
    with pytest.raises(DatoolError, match="channels Z, expected R, G, B or Y"):
        read_image(tmp_path / "z.exr")


@pytest.mark.parametrize("name", ["a b.png", "new\nline.png", "🦊.png", "é" * 125 + ".png", "-.png", "[1].png"])
def test_any_name(tmp_path: Path, name: str) -> None:
    assert np.array_equal(read_image(saved(tmp_path / name, PHOTO, format="PNG")), RGB)


def test_the_suffix_does_not_matter(tmp_path: Path) -> None:
    assert np.array_equal(read_image(saved(tmp_path / "really-png.jpg", PHOTO, format="PNG")), RGB)
    assert np.array_equal(read_image(saved(tmp_path / "none", PHOTO, format="PNG")), RGB)


# Bad input


def refused(path: Path, message: str, **options: int) -> None:
    with pytest.raises(DatoolError, match=message) as caught:
        read_image(path, **options)
    assert str(path) in str(caught.value)
    assert caught.value.hint


def test_not_there_not_a_file_not_an_image(tmp_path: Path) -> None:
    refused(tmp_path / "gone.jpg", "it is not there")
    refused(tmp_path, "it is a folder")
    os.mkfifo(tmp_path / "pipe.jpg")
    refused(tmp_path / "pipe.jpg", "a device or a pipe")
    for name, content, message in [
        ("empty.jpg", b"", r"empty \(0 bytes\)"),
        ("text.jpg", b"hello, world", "not an image that datool knows"),
        ("page.png", b"<!DOCTYPE html><html>", "not an image that datool knows"),
        ("short.jpg", b"\xff", "not an image that datool knows"),
        ("film.heic", b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "not an image that datool knows"),
    ]:
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, message)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png", PHOTO)
    path.chmod(0)
    if os.geteuid() == 0:  # root reads everything, so the refusal is played

        def deny(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", deny)
    refused(path, "no permission")


WHOLE = ["rgb.jpg", "progressive.jpeg", "cmyk.jpg", "rgb.png", "grey.png", "alpha.png", "rgb.webp", "lossless.webp",
         "rgb.avif", "rgb.bmp", "plain.tiff", "lzw.tiff", "deflate.tif", "rgb.jp2", "rgb.ppm", "a.gif", "a.heic",
         "a.exr"]  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_a_cut_file_is_an_error_or_whole(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Half a picture never passes; a file that lacks only what follows the pixels may."""
    path = tmp_path / name
    if name == "a.exr":
        openexr = pytest.importorskip("OpenEXR")
        with openexr.File({"type": openexr.scanlineimage}, {"RGB": RGB.astype(np.float32) / 255}) as file:
            file.write(str(path))
    elif name == "a.heic":
        pytest.importorskip("pillow_heif").from_pillow(PHOTO).save(path)
    elif name == "a.gif":
        saved(path, PHOTO.quantize(32))
    else:
        picture, options = {**EXACT, **LOSSY}[name][:2]
        saved(path, picture, **options)
    data = path.read_bytes()
    whole = read_image(path)
    accepted = 0
    for percent in (1, 5, 20, 40, 60, 80, 90, 95, 98):
        path.write_bytes(data[: max(5, len(data) * percent // 100)])
        try:
            image = read_image(path)
        except DatoolError as error:
            assert str(path) in str(error)
        else:
            accepted += 1
            assert np.array_equal(image, whole)
    assert accepted <= 2
    assert capfd.readouterr().out == "", "stdout is for results"


def test_a_download_that_ends_in_zeros_is_an_error(tmp_path: Path) -> None:
    for options in ({}, {"progressive": True}):
        data = saved(tmp_path / "a.jpg", PHOTO, quality=95, **options).read_bytes()
        (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
        refused(tmp_path / "a.jpg", "its end is missing")


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_photo(tmp_path: Path) -> None:
    thumbnail = io.BytesIO()
    PHOTO.resize((16, 16)).save(thumbnail, "JPEG")
    comment = saved(tmp_path / "a.jpg", PHOTO, quality=95, comment=thumbnail.getvalue()).read_bytes()
    assert read_image(tmp_path / "a.jpg").shape == RGB.shape
    (tmp_path / "a.jpg").write_bytes(comment[:-200])
    refused(tmp_path / "a.jpg", "its end is missing")


def test_bytes_after_a_jpeg_are_fine(tmp_path: Path) -> None:
    path = saved(tmp_path / "motion.jpg", PHOTO)
    before = read_image(path)
    path.write_bytes(path.read_bytes() + b"\0\0\0 ftypmp42 a film follows")
    assert np.array_equal(read_image(path), before)


def test_multi_picture_jpeg_gives_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    PHOTO.save(path, "MPO", save_all=True, append_images=[PHOTO.rotate(180)], quality=95)
    assert np.abs(read_image(path).astype(int) - RGB).mean() < 6


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(50_000, 40_000) + b"\0\0\0\0IDAT")
    refused(path, "50000x40000 = 2000.0 M pixels, more than the 200 M of --max-pixels")
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(DatoolError):
        read_image(path)
    assert limit == Image.MAX_IMAGE_PIXELS, "Pillow's own limit is the caller's"


@pytest.mark.parametrize("name", ["rgb.png", "rgb.jpg", "rgb.bmp", "rgb.webp", "plain.tiff", "rgb.avif", "rgb.jp2"])
def test_max_pixels_is_inclusive(tmp_path: Path, name: str) -> None:
    picture, options = {**EXACT, **LOSSY}[name][:2]
    path = saved(tmp_path / name, picture, **options)
    assert read_image(path, max_pixels=2400).shape == RGB.shape
    refused(path, "--max-pixels", max_pixels=2399)


def test_zero_sized(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_header(0, 5))
    refused(tmp_path / "a.png", "zero-sized|not an image|broken")
    (tmp_path / "a.ppm").write_bytes(b"P6\n0 5\n255\n")
    refused(tmp_path / "a.ppm", "zero-sized|not an image|broken")
    (tmp_path / "a.bmp").write_bytes(saved(tmp_path / "b.bmp", PHOTO).read_bytes()[:18] + bytes(8) + bytes(100))
    refused(tmp_path / "a.bmp", "zero-sized|not an image|broken")


def test_floats_without_a_meaning_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tiff")
    refused(tmp_path / "a.tiff", "no agreed brightness")
    Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(tmp_path / "b.tiff")
    refused(tmp_path / "b.tiff", "32-bit values 70000..70000")


def test_flipped_bytes_never_crash(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name in ("rgb.jpg", "rgb.png", "rgb.webp", "plain.tiff", "rgb.bmp", "rgb.jp2"):
        picture, options = {**EXACT, **LOSSY}[name][:2]
        data = np.frombuffer(saved(tmp_path / name, picture, **options).read_bytes(), np.uint8)
        for _ in range(30):
            broken = data.copy()
            broken[rng.integers(0, min(len(data), rng.choice([60, 400, 10**6])), 3)] = rng.integers(0, 256, 3)
            (tmp_path / name).write_bytes(broken.tobytes())
            try:
                assert read_image(tmp_path / name).dtype == np.uint8
            except DatoolError as error:
                assert str(tmp_path / name) in str(error)
