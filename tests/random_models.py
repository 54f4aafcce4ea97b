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


@torch.no_grad()
def spread(model):
    """The model with its last layer scaled so that a map of noise spreads by 1, all of it above the ReLU."""
    last, end = model.head.output2[2], model.head.output2[3]
    torch.nn.init.zeros_(last.bias)
    model.head.output2[3] = torch.nn.Identity()
    side = 3 * model.encoder.spec.patch_px
    noise = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    last.weight /= model(noise).std()
    last.bias.fill_(1 - float(model(noise).min()))
    model.head.output2[3] = end
    return model
