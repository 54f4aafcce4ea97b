"""How large a student's output grows, and why: `python benchmarks/magnitude.py --out magnitude.png`.

People who rebuilt Depth Anything V2's student saw its output grow without bound (Distill-Any-Depth issue 36). The
losses are blind to the output's scale, so their slope is at a right angle to the output, and a step at a right angle
only ever makes it longer: nothing pulls it back. Runs of `nano-student-v2` on the same rendered scenes, which differ in
one thing each, tell whether that is the cause. Keeping the head's weights at the length that they began with slows the
growth in one seed and leaves it in the other, so it is not those alone that grow. Where the slope is not at a right
angle (the fit taken as a constant, as some write it) the output shrinks instead, in the end to nothing. One term that
holds the scale holds it: `student-v2-stable`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from datool.data.batches.rendered import RenderedBatches
from datool.models.depth_anything import DepthAnything
from datool.training.distributed import process_group
from datool.training.init_weights import init_model
from datool.training.losses import align_least_squares, masked_mean
from datool.training.objectives import PIXEL, SSI, make_objective
from datool.training.recipes import RECIPES, Recipe
from datool.training.trainer import Trainer
from datool.training.validation import RenderedHoldout

SIZE = (42, 42)
EVERY = 10  # steps between two looks at the output

# V2's student as published, but for what needs photos, at a constant learning rate.
STUDENT = replace(
    RECIPES["nano-student-v2"], batch_size=8, pseudo_batch=8, augment=None, cutmix=0.0, flip=0.0, optimizer="adam",
    betas=(0.9, 0.999), weight_decay=0.0, schedule="constant", warmup=0, precision="fp32", ema=0.99,
    scene_px=(56, 70), sizes=((0.0, *SIZE),), num_scenes=256, num_validation=64, size_px=SIZE,
)  # fmt: skip


def detached(pred: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return least squares whose scale and shift are taken as constants, as some write it."""
    fixed = pred.detach()
    fit = align_least_squares(fixed, target, valid)
    scale = (fit - masked_mean(fit, valid)[:, None, None]).std((1, 2)) / fixed.std((1, 2)).clamp(min=1e-6)
    residual = torch.where(valid, fit + scale[:, None, None] * (pred - fixed) - target, 0)
    return masked_mean(residual.square(), valid) / 2, residual


@dataclass(frozen=True)
class Run:
    """One thing that differs."""

    name: str
    ssi: str = "least-squares"
    anchor: float = 0.0
    held: bool = False


RUNS = (
    Run("least squares, as published"),
    Run("median", ssi="median"),
    Run("least squares, head's weights kept in length", held=True),
    Run("least squares, no slope through the fit", ssi="detached"),
    Run("least squares + anchor: student-v2-stable", anchor=RECIPES["student-v2-stable"].anchor_weight),
)
COLOURS = ((200, 60, 20), (40, 140, 230), (150, 60, 150), (130, 130, 130), (60, 150, 40))


class Labelled(RenderedBatches):
    """Rendered scenes whose truth stands for a teacher's labels."""

    def batches(self, step: int):
        """Yield batches of pseudo-labelled samples."""
        for batch in super().batches(step):
            yield replace(batch, pseudo=torch.ones_like(batch.pseudo))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=2, help="initial weights to average over")
    parser.add_argument("--out", type=Path, help="PNG of the curves")
    options = parser.parse_args()
    SSI["detached"], PIXEL["detached"] = detached, PIXEL["least-squares"]
    data = Labelled(
        STUDENT.seed, STUDENT.num_scenes, STUDENT.scene_px, STUDENT.sizes, STUDENT.zoom, STUDENT.colour,
        STUDENT.batch_size, options.steps,
    )  # fmt: skip
    holdout = RenderedHoldout(STUDENT, torch.device("cpu"))
    curves = {}
    for run in RUNS:
        started = time.process_time()
        recipe = replace(STUDENT, ssi=run.ssi, anchor_weight=run.anchor, steps=options.steps)
        found = [trained(replace(recipe, seed=seed), run.held, data, holdout) for seed in range(options.seeds)]
        curves[run.name] = [spreads for spreads, _ in found]
        growth = ", ".join(f"{each[len(each) // 5]:.3f} -> {each[-1]:.3f}" for each in curves[run.name])
        errors = ", ".join(f"{scores['abs_rel']:.4f}" for _, scores in found)
        seconds = time.process_time() - started
        print(f"{run.name:46} spread {growth}   held-out AbsRel {errors}   ({seconds:.0f} s of CPU)", flush=True)
    if options.out:
        cv2.imwrite(str(options.out), plot(curves))


def trained(
    recipe: Recipe, held: bool, data: RenderedBatches, holdout: RenderedHoldout
) -> tuple[np.ndarray, dict[str, float]]:
    """Return the mean spread of the output of held-out scenes over the steps, and the averaged model's scores."""
    with process_group(torch.device("cpu")) as ranks:
        objective = make_objective(recipe, None, -1)
        trainer = Trainer(recipe, recipe.steps, lambda: init_model(recipe), objective, data, ranks)
        probe = holdout.scenes.get(torch.arange(8))[0][..., : SIZE[0], : SIZE[1]]
        keep = kept_lengths(trainer.model) if held else lambda: None
        spreads, batches = [], data.batches(0)
        for step in range(recipe.steps):
            trainer.take(step, batches)
            keep()
            if step % EVERY == EVERY - 1:
                spreads.append(float(trainer.predict(probe, trainer.model).std((1, 2)).mean()))
        model = trainer.kept()
        return np.array(spreads), holdout(model.spec, lambda image: trainer.predict(image, model))


def kept_lengths(model: DepthAnything) -> Callable[[], None]:
    """Return what brings each layer of the head back to the length that its weights have now."""
    layers = [layer for layer in model.head.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    lengths = [layer.weight.detach().norm() for layer in layers]

    @torch.no_grad()
    def keep() -> None:
        for layer, length in zip(layers, lengths, strict=True):
            layer.weight *= length / layer.weight.norm()

    return keep


def plot(curves: dict[str, list[np.ndarray]]) -> np.ndarray:
    """Return (H, W, 3) uint8 BGR: spread of the output, logarithmic, over steps; a line a seed."""
    height, width, left, bottom = 480, 760, 70, 140
    picture = np.full((height, width, 3), 255, np.uint8)
    logs = {name: [np.log10(np.maximum(each, 1e-4)) for each in seeds] for name, seeds in curves.items()}
    low = np.floor(min(each.min() for seeds in logs.values() for each in seeds))
    high = np.ceil(max(each.max() for seeds in logs.values() for each in seeds))

    def text(words: str, x: int, y: int, colour: tuple[int, int, int] = (60, 60, 60)) -> None:
        cv2.putText(picture, words, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)

    def down(value: np.ndarray | float) -> np.ndarray | float:
        return 20 + (height - bottom - 20) * (1 - (value - low) / (high - low))

    for power in range(int(low), int(high) + 1):
        cv2.line(picture, (left, round(down(power))), (width - 10, round(down(power))), (225, 225, 225), 1)
        text(f"1e{power}", 14, round(down(power)) + 5)
    steps = EVERY * len(next(iter(curves.values()))[0])
    text("spread of the output (standard deviation) over steps", left, 14)
    text(str(steps), width - 50, height - bottom + 18)
    for number, (name, seeds) in enumerate(logs.items()):
        for values in seeds:
            x = left + np.arange(len(values)) / max(1, len(values) - 1) * (width - left - 10)
            points = np.stack([x, down(values)], 1).round().astype(np.int32)
            cv2.polylines(picture, [points], False, COLOURS[number], 2, cv2.LINE_AA)
        text(name, left, height - bottom + 40 + 20 * number, COLOURS[number])
    return picture


if __name__ == "__main__":
    main()
