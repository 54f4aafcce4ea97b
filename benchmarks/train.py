"""datool's training step against modules of transformers: same weights, batch, loss and machine, in one run.

    python benchmarks/train.py --device cuda --batch-size 32 --steps 30             # Small, Base, Large at 518
    python benchmarks/train.py --models small --size 98 --batch-size 2 --steps 3    # that it works, on a CPU

The step is the V2 student's: forward and backward of the student, forward of the frozen DINOv2, the losses of recipe
``student-v2`` (of datool, for both), clipping, Adam. Weights are random and the same for both; the first losses must
agree, or nothing is measured. The batch lies ready on the device: reading is not timed. Contenders:

- ``datool``: `datool.training.trainer.Trainer`, with ``torch.compile`` on a GPU (--eager: without);
- ``transformers``: DepthAnythingForDepthEstimation and Dinov2Model with SDPA under autocast, torch.optim.Adam;
- ``transformers compiled``: the same under torch.compile, with --compiled.

``slower`` is the time of a step over datool's; ``utilisation`` is (3 x student + 1 x frozen encoder, forward
operations) / time / the rate of a matrix product in the same precision, measured here and now.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    Dinov2Model,
)
from transformers.utils.logging import disable_progress_bar

from datool.data.sample import Batch
from datool.models.depth_anything import build_model
from datool.models.encoders import build_encoder
from datool.models.specs import MODELS, WEIGHT_FILES
from datool.models.weights import load, load_encoder
from datool.training.budget import matrix_rate
from datool.training.distributed import Ranks
from datool.training.objectives import make_objective
from datool.training.recipes import RECIPES, Recipe
from datool.training.trainer import PRECISIONS, Trainer

# Width, blocks, heads.
SIZES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
SAME_LOSS = 0.02


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--models", nargs="+", default=list(SIZES), choices=SIZES)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--precision", default="bf16", choices=PRECISIONS)
    arguments.add_argument("--size", type=int, default=518, help="side of the pictures, in pixels")
    arguments.add_argument("--batch-size", type=int, default=8)
    arguments.add_argument("--steps", type=int, default=20, help="timed, of each contender")
    arguments.add_argument("--warm-up", type=int, default=3, help="steps before those")
    arguments.add_argument("--eager", action="store_true", help="datool without torch.compile")
    arguments.add_argument("--compiled", action="store_true", help="transformers with torch.compile too")
    options = arguments.parse_args()
    disable_progress_bar()
    device = torch.device(options.device)
    rate = matrix_rate(device, PRECISIONS[options.precision])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}, {options.precision} matrix product {rate / 1e12:.3g} TFLOP/s")
    print(f"student-v2 step at {options.size}x{options.size}, batch {options.batch_size}, {options.steps} steps timed")
    print(f"{'':30}{'images/s':>10}{'slower':>8}{'utilisation':>13}{'peak GiB':>10}{'first loss':>12}")
    for model in options.models:
        measure(model, options, device, rate)


def measure(name: str, options: argparse.Namespace, device: torch.device, rate: float) -> None:
    """Print a table row a contender."""
    recipe = replace(
        RECIPES["student-v2"],
        model=f"depth-anything-v2-{name}",
        batch_size=options.batch_size,
        pseudo_batch=options.batch_size,
        precision=options.precision,
        compile=device.type == "cuda" and not options.eager,
    )
    batch = make_batch(options.batch_size, options.size, device)
    flops = forward_flops(recipe, options.size)
    contenders = {"datool": datool_step, "transformers": transformers_step}
    if options.compiled:
        contenders["transformers compiled"] = compiled_step
    found: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_weights(Path(folder), name)
        for contender, make in contenders.items():
            step = make(recipe, Path(folder), batch, device)
            found[contender] = loss, seconds = timed(step, options, device)
            peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
            first_loss, first_seconds = found["datool"]
            assert abs(loss / first_loss - 1) < SAME_LOSS, f"{contender}: first loss {loss}, datool's {first_loss}"
            used = flops * options.batch_size / seconds / rate
            speed = f"{options.batch_size / seconds:10.2f}{seconds / first_seconds:8.2f}{used:13.2f}"
            print(f"{name + ', ' + contender:30}{speed}{peak:10.1f}{loss:12.4f}", flush=True)
            del step
            gc.collect()
            torch._dynamo.reset()
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()


def timed(step: Callable[[], float], options: argparse.Namespace, device: torch.device) -> tuple[float, float]:
    """Return the loss of the first step, and seconds a step; on a CPU, which others may use, of its own time."""
    first = step()
    for _ in range(options.warm_up - 1):
        step()
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    started = clock()
    for _ in range(options.steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return first, (clock() - started) / options.steps


def make_batch(count: int, size: int, device: torch.device) -> Batch:
    """Return noise with pseudo labels, half of it mixed."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(count, 3, size, size, generator=generator).to(memory_format=torch.channels_last)
    coarse = torch.rand(count, 1, 9, 9, generator=generator)
    target = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)[:, 0]
    region = torch.ones(count, size, size, dtype=torch.bool)
    region[::2, size // 4 : size // 2, size // 4 : size // 2] = False
    batch = Batch.of(image, target, torch.ones_like(region), image.clone())
    return replace(batch, region=region, pseudo=torch.ones(count, dtype=torch.bool)).to(device)


def forward_flops(recipe: Recipe, size: int) -> float:
    """Return the operations an image: three times the student's forward (two for backward), once the encoder's."""
    counts = []
    with torch.device("meta"):
        student = build_model(recipe.model)
    with FakeTensorMode(allow_non_fake_inputs=True):  # sizes without content
        student.to_empty(device="cpu")
        image = torch.empty(1, 3, size, size)
        for network, inputs in ((student, (image,)), (student.encoder, (image, student.spec.taps[-1:]))):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                network(*inputs)
            counts.append(counter.get_total_flops())
    return 3 * counts[0] + counts[1]


def write_weights(folder: Path, name: str) -> None:
    """Write a student and a frozen encoder with random weights, as on the hub."""
    row = MODELS[f"depth-anything-v2-{name}"]
    width, blocks, heads = SIZES[name]
    shape = {"hidden_size": width, "num_hidden_layers": blocks, "num_attention_heads": heads}
    common = {**shape, "image_size": 518, "patch_size": 14}
    torch.manual_seed(0)
    config = DepthAnythingConfig(
        backbone_config=Dinov2Config(**common, out_indices=[tap + 1 for tap in row.taps], reshape_hidden_states=False),
        reassemble_hidden_size=width,
        neck_hidden_sizes=list(row.channels),
        fusion_hidden_size=row.features,
    )
    student = DepthAnythingForDepthEstimation(config)
    # Random heads end in a ReLU that may be dead: then there is no step to time.
    student.head.conv3.bias.data.fill_(0.5)
    student.save_pretrained(folder / "student")
    Dinov2Model(Dinov2Config(**common)).save_pretrained(folder / "encoder")


class Repeated:
    """One batch at every step."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def batches(self, step: int) -> Iterator[Batch]:
        return repeat(self.batch)


def make_losses(recipe: Recipe, encoder: torch.nn.Module | None):
    return make_objective(recipe, encoder, -1 if encoder is None else encoder.spec.num_blocks - 1)


def datool_step(recipe: Recipe, folder: Path, batch: Batch, device: torch.device) -> Callable[[], float]:
    frozen = build_encoder(MODELS[recipe.model].encoder)
    load_encoder(folder / "encoder" / WEIGHT_FILES[0], frozen)
    frozen = frozen.to(device).to(memory_format=torch.channels_last)
    if recipe.compile:
        frozen.compile()
    data = Repeated(batch)
    build = lambda: load(folder / "student", row=recipe.model).model.train()  # noqa: E731
    trainer = Trainer(recipe, recipe.steps, build, make_losses(recipe, frozen), data, Ranks(device))
    batches = data.batches(0)
    return lambda: trainer.take(0, batches).losses["loss"]


def transformers_step(
    recipe: Recipe, folder: Path, batch: Batch, device: torch.device, compiled: bool = False
) -> Callable[[], float]:
    attention = {"": "eager", "backbone_config": "sdpa"}  # the head has none
    student = DepthAnythingForDepthEstimation.from_pretrained(folder / "student", attn_implementation=attention)
    student = student.to(device).train()
    assert student.backbone.config._attn_implementation == "sdpa"
    frozen = Dinov2Model.from_pretrained(folder / "encoder", attn_implementation="sdpa").to(device).eval()
    optimizer = torch.optim.Adam(
        [
            {"params": student.backbone.parameters(), "lr": recipe.lr_encoder},
            {"params": [*student.neck.parameters(), *student.head.parameters()], "lr": recipe.lr_head},
        ],
        betas=recipe.betas,
    )
    row = MODELS[recipe.model]
    objective = make_losses(recipe, AsEncoder(frozen, row.encoder))
    mean, std = objective.alignment._mean, objective.alignment._std
    patches = batch.image.shape[-1] // 14
    network = torch.compile(forward) if compiled else forward
    if compiled:
        frozen.compile()

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            prediction, tokens = network(student, (batch.image - mean) / std, patches)
            loss = objective(prediction.float(), tokens, batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), recipe.clip)
        optimizer.step()
        return loss.item()

    return step


def compiled_step(recipe: Recipe, folder: Path, batch: Batch, device: torch.device) -> Callable[[], float]:
    return transformers_step(recipe, folder, batch, device, compiled=True)


def forward(student: DepthAnythingForDepthEstimation, image: torch.Tensor, patches: int):
    """Return prediction (B, H, W) and the last tap's tokens (B, C, h, w), as its own forward computes them."""
    states = student.backbone.forward_with_filtered_kwargs(image).feature_maps
    prediction = student.head(student.neck(states, patches, patches), patches, patches)
    return prediction, as_map(states[-1], patches)


def as_map(tokens_bnc: torch.Tensor, patches: int) -> torch.Tensor:
    """Return (B, C, h, w) of tokens whose first is the class token."""
    return tokens_bnc[:, 1:].transpose(1, 2).unflatten(2, (patches, patches))


class AsEncoder(torch.nn.Module):
    """A Dinov2Model that is called as datool's encoders are."""

    def __init__(self, network: Dinov2Model, name: str) -> None:
        super().__init__()
        self.network, self.row = network, build_row(name)

    def forward(self, image: torch.Tensor, taps: tuple[int, ...]) -> list[torch.Tensor]:
        return [as_map(self.network(image).last_hidden_state, image.shape[-1] // 14)]


def build_row(name: str):
    from datool.models.encoders import encoder_spec

    return encoder_spec(name)


if __name__ == "__main__":
    main()
