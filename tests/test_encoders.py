"""Any timm ViT serves as an encoder, and a tap is what timm itself computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from datool.errors import DatoolError
from datool.models.depth_anything import DepthAnything
from datool.models.encoders import ENCODERS, build_encoder, dinov2_position, encoder_spec
from datool.models.specs import MODELS, ModelSpec
from datool.models.weights import load, save

ODD = (96, 160)
NAMES = {
    "timm:vit_small_patch16_dinov3": ODD,
    "timm:vit_small_patch14_reg4_dinov2": (98, 154),
    "timm:deit3_small_patch16_224": ODD,
    "timm:vit_tiny_patch16_224": ODD,
    "timm:eva02_tiny_patch14_224": (98, 154),
    "timm:beit_base_patch16_224": (224, 224),
}


@pytest.mark.parametrize(("name", "size"), NAMES.items())
def test_last_tap_is_timms_own_result(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(name).eval()
    with torch.no_grad():
        for key, tensor in encoder.named_parameters():
            if "gamma" in key or "ls" in key.split("."):
                tensor.fill_(1)
    row = encoder.spec
    image = torch.randn(1, 3, *size)
    height, width = size[0] // row.patch_px, size[1] // row.patch_px
    with torch.inference_mode():
        taps = encoder(image, (row.num_blocks // 2, row.num_blocks - 1))
        whole = encoder.vit.forward_features(image)[:, encoder.vit.num_prefix_tokens :]
    assert [tuple(tap.shape) for tap in taps] == [(1, row.width, height, width)] * 2
    assert torch.allclose(taps[1].flatten(2).transpose(1, 2), whole, atol=1e-5)
    assert not torch.allclose(taps[0], taps[1], atol=1e-2)
    assert torch.allclose(taps[0].var(1), torch.ones(1, height, width), rtol=0.2), "each tap goes through the norm"


def test_beit_names_its_one_size() -> None:
    encoder = build_encoder("timm:beit_base_patch16_224")
    with pytest.raises(DatoolError, match="224x224 only, got 224x240"):
        encoder(torch.zeros(1, 3, 224, 240), (3,))


def test_own_normalisation_comes_along() -> None:
    assert encoder_spec("timm:beit_base_patch16_224").mean == (0.5, 0.5, 0.5)
    assert encoder_spec("nano") is ENCODERS["nano"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:vit_base_patch16_dinov", "unknown timm model 'vit_base_patch16_dinov'.*vit_base_patch16_dinov"),
        ("timm:mixer_s16_224", "neither a plain ViT nor a network with maps at strides 4, 8, 16 and 32"),
        ("dinov2-smal", "Did you mean 'dinov2-small'"),
    ],
)
def test_what_cannot_be_an_encoder(name: str, words: str) -> None:
    with pytest.raises(DatoolError, match=words):
        build_encoder(name)


@pytest.mark.parametrize("name", ["timm:vit_small_patch16_dinov3", "timm:beit_base_patch16_224"])
def test_depth_model_on_a_foreign_encoder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It learns, and comes back from a file (rotary tables, which no file holds, included)."""
    torch.manual_seed(0)
    encoder = encoder_spec(name)
    four = replace(encoder, num_blocks=4, options={**encoder.options, "depth": 4})
    monkeypatch.setitem(ENCODERS, "foreign-4", four)
    row = ModelSpec("foreign-4", 16, (16, 16, 32, 32), (0, 1, 2, 3), size_px=224)
    monkeypatch.setitem(MODELS, "foreign", row)
    model = DepthAnything(row)
    torch.nn.init.ones_(model.head.output2[2].bias)  # a ReLU that starts dead would pass no gradient
    image = torch.randn(1, 3, 224, 224)
    model(image).mean().backward()
    assert model.encoder.vit.patch_embed.proj.weight.grad.abs().sum() > 0
    save(tmp_path / "x.safetensors", model, "foreign")
    loaded = load(tmp_path / "x.safetensors").model
    with torch.inference_mode():
        assert torch.equal(loaded(image), model.eval()(image))


def test_position_rule_keeps_the_stored_grid_and_the_prefix() -> None:
    torch.manual_seed(0)
    table = torch.randn(1, 1 + 37 * 37, 8)
    assert dinov2_position(table, 37, 37, 1) is table
    resized = dinov2_position(table, 19, 27, 1)
    assert resized.shape == (1, 1 + 19 * 27, 8)
    assert torch.equal(resized[:, 0], table[:, 0])
    constant = dinov2_position(torch.ones_like(table), 41, 20, 1)
    assert torch.allclose(constant, torch.ones_like(constant), atol=1e-5)
    half = dinov2_position(table.half(), 19, 27, 1)
    assert half.dtype == torch.float16
    assert torch.allclose(half.float(), resized, atol=1e-2)
