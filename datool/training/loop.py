"""One training loop: steps, a log, scores, weights, checkpoints. It knows no stage."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from datool.colour import to_picture
from datool.data.sample import Batch
from datool.depth import DepthMap
from datool.errors import DatoolError
from datool.models.depth_anything import DepthAnything
from datool.models.specs import BEST, LAST
from datool.models.weights import save
from datool.training.checkpoint import Checkpoints, written
from datool.training.recipe import Recipe
from datool.training.run_log import Line, RunLog
from datool.training.trainer import StepResult, Trainer, opened
from datool.training.validation import Scores, better
from datool.training.watch import SPANS, Watch

# What a run that goes on must not change: its data, and what its checkpoints hold.
FIXED = (
    *("model", "seed", "labelled", "labelled_weights", "pseudo_batch", "batch_size", "size_px", "target"),
    *("num_scenes", "scene_px", "sizes", "align_weight", "align_encoder", "optimizer", "ema", "shard"),
)
# A loss this many times the median of the last RECENT ones is a spike, once there are MIN_RECENT of them.
SPIKE, RECENT, MIN_RECENT = 5.0, 100, 20
CHECKPOINTS = "checkpoints"

Validate = Callable[[DepthAnything], Scores]


@dataclass(frozen=True)
class Outcome:
    """What a run left behind.

    Args:
        weights: fp16 safetensors: the best on held-out data, the last where nothing was held out.
        steps: steps done, over all resumes.
        scores: of those weights on held-out data; empty without.
    """

    weights: Path
    steps: int
    scores: Scores


def checkpointed(out: Path) -> bool:
    """Tell whether a run has a checkpoint to go on from."""
    return bool(written(out / CHECKPOINTS))


def run(
    trainer: Trainer,
    out: Path,
    resume: bool = False,
    validate: Validate | None = None,
    progress: Callable[[Line], None] | None = None,
) -> Outcome:
    """Take all steps that are left; every ``validate_every`` of them score, keep weights and write a checkpoint.

    Args:
        trainer: takes them.
        out: folder of the run; gets ``log.jsonl``, ``checkpoints/``, ``best.safetensors`` and ``last.safetensors``.
        resume: go on from the newest checkpoint; from the beginning without one.
        validate: scores a model, whole and in evaluation; only the first rank calls it.
        progress: gets each line of the log.
    Raises:
        DatoolError: as `Trainer.take` does, a checkpoint is damaged, no pixel of any target is known, or predictions
            have nothing to do with their targets.
    """
    recipe, ranks = trainer.recipe, trainer.ranks
    checkpoints = Checkpoints(out / CHECKPOINTS, recipe.keep, ranks)
    at = _Position()
    if resume:
        stored = ranks.together(lambda: checkpoints.restore(trainer.models, trainer.optimizer))
        if stored:
            _check_same(stored["recipe"], _stored(recipe))
            at.take_up(stored)
    log = RunLog(out if ranks.first else None, at.step, progress)
    with log, opened(trainer.data, at.step) as batches:
        while at.step < trainer.steps:
            _steps(trainer, at, batches, log)
            if at.step % recipe.validate_every == 0 or at.step == trainer.steps:
                _keep(trainer, at, out, log, validate)
                meta = {**at.to_json(), "recipe": _stored(recipe)}
                checkpoints.save(at.step, trainer.models, trainer.optimizer, meta, recipe.shard)
    return Outcome(out / (BEST if at.best else LAST), at.step, at.best)


@dataclass
class _Position:
    """Where a run is, and what its log must remember.

    Args:
        step: steps done.
        best: scores of the best weights.
        recent: the last losses.
        watch: of what is learned.
    """

    step: int = 0
    best: Scores = field(default_factory=dict)
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    watch: Watch = field(default_factory=Watch)

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "best": self.best, "recent": list(self.recent), "watch": self.watch.to_json()}

    def take_up(self, stored: dict[str, Any]) -> None:
        self.step, self.best = stored["step"], stored["best"]
        self.recent.extend(stored["recent"])
        self.watch = Watch(**stored["watch"])


def _stored(recipe: Recipe) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(recipe)))


def _check_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise where the recipe that a checkpoint was written by differs in what a run must keep."""
    changed = [name for name in FIXED if before.get(name) != now[name]]
    if changed:
        raise DatoolError(
            f"in the recipe of the checkpoint {changed[0]} was {before.get(changed[0])!r}, now {now[changed[0]]!r}.",
            "Put recipe.json back, or begin a new run: another --out.",
        )


def _steps(trainer: Trainer, at: _Position, batches: Iterator[Batch], log: RunLog) -> None:
    """Take steps up to the next line of the log or the next validation, and write what happened."""
    recipe = trainer.recipe
    until = min(*(at.step // n * n + n for n in (recipe.log_every, recipe.validate_every)), trainer.steps)
    count, started = until - at.step, time.monotonic()
    sums: dict[str, float] = {}
    correlations: list[float] = []
    while at.step < until:
        result = trainer.take(at.step, batches)
        at.step += 1
        _notice(trainer, at, result, log)
        _check_correlation(trainer, at, result, log)
        for name, value in result.losses.items():
            sums[name] = sums.get(name, 0.0) + value
        if not math.isnan(result.correlation):
            correlations.append(result.correlation)
    _check_known(at)
    rate = count * trainer.recipe.batch_size / (time.monotonic() - started)
    _tell_skipped(trainer, at, log)
    means = {name: total / count for name, total in sums.items()}
    if correlations:
        means["correlation"] = fmean(correlations)
    log.write({"step": at.step, **means, "lr": result.lr, "images_per_s": round(rate, 1)})


def _tell_skipped(trainer: Trainer, at: _Position, log: RunLog) -> None:
    """Write which samples others were taken for since the last time, on all ranks, and why."""
    if not trainer.recipe.skip_broken:
        return
    skipped = getattr(trainer.data, "skipped", {})
    found = {id: reason for part in trainer.ranks.gather(dict(skipped)) for id, reason in part.items()}
    skipped.clear()
    if found:
        log.write({"step": at.step, "event": "skipped", "ids": list(found), "reasons": list(found.values())})


def _notice(trainer: Trainer, at: _Position, result: StepResult, log: RunLog) -> None:
    """Write a line of its own about a step that was not like the others, with the samples of all ranks."""
    loss = result.losses["loss"]
    usual = median(at.recent or [loss])
    spikes = len(at.recent) >= MIN_RECENT and loss > SPIKE * usual
    at.recent.append(loss)
    for event, happened in (("taken again in fp32", result.retried), ("spike", spikes)):
        if happened:
            ids = [id for part in trainer.ranks.gather(result.ids) for id in part]
            log.write({"step": at.step, "event": event, "loss": loss, "median": usual, "ids": ids})


def _check_correlation(trainer: Trainer, at: _Position, result: StepResult, log: RunLog) -> None:
    """Take a step into the watch; write down, and in the end raise, that predictions have no part of their targets.

    Raises:
        DatoolError: so it was for ``collapse_steps`` steps, and the recipe does not allow it.
    """
    recipe, watch = trainer.recipe, at.watch
    watch.known += result.known
    span = max(1, recipe.collapse_steps // SPANS)
    if at.step <= recipe.warmup or not watch.see(result.correlation, span) or not (watch.suspects or watch.collapsed):
        return
    steps = len(watch.means) * span
    loss, constant = trainer.against_constant()
    event = "collapsed" if watch.collapsed else "uncorrelated"
    seen = {"correlation": watch.correlation, "over_steps": steps, "loss": loss, "constant_loss": constant}
    log.write({"step": at.step, "event": event, **seen})
    if watch.collapsed and not recipe.allow_collapse:
        raise DatoolError(
            f"step {at.step}: the model learns nothing. Over the last {steps} steps predictions and targets correlated "
            f"by {watch.correlation:.2f} (a model that learns is soon above 0.5); the last batch costs {loss:.3g}, a "
            f"constant map in its place {constant:.3g}.",
            "Look at the targets (datool data check); try --set ssi=median --set gradient_weight=0.5, another seed, or "
            "a lower learning rate. --allow-collapse only warns; with --resume it goes on from the last checkpoint.",
        )
    if watch.collapsed:
        watch.means = []  # so that the next warning comes after as many steps again


def _check_known(at: _Position) -> None:
    """Raise where there was nothing yet to learn from.

    Raises:
        DatoolError: no target so far had a pixel of which anything is known.
    """
    if not at.watch.known:
        raise DatoolError(
            f"no pixel of any target was known in {at.step} steps: there is nothing to learn.",
            "Is the manifest's invalid value, unit or divisor right? datool data check shows what is known.",
        )


def _keep(trainer: Trainer, at: _Position, out: Path, log: RunLog, validate: Validate | None) -> None:
    """Score and write the weights, and draw a sample."""
    model = trainer.kept()

    def on_first() -> None:
        row, meta = trainer.recipe.model, {"step": str(at.step)}
        save(out / LAST, model, row, meta, half=True)
        if log.draws:
            log.draw(at.step, "image | prediction | target", _picture(trainer, model))
        if validate is not None:
            scores = validate(model)
            log.write({"step": at.step, **scores})
            if better(scores, at.best):
                at.best = scores
                save(out / BEST, model, row, meta, half=True)

    trainer.ranks.together(on_first if trainer.ranks.first else lambda: None)
    trainer.model.train()


def _picture(trainer: Trainer, model: DepthAnything) -> np.ndarray:
    """Return (H, 3W, 3) uint8: what the network saw last, what it says, what it was to say."""
    batch = trainer.last_sample
    prediction = trainer.predict(batch.image, model)[0].cpu().numpy()
    target = np.where(batch.valid[0].cpu(), batch.target[0].cpu(), np.nan).astype(np.float32)
    maps = (DepthMap(values, model.spec.quantity, model.spec.ambiguity) for values in (prediction, target))
    image = np.rint(batch.image[0].permute(1, 2, 0).cpu().numpy() * 255).astype(np.uint8)
    return np.concatenate([image, *(to_picture(each) for each in maps)], axis=1)
