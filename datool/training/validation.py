"""Scores of a model on held-out data while it trains, through the evaluation's own code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from datool.data.batches.rendered import Scenes
from datool.data.batches.transforms import NUM_WINDOW_DRAWS, window
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.evaluation.protocols import PROTOCOLS, Protocol, score
from datool.models.specs import ModelSpec
from datool.training.recipe import Recipe

Scores = dict[str, float]
# What is told while training; `datool eval` tells all.
METRICS = ("abs_rel", "delta1")


def protocol_of(spec: ModelSpec) -> Protocol:
    """Return how a model is scored: after a fit of scale and shift in disparity, or in metres as it is.

    The scale is not negative, as it may be in the published protocol: a model that has near and far exchanged must not
    be kept as the best.
    """
    if spec.max_depth_m is None:
        return replace(PROTOCOLS["lsq-disparity"], alignment="least-squares-positive", metrics=METRICS)
    return replace(PROTOCOLS["v2-metric"], far=spec.max_depth_m, metrics=METRICS)


def mean_scores(pairs: Iterator[tuple[np.ndarray, DepthMap]], spec: ModelSpec) -> Scores:
    """Return the mean of each metric over the images that can be scored, and how many cannot be, if any.

    Args:
        pairs: prediction (h, w) float32 and truth of its aspect.
        spec: of the model that predicts.
    """
    found, protocol, unscored = [], protocol_of(spec), 0
    for values, truth in pairs:
        try:
            found.append(score(DepthMap(values, spec.quantity, spec.ambiguity), truth, protocol).values)
        except DatoolError:  # a model that is young gives anything: counted
            unscored += 1
    means = {name: float(np.mean([values[name] for values in found])) for name in METRICS} if found else {}
    return means | ({"unscored": unscored} if unscored else {})


def better(scores: Scores, best: Scores) -> bool:
    """Tell whether scores are above the best so far: more images scored, or the same number with less error."""
    return "abs_rel" in scores and (not best or _rank(scores) < _rank(best))


def _rank(scores: Scores) -> tuple[float, float]:
    return scores.get("unscored", 0), scores.get("abs_rel", math.inf)


class RenderedHoldout:
    """Rendered scenes that no training run sees.

    Args:
        recipe: their number and sizes.
        device: where they are rendered and kept.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        # Another seed, so that no number of training scenes reaches them.
        self.scenes = Scenes(recipe.seed + 1, recipe.num_validation, recipe.scene_px, device)
        self.recipe = recipe

    def __call__(self, spec: ModelSpec, predict: Callable[[Tensor], Tensor]) -> Scores:
        """Return the mean scores of a model at the size that training ends at.

        Args:
            spec: of the model.
            predict: RGB in [0, 1], (B, 3, H, W) -> (B, H, W).
        """
        return mean_scores(self._pairs(predict), spec)

    def _pairs(self, predict: Callable[[Tensor], Tensor]) -> Iterator[tuple[np.ndarray, DepthMap]]:
        _, *size = self.recipe.sizes[-1]
        for start in range(0, self.recipe.num_validation, self.recipe.batch_size):
            numbers = torch.arange(start, min(start + self.recipe.batch_size, self.recipe.num_validation))
            image, depth = self.scenes.get(numbers)
            image, depth = window(image, depth, size, 1.0, torch.full((len(image), NUM_WINDOW_DRAWS), 0.5))
            for pred, truth in zip(predict(image).cpu().numpy(), depth.cpu().numpy(), strict=True):
                yield pred, DepthMap(truth, Quantity.DEPTH, Ambiguity.NONE)
