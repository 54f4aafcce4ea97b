"""From linear light to an 8-bit picture: focus, motion, exposure, vignette, white balance, film curve, grain."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from datool.render.noise import hash_unit
from datool.render.scenes import Scene

RADII = (0.004, 0.009, 0.018)  # of blurred copies, as shares of the width
TAPS = 9  # moments of a moving camera


def develop(scene: Scene, light_b3n: Tensor, depth_bn: Tensor, height_px: int, width_px: int) -> Tensor:
    """Return (B, 3, H, W) uint8; depth only says what is out of focus and how far it moves."""
    light, depth = light_b3n.view(-1, 3, height_px, width_px), depth_bn.view(-1, 1, height_px, width_px)
    if scene.has("focus", scene.focus_b2[:, 1:]):
        light = defocus(light, depth, *scene.focus_b2.unbind(1))
    if scene.has("motion", scene.motion_b4):
        light = move(light, depth, scene.motion_b4)
    return expose(scene, light)


def defocus(light: Tensor, depth: Tensor, focus_m: Tensor, strength: Tensor) -> Tensor:
    """Return the light (B, 3, H, W) with a thin lens's blur, of ``strength * |1 - focus / depth|`` widths.

    A pixel takes from copies blurred by three widths; a copy is mixed of blurred pixels only, so that sharp ones do
    not bleed into its background.
    """
    circle = strength[:, None, None, None] * (1 - focus_m[:, None, None, None] / depth).abs()
    width, sharp = light.shape[-1], light
    for share, below in zip(RADII, (0.0, *RADII), strict=False):
        radius = max(1, round(share * width))
        weight = (circle / share).clamp(0.02, 1)
        mean = lambda v, r=radius: F.avg_pool2d(v, 2 * r + 1, 1, r, count_include_pad=False)  # noqa: E731
        blurred = mean(mean(sharp * weight)) / mean(mean(weight))
        light = torch.lerp(light, blurred, ((circle - below) / (share - below)).clamp(0, 1))
    return light


def move(light: Tensor, depth: Tensor, motion_b4: Tensor) -> Tensor:
    """Return the light averaged along each pixel's way, in widths: turn x, y, and step x, y by metres of depth."""
    height_px, width_px = light.shape[2:]
    turned, stepped = motion_b4[:, None, None, :2], motion_b4[:, None, None, 2:]
    way = (turned + stepped / depth[:, 0, :, :, None]).clamp(-0.06, 0.06) * 2
    way = way * way.new_tensor([1.0, width_px / height_px])
    y = (torch.arange(height_px, device=light.device) * 2 + 1) / height_px - 1
    x = (torch.arange(width_px, device=light.device) * 2 + 1) / width_px - 1
    here = torch.stack(torch.broadcast_tensors(x, y[:, None]), -1)
    total = torch.zeros_like(light)
    for tap in range(TAPS):
        total = total + F.grid_sample(
            light, here + way * (tap / (TAPS - 1) - 0.5), padding_mode="border", align_corners=False
        )
    return total / TAPS


def expose(scene: Scene, light: Tensor) -> Tensor:
    """Return (B, 3, H, W) uint8: exposure by the mean, vignette, blur, white balance, film curve, gamma,
    tone, grain."""
    height_px, width_px = light.shape[2:]
    exposure, gamma, contrast, vignette, blur, grain, red, blue = scene.lens_bk[:, :, None, None, None].unbind(1)
    mean = light.flatten(2).mean(1).sqrt().mean(1).square().clamp_min(1e-4)
    picture_ = light * (0.22 * exposure / mean[:, None, None, None])
    y = torch.linspace(-1, 1, height_px, device=light.device)[:, None]
    x = torch.linspace(-1, 1, width_px, device=light.device)
    picture_ = picture_ * (1 - vignette * (x * x + y * y) * 0.8)
    edge = torch.cat([picture_[:, :, :1], picture_, picture_[:, :, -1:]], 2)
    picture_ = picture_ * (1 - 2 * blur) + (edge[:, :, :-2] + edge[:, :, 2:]) * blur
    edge = torch.cat([picture_[..., :1], picture_, picture_[..., -1:]], 3)
    picture_ = picture_ * (1 - 2 * blur) + (edge[..., :-2] + edge[..., 2:]) * blur
    balance = torch.cat([red, torch.ones_like(red), blue], 1)
    picture_ = (1 - torch.exp(-1.3 * picture_ * balance)) ** (gamma / 2.2)
    picture_ = torch.lerp(picture_, picture_ * picture_ * (3 - 2 * picture_), contrast)
    if scene.tone_b5 is not None and scene.has("tone", scene.tone_b5):
        picture_ = tone(picture_, scene.tone_b5)
    number = torch.arange(3 * height_px * width_px, device=light.device, dtype=torch.int32) * 374761393
    salt = scene.salt_b[:, None]
    noise = hash_unit(number ^ salt) + hash_unit((number ^ salt) + 1013904223) - 1
    picture_ = picture_ + noise.view_as(picture_) * grain * 2.4  # a triangle of standard deviation 1 / 2.4
    return (picture_ * 255 + 0.5).clamp(0, 255).to(torch.uint8)


def tone(picture_: Tensor, tone_b5: Tensor) -> Tensor:
    """Return the picture (B, 3, H, W) with black and white set, colours made stronger and edges sharper, as cameras do.

    Args:
        picture_: in [0, 1].
        tone_b5: where black and white (the 1st and the 99th percentile) come to, how much stronger colours become, how
            much of what a blurred copy lacks is added, and how much of all that is done, 0 to 1.
    """
    black, white, strength, sharp, share = tone_b5[:, :, None, None, None].unbind(1)
    grey = picture_.mean(1, keepdim=True)
    ends = grey[:, 0, ::3, ::3].flatten(1).quantile(grey.new_tensor([0.01, 0.99]), dim=1)[:, :, None, None, None]
    gain = (white - black) / (ends[1] - ends[0]).clamp_min(0.12)
    tint = picture_ - grey
    cast = 0.7 * tint.mean((2, 3), keepdim=True)  # of the whole picture: not made stronger
    made = (grey - ends[0]) * gain + black + cast + (tint - cast) * (gain * strength)
    made = made + sharp * (made - F.avg_pool2d(made, 3, 1, 1, count_include_pad=False))
    return torch.lerp(picture_, made.clamp(0, 1), share)
