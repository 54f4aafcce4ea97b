"""Depth Anything V1 and V2, relative and metric: one module, one table of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, overload

from torch import Tensor, nn

from datool.depth import Ambiguity, Quantity
from datool.errors import lookup
from datool.models.dpt import DPTHead
from datool.models.encoders import ENCODERS, build_encoder


@dataclass(frozen=True)
class ModelRow:
    """What one published (or bundled) model is.

    Args:
        encoder: row of `datool.models.encoders.ENCODERS`.
        features: channels of the DPT fusion.
        channels: channels of the four DPT levels.
        taps: 0-based encoder blocks that feed the head.
        max_depth_m: None for relative models (ReLU, disparity); else the sigmoid's ceiling in metres.
        size_px: default short side of the network's input.
        align_corners: how a prediction is brought back to the photo's size, bilinearly.
    """

    encoder: str
    features: int
    channels: tuple[int, int, int, int]
    taps: tuple[int, int, int, int]
    max_depth_m: float | None = None
    size_px: int = 518
    align_corners: bool = True

    @property
    def quantity(self) -> Quantity:
        """Relative models predict disparity, metric ones depth."""
        return Quantity.DISPARITY if self.max_depth_m is None else Quantity.DEPTH

    @property
    def ambiguity(self) -> Ambiguity:
        """Relative disparity lacks scale and shift; metric depth lacks nothing."""
        return Ambiguity.SCALE_AND_SHIFT if self.max_depth_m is None else Ambiguity.NONE


class DepthAnything(nn.Module):
    """A ViT encoder and a DPT head.

    Args:
        row: what to build. Weights are random; `datool.models.weights` fills them.
    """

    def __init__(self, row: ModelRow) -> None:
        super().__init__()
        self.row = row
        self.encoder = build_encoder(row.encoder)
        last = nn.ReLU() if row.max_depth_m is None else nn.Sigmoid()
        self.head = DPTHead(self.encoder.row.width, row.channels, row.features, last)

    @overload
    def forward(self, image_b3hw: Tensor, features: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(self, image_b3hw: Tensor, features: Literal[True]) -> tuple[Tensor, Tensor]: ...

    def forward(self, image_b3hw: Tensor, features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Predict one value a pixel.

        Args:
            image_b3hw: normalised RGB, (B, 3, H, W); H and W are multiples of the encoder's patch.
            features: also return the tokens of the last tap, which feature alignment trains on.
        Returns:
            (B, H, W): disparity >= 0 up to scale and shift, or metres; with ``features`` also (B, C, h, w).
        """
        tokens: Sequence[Tensor] = self.encoder(image_b3hw, self.row.taps)
        prediction = self.head(tokens, image_b3hw.shape[-2:])
        if self.row.max_depth_m is not None:
            prediction = prediction * self.row.max_depth_m
        return (prediction, tokens[-1]) if features else prediction


def build_model(name: str) -> DepthAnything:
    """Return the model of that row with random weights.

    Raises:
        DatoolError: no such row.
    """
    return DepthAnything(lookup(MODELS, name, "model"))


_SIZES: dict[str, tuple[int, tuple[int, int, int, int]]] = {
    "small": (64, (48, 96, 192, 384)),
    "base": (128, (96, 192, 384, 768)),
    "large": (256, (256, 512, 1024, 1024)),
    "giant": (384, (1536, 1536, 1536, 1536)),
}
_V2_TAPS = {"small": (2, 5, 8, 11), "base": (2, 5, 8, 11), "large": (4, 11, 17, 23), "giant": (9, 19, 29, 39)}


def _v1(size: str) -> ModelRow:
    # V1 taps the last four blocks: unintended upstream (LiheYoung/Depth-Anything issue 81), but its weights expect it.
    # Its script also resizes the result without aligned corners, unlike V2.
    blocks = ENCODERS[f"dinov2-{size}"].num_blocks
    features, channels = _SIZES[size]
    taps = (blocks - 4, blocks - 3, blocks - 2, blocks - 1)
    return ModelRow(f"dinov2-{size}", features, channels, taps, align_corners=False)


def _v2(size: str, max_depth_m: float | None = None) -> ModelRow:
    features, channels = _SIZES[size]
    return ModelRow(f"dinov2-{size}", features, channels, _V2_TAPS[size], max_depth_m)


MODELS: dict[str, ModelRow] = {
    "depth-anything-v1-small": _v1("small"),
    "depth-anything-v1-base": _v1("base"),
    "depth-anything-v1-large": _v1("large"),
    "depth-anything-v2-small": _v2("small"),
    "depth-anything-v2-base": _v2("base"),
    "depth-anything-v2-large": _v2("large"),
    "depth-anything-v2-giant": _v2("giant"),
    "depth-anything-v2-metric-indoor-small": _v2("small", 20.0),
    "depth-anything-v2-metric-indoor-base": _v2("base", 20.0),
    "depth-anything-v2-metric-indoor-large": _v2("large", 20.0),
    "depth-anything-v2-metric-outdoor-small": _v2("small", 80.0),
    "depth-anything-v2-metric-outdoor-base": _v2("base", 80.0),
    "depth-anything-v2-metric-outdoor-large": _v2("large", 80.0),
    "nano": ModelRow("nano", 16, (16, 16, 32, 32), (0, 1, 2, 3), size_px=112),
    "tiny": ModelRow("tiny", 48, (48, 64, 96, 128), (1, 3, 5, 7), size_px=224),
}
