"""From a photo to the network's input on the network's own device, so that the CPU only reads."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from datool.engines.arithmetic import cubic
from datool.errors import require
from datool.files.images import TURNS


def jpeg_decoder(device: torch.device) -> Callable[[bytes, int], Tensor]:
    """Return what decodes whole JPEGs on a device: by nvJPEG on CUDA, elsewhere by libjpeg.

    It takes bytes and the EXIF orientation, and returns (H, W, 3) uint8 RGB on the device, upright.

    Raises:
        DatoolError: torchvision cannot decode there.
    """
    vision = require("torchvision.io", "", "decoding JPEG on the device", "Or use --decoder opencv.")

    # nvJPEG writes on a stream of its own, which waits for nobody: what it is given to fill must not be in use still.
    own = torch.cuda.Stream(device) if device.type == "cuda" else None

    def read(encoded: Tensor) -> Tensor:
        if own is None:
            return vision.decode_jpeg(encoded, mode=vision.ImageReadMode.RGB, device=device)
        with torch.cuda.stream(own):
            pixels = vision.decode_jpeg(encoded, mode=vision.ImageReadMode.RGB, device=device)
        now = torch.cuda.current_stream(device)
        now.wait_stream(own)
        pixels.record_stream(now)
        return pixels

    def decode(data: bytes, orientation: int) -> Tensor:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)  # which nvJPEG wants on the CPU
        with _told_from_broken():
            pixels = read(encoded).permute(1, 2, 0)
        swapped, reversed_axes = TURNS.get(orientation, (False, ()))
        return (pixels.transpose(0, 1) if swapped else pixels).flip(reversed_axes).contiguous()

    return decode


@contextmanager
def _told_from_broken() -> Iterator[None]:
    """Raise what is the GPU's fault as such, since any other RuntimeError says that the photo is broken."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error)) from error
    except RuntimeError as error:
        if "CUDA" not in str(error):
            raise
        raise OSError(errno.EIO, str(error)) from error


def resize_normalised(
    image_hwc: Tensor, size: tuple[int, int], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Tensor:
    """Return what `datool.estimators.preprocess.to_input` does, up to 2e-6 of the range, on the image's device.

    Four weighted columns, then four rows, make a pixel. PyTorch's own bicubic resize rounds in other places: noise of
    4,000 pixels a row then is 2e-4 of the range off.

    Args:
        image_hwc: (H, W, 3) uint8 RGB.
        size: (height, width) of the result.
        mean, std: of the encoder, for values in [0, 1].
    Returns:
        (height, width, 3) float32.
    """
    narrow = _resized(image_hwc.float(), 1, size[1])
    pixels = _resized(narrow, 0, size[0])
    return (pixels / 255 - _on(mean, pixels.device)) / _on(std, pixels.device)


def _resized(image_hwc: Tensor, axis: int, length: int) -> Tensor:
    places, weights = _taps(image_hwc.shape[axis], length, image_hwc.device)
    shape = [4, length] + [1] * (2 - axis)
    taps = image_hwc.index_select(axis, places.flatten()).unflatten(axis, (4, length))
    return taps.mul_(weights.view(shape)).sum(axis)


@lru_cache(maxsize=16)
def _on(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers, device=device)


@lru_cache(maxsize=256)
def _taps(before: int, after: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return which four of ``before`` pixels each of ``after`` is made of, and their weights: (4, after) each."""
    # OpenCV rounds where each pixel falls to float32, which is 2e-4 of the range at 4,000 pixels: so does this.
    centre = ((np.arange(after) + 0.5) * (before / after) - 0.5).astype(np.float32)
    first = np.floor(centre)
    x = (centre - first).astype(np.float64)
    weights = np.stack(cubic(x)[:3])
    weights = np.concatenate([weights, 1 - weights.sum(0, keepdims=True)])  # as OpenCV does
    places = np.clip(first + np.arange(-1, 3)[:, None], 0, before - 1)
    return torch.from_numpy(places.astype(np.int64)).to(device), torch.from_numpy(weights.astype(np.float32)).to(device)
