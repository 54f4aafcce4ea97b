"""How near datool comes to an NVIDIA GPU's own rates, beside transformers on the same weights: all in one run.

    PYTHONPATH=. python benchmarks/speed_cuda.py                   # all parts, in --limit-s, on an H200
    PYTHONPATH=. python benchmarks/speed_cuda.py --part forward --models small
    PYTHONPATH=. python benchmarks/speed_cuda.py --smoke           # that it runs, on a CPU: its rates mean nothing

Parts, each in a process of its own, with what is left of --limit-s:

- ``kernels``: matrix products in bf16 and fp8, and attention by each kernel at the shapes of S and L, in TFLOP/s;
- ``forward``: images/s of the network alone at 518x518 on random weights with LayerScale near 1, the share of the bf16
  matrix rate (MFU), and the largest error of four pictures against fp32: |d - d_fp32| / |d_fp32 - mean(d_fp32)|;
- ``latency``: milliseconds of one picture, from its tensor on the GPU to the map there;
- ``memory``: what PyTorch's allocator says that a forward takes;
- ``predict``: photos/s of `Predictor.stream` from JPEGs of 640x480, over the rate of the forward at their size.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from datool.engines.base import TorchEngine
from datool.engines.gpu import ATTENTION, CudaNet
from datool.engines.gpu_net import GpuNet
from datool.estimators.device_input import jpeg_decoder
from datool.estimators.load import error_of
from datool.estimators.predictor import GPU_BATCH_PIXELS, Predictor
from datool.files import read_image
from datool.models import depth_anything, encoders
from datool.models.depth_anything import DepthAnything, build_model
from datool.models.keys import recognise, translate
from datool.training.budget import matrix_rate

# Batch of datool's rows, and whether transformers is compiled too (it takes minutes for G).
BATCHES = {"small": (64, True), "base": (32, True), "large": (32, True), "giant": (16, False), "smoke": (2, True)}
PARTS = ("kernels", "forward", "latency", "memory", "predict")
PER_MODEL = ("forward", "predict")
COMPARED = 4
SMOKE = "smoke"


class Bench:
    """Where and how long to measure."""

    def __init__(self, smoke: bool, extras: bool) -> None:
        self.extras = extras or smoke
        self.device = torch.device("cpu" if smoke else "cuda")
        self.smoke = smoke
        self.backend = "aot_eager" if smoke else "inductor"
        self.side = 112 if smoke else 518
        self.name = "CPU" if smoke else torch.cuda.get_device_name()

    def seconds(self, call: Callable[[], object], least_s: float = 1.5) -> float:
        """Return the median seconds of a call that is warm, waiting for each; in smoke of two."""
        call()
        times: list[float] = []
        started = time.perf_counter()
        while len(times) < 3 or (not self.smoke and time.perf_counter() - started < least_s):
            self.wait()
            begun = time.perf_counter()
            call()
            self.wait()
            times.append(time.perf_counter() - begun)
        return median(times)

    def wait(self) -> None:
        if not self.smoke:
            torch.cuda.synchronize()

    def image(self, count: int, height: int, width: int) -> Tensor:
        """Return smooth noise, (count, height, width, 3)."""
        coarse = torch.rand(count, 3, 9, 9, device=self.device, generator=torch.Generator(self.device).manual_seed(0))
        image = nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
        return ((image - 0.45) / 0.225).permute(0, 2, 3, 1).contiguous()

    def network(self, net: DepthAnything, precision: str, compiled: bool = False) -> Callable[[Tensor], Tensor]:
        """Return datool's network as its engine runs it; on a CPU as near as that can be."""
        if self.smoke:
            gpu_net = GpuNet(net, precision)
            if compiled:
                gpu_net.compile(self.backend)
            return gpu_net
        found = CudaNet(net, self.device, precision, replay=True)
        if compiled:
            found.compile()
        return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--part", choices=PARTS, help="only this one")
    arguments.add_argument("--models", nargs="+", default=["small", "large", "giant"], choices=tuple(BATCHES)[:-1])
    arguments.add_argument("--smoke", action="store_true", help="a network of 4 small blocks, on the CPU")
    arguments.add_argument("--extras", action="store_true", help="of forward: fp16, one size only, cuDNN's own choice")
    arguments.add_argument("--num", type=int, default=2000, help="photos of predict")
    arguments.add_argument("--limit-s", type=float, default=570.0, help="of the whole run")
    options = arguments.parse_args()
    models = [SMOKE] if options.smoke else options.models
    if options.part:
        run_part(options.part, models, Bench(options.smoke, options.extras), 24 if options.smoke else options.num)
        return
    ends = time.monotonic() + options.limit_s
    jobs = [(part, [model]) for part in PARTS for model in models if part in PER_MODEL]
    jobs += [(part, models) for part in PARTS if part not in PER_MODEL]
    jobs = [job for part in ("kernels", "forward", "latency", "predict", "memory") for job in jobs if job[0] == part]
    for part, some in jobs:
        command = [sys.executable, __file__, "--part", part, "--num", str(options.num)]
        command += ["--smoke"] if options.smoke else ["--models", *some]
        command += ["--extras"] if options.extras else []
        left = ends - time.monotonic()
        try:
            done = subprocess.run(command, timeout=max(1.0, left)).returncode
        except subprocess.TimeoutExpired:
            done = "no time left"
        if done != 0:
            print(f"{part} {' '.join(some)}: failed ({done})", flush=True)
            if options.smoke:
                sys.exit(1)


def run_part(part: str, models: list[str], bench: Bench, num: int) -> None:
    """Print one part's table."""
    print(
        f"\n{part} {' '.join(models)}: {bench.name}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}", flush=True
    )
    if bench.smoke:
        add_smoke_row()
    with torch.inference_mode():
        {"kernels": kernels, "forward": forward, "latency": latency, "memory": memory, "predict": predict}[part](
            bench, models, num
        )


def kernels(bench: Bench, models: list[str], num: int) -> None:
    print(f"{'bf16 matrix product':34}{matrix_rate(bench.device, torch.bfloat16) / 1e12:8.0f} TFLOP/s")
    side = 256 if bench.smoke else 8192
    low = [torch.randn(side, side, device=bench.device).to(torch.float8_e4m3fn) for _ in range(2)]
    ones = torch.ones(side, 1, device=bench.device)
    how = {"out_dtype": torch.bfloat16, "use_fast_accum": True}
    product = lambda: torch._scaled_mm(low[0], low[1].t(), ones, ones.t(), **how)  # noqa: E731
    print(f"{'fp8 matrix product, scaled rows':34}{2 * side**3 / bench.seconds(product, 0.5) / 1e12:8.0f} TFLOP/s")
    for name, batch, heads in (("S", 64, 6), ("L", 32, 16)):
        batch, tokens = (1, 65) if bench.smoke else (batch, 1370)
        shape = (batch, tokens, 3, heads, 64)
        qkv = torch.randn(shape, device=bench.device, dtype=torch.bfloat16).permute(2, 0, 3, 1, 4)
        for backend in [SDPBackend.MATH] if bench.smoke else ATTENTION[:3]:
            with sdpa_kernel(backend):
                took = bench.seconds(lambda qkv=qkv: nn.functional.scaled_dot_product_attention(*qkv), 0.5)
            rate = 4 * batch * heads * tokens**2 * 64 / took / 1e12
            print(f"{f'attention {name}, {backend.name.lower()}':34}{rate:8.0f} TFLOP/s")


def forward(bench: Bench, models: list[str], num: int) -> None:
    rate = matrix_rate(bench.device, torch.bfloat16)
    print(f"{'':44}{'batch':>6}{'images/s':>10}{'MFU':>7}{'error':>9}{'ready s':>9}", flush=True)
    for name in models:
        batch, compile_peer = BATCHES[name]
        rival, net = make_pair(name, bench.device)
        flops = forward_flops(name, bench.side)
        few = bench.image(COMPARED, bench.side, bench.side)
        exact = torch.cat([net(one[None].permute(0, 3, 1, 2)) for one in few])

        def row(
            label: str,
            make: Callable[[], Callable[[Tensor], Tensor]],
            count: int,
            name: str = name,
            few: Tensor = few,
            exact: Tensor = exact,
            flops: float = flops,
        ) -> None:
            begun = time.perf_counter()
            call = make()
            image = bench.image(count, bench.side, bench.side).permute(0, 3, 1, 2)
            call(image)
            bench.wait()
            ready = time.perf_counter() - begun
            speed = count / bench.seconds(lambda: call(image))
            near = call(few.permute(0, 3, 1, 2)).float().cpu().numpy()
            error = max(map(error_of, near, exact.cpu().numpy()))
            told = f"{count:6}{speed:10.1f}{flops * speed / rate:7.2f}{error:9.1e}{ready:9.1f}"
            print(f"{name + ', ' + label:44}{told}", flush=True)
            torch._dynamo.reset()

        row("plain fp32, as official scripts run", lambda net=net: net, 1)
        peer_batch = min(batch, 32)
        low = rival.to(torch.bfloat16)
        row("transformers bf16", lambda low=low: lambda x: low(x.to(torch.bfloat16)).predicted_depth, peer_batch)
        if compile_peer:
            low = torch.compile(low, backend=bench.backend)
            label = "transformers bf16 compiled"
            row(label, lambda low=low: lambda x: low(x.to(torch.bfloat16)).predicted_depth, peer_batch)
        del rival, low
        for precision, compiled in (("bf16", False), ("bf16", True), ("fp8", True)):
            label = f"datool {precision}{' compiled' * compiled}"
            row(label, lambda net=net, p=precision, c=compiled: bench.network(net, p, c), batch)
        if not bench.extras:
            continue
        row("datool fp16 compiled", lambda net=net: bench.network(net, "fp16", True), batch)
        row("datool bf16 compiled, this size only", lambda net=net: whole(bench, net), batch)
        torch.backends.cudnn.benchmark = True
        row("datool bf16 compiled, cuDNN tried out", lambda net=net: bench.network(net, "bf16", True), batch)
        torch.backends.cudnn.benchmark = False


def whole(bench: Bench, net: DepthAnything) -> Callable[[Tensor], Tensor]:
    """Return the network compiled in one piece for each size: what open sizes and pieces cost."""
    gpu_net = GpuNet(net, "bf16", bench.device)
    call = torch.compile(gpu_net, dynamic=False, backend=bench.backend)

    def run(image: Tensor) -> Tensor:
        with sdpa_kernel(ATTENTION, set_priority=True):
            return call(image)

    return run


def latency(bench: Bench, models: list[str], num: int) -> None:
    name = models[0]
    net = make_net(name, bench.device)
    image = bench.image(1, bench.side, bench.side).permute(0, 3, 1, 2)
    for precision, compiled in (("bf16", False), ("bf16", True), ("fp8", True)):
        made = bench.network(net, precision, compiled)
        label = f"{name}, {precision}{' compiled' * compiled}"
        if isinstance(made, CudaNet):
            with sdpa_kernel(ATTENTION, set_priority=True):
                print(f"{label:34}{1000 * bench.seconds(lambda made=made: made.net(image)):8.2f} ms", flush=True)
            for _ in range(4):
                made(image)
            label += ", replayed"
        print(f"{label:34}{1000 * bench.seconds(lambda made=made: made(image)):8.2f} ms", flush=True)
        torch._dynamo.reset()


def memory(bench: Bench, models: list[str], num: int) -> None:
    if bench.smoke:
        print("memory is counted on a GPU only", flush=True)
        return
    print(f"{'':22}{'batch':>6}{'MB':>10}", flush=True)
    for name in models:
        net = make_net(name, torch.device("cuda"))
        for precision in ("bf16", "fp8"):
            for batch in (1, BATCHES[name][0]):
                torch.cuda.empty_cache()
                before = torch.cuda.memory_allocated()
                torch.cuda.reset_peak_memory_stats()
                made = GpuNet(net, precision, "cuda")
                with sdpa_kernel(ATTENTION, set_priority=True):
                    made(bench.image(batch, bench.side, bench.side).permute(0, 3, 1, 2))
                measured = (torch.cuda.max_memory_allocated() - before) / 2**20
                del made
                print(f"{name + ', ' + precision:22}{batch:6}{measured:10.0f}", flush=True)


def predict(bench: Bench, models: list[str], num: int) -> None:
    from pseudo_label import photos

    height, width = (112, 154) if bench.smoke else (518, 686)
    with tempfile.TemporaryDirectory() as folder:
        encoded = photos(None)
        paths = [Path(folder) / f"{number:06}.jpg" for number in range(num)]
        for number, path in enumerate(paths):
            path.write_bytes(encoded[number % len(encoded)])
        decode = jpeg_decoder(bench.device)
        ways = {"opencv": read_image, "device": lambda path: decode(path.read_bytes(), 1)}
        for name in models:
            net = make_net(name, bench.device)
            for precision, compiled in (("bf16", False), ("bf16", True), ("fp8", True)):
                if bench.smoke and (compiled or precision == "fp8"):
                    continue
                engine = TorchEngine(net, bench.device.type, precision)
                if compiled:
                    engine.compile()
                batch = 1 if bench.smoke else max(1, GPU_BATCH_PIXELS // (height * width))
                image = bench.image(batch, height, width)
                alone = batch / bench.seconds(lambda engine=engine, image=image: engine.run(image))
                label = f"{name}, {precision}{' compiled' * compiled}"
                print(f"{label + ', forward alone':44}{alone:10.1f} images/s", flush=True)
                for way, read in ways.items():
                    predictor = Predictor(engine, size_px=bench.side)
                    list(predictor.stream(paths[: 4 * batch], read))
                    begun = time.perf_counter()
                    done = sum(1 for _ in predictor.stream(paths, read))
                    speed = done / (time.perf_counter() - begun)
                    print(
                        f"{label + f', JPEGs by {way}':44}{speed:10.1f} images/s{speed / alone:7.2f} of it", flush=True
                    )


def add_smoke_row() -> None:
    """Add a model of 4 small blocks of DINOv2's kind to the tables."""
    options = {"embed_dim": 64, "depth": 4, "num_heads": 2}
    encoders.ENCODERS["dinov2-smoke"] = encoders.EncoderSpec("vit_small_patch14_dinov2", 14, 64, 4, 8, options=options)
    made = replace(depth_anything.MODELS["nano"], encoder="dinov2-smoke")
    depth_anything.MODELS["depth-anything-v2-smoke"] = made


def row_of(name: str) -> str:
    return f"depth-anything-v2-{name}"


def make_net(name: str, device: torch.device) -> DepthAnything:
    """Return a model of random weights on the device."""
    torch.manual_seed(0)
    with torch.device(device):
        return build_model(row_of(name)).eval()


def make_pair(name: str, device: torch.device) -> tuple[nn.Module, DepthAnything]:
    """Return the network of transformers with random weights, LayerScale near 1, and datool's with the same."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    row = depth_anything.MODELS[row_of(name)]
    with torch.device("meta"):
        vit = build_model(row_of(name)).encoder.vit
    backbone = Dinov2Config(
        hidden_size=vit.embed_dim,
        num_hidden_layers=len(vit.blocks),
        num_attention_heads=vit.blocks[0].attn.num_heads,
        use_swiglu_ffn=name == "giant",
        image_size=encoders.ENCODERS[row.encoder].grid * 14,
        patch_size=14,
        out_indices=[tap + 1 for tap in row.taps],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=vit.embed_dim,
        neck_hidden_sizes=list(row.channels),
        fusion_hidden_size=row.features,
    )
    torch.manual_seed(0)
    with torch.device(device):
        attention = {"": "eager", "backbone_config": "sdpa"}  # the head has none
        rival = DepthAnythingForDepthEstimation._from_config(config, attn_implementation=attention).eval()
    assert rival.backbone.config._attn_implementation == "sdpa"
    for key, parameter in rival.named_parameters():
        if key.endswith("lambda1"):
            nn.init.normal_(parameter, 1.0, 0.1)
    for module in (*rival.neck.modules(), *rival.head.modules()):
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.reset_parameters()  # transformers' own are so small that a map would be its last bias
    rival.head.conv3.weight.mul_(100)  # which makes the map vary about as much as it is large
    nn.init.constant_(rival.head.conv3.bias, 1.0)  # else half of the map is the ReLU's zero
    layout, state = recognise(rival.state_dict(), "transformers")
    ours, unknown = translate(state, layout)
    assert not unknown, unknown
    net = make_net(name, device)
    net.load_state_dict({key: tensor.clone() for key, tensor in ours.items()})
    return rival, net


def forward_flops(name: str, side: int) -> float:
    """Return the operations of one picture: multiply-adds count twice."""
    with torch.device("meta"):
        net = build_model(row_of(name)).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        net.to_empty(device="cpu")
        net(torch.empty(1, 3, side, side))
    return counter.get_total_flops()


if __name__ == "__main__":
    main()
