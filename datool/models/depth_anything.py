"""Depth Anything V1 and V2, relative and metric: one module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

from torch import Tensor, nn

from datool.errors import lookup
from datool.models.dpt import DPTHead, FusionHead
from datool.models.encoders import build_encoder
from datool.models.specs import MODELS, ModelSpec


class DepthAnything(nn.Module):
    """An encoder and a DPT head; of a convolutional encoder, whose maps have four sizes already, the head's fusion.

    Args:
        spec: what to build. Weights are random; `datool.models.weights` fills them.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = build_encoder(spec.encoder)
        last = nn.ReLU() if spec.max_depth_m is None else nn.Sigmoid()
        encoder = self.encoder.spec
        self.head = (
            FusionHead(encoder.pyramid, spec.features, last)
            if encoder.pyramid
            else DPTHead(encoder.width, spec.channels, spec.features, last)
        )
        # What aligned training may put between the student's tokens and a frozen encoder's; part of no weight file.
        self.project: nn.Module = nn.Identity()

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
        tokens: Sequence[Tensor] = self.encoder(image_b3hw, self.spec.taps)
        prediction = self.head(tokens, image_b3hw.shape[-2:])
        if self.spec.max_depth_m is not None:
            prediction = prediction * self.spec.max_depth_m
        return (prediction, self.project(tokens[-1])) if features else prediction


def build_model(name: str) -> DepthAnything:
    """Return the model of that name with random weights.

    Raises:
        DatoolError: no such model.
    """
    return DepthAnything(lookup(MODELS, name, "model"))
