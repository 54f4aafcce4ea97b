"""Train any recipe: from its data, model and objective to weights. Nothing here knows a teacher from a student."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from datool.data.batches.datasets import OpenSet, open_set
from datool.data.batches.stored import GroupSpec
from datool.depth import Ambiguity, DepthMap
from datool.engines.base import choose_device
from datool.errors import DatoolError
from datool.estimators.predictor import Predictor
from datool.files import held, write_bytes
from datool.models.depth_anything import DepthAnything
from datool.training.budget import Budget, make_budget
from datool.training.dataloading import (
    MissingDataError,
    Places,
    count_samples,
    count_steps,
    groups_of,
    input_sizes,
    make_batches,
    own_set,
)
from datool.training.distributed import Ranks, process_group
from datool.training.init_weights import frozen_encoder, init_model
from datool.training.loop import FIXED, Validate, checkpointed, run
from datool.training.objectives import make_objective
from datool.training.recipes import Recipe, override, read_recipe, write_recipe
from datool.training.run_log import Line
from datool.training.trainer import Objective, Trainer
from datool.training.validation import RenderedHoldout, Scores, mean_scores

RECIPE, PLACES = "recipe.json", "data.json"
# Images of a validation set that are scored.
MAX_VALIDATION = 500


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Where and on what a recipe is trained.

    Args:
        out: folder of this run alone.
        places: where the data are; a resumed run has its own, and takes what is given here in their place.
        resume: go on with the run in ``out``, by its own recipe.
        settings: fields of the recipe as ``key=value``, for a resumed run.
        device: as for `datool.engines.base.choose_device`; under torchrun each process has its own GPU.
        num_workers: processes that read samples, for each rank; None = by the cores.
    """

    out: Path
    places: Places = field(default_factory=Places)
    resume: bool = False
    settings: tuple[str, ...] = ()
    device: str = "auto"
    num_workers: int | None = None


@dataclass(frozen=True)
class TrainSummary:
    """What a run left behind.

    Args:
        weights: fp16 safetensors: the best on held-out data, the last where nothing was held out.
        steps: optimiser steps done, over all resumes.
        scores: of those weights on held-out data; empty without.
        seconds: of this call.
        rank: of this process; the first one speaks for all.
    """

    weights: Path
    steps: int
    scores: Scores
    seconds: float
    rank: int = 0


@dataclass(frozen=True)
class Plan:
    """What a run would be.

    Args:
        recipe: with all that was changed.
        samples: of each set, or why they cannot be counted.
        steps: of the whole run; None if they depend on samples that cannot be counted.
        world: ranks.
        budget: the cost of so many steps; None without them.
        missing: which data have still to be named before it can train, and how; empty if none.
    """

    recipe: Recipe
    samples: dict[str, int | str]
    steps: int | None
    world: int
    budget: Budget | None
    missing: str = ""


def train(recipe: Recipe, options: TrainOptions, progress: Callable[[Line], None] | None = None) -> TrainSummary:
    """Train a model, and keep the weights that do best on held-out data, and the last ones.

    Writes ``recipe.json``, ``data.json``, ``log.jsonl``, ``checkpoints/``, ``best.safetensors`` and
    ``last.safetensors`` into ``options.out``, which then is a model for `datool.models.weights.load`. A run that is
    killed goes on from its newest checkpoint with ``resume``, bit for bit on a CPU. Under ``torchrun`` all processes
    call this.

    Args:
        recipe: how to train; with ``resume`` the one that ``out`` holds is used.
        options: where and on what.
        progress: called with each line of the log, and with ``{"message": ...}``.
    Raises:
        DatoolError: ``out`` holds another run, nothing to resume, data or weights are missing, a loss is not finite, or
            memory does not suffice.
    """
    started = time.monotonic()
    if options.resume:
        recipe = _resumed(options)
    elif (options.out / RECIPE).exists():
        raise DatoolError(f"{options.out} holds a run already.", "Resume it with --resume, or choose another --out.")
    recipe.check()
    with ExitStack() as stack:
        ranks = stack.enter_context(process_group(choose_device(options.device), group=recipe.shard))
        progress = progress if progress and ranks.first else _silent
        places = _places(options)
        feed = ranks.together(lambda: make_batches(recipe, places, ranks, options.num_workers))
        if options.resume:
            _check_samples(options.out, feed.num_samples)
        steps = count_steps(recipe, feed.num_samples[-1])
        objective = _objective(recipe, ranks, progress)
        # A checkpoint has all weights: those to begin from may be gone by then.
        begun = options.resume and checkpointed(options.out)
        begin = replace(recipe, init="", init_head=False) if begun else recipe
        trainer = Trainer(recipe, steps, lambda: init_model(begin, _messages(progress)), objective, feed, ranks)
        validate = ranks.together(lambda: _validation(recipe, places, trainer))
        if ranks.first:
            stack.enter_context(held(options.out))
            write_bytes(options.out / RECIPE, write_recipe(recipe).encode())
            write_bytes(options.out / PLACES, places.to_json(feed.num_samples).encode())
        progress({"steps": steps})
        outcome = run(trainer, options.out, options.resume, validate, progress)
    return TrainSummary(outcome.weights, outcome.steps, outcome.scores, time.monotonic() - started, ranks.rank)


def plan(recipe: Recipe, options: TrainOptions) -> Plan:
    """Return what `train` would do and cost; nothing is written, fetched or trained.

    Raises:
        DatoolError: the recipe contradicts itself, or data that were named are not there.
    """
    recipe.check()
    groups: tuple[GroupSpec, ...] = ()
    missing = ""
    try:
        groups = groups_of(recipe, options.places)
    except MissingDataError as error:
        missing = f"{error.problem} {error.hint}"
    counts = [count_samples(group) for group in groups]
    samples = {name: count for each in counts for name, count in each.items()}
    last = list(counts[-1].values()) if counts else [0]
    known = [count for count in last if isinstance(count, int)]
    counted = len(known) == len(last) and not missing
    steps = count_steps(recipe, sum(known)) if counted or not recipe.epochs else None
    size = input_sizes(recipe, bool(groups or missing))[-1]
    with process_group(choose_device(options.device)) as ranks:
        budget = None if steps is None else make_budget(recipe, steps, size, ranks.device, ranks.world)
        if not groups and not missing:
            samples = {"rendered scenes": recipe.num_scenes}
        return Plan(recipe, samples, steps, ranks.world, budget, missing)


def _resumed(options: TrainOptions) -> Recipe:
    """Return the recipe of the run in ``out``, with what was changed since."""
    stored = read_recipe(str(options.out / RECIPE))
    recipe = override(stored, list(options.settings))
    changed = [name for name in FIXED if getattr(recipe, name) != getattr(stored, name)]
    if changed:
        raise DatoolError(f"a run cannot go on with another {changed[0]}.", "Begin a new one: another --out.")
    return recipe


def _places(options: TrainOptions) -> Places:
    """Return where the data are: as given, else as they were when the run began."""
    given = options.places
    if not options.resume:
        return given
    try:
        stored = Places.from_json((options.out / PLACES).read_text(encoding="utf-8"))
    except (OSError, ValueError, LookupError) as error:
        raise DatoolError(f"cannot resume: {options.out / PLACES}: {error}.", "Begin a new run.") from error
    return Places(
        given.data or stored.data,
        given.labelled or stored.labelled,
        given.validation or stored.validation,
        {**stored.roots, **given.roots},
        {**stored.sky, **given.sky},
    )


def _check_samples(out: Path, num_samples: tuple[int, ...]) -> None:
    """Refuse to go on with other data: their order and the number of steps would be others.

    Raises:
        DatoolError: there are more or fewer samples than when the run began.
    """
    before = tuple(json.loads((out / PLACES).read_text(encoding="utf-8"))["num_samples"])
    if before != num_samples:
        raise DatoolError(
            f"the data are not those that the run in {out} was begun with: {before} samples then, {num_samples} now.",
            "Give the same data, or begin a new run: another --out, --init with this one's weights.",
        )


def _objective(recipe: Recipe, ranks: Ranks, progress: Callable[[Line], None]) -> Objective:
    """Return what is minimised, its frozen encoder in place."""
    frozen = ranks.together(lambda: frozen_encoder(recipe, _messages(progress)))
    if frozen is None:
        return make_objective(recipe, None, -1)
    frozen = frozen.to(ranks.device).to(memory_format=torch.channels_last)
    if recipe.compile:
        frozen.compile()
    return make_objective(recipe, frozen, frozen.spec.num_blocks - 1)


def _validation(recipe: Recipe, places: Places, trainer: Trainer) -> Validate | None:
    """Return what scores a model on held-out data; None where nothing is held out, and on all ranks but the first."""
    if not trainer.ranks.first:
        return None
    if places.validation is not None:
        found = open_set(own_set(places.validation))
        _check_truth(found, trainer)
        return lambda model: mean_scores(_pairs(model, found, recipe, trainer.ranks.device), model.spec)
    if recipe.num_validation:
        scenes = RenderedHoldout(recipe, trainer.ranks.device)
        return lambda model: scenes(model.spec, lambda image: trainer.predict(image, model))
    return None


def _check_truth(found: OpenSet, trainer: Trainer) -> None:
    """Raise where no prediction could be scored; the first sample stands for all."""
    shard = next(number for number, count in enumerate(found.counts) if count)
    sample = found.read(shard, 0)
    if sample.depth is None:
        raise DatoolError(f"sample {sample.id} of the validation set has no truth.", "Give another --validation.")
    if trainer.model.spec.max_depth_m is not None and sample.depth.ambiguity is not Ambiguity.NONE:
        known = sample.depth.ambiguity.value.replace("-", " ")
        raise DatoolError(
            f"sample {sample.id} of the validation set is known up to {known}; the model predicts metres.",
            "Give another --validation.",
        )


def _pairs(
    model: DepthAnything, found: OpenSet, recipe: Recipe, device: torch.device
) -> Iterator[tuple[np.ndarray, DepthMap]]:
    """Yield predictions of a set's images, spread evenly over it, beside their truth."""
    predictor = Predictor(model, str(device), recipe.precision, min(recipe.size_px))
    names = [(shard, number) for shard, count in enumerate(found.counts) for number in range(count)]
    for shard, number in names[:: -(-len(names) // MAX_VALIDATION)]:
        sample = found.read(shard, number)
        if sample.depth is None:
            raise DatoolError(f"sample {sample.id} of the validation set has no truth.", "Give another --validation.")
        try:
            yield predictor.predict(sample.image).values, sample.depth
        except DatoolError:  # not finite, say: unscored, and counted as that
            yield np.full(sample.depth.shape, np.nan, np.float32), sample.depth


def _messages(progress: Callable[[Line], None]) -> Callable[[str], None]:
    return lambda line: progress({"message": line})


def _silent(line: Line) -> None:
    """Draw nothing."""
