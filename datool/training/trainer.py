"""Model, optimizer and data of a run, and one step of it.

Bit for bit: a step is a function of (weights, optimizer, seed, step) alone. Data come by step
(`datool.data.batches.stored`), learning rates too, and random generators are seeded anew each step; so a run that
was killed goes on from its last checkpoint as if it never had been.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor, nn

from datool.data.sample import Batch
from datool.errors import DatoolError, lookup
from datool.models.depth_anything import DepthAnything
from datool.training.distributed import Ranks, full_state, full_tensor, replicate, shard, without_sync
from datool.training.losses import correlation
from datool.training.optimizers import average, make_optimizer, set_learning_rate
from datool.training.recipe import Recipe

# What matrix products and convolutions are computed in.
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}
# Samples that a message names.
LISTED = 16


class Batches(Protocol):
    """Where batches come from; `datool.data.batches.stored` has two."""

    def batches(self, step: int) -> Iterator[Batch]:
        """Yield this rank's batches from ``step`` on, as many a step as gradients are accumulated over."""


class Objective(Protocol):
    """What is minimised; `datool.training.objectives` has them."""

    @property
    def wants_tokens(self) -> bool:
        """Whether it looks at the tokens of the last tap."""

    def counts(self, batch: Batch) -> Tensor:
        """Return (K,) of each kind of sample, how many have a pixel of which anything is known."""

    def __call__(
        self, prediction: Tensor, tokens: Tensor | None, batch: Batch, counts: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return scalars by name, the same names for every batch; ``loss`` is minimised.

        Sums over samples are divided by ``counts``; None = by the batch's own.
        """


@dataclass(frozen=True)
class StepResult:
    """One step.

    Args:
        losses: means over all ranks, and ``grad_norm`` before clipping.
        lr: of the first group of parameters.
        ids: this rank's samples.
        known: samples of all ranks of which at least a pixel was known; the others have no part in the losses.
        correlation: of predictions with their targets, mean over the samples of all ranks; NaN where no target varies.
        retried: whether it was taken in fp32, its own precision having given no finite loss.
    """

    losses: dict[str, float]
    lr: float
    ids: tuple[str, ...]
    known: int
    correlation: float
    retried: bool = False

    @property
    def finite(self) -> bool:
        """Whether losses and gradients are."""
        return all(map(math.isfinite, self.losses.values()))


class Trainer:
    """Takes the steps of a run.

    Args:
        recipe: how to train.
        steps: of the whole run.
        build: makes the model with the weights to begin from, on the CPU; the same on every rank.
        objective: on its device.
        data: this rank's part.
        ranks: who trains together.
    """

    def __init__(
        self,
        recipe: Recipe,
        steps: int,
        build: Callable[[], DepthAnything],
        objective: Objective,
        data: Batches,
        ranks: Ranks,
    ) -> None:
        self.recipe, self.steps, self.objective, self.data, self.ranks = recipe, steps, objective, data, ranks
        self.dtype = lookup(PRECISIONS, recipe.precision, "precision")
        self._build = build
        self._batch: Batch | None = None
        self.model = self._placed(ranks.together(build)).train()  # a new module's norms are not frozen yet
        self.model.encoder.set_checkpointing(recipe.checkpointing)
        self.averaged = self._placed(build()).eval().requires_grad_(False) if recipe.ema else None
        if recipe.compile:
            self.model.compile()
        self.trained: nn.Module = self.model if recipe.shard else replicate(self.model, ranks)
        self.optimizer = make_optimizer(self.model, recipe)
        row = self.model.encoder.spec
        self._mean = torch.tensor(row.mean, device=ranks.device)[:, None, None]
        self._std = torch.tensor(row.std, device=ranks.device)[:, None, None]

    @property
    def models(self) -> dict[str, nn.Module]:
        """What a checkpoint holds; the first is the optimizer's."""
        models: dict[str, nn.Module] = {"model": self.model}
        if self.averaged is not None:
            models["averaged"] = self.averaged
        return models

    @property
    def last_sample(self) -> Batch:
        """The first sample of the last batch, alone."""
        assert self._batch is not None, "no step was taken"
        return self._batch.part(slice(0, 1))

    def kept(self) -> DepthAnything:
        """Return the model to score and keep: with averaged weights if there are any; whole on the first rank.

        All ranks must ask. It may be the one that is trained: put that back into training mode.
        """
        model = self.model if self.averaged is None else self.averaged
        if self.recipe.shard:
            state = full_state(model)
            if self.ranks.first:
                model = self._build().to(self.ranks.device)
                model.load_state_dict(state)
        return model.eval()

    def predict(self, image: Tensor, model: nn.Module, dtype: torch.dtype | None = None) -> Tensor:
        """Return what ``model`` predicts: (B, H, W) float32.

        Args:
            image: (B, 3, H, W) RGB in [0, 1].
            model: `kept`.
            dtype: None = the recipe's precision.
        """
        with torch.no_grad(), self._autocast(dtype or self.dtype):
            return model(self._normalised(image)).float()

    def take(self, step: int, batches: Iterator[Batch]) -> StepResult:
        """Take a step.

        Args:
            step: how many were taken before.
            batches: at this step; moved on to the next one.
        Raises:
            DatoolError: a loss or gradient is not finite in fp32 either, a sample cannot be read, or memory does not
                suffice.
        """
        set_learning_rate(self.optimizer, self.recipe, step, self.steps)
        too_large = ""
        try:
            result = self._gradients(step, batches, self.dtype)
            if not result.finite:
                result = self._retried(step, result)
            self.optimizer.step()
        except torch.OutOfMemoryError as error:
            too_large = str(error).partition("\n")[0]
        if too_large:  # here what the failed step held is free again
            raise self._too_large(step, too_large)
        if self.averaged is not None:
            average(self.averaged, self.model, self.recipe.ema if step else 0.0)
        return result

    def _gradients(self, step: int, batches: Iterator[Batch], dtype: torch.dtype) -> StepResult:
        """Leave the step's gradients, clipped, and return all that is known about it."""
        torch.manual_seed((self.recipe.seed << 40) + (step << 16) + self.ranks.rank)
        self.optimizer.zero_grad()
        parts = self.recipe.accumulation
        # All parts at once: what a sum over samples is divided by is known only when all were looked at.
        fetched = [self.ranks.together(lambda: next(batches)) for _ in range(parts)]
        counts = self.ranks.mean(torch.stack([self.objective.counts(batch) for batch in fetched]).float().mean(0))
        sums: dict[str, Tensor] = {}
        correlated = torch.zeros(2, device=self.ranks.device)
        for part, batch in enumerate(fetched):
            self._batch = batch
            with without_sync(self.trained, skip=part + 1 < parts):
                losses, prediction = self._losses(batch, dtype, counts)
                (losses["loss"] / parts).backward()
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0) + loss.detach() / parts
            # Of a mixed picture the sample's own part: each part has a scale and shift of its own.
            found = correlation(prediction.detach(), batch.target, batch.valid & batch.region)
            correlated += torch.stack([found.nansum(), found.isfinite().sum()])
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip or math.inf)
        *means, total, number = self.ranks.mean(torch.stack([*sums.values(), full_tensor(norm), *correlated])).tolist()
        return StepResult(
            dict(zip((*sums, "grad_norm"), means, strict=True)),
            self.optimizer.param_groups[0]["lr"],
            tuple(id for batch in fetched for id in batch.ids),
            round(counts.sum().item() * parts * self.ranks.world),
            total / number if number else math.nan,
        )

    def against_constant(self) -> tuple[float, float]:
        """Return the loss of the last batch, and what it would be with one constant map as every prediction.

        Means over all ranks, all of which must ask. The constant is the mean of what is known of the batch's targets.
        """
        batch = self._batch
        assert batch is not None, "no step was taken"
        mean = torch.where(batch.valid, batch.target, 0).sum() / batch.valid.sum().clamp(min=1)
        with torch.no_grad(), self._autocast(self.dtype):
            prediction, tokens = self._predicted(batch, self.model)
            losses = [self.objective(each, tokens, batch)["loss"] for each in (prediction, mean.expand_as(prediction))]
        loss, constant = self.ranks.mean(torch.stack(losses)).tolist()
        return loss, constant

    def _losses(
        self, batch: Batch, dtype: torch.dtype, counts: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the losses of a batch, and its predictions (B, H, W)."""
        with self._autocast(dtype):
            prediction, tokens = self._predicted(batch, self.trained)
            return self.objective(prediction, tokens, batch, counts), prediction

    def _predicted(self, batch: Batch, model: nn.Module) -> tuple[Tensor, Tensor | None]:
        """Return the predictions of a batch, (B, H, W) float32, and its tokens if the objective wants them."""
        image = self._normalised(batch.image)
        if self.objective.wants_tokens:
            prediction, tokens = model(image, features=True)
            return prediction.float(), tokens
        return model(image).float(), None

    def _retried(self, step: int, first: StepResult) -> StepResult:
        """Return the step's gradients in fp32.

        Raises:
            DatoolError: they are not finite either.
        """
        with opened(self.data, step) as again:
            result = self._gradients(step, again, torch.float32)
        if result.finite:
            return replace(result, retried=True)
        broken = ", ".join(f"{name} {value:g}" for name, value in result.losses.items() if not math.isfinite(value))
        culprits = [id for found in self.ranks.gather(self._culprits(step)) for id in found]
        whose = f"of samples {_listed(culprits)}" if culprits else f"of no sample alone, among {_listed(result.ids)}"
        raise DatoolError(
            f"step {step + 1} is not finite, in {self.recipe.precision} and again in fp32: {broken}, {whose}.",
            "Look at these samples; if nothing is wrong with them, lower the learning rate and go on with --resume.",
        )

    def _culprits(self, step: int) -> list[str]:
        """Return the samples of this rank's part of a step whose own loss is not finite."""
        found = []
        with opened(self.data, step) as again, torch.no_grad():
            for batch in islice(again, self.recipe.accumulation):
                for number, id in enumerate(batch.ids):
                    losses, _ = self._losses(batch.part(slice(number, number + 1)), torch.float32)
                    if not losses["loss"].isfinite():
                        found.append(id)
        return found

    def _too_large(self, step: int, reason: str) -> DatoolError:
        """Return what to say about a batch that does not fit: the number that does, tried out."""
        recipe, batch = self.recipe, self._batch
        assert batch is not None
        height, width = batch.image.shape[-2:]
        problem = (
            f"step {step + 1} does not fit in the memory of {self.ranks.device}: {len(batch)} images of "
            f"{width}x{height} at once in {recipe.precision} ({reason})."
        )
        if recipe.shard:  # all ranks would have to try
            more = f"--set accumulation={2 * recipe.accumulation} (not tried, since the model is spread over ranks)"
            return DatoolError(problem, f"Give {more}, or a smaller --size.")
        fits = self._fitting(batch)
        if not fits:
            return DatoolError(problem, "Not one fits: --set checkpointing=true, a smaller --size, or a smaller model.")
        least = recipe.accumulation * -(-len(batch) // fits)
        groups = [count for count in (recipe.labelled_batch, recipe.pseudo_batch) if count]
        splits = (n for n in range(least, min(groups) + 1) if all(not c % (n * self.ranks.world) for c in groups))
        parts = next(splits, 0)
        smaller = f"the same batch in parts of that: --set accumulation={parts}" if parts else "give --batch-size"
        return DatoolError(problem, f"{fits} at once fit: {smaller} (with --resume after the first checkpoint).")

    def _fitting(self, batch: Batch) -> int:
        """Return how many of these images a step on this rank takes at once, by trying; 0 = not one."""
        count = len(batch) // 2
        state = sum(parameter.numel() for parameter in self.model.parameters()) * 2
        while count:
            self.optimizer.zero_grad()
            if self.ranks.device.type == "cuda":
                torch.cuda.empty_cache()
            try:
                # The optimizer fills its state in the first step only.
                reserved = torch.empty(0 if self.optimizer.state else state, device=self.ranks.device)
                with without_sync(self.trained, skip=True):
                    losses, _ = self._losses(batch.part(slice(count)), self.dtype)
                    losses["loss"].backward()
                del reserved
                return count
            except torch.OutOfMemoryError:
                count //= 2
        return count

    def _placed(self, model: DepthAnything) -> DepthAnything:
        model = model.to(self.ranks.device)
        if self.recipe.shard:
            shard(model, model.encoder.blocks)
            return model
        return model.to(memory_format=torch.channels_last)  # what is spread must lie as it is

    def _normalised(self, image: Tensor) -> Tensor:
        return ((image - self._mean) / self._std).contiguous(memory_format=torch.channels_last)

    def _autocast(self, dtype: torch.dtype) -> torch.autocast:
        return torch.autocast(self.ranks.device.type, dtype, enabled=dtype is not torch.float32)


@contextmanager
def opened(data: Batches, step: int) -> Iterator[Iterator[Batch]]:
    """Give the batches from ``step`` on, and stop their workers in the end."""
    batches = data.batches(step)
    try:
        yield batches
    finally:
        if isinstance(batches, Generator):
            batches.close()


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(ids[:LISTED]) + (f" and {len(ids) - LISTED} more" if len(ids) > LISTED else "")
