"""Laws of the network's input made on a device: it is the one that OpenCV makes."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from datool.errors import DatoolError
from datool.estimators.device_input import jpeg_decoder, resize_normalised
from datool.estimators.preprocess import to_input
from datool.files import decode_image
from datool.labelling.labeller import _is_the_photos as is_the_photos

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("before", "after"),
    [((480, 640), (518, 686)), ((37, 51), (518, 714)), ((1500, 2000), (518, 686)), ((500, 333), (784, 518)),
     ((98, 98), (98, 98)), ((1, 1), (14, 14)), ((2, 3), (14, 28))],
)  # fmt: skip
def test_it_is_opencvs_cubic(before, after):
    image = np.random.default_rng(0).integers(0, 256, (*before, 3), dtype=np.uint8)  # noise is the worst case
    found = resize_normalised(torch.from_numpy(image), after, MEAN, STD)
    assert found.dtype == torch.float32 and found.shape == (*after, 3)
    np.testing.assert_allclose(found.numpy() * STD, to_input(image, after, MEAN, STD) * STD, atol=4e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpegs_are_those_that_files_reads(orientation, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", exif=exif)
    found = decode_image(file.getvalue(), "photo", jpeg_decoder(torch.device("cpu")))
    expected = decode_image(file.getvalue(), "photo")
    assert isinstance(found, torch.Tensor) and found.shape == expected.shape
    assert np.abs(found.numpy().astype(int) - expected).max() <= 1


def test_what_the_device_does_not_decode_is_decoded_as_ever_and_broken_files_are_told():
    decode = jpeg_decoder(torch.device("cpu"))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    for image, format in ((Image.fromarray(pixels), "PNG"), (Image.fromarray(pixels).convert("CMYK"), "JPEG")):
        file = io.BytesIO()
        image.save(file, format)
        assert isinstance(decode_image(file.getvalue(), "photo", decode), np.ndarray)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    whole = file.getvalue()
    for broken in (whole[:300], whole[:-200], whole[:200] + bytes(100) + whole[300:-2]):
        with pytest.raises(DatoolError, match="cut short or broken"):
            decode_image(broken, "photo", decode)


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), MemoryError),
        (RuntimeError("CUDA error: unspecified launch failure"), OSError),
    ],
)
def test_what_ails_the_gpu_is_not_the_photos_fault(fault, cause, monkeypatch):
    """Else a label set would say for ever that the photo is broken."""

    def fail(*_, **__):
        raise fault

    monkeypatch.setattr("torchvision.io.decode_jpeg", fail)
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "JPEG")
    with pytest.raises(DatoolError) as told:
        decode_image(file.getvalue(), "photo", jpeg_decoder(torch.device("cpu")))
    assert isinstance(told.value.__cause__, cause) and not is_the_photos(told.value)
