"""Networks of random weights in which every part counts."""

from __future__ import annotations

import torch

from datool.models.depth_anything import build_model


def alive(name):
    """A model of random weights whose blocks and head all count."""
    torch.manual_seed(0)
    model = build_model(name).eval()
    for key, parameter in model.named_parameters():
        if key.endswith("gamma"):
            torch.nn.init.normal_(parameter, 1.0, 0.1)
    torch.nn.init.constant_(model.head.output2[2].bias, 1.0)
    return model
