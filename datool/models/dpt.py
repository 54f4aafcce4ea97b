"""The DPT head, and its fusion alone: four maps in, one map of numbers out.

Shapes and order are those of the published Depth Anything heads (no class-token readout, no batch norm).
Source: Ranftl et al. 2021, arXiv:2103.13413; DepthAnything/Depth-Anything-V2 ``depth_anything_v2/dpt.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear with aligned corners: what every resize inside the published head does."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the shape of ``x``, (B, C, H, W)."""
        return self.conv2(F.relu_(self.conv1(F.relu(x)))).add_(x)


class Fusion(nn.Module):
    """Add a finer level to the coarser result, refine, project, resize to the next level.

    Args:
        features: channels.
        joins: whether there is a coarser result to add to; the coarsest block has none.
    """

    def __init__(self, features: int, joins: bool) -> None:
        super().__init__()
        self.unit1 = ResidualUnit(features) if joins else None
        self.unit2 = ResidualUnit(features)
        self.project = nn.Conv2d(features, features, 1)

    def forward(self, level: Tensor, coarser: Tensor | None, size: Sequence[int]) -> Tensor:
        """Return (B, C, *size) from this level (B, C, h, w) and the coarser result, already of that size."""
        if self.unit1 is not None and coarser is not None:
            level = self.unit1(level).add_(coarser)
        # The published head resizes first; a 1x1 and a resize commute, and this way round has a quarter of the pixels.
        return _resize(self.project(self.unit2(level)), size)


class FusionHead(nn.Module):
    """Fuse four maps, each half the size of the one before, into one map at the image's size.

    Args:
        channels: of the four maps, finest first.
        features: channels inside the fusion.
        last: the activation of the last layer (ReLU for relative models, sigmoid for V2 metric ones).
    """

    def __init__(self, channels: Sequence[int], features: int, last: nn.Module) -> None:
        super().__init__()
        self.adapts = nn.ModuleList(nn.Conv2d(out, features, 3, padding=1, bias=False) for out in channels)
        self.fusions = nn.ModuleList(Fusion(features, joins=level < 3) for level in range(4))
        self.output1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.output2 = nn.Sequential(
            nn.Conv2d(features // 2, 32, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(32, 1, 1), last
        )

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Return (B, H, W).

        Args:
            maps: four (B, C, h, w), finest first.
            size: (H, W) of the result in pixels.
        """
        levels = [adapt(level) for level, adapt in zip(maps, self.adapts, strict=True)]
        fused = None
        for index in (3, 2, 1, 0):
            target = levels[index - 1].shape[-2:] if index else [2 * side for side in levels[0].shape[-2:]]
            fused = self.fusions[index](levels[index], fused, target)
        hidden = self.output2[:2](_resize(self.output1(fused), size))
        # In bfloat16 this last sum of 32 products would leave a whole map a few hundred different values.
        with torch.autocast(hidden.device.type, enabled=False):
            return self.output2[2:](hidden.float()).squeeze(1)


class DPTHead(FusionHead):
    """Reassemble four token maps of one size into maps of four sizes, and fuse them.

    Args:
        width: channels of the token maps.
        channels: channels of the four levels after their 1x1, finest first.
        features, last: as of `FusionHead`.
    """

    def __init__(self, width: int, channels: Sequence[int], features: int, last: nn.Module) -> None:
        super().__init__(channels, features, last)
        finest, fine, _, coarse = channels
        self.projects = nn.ModuleList(nn.Conv2d(width, out, 1) for out in channels)
        self.resizes = nn.ModuleList(
            [
                nn.ConvTranspose2d(finest, finest, 4, stride=4),
                nn.ConvTranspose2d(fine, fine, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(coarse, coarse, 3, stride=2, padding=1),
            ]
        )

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Return (B, H, W).

        Args:
            maps: four (B, C, h, w) of tokens, from the shallowest tap to the deepest.
            size: (H, W) of the result in pixels.
        """
        levels = [resize(project(x)) for x, project, resize in zip(maps, self.projects, self.resizes, strict=True)]
        return super().forward(levels, size)
