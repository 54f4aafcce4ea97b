"""What a recipe's learning rates become: parameter groups, an optimizer, a schedule, an average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from datool.errors import lookup
from datool.models.depth_anything import DepthAnything
from datool.training.recipe import Recipe


def make_optimizer(model: DepthAnything, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimizer over the parameters that are trained, with the peak learning rates.

    Everything outside of the encoder learns at ``lr_head``. Norms, biases and positions do not decay. On a GPU the
    step is one fused kernel.

    Raises:
        DatoolError: unknown optimizer.
    """
    kind = lookup(OPTIMIZERS, recipe.optimizer, "optimizer")
    fused = next(model.parameters()).device.type == "cuda"
    return kind(_groups(model, recipe), betas=recipe.betas, fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, steps: int) -> None:
    """Give each group its learning rate of the step that comes; a function of the step alone, so nothing is stored."""
    share = schedule_share(recipe, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share


def schedule_share(recipe: Recipe, step: int, steps: int) -> float:
    """Return the share of the peak learning rate: a linear rise over ``warmup`` steps, then the schedule.

    Args:
        recipe: names the schedule.
        step: steps done.
        steps: of the whole run.
    Raises:
        DatoolError: unknown schedule.
    """
    schedule = lookup(SCHEDULES, recipe.schedule, "schedule")
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return schedule((step - recipe.warmup) / max(1, steps - recipe.warmup), recipe.power)


@torch.no_grad()
def average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights towards those of the model: decay * averaged + (1 - decay) * model.

    Means and variances of batch norms, which are averages themselves, are taken as they are.
    """
    torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - decay)
    for ours, theirs in zip(averaged.buffers(), model.buffers(), strict=True):
        ours.copy_(theirs)


def _groups(model: DepthAnything, recipe: Recipe) -> list[dict[str, Any]]:
    """Split parameters by part (learning rate) and shape (weight decay)."""
    groups = []
    for lr, of_encoder in ((recipe.lr_encoder, True), (recipe.lr_head, False)):
        part = [
            (name, parameter)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and name.startswith("encoder.") is of_encoder
        ]
        for decays in (True, False):
            chosen = [p for name, p in part if (recipe.decay_all or _is_matrix(name, p)) is decays]
            if chosen:
                decay = recipe.weight_decay if decays else 0.0
                groups.append({"params": chosen, "lr": lr, "peak": lr, "weight_decay": decay})
    return groups


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and not name.endswith(("pos_embed", "_token"))


def _cosine(done: float, power: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


def _poly(done: float, power: float) -> float:
    return max(0.0, 1 - done) ** power


def _one_cycle(done: float, power: float) -> float:
    """The peak for 70 % of the way, then half a cosine to a ten-thousandth: PyTorch's OneCycleLR with div_factor 1."""
    last = 1e-4
    return 1.0 if done < 0.7 else last + (1 - last) * _cosine((done - 0.7) / 0.3, power)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    # Weight decay apart from the gradient: V1 and the metric script.
    "adamw": torch.optim.AdamW,
    # V2 says Adam; weight decay, if any, is part of the gradient.
    "adam": torch.optim.Adam,
}
# Share of the way from warm-up to the end -> share of the peak learning rate.
SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "constant": lambda done, power: 1.0,
    "cosine": _cosine,
    # Power 1 is V1's linear decay, 0.9 the metric script's.
    "poly": _poly,
    # V1's metric fine-tune (metric_depth/zoedepth/models/zoedepth/config_zoedepth.json).
    "one-cycle": _one_cycle,
}
