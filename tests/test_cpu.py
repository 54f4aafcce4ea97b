"""The packed network is the network, to rounding, and leaves it alone."""

from __future__ import annotations

import pytest
import torch
from random_models import alive

from datool.engines.cpu import PackedLinear, packed, takes_bf16
from datool.estimators.load import error_of
from datool.models.depth_anything import build_model
from datool.models.encoders import build_encoder

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")


@pytest.mark.parametrize("name", ["nano", "nano-conv", "tiny"])
@torch.inference_mode()
def test_packed_gives_the_same_map(name):
    torch.manual_seed(0)
    net = build_model(name).eval()
    torch.nn.init.constant_(net.head.output2[2].bias, 1.0)
    side = net.encoder.spec.patch_px
    image = torch.rand(2, 3, 5 * side, 7 * side)
    before = net(image)
    fast = packed(net)
    after = fast(image)
    assert before.std() > 0
    assert (after - before).norm() < 1e-6 * before.norm()


@pytest.mark.parametrize("name", ["nano", "nano-conv", "tiny", "depth-anything-v2-small"])
@torch.inference_mode()
def test_bf16_is_nearer_than_autocast(name):
    """Where every block counts: what is added up stays float32, and the last layers compute in it."""
    net = alive(name)
    side = net.encoder.spec.patch_px
    image = torch.rand(2, 3, 9 * side, 7 * side)
    before = net(image)
    assert takes_bf16(net)
    fast = packed(net, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        there = error_of(net(image).numpy(), before.numpy())
    here = error_of(fast(image).numpy(), before.numpy())
    assert 0 < here < min(0.02, there)
    assert torch.equal(net(image), before)


@torch.inference_mode()
def test_layers_that_differ_are_left_alone():
    """timm's EVA reads the weight of its first linear layer itself; in a gated MLP the activation takes half of it."""
    from timm.layers import GluMlp

    eva = build_encoder("timm:eva02_tiny_patch14_224").eval()
    image = torch.rand(1, 3, 224, 224)
    exact, got = eva(image, [1])[0], packed(eva)(image, [1])[0]
    assert (got - exact).norm() < 1e-6 * exact.norm()
    gated = alive("nano")
    gated.encoder.vit.blocks[0].mlp = GluMlp(64, 128, act_layer=torch.nn.GELU)
    image = torch.rand(1, 3, 70, 98)
    assert (packed(gated)(image) - gated(image)).norm() < 1e-6 * gated(image).norm()


def test_other_attention_is_left_to_autocast():
    net = build_model("nano")
    net.encoder.vit.blocks[1].attn.q_norm = torch.nn.LayerNorm(32)
    assert not takes_bf16(net)


def test_packing_leaves_the_network_and_shares_the_rest():
    net = build_model("nano").eval()
    keys = net.state_dict().keys()
    fast = packed(net)
    assert net.state_dict().keys() == keys
    assert not any(isinstance(module, PackedLinear) for module in net.modules())
    if fast is not net:
        assert not any(type(module) is torch.nn.Linear for module in fast.modules())
        assert fast.head.output1.weight is net.head.output1.weight
