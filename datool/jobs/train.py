"""One training loop for every recipe."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from datool.data.dataset import Scenes
from datool.data.sample import Batch
from datool.data.transforms import NUM_COLOUR_DRAWS, NUM_WINDOW_DRAWS, colour, disparity_target, window
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.estimators.predictor import choose_device
from datool.evaluation.metrics import score_disparity
from datool.files import write_bytes
from datool.models.depth_anything import DepthAnything, build_model
from datool.models.weights import save
from datool.training.checkpoint import load_checkpoint, save_checkpoint
from datool.training.objectives import LabelledObjective
from datool.training.recipes import Recipe, read_recipe, write_recipe

Log = dict[str, Any]


@dataclass(frozen=True)
class TrainSummary:
    """What a run left behind.

    Args:
        weights: the best averaged weights, fp16 safetensors.
        steps: optimiser steps done, over all resumes.
        abs_rel, delta1: of those weights on held-out scenes.
        seconds: of this call.
    """

    weights: Path
    steps: int
    abs_rel: float
    delta1: float
    seconds: float


def train(
    recipe: Recipe,
    out: Path,
    resume: bool = False,
    device: str = "auto",
    progress: Callable[[Log], None] | None = None,
) -> TrainSummary:
    """Train a model on rendered scenes, and keep the averaged weights that do best on held-out ones.

    Writes ``recipe.json``, ``log.jsonl``, ``last.ckpt`` and ``best.safetensors`` into ``out``. A run that is killed
    goes on from ``last.ckpt`` with ``resume``, bit for bit on a CPU.

    Args:
        recipe: what to train on what; with ``resume`` the one that ``out`` holds is used.
        out: folder of this run alone.
        resume: go on with the run in ``out``.
        device: as for `datool.estimators.predictor.choose_device`.
        progress: called with each line of the log.
    Raises:
        DatoolError: ``out`` holds another run, nothing to resume, or the loss is no longer finite.
    """
    started = time.monotonic()
    if resume:
        recipe = read_recipe(str(out / "recipe.json"))
    elif (out / "recipe.json").exists():
        raise DatoolError(f"{out} holds a run already.", "Resume it with --resume, or choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / "recipe.json", write_recipe(recipe).encode())
    run = _Run(recipe, choose_device(device))
    if resume:
        run.restore(load_checkpoint(out / "last.ckpt", run.device))
    with open(out / "log.jsonl", "a") as log:

        def report(line: Log) -> None:
            log.write(json.dumps(line) + "\n")
            log.flush()
            if progress:
                progress(line)

        while run.step < recipe.steps:
            stops = (run.step // every * every + every for every in (recipe.log_every, recipe.validate_every))
            losses, rate = run.advance(min(*stops, recipe.steps) - run.step)
            report({"step": run.step, **losses, "lr": run.scheduler.get_last_lr()[0], "images_per_s": round(rate, 1)})
            if run.step % recipe.validate_every == 0 or run.step == recipe.steps:
                scores = run.validate()
                report({"step": run.step, **scores})
                if scores["abs_rel"] < run.best["abs_rel"]:
                    run.best = scores
                    save(out / "best.safetensors", run.averaged_model, recipe.model, half=True)
                save_checkpoint(out / "last.ckpt", run.state())
    elapsed = time.monotonic() - started
    return TrainSummary(out / "best.safetensors", run.step, run.best["abs_rel"], run.best["delta1"], elapsed)


class _Run:
    """Model, optimiser, data and position of one run."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device, self.step = recipe, device, 0
        self.best = {"abs_rel": math.inf, "delta1": 0.0}
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            self.model = build_model(recipe.model).to(device).to(memory_format=torch.channels_last)
        self.averaged = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))
        self.averaged.eval()
        self.optimizer = torch.optim.AdamW(_parameter_groups(self.model, recipe), betas=(0.9, 0.99))
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: _schedule(step, recipe))
        self.objective = LabelledObjective(recipe.ssi, recipe.gradient_weight)
        self.scenes = Scenes(recipe.seed, recipe.num_scenes, recipe.scene_px, device)
        # Held-out scenes come from another seed, so no number of training scenes reaches them.
        self.held_out = Scenes(recipe.seed + 1, recipe.num_validation, recipe.scene_px, device)
        row = self.model.encoder.row
        self.mean = torch.tensor(row.mean, device=device)[:, None, None]
        self.std = torch.tensor(row.std, device=device)[:, None, None]

    def advance(self, steps: int) -> tuple[dict[str, float], float]:
        """Take that many steps; return the mean losses and images/s."""
        started = time.monotonic()
        sums: dict[str, float] = {}
        self.model.train()
        for _ in range(steps):
            batch = self._batch()
            with self._autocast():
                prediction = self.model(self._normalise(batch.image))
            losses = self.objective(prediction.float(), batch)
            if not losses["loss"].isfinite():
                raise DatoolError(f"the loss is {losses['loss']:g} at step {self.step}.", "Lower the learning rate.")
            self.optimizer.zero_grad()
            losses["loss"].backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
            self.optimizer.step()
            self.scheduler.step()
            self.averaged.update_parameters(self.model)
            self.step += 1
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.item()
        rate = steps * self.recipe.batch_size / (time.monotonic() - started)
        return {name: total / steps for name, total in sums.items()}, rate

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Score the averaged weights on the held-out scenes, at the size that training ends at."""
        scores = []
        _, *size = self.recipe.sizes[-1]
        for start in range(0, self.recipe.num_validation, self.recipe.batch_size):
            numbers = torch.arange(start, min(start + self.recipe.batch_size, self.recipe.num_validation))
            image, depth = self.held_out.get(numbers)
            image, depth = window(image, depth, size, 1.0, torch.full((len(image), NUM_WINDOW_DRAWS), 0.5))
            with self._autocast():
                prediction = self.averaged(self._normalise(image)).float()
            for pred, truth in zip(prediction.cpu().numpy(), depth.cpu().numpy(), strict=True):
                row = self.model.row
                scores.append(
                    score_disparity(
                        DepthMap(pred, row.quantity, row.ambiguity), DepthMap(truth, Quantity.DEPTH, Ambiguity.NONE)
                    )
                )
        return {
            "abs_rel": sum(score.abs_rel for score in scores) / len(scores),
            "delta1": sum(score.delta1 for score in scores) / len(scores),
        }

    @property
    def averaged_model(self) -> DepthAnything:
        """The model with the averaged weights."""
        model = self.averaged.module
        assert isinstance(model, DepthAnything)
        return model

    def state(self) -> dict[str, Any]:
        """Return all that `restore` needs."""
        parts = ("model", "averaged", "optimizer", "scheduler")
        return {part: getattr(self, part).state_dict() for part in parts} | {"step": self.step, "best": self.best}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the state of an earlier run of the same recipe."""
        for part in ("model", "averaged", "optimizer", "scheduler"):
            getattr(self, part).load_state_dict(state[part])
        self.step, self.best = state["step"], state["best"]

    def _batch(self) -> Batch:
        recipe = self.recipe
        start = self.step * recipe.batch_size
        image, depth = self.scenes.get(self.scenes.numbers(start, recipe.batch_size))
        draws = _draws(recipe.seed, start, recipe.batch_size).to(self.device)
        image, depth = window(image, depth, self._size(), recipe.zoom, draws[:, :NUM_WINDOW_DRAWS])
        target, valid = disparity_target(depth)
        return Batch(colour(image, recipe.colour, draws[:, NUM_WINDOW_DRAWS:]), target, valid)

    def _size(self) -> tuple[int, int]:
        return next((h, w) for share, h, w in reversed(self.recipe.sizes) if self.step >= share * self.recipe.steps)

    def _normalise(self, image: Tensor) -> Tensor:
        return ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16)


def _draws(seed: int, start: int, count: int) -> Tensor:
    """Return uniform draws (count, K), each row a function of (seed, number of the sample in the run)."""
    rows = []
    for sample in range(start, start + count):
        generator = torch.Generator().manual_seed((seed << 40) + sample)
        rows.append(torch.rand(NUM_WINDOW_DRAWS + NUM_COLOUR_DRAWS, generator=generator))
    return torch.stack(rows)


def _schedule(step: int, recipe: Recipe) -> float:
    """Return the share of the peak learning rate: linear warm-up, then a cosine down to 0."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)))


def _parameter_groups(model: DepthAnything, recipe: Recipe) -> list[dict[str, Any]]:
    """Split parameters by part (learning rate) and shape (norms, biases and positions do not decay)."""
    groups = []
    for part, lr in ((model.encoder, recipe.lr_encoder), (model.head, recipe.lr_head)):
        for decays in (True, False):
            chosen = [p for n, p in part.named_parameters() if (p.ndim > 1 and "pos_embed" not in n) is decays]
            groups.append({"params": chosen, "lr": lr, "weight_decay": recipe.weight_decay if decays else 0.0})
    return groups
