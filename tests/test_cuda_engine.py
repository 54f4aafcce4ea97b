"""What runs on a GPU is the network: to rounding where nothing is rounded, within the bounds where it is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from random_models import alive
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from datool.engines import gpu as gpu_engine
from datool.engines.base import TorchEngine
from datool.engines.gpu import GRAPH_PIXELS, MAX_GRAPHS, RECORD_AT, CudaNet, _Graph, check_fp8
from datool.engines.gpu_net import FP8_MAX, Enlarge, Fp8Linear, GpuNet, fits, make_head, takes_fp8, to_fp8
from datool.errors import DatoolError
from datool.estimators import transfers
from datool.estimators.load import error_of
from datool.estimators.predictor import Predictor
from datool.estimators.transfers import Transfers
from datool.models import depth_anything, encoders
from datool.models.depth_anything import build_model
from datool.models.specs import MODELS, ModelSpec
from datool.models.weights import load

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def gated(monkeypatch):
    """The giant encoder's kind of MLP, small."""
    options = {"embed_dim": 96, "depth": 4, "num_heads": 2}
    row = encoders.EncoderSpec("vit_giant_patch14_dinov2", 14, 96, 4, 8, options=options)
    monkeypatch.setitem(encoders.ENCODERS, "gated", row)
    monkeypatch.setitem(depth_anything.MODELS, "gated", ModelSpec("gated", 16, (16, 16, 32, 32), (0, 1, 2, 3)))
    return alive("gated")


def photos(net, count, rows, columns):
    """Noise of so many patches, as the engine gives it."""
    side = net.encoder.spec.patch_px
    generator = torch.Generator().manual_seed(rows * 100 + columns)
    return torch.rand(count, rows * side, columns * side, 3, generator=generator).permute(0, 3, 1, 2)


def worst(near, exact):
    return max(error_of(one.float().cpu().numpy(), other.cpu().numpy()) for one, other in zip(near, exact, strict=True))


@pytest.mark.parametrize("name", ["nano", "nano-metric", "tiny", "gated"])
@torch.inference_mode()
def test_folding_changes_nothing_but_rounding(name, monkeypatch):
    net = gated(monkeypatch) if name == "gated" else alive(name)
    gpu_net = GpuNet(net, "fp32")
    for rows, columns in ((8, 8), (5, 9), (11, 4)):
        image = photos(net, 2, rows, columns)
        exact = net(image)
        assert exact.std() > 0
        assert (gpu_net(image) - exact).norm() < 2e-6 * exact.norm()


def test_the_network_is_copied_and_stays():
    net = alive("nano")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    gpu_net = GpuNet(net, "bf16")
    theirs = {tensor.data_ptr() for tensor in (*gpu_net.parameters(), *gpu_net.buffers())}
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.data_ptr() not in theirs, name


@pytest.mark.parametrize("name", ["nano", "tiny", "depth-anything-v2-small"])
@torch.inference_mode()
def test_bf16_is_nearer_than_autocast_where_every_block_counts(name):
    net = alive(name)
    image = photos(net, 2, 9, 7)
    exact = net(image)
    with torch.autocast("cpu", torch.bfloat16):
        usual = worst(net(image), exact)
    assert 0 < worst(GpuNet(net, "bf16")(image), exact) < 0.7 * usual


@torch.inference_mode()
def test_a_head_in_half_precision_does_not_overflow():
    """Its values are 3 times the largest half float here; what comes out is that of float32."""
    head = alive("nano").head
    with torch.no_grad():
        for project in head.projects:
            project.weight.mul_(3e5)
        head.output2[2].weight.div_(3e5)
    tokens = [torch.randn(1, 64, 5, 7) for _ in range(4)]
    peak = max(adapt(resize(project(x))).abs().max() for x, project, resize, adapt in zip(
        tokens, head.projects, head.resizes, head.adapts, strict=True))  # fmt: skip
    assert peak > 3 * torch.finfo(torch.float16).max
    near = make_head(head, torch.float16)([x.half() for x in tokens], (70, 98))
    assert worst(near, head(tokens, (70, 98))) < 1e-2


@pytest.mark.parametrize("factor", [2, 4])
@torch.inference_mode()
def test_a_transposed_convolution_is_a_product(factor):
    conv = nn.ConvTranspose2d(6, 5, factor, stride=factor)
    x = torch.randn(2, 6, 3, 7)
    out = Enlarge(conv)(x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(out, conv(x), atol=1e-6)


def test_eight_bits_keep_four_of_the_mantissa():
    rows = torch.randn(64, 48) * torch.logspace(-6, 6, 64)[:, None]
    rows[3] = 0
    rounded, scale = to_fp8(rows)
    off = (rounded.float() * scale - rows).abs()
    assert (off <= torch.maximum(rows.abs() * 2**-4, scale * 2**-10) * 1.001).all()
    assert rounded.float().abs().max() <= FP8_MAX


@torch.inference_mode()
def test_a_tokens_own_scale_counts_for_it_alone():
    torch.manual_seed(0)
    layer = Fp8Linear(nn.Linear(64, 32, bias=False), torch.bfloat16)
    x = torch.randn(3, 7, 64, dtype=torch.bfloat16)
    factors = 2.0 ** torch.randint(-8, 8, (3, 7, 1))
    assert torch.equal(layer((x * factors).bfloat16()), (layer(x) * factors).bfloat16())


@torch.inference_mode()
def test_fp8_is_within_its_bound_on_a_trained_model():
    """Random weights hide this: they amplify every rounding, where trained ones do not."""
    net = load("tiny").model.eval()
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 6, 8, generator=generator)
    image = nn.functional.interpolate(coarse, (96, 128), mode="bicubic").clamp(0, 1).sub(0.45).div(0.225)
    exact = net(image)
    error = worst(GpuNet(net, "fp8")(image), exact)
    assert worst(GpuNet(net, "bf16")(image), exact) < 1e-2
    assert 0 < error < 3e-2


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
@torch.inference_mode()
def test_few_graphs_do_for_many_aspect_ratios(precision):
    torch._dynamo.reset()
    net = alive("nano")
    plain, compiled, counter = GpuNet(net, precision), GpuNet(net, precision), CompileCounterWithBackend("eager")
    compiled.compile(counter)
    sizes = [(count, rows, columns) for count in (3, 1, 8) for rows, columns in ((8, 11), (8, 8), (5, 13), (12, 5))]
    for number, size in enumerate(sizes):
        image = photos(net, *size)
        exact = plain(image)
        assert worst(compiled(image), exact) < 1e-5  # the last layer is a sum instead of a product
        if number == 3:
            assert counter.frame_count == 3, "block, tap and head, once for all sizes"
    assert counter.frame_count <= 6, "and once more for a batch of one"
    torch._dynamo.reset()


@torch.inference_mode()
def test_what_autograd_makes_of_the_graphs_is_the_same_map():
    torch._dynamo.reset()
    net = alive("nano")
    compiled = GpuNet(net, "fp32")
    compiled.compile("aot_eager")
    for size in ((2, 8, 11), (2, 6, 7)):
        image = photos(net, *size)
        assert worst(compiled(image), net(image)) < 1e-4
    torch._dynamo.reset()


def test_other_encoders_are_left_as_they_are():
    net = build_model("nano")
    assert fits(net) and takes_fp8(net)
    net.encoder.vit.blocks[1].attn.q_norm = nn.LayerNorm(32)
    assert not fits(net) and not takes_fp8(net)
    net = build_model("nano")
    net.encoder.vit.blocks[0].mlp.fc1 = nn.Linear(64, 250)
    assert fits(net) and not takes_fp8(net)


def test_fp8_is_refused_where_it_cannot_be():
    net, gpu = build_model("nano"), torch.device("cuda")
    with pytest.raises(DatoolError, match="fp8 needs an NVIDIA GPU, not cpu"):
        TorchEngine(net, "cpu", "fp8")
    with pytest.raises(DatoolError, match=r"8\.9 .*got 8\.6"):
        check_fp8(net, gpu, lambda _: (8, 6))
    check_fp8(net, gpu, lambda _: (8, 9))
    net.encoder.vit.blocks[1].attn.q_norm = nn.LayerNorm(32)
    with pytest.raises(DatoolError, match="multiples of 16"):
        check_fp8(net, gpu, lambda _: (9, 0))


def test_compiling_is_for_gpus():
    with pytest.raises(DatoolError, match="--compile"):
        TorchEngine(build_model("nano"), "cpu", "fp32").compile()


class Rerun:
    """A graph as a CPU has it: replaying computes again, on what lies in the recorded tensors."""

    def __init__(self, net, image, values):
        self.net, self.image, self.values = net, image, values

    def replay(self):
        self.values.copy_(self.net(self.image))


@torch.inference_mode()
def test_small_batches_are_replayed_from_their_third_time_on(monkeypatch):
    def record(self, size, image):
        recorded.append(size)
        held, values = image.clone(), torch.empty(size[0], *size[2:])
        self._graphs[size] = _Graph(Rerun(self.net, held, values), held, values, ())

    recorded = []
    monkeypatch.setattr(CudaNet, "_record", record)
    monkeypatch.setattr(gpu_engine, "GRAPH_PIXELS", 2 * 112 * 112)
    net = alive("nano")
    there, plain = CudaNet(net, torch.device("cpu"), "fp32", replay=True), GpuNet(net, "fp32")
    images = [photos(net, *size) for size in ((2, 8, 8), (1, 5, 7), (3, 8, 8))]
    given = [(image, there(image)) for _ in range(RECORD_AT + 2) for image in images]
    assert recorded == [(2, 3, 112, 112), (1, 3, 70, 98)]
    for image, values in given:  # which no later call has touched
        assert worst(values, plain(image)) < 1e-5


def test_transfers_elsewhere_only_convert():
    transfers = Transfers(torch.device("cpu"))
    values = [torch.rand(2, 3), torch.tensor([True, False])]
    with transfers.inward():
        assert transfers.sent() is None
    transfers.receive(values, [None, None])
    for array, tensor in zip(transfers.fetch(values), values, strict=True):
        assert (array == tensor.numpy()).all()


def test_maps_are_fetched_in_parts_that_page_locked_memory_holds(monkeypatch):
    monkeypatch.setattr(transfers, "LENT_BYTES", 100)
    sizes = [10, 10, 10, 60, 1]  # of four bytes each
    parts = [[each.numel() for each in part] for part in transfers._parts([torch.zeros(size) for size in sizes])]
    assert parts == [[10, 10], [10], [60], [1]]
    assert list(transfers._parts([])) == []


@torch.inference_mode()
def test_each_thread_may_compile_as_many_variants():
    """PyTorch keeps that limit by thread."""
    net = GpuNet(build_model("nano"), "fp32")
    net.compile("eager")
    config = torch._dynamo.config
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"

    def limit(_):
        net(torch.rand(1, 3, 56, 70))
        return getattr(config, name)

    with ThreadPoolExecutor(1) as pool:
        assert list(pool.map(limit, range(1))) == [64]


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "fp8"])
@torch.inference_mode()
def test_a_gpu_gives_the_same_map_first_last_and_replayed(precision):
    net, device = load("tiny").model.eval(), torch.device("cuda")
    if precision == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs 8-bit floats")
    there = CudaNet(net, device, precision, replay=True)
    bound = {"fp32": 2e-3, "bf16": 1e-2, "fp16": 1e-2, "fp8": 3e-2}[precision]  # fp32: convolutions in TF32
    for size in ((1, 6, 8), (2, 7, 6)):
        image = photos(net, *size)
        exact, maps = net(image), []
        for _ in range(RECORD_AT + 2):
            maps.append(there(image.to(device)))
            there(torch.zeros_like(image, device=device))  # what a replay leaves behind is not the next one's
        assert all(worst(each, exact) < bound for each in maps)
        assert all(torch.equal(each, maps[-1]) for each in maps[-2:])
    assert len(there._graphs) == 2


@needs_gpu
@torch.inference_mode()
def test_recorded_sizes_are_bounded_and_large_ones_run_as_they_are():
    net = build_model("nano").eval()
    there = CudaNet(net, torch.device("cuda"), "bf16", replay=True)
    for columns in range(3, MAX_GRAPHS + 6):
        for _ in range(RECORD_AT):
            there(photos(net, 1, 3, columns).cuda())
    assert len(there._graphs) == MAX_GRAPHS
    count = GRAPH_PIXELS // (112 * 112) + 1
    for _ in range(RECORD_AT):
        there(photos(net, count, 8, 8).cuda())
    assert all(size[0] == 1 for size in there._graphs)


@needs_gpu
def test_compiled_predictions_are_those_of_the_cpu_in_threads():
    net = load("tiny")
    pictures = [torch.randint(0, 256, (90, 120 + 5 * (each % 3), 3), dtype=torch.uint8).numpy() for each in range(24)]
    exact = Predictor(net, "cpu", "fp32").predict(pictures)
    predictor = Predictor(net, "cuda", "bf16", batch_size=4)
    for compiled in (False, True):
        if compiled:
            predictor.engine.compile()
        for near, truth in zip(predictor.predict(pictures), exact, strict=True):
            assert error_of(near.values, truth.values) < 2e-2


def test_published_models_fit():
    with torch.device("meta"):
        for name in MODELS:
            if "v1" not in name and "metric" not in name:
                model = build_model(name)
                assert takes_fp8(model) is not bool(model.encoder.spec.pyramid), name
