"""Strong changes of colour, on the device, each sample by its own draws: what makes a student see more than its labels.

Nothing here draws random numbers: every draw is given, uniform in [0, 1), one row a sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, pi, sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from datool.errors import require

if TYPE_CHECKING:
    from types import ModuleType

NUM_AUGMENT_DRAWS = 16


@dataclass(frozen=True)
class Augmentation:
    """How strong the changes are. The values of V1 were never published; these are its first author's of a year before.

    Args:
        jitter: probability that colours change at all.
        brightness, contrast, saturation: each is multiplied by a factor from 1 - x to 1 + x.
        hue: largest turn of the colour circle, 1 = all around.
        grey: probability that only luminance stays. V1 names jitter and blur alone; UniMatch has 0.2.
        blur: probability of a Gaussian blur.
        blur_sigma_px: smallest and largest sigma.
        occlusion: probability that a rectangle of one colour hides a part (random erasing); the target stays.
        occlusion_area: its smallest and largest share of the picture.
        occlusion_aspect: its smallest and largest height over width.

    Source: Yang et al. 2024 (Depth Anything V1), arXiv:2401.10891, section 3.2 (which changes); LiheYoung/UniMatch,
    ``dataset/semi.py`` and ``dataset/transform.py`` (how strong); Zhong et al. 2017, arXiv:1708.04896 (erasing).
    """

    jitter: float = 0.8
    brightness: float = 0.5
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.25
    grey: float = 0.0
    blur: float = 0.5
    blur_sigma_px: tuple[float, float] = (0.1, 2.0)
    occlusion: float = 0.0
    occlusion_area: tuple[float, float] = (0.02, 0.4)
    occlusion_aspect: tuple[float, float] = (0.3, 1 / 0.3)


def augment(image: Tensor, strength: Augmentation, draws: Tensor) -> Tensor:
    """Return the pictures changed: brightness, contrast, saturation and hue in this order, grey, blur, occlusion.

    torchvision, and so V1, draws the order of the first four too; here it is fixed, so that a batch is one call.
    Each change clamps to [0, 1].

    Args:
        image: (B, 3, H, W) RGB in [0, 1], on any device.
        strength: of the changes.
        draws: (B, `NUM_AUGMENT_DRAWS`), on the CPU, where they decide without waiting for the device.
    Returns:
        (B, 3, H, W) in [0, 1].
    Raises:
        DatoolError: kornia is not installed; `Augmentation` of occlusion alone does without it.
    """
    image = image.clone()
    _jitter(image, strength, draws[:, 0:5])
    _grey(image, strength, draws[:, 5])
    _blur(image, strength, draws[:, 6:8])
    _occlude(image, strength, draws[:, 8:16])
    return image


def inside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the pixels of each box.

    Args:
        boxes: (N, 4) rows from and to, columns from and to, in pixels.
        size: (height, width).
    Returns:
        (N, *size) bool.
    """
    top, bottom, left, right = boxes[:, :, None].unbind(1)
    rows, columns = (torch.arange(side, device=boxes.device) for side in size)
    return ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None]


# Each changes the rows of ``image`` that its first draw chooses, in place.


def _jitter(image: Tensor, strength: Augmentation, draws: Tensor) -> None:
    amounts = (strength.brightness, strength.contrast, strength.saturation, strength.hue)
    chosen = (draws[:, 0] < strength.jitter).nonzero().flatten()
    if not len(chosen) or not any(amounts):
        return
    enhance = _kornia().enhance
    signed = (2 * draws[chosen, 1:] - 1) * torch.tensor(amounts, dtype=draws.dtype)
    brightness, contrast, saturation, hue = signed.to(image).unbind(1)
    changed = image[chosen]
    if strength.brightness:
        changed = enhance.adjust_brightness_accumulative(changed, 1 + brightness)
    if strength.contrast:
        changed = enhance.adjust_contrast_with_mean_subtraction(changed, 1 + contrast)
    if strength.saturation:
        changed = enhance.adjust_saturation_with_gray_subtraction(changed, 1 + saturation)
    if strength.hue:
        changed = enhance.adjust_hue(changed, 2 * pi * hue).clamp_(0, 1)
    image[chosen] = changed


def _grey(image: Tensor, strength: Augmentation, draws: Tensor) -> None:
    chosen = (draws < strength.grey).nonzero().flatten()
    if len(chosen):
        image[chosen] = _kornia().color.rgb_to_grayscale(image[chosen]).expand(-1, 3, -1, -1)


def _blur(image: Tensor, strength: Augmentation, draws: Tensor) -> None:
    chosen = (draws[:, 0] < strength.blur).nonzero().flatten()
    if not len(chosen):
        return
    low, high = strength.blur_sigma_px
    sigma = (low + (high - low) * draws[chosen, 1]).to(image)
    taps = 2 * ceil(3 * high) + 1
    blurred = _kornia().filters.gaussian_blur2d(
        image[chosen], (taps, taps), torch.stack([sigma, sigma], dim=1), border_type="replicate"
    )
    image[chosen] = blurred.clamp_(0, 1)


def _occlude(image: Tensor, strength: Augmentation, draws: Tensor) -> None:
    chosen = (draws[:, 0] < strength.occlusion).nonzero().flatten()
    if not len(chosen):
        return
    size = (image.shape[2], image.shape[3])
    boxes = torch.tensor([_occluder(size, strength, row) for row in draws[chosen, 1:5].tolist()])
    colours = draws[chosen, 5:8].to(image)[:, :, None, None]
    image[chosen] = torch.where(inside(boxes.to(image.device), size)[:, None], colours, image[chosen])


def _occluder(size: tuple[int, int], strength: Augmentation, draws: list[float]) -> tuple[int, int, int, int]:
    """Return a rectangle of the drawn area and aspect (uniform in its logarithm), as far as it fits, inside."""
    (low, high), (flat, tall) = strength.occlusion_area, strength.occlusion_aspect
    area = (low + (high - low) * draws[0]) * size[0] * size[1]
    aspect = flat * (tall / flat) ** draws[1]
    height, width = min(size[0], round(sqrt(area * aspect))), min(size[1], round(sqrt(area / aspect)))
    top, left = int(draws[2] * (size[0] - height + 1)), int(draws[3] * (size[1] - width + 1))
    return top, top + height, left, left + width


def _kornia() -> ModuleType:
    purpose, otherwise = "changing colours and blurring in training", "Or leave it out: --set augment=null."
    return require("kornia", "train", purpose, otherwise)
