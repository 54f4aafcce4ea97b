"""Which losses a stage adds up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from datool.data.sample import Batch
from datool.errors import DatoolError, lookup
from datool.models.encoders import Encoder
from datool.training.losses import (
    drop_largest,
    feature_alignment,
    gradient_matching,
    masked_mean,
    scale_anchor,
    silog,
    ssi_mae,
    ssi_mse,
    ssi_trimmed,
)
from datool.training.recipe import Recipe

Losses = dict[str, Tensor]
SEES = ("augmented", "clean")


@dataclass(frozen=True)
class Relative:
    """Scale-and-shift-invariant loss plus gradient matching; of a mixed picture each part by itself, weighted by area.

    Which form, and how much of gradient matching, decides whether a model from random weights learns at all. Here is
    what a prediction costs, where a constant map costs 1, by its correlation with the target (60 rendered scenes, their
    disparity mixed with another scene's):

        correlation            -0.7     0   0.4   0.7   0.9
        least-squares x 2      1.92  1.00  1.13  0.96  0.58    V2's text
        least-squares x 0.5    2.01  1.00  1.08  0.89  0.52
        trimmed x 0.5          2.20  1.83  1.43  1.02  0.60    Video Depth Anything's released loss
        median x 2             2.19  1.81  1.41  0.99  0.58
        median x 0.5           2.04  1.64  1.29  0.92  0.55    the recipes here

    By least squares a prediction that does not correlate is scaled down to a constant map, and that is cheaper than to
    be half right: a valley that a run may never leave. The others bring every prediction to the target's own spread, so
    that whatever correlates better costs less. And least squares as published, of which the scale may be negative,
    does not tell near from far: see `align_least_squares`.

    And so it is in training: AbsRel on 50 rendered scenes / 24 images of 9 real and rendered scenes, all held out, of a
    `nano` after 100 steps of 8 at 56 pixels, one seed (`benchmarks/losses.py`). A constant map has .395 / .410, "lower
    in the picture is nearer" .330 / .343. "Signed" is least squares as published.

        began from             labels of a nano   random encoder   pretrained encoder
        signed x 2                  .357 / .386      .387 / .400
        least-squares x 2           .323 / .343      .379 / .369          .385 / .410
        least-squares x 0.5         .306 / .333      .317 / .344
        trimmed x 0.5               .291 / .322      .329 / .332
        median x 2                  .292 / .322      .321 / .340
        median x 0.5                .295 / .321      .324 / .361          .301 / .322

    At their last steps predictions of the first two correlated with their targets by -0.02 to 0.10, on labels by 0.34
    and 0.97; those of the others by 0.47 to 0.99. With another seed the text's loss ended at 0.02 (.392 / .408) on
    labels and 0.01 (.394 / .408) from a random encoder, median x 0.5 at 0.98 (.302 / .326) and 0.51. Of the median
    forms, which learn alike, this is the authors' weight.

    Args:
        ssi: key of `SSI`.
        gradient_weight: weight of gradient matching; 0 leaves it out.
        drop_share: share of the pixels with the largest scale-and-shift-invariant loss that is left out.
        drop_gradient: whether gradient matching leaves them out too.
        anchor_weight: weight of `scale_anchor`.
    """

    ssi: str
    gradient_weight: float
    drop_share: float = 0.0
    drop_gradient: bool = True
    anchor_weight: float = 0.0

    def __call__(self, pred: Tensor, batch: Batch, mixed: bool) -> Losses:
        """Return the loss of each image and its parts, (B,) each.

        Args:
            pred: (B, H, W) disparity, any scale and shift.
            batch: what is true of it.
            mixed: whether any picture may have a part of another in it.

        Source: Yang et al. 2024 (Depth Anything V1), arXiv:2401.10891, equations 6-8 (the parts of a mixed picture).
        """
        inside = batch.valid & batch.region
        losses = self._part(pred, batch, inside)
        if mixed:
            outside = batch.valid & ~batch.region
            other = self._part(pred, batch, outside)
            area = batch.region.flatten(1).float().mean(1)
            # A part of which nothing is known is left out, as an image is.
            own, rest = area * _known(inside), (1 - area) * _known(outside)
            share = own / (own + rest).clamp(min=torch.finfo(own.dtype).tiny)
            losses = {name: share * losses[name] + (1 - share) * other[name] for name in losses}
        return losses

    def _part(self, pred: Tensor, batch: Batch, valid: Tensor) -> Losses:
        loss, residual = lookup(SSI, self.ssi, "scale-and-shift-invariant loss")(pred, batch.target, valid)
        kept = valid
        if self.drop_share:
            kept = drop_largest(residual.abs(), valid, self.drop_share)
            # Aligned by all pixels still, as they are ranked after that: what is dropped has a say in scale and shift.
            loss = masked_mean(PIXEL[self.ssi](residual), kept)
        parts = {"ssi": loss}
        total = loss
        if self.gradient_weight:
            parts["gradient"] = gradient_matching(residual, kept if self.drop_gradient else valid)
            total = total + self.gradient_weight * parts["gradient"]
        if self.anchor_weight:
            parts["anchor"] = scale_anchor(pred, batch.target, valid)
            total = total + self.anchor_weight * parts["anchor"]
        return {"loss": total, **parts}


class Alignment:
    """Feature alignment with a frozen encoder.

    Args:
        frozen: the encoder, in its place; put into evaluation and never trained.
        tap: block whose tokens are compared, the last one as a rule.
        weight: of the loss.
        margin: as `feature_alignment`.
        sees: ``augmented``: the student's own picture, ``clean``: the same without changes of colour.
    Raises:
        DatoolError: another ``sees``.
    """

    def __init__(self, frozen: Encoder, tap: int, weight: float, margin: float, sees: str) -> None:
        lookup(dict.fromkeys(SEES), sees, "picture for the frozen encoder")
        self.frozen, self.tap, self.weight, self.margin, self.sees = frozen, tap, weight, margin, sees
        self.frozen.eval().requires_grad_(False)
        device = next(frozen.parameters()).device
        self._mean = torch.tensor(frozen.spec.mean, device=device)[:, None, None]
        self._std = torch.tensor(frozen.spec.std, device=device)[:, None, None]

    def __call__(self, tokens: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each image, (B,).

        Args:
            tokens: (B, C, h, w) of the student, C being the frozen encoder's width.
            batch: whose pictures they are of.
        """
        image = batch.clean if self.sees == "clean" else batch.image
        with torch.no_grad():
            (frozen,) = self.frozen((image - self._mean) / self._std, (self.tap,))
        return feature_alignment(tokens, frozen, self.margin)


class LabelledObjective:
    """Teachers: every sample alike.

    Args:
        relative: the losses.
    """

    wants_tokens = False

    def __init__(self, relative: Relative) -> None:
        self.relative = relative

    def counts(self, batch: Batch) -> Tensor:
        """Return (1,) how many samples there is anything known of."""
        return _known(batch.valid).sum()[None]

    def __call__(self, prediction: Tensor, tokens: Tensor | None, batch: Batch, counts: Tensor | None = None) -> Losses:
        """Return the losses of a batch, each a scalar; ``loss`` is what is minimised.

        Args:
            prediction: (B, H, W).
            tokens: of no use here.
            batch: what is true of it.
            counts: (1,) what sums over samples are divided by; None = this batch's own `counts`. A batch that is taken
                in parts has the mean over the parts, and so a mean over all of its samples.
        """
        counts = self.counts(batch) if counts is None else counts
        return _means(self.relative(prediction, batch, mixed=False), batch.valid, counts[0])


class StudentObjective:
    """Students: labelled samples as a teacher's, pseudo-labelled ones with drop, CutMix and alignment.

    Args:
        labelled: of samples with true labels.
        pseudo: of samples with a model's.
        alignment: of these too; None = without.
        mixed: whether CutMix is at work.
        average: take the mean of the losses that there are, as V1; else their sum, as V2.
    """

    def __init__(
        self, labelled: Relative, pseudo: Relative, alignment: Alignment | None, mixed: bool, average: bool
    ) -> None:
        self.labelled, self.pseudo, self.alignment = labelled, pseudo, alignment
        self.mixed, self.average = mixed, average

    @property
    def wants_tokens(self) -> bool:
        """Whether it looks at the tokens of the last tap."""
        return self.alignment is not None

    def counts(self, batch: Batch) -> Tensor:
        """Return (2,) how many labelled and how many pseudo-labelled samples there is anything known of."""
        known = _known(batch.valid)
        return torch.stack([(known & ~batch.pseudo).sum(), (known & batch.pseudo).sum()])

    def __call__(self, prediction: Tensor, tokens: Tensor | None, batch: Batch, counts: Tensor | None = None) -> Losses:
        """Return the losses of a batch, each a scalar; ``loss`` is what is minimised.

        Args:
            prediction: (B, H, W).
            tokens: (B, C, h, w) if `wants_tokens`.
            batch: what is true of it; a part of a batch has its share of either kind of sample.
            counts: (2,), as `LabelledObjective.__call__`.

        Source: Yang et al. 2024 (Depth Anything V1), arXiv:2401.10891, section 3: the average of the three; V2,
            arXiv:2406.09414, section 7.1.
        """
        counts = self.counts(batch) if counts is None else counts
        found: Losses = {}
        parts: list[Tensor] = []
        rows = batch.pseudo.nonzero().flatten()
        others = (~batch.pseudo).nonzero().flatten()
        if len(others):
            part = batch.part(others)
            losses = _means(self.labelled(prediction[others], part, mixed=False), part.valid, counts[0])
            parts.append(losses.pop("loss"))
            found |= {f"labelled_{name}": value for name, value in losses.items()}
        if len(rows):
            part = batch.part(rows)
            losses = _means(self.pseudo(prediction[rows], part, self.mixed), part.valid, counts[1])
            parts.append(losses.pop("loss"))
            found |= losses
            if self.alignment is not None:
                assert tokens is not None, "wants_tokens says so"
                # Of all of them: pictures have tokens, whatever is known of their depth.
                found["alignment"] = self.alignment(tokens[rows], part).mean()
                parts.append(self.alignment.weight * found["alignment"])
        total = torch.stack(parts).sum()
        return {"loss": total / len(parts) if self.average else total, **found}


class MetricObjective:
    """Metric models: SiLog alone.

    Args:
        variance, root: as `silog`.
    """

    wants_tokens = False

    def __init__(self, variance: float, root: bool) -> None:
        self.variance, self.root = variance, root

    def counts(self, batch: Batch) -> Tensor:
        """Return (1,) how many samples there is anything known of."""
        return _known(batch.valid).sum()[None]

    def __call__(self, prediction: Tensor, tokens: Tensor | None, batch: Batch, counts: Tensor | None = None) -> Losses:
        """Return the losses of a batch, each a scalar; ``loss`` is what is minimised.

        Args:
            prediction, tokens, batch, counts: as `LabelledObjective.__call__`.
        """
        counts = self.counts(batch) if counts is None else counts
        each = {"loss": silog(prediction, batch.target, batch.valid, self.variance, self.root)}
        loss = _means(each, batch.valid, counts[0])["loss"]
        return {"loss": loss, "silog": loss.detach()}


Objective = LabelledObjective | StudentObjective | MetricObjective


def make_objective(recipe: Recipe, frozen: Encoder | None, tap: int) -> Objective:
    """Return what a recipe minimises.

    Args:
        recipe: names it.
        frozen: the encoder that tokens are aligned with, on its device; None where the recipe aligns nothing.
        tap: its block that is compared.
    Raises:
        DatoolError: no such objective or loss, or it does not fit the model.
    """
    lookup(SSI, recipe.ssi, "scale-and-shift-invariant loss")
    if recipe.drop_share and recipe.ssi not in PIXEL:
        raise DatoolError(f"drop_share with ssi '{recipe.ssi}', which leaves pixels out itself.", "Set one of them.")
    return lookup(OBJECTIVES, recipe.objective, "objective")(recipe, frozen, tap)


def _known(valid: Tensor) -> Tensor:
    """Return (B,) bool: whether an image has a valid pixel."""
    return valid.flatten(1).any(1)


def _means(losses: Losses, valid: Tensor, count: Tensor) -> Losses:
    """Return the sum of each over the images that have a valid pixel, divided by ``count``; 0 where that is 0."""
    known, divisor = _known(valid), torch.where(count > 0, count, 1)
    return {name: torch.where(known, value, 0).sum() / divisor for name, value in losses.items()}


def _relative(recipe: Recipe, drop_share: float = 0.0) -> Relative:
    return Relative(recipe.ssi, recipe.gradient_weight, drop_share, recipe.drop_gradient, recipe.anchor_weight)


def _labelled(recipe: Recipe, frozen: Encoder | None, tap: int) -> LabelledObjective:
    return LabelledObjective(_relative(recipe))


def _student(recipe: Recipe, frozen: Encoder | None, tap: int, average: bool) -> StudentObjective:
    labelled, pseudo = _relative(recipe), _relative(recipe, recipe.drop_share)
    alignment = None
    if frozen is not None:
        alignment = Alignment(frozen, tap, recipe.align_weight, recipe.align_margin, recipe.align_sees)
    return StudentObjective(labelled, pseudo, alignment, recipe.cutmix > 0, average)


SSI: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "median": ssi_mae,
    "least-squares": ssi_mse,
    "trimmed": ssi_trimmed,
}
# What a pixel's residual adds to the mean that is each of these losses.
PIXEL: dict[str, Callable[[Tensor], Tensor]] = {
    "median": torch.abs,
    "least-squares": lambda residual: residual.square() / 2,
}
OBJECTIVES: dict[str, Callable[[Recipe, Encoder | None, int], Objective]] = {
    "labelled": _labelled,
    "student-v1": lambda recipe, frozen, tap: _student(recipe, frozen, tap, average=True),
    "student-v2": lambda recipe, frozen, tap: _student(recipe, frozen, tap, average=False),
    "metric": lambda recipe, frozen, tap: MetricObjective(recipe.silog_variance, recipe.silog_root),
}
