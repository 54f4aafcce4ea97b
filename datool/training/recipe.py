"""A training run as a value: typed fields, changed by ``key=value``, written beside the weights and accepted back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from datool.data.batches.augment import Augmentation
from datool.errors import DatoolError
from datool.settings import changed, from_json, split

# A set that is no data set: datool's own renderer.
RENDERED = "rendered"
# Seeds of steps are made of it and of the step's number, in 64 bits.
MAX_SEED = 1 << 24
# What messages call a field.
NOUN = "recipe field"


@dataclass(frozen=True)
class Recipe:
    """One training run. A default is what a small model from random weights trains by; `RECIPES` has the papers'.

    Args:
        model: row of `datool.models.specs.MODELS`.
        seed: of the weights, of the scenes, of the order and of every draw.

        labelled: sets with true labels, keys of `datool.data.sources.table.SOURCES`, each with ``:split`` or else its
            first that no benchmark scores; or ``rendered`` alone. They are gone through as one set, as in both papers,
            unless there are weights.
        labelled_weights: how often a sample of each is taken, of own files in the order given; empty = alike.
        pseudo_batch: of a batch, how many samples have a model's labels; the others are labelled ones.
        batch_size: samples a step, of all ranks together.
        accumulation: parts that a rank's share of a batch is computed in, one after the other.
        skip_broken: take another sample in place of one that cannot be read.
        size_px: (height, width) of the crops that stored samples are trained on.
        flip: probability that a sample is mirrored.
        crop_zoom: smallest share of a stored picture's sides that a crop shows; 1 = all of its short side, as both
            papers do.
        target: ``disparity-minmax``, ``disparity`` or ``depth``, as `datool.data.batches.transforms.TARGETS`.
        augment: changes of colour, of pseudo-labelled samples only; null = none, ``--set augment.blur=0.3`` sets one.
        labelled_augment: the same of samples with true labels; null = none, as both papers do.
        cutmix: probability that a box of another pseudo-labelled picture is set into one.
        cutmix_area: smallest and largest share of that box.

        num_scenes: rendered scenes, each rendered once and kept in memory; 0 = a new scene for each sample.
        scene_px: (height, width) that scenes are rendered at.
        sizes: (share of the run after which it holds, height, width) of the network's input: small pictures first.
        zoom: smallest window that is cut from a scene, as a share of its sides.
        colour: strength of the colour changes of scenes, 0 to 1.

        objective: key of `datool.training.objectives.OBJECTIVES`.
        ssi: ``median`` (V1's mean absolute error), ``least-squares`` (MiDaS's squared error) or ``trimmed``.
        gradient_weight: weight of gradient matching beside a scale-and-shift-invariant loss of weight 1.
        drop_share: share of the pixels of a pseudo-labelled sample that is left out: those with the largest
            scale-and-shift-invariant loss.
        drop_gradient: leave them out of gradient matching too.
        align_weight: weight of feature alignment with a frozen encoder; 0 = without.
        align_margin: tokens whose cosine is above it are left out; 0.85, or "a tolerance of 0.15".
        align_sees: which picture the frozen encoder sees: ``augmented``, as the student, or ``clean``.
        align_init: weights of the frozen encoder, as ``init``.
        align_encoder: row of `datool.models.encoders.ENCODERS`; empty = the model's own, which needs no projector.
        anchor_weight: weight of holding the prediction's own scale to the target's; 0 = as published.
        silog_variance: SiLog's lambda.
        silog_root: take SiLog's square root, as V2's script; false = Eigen's own form.

        init: weights of the encoder to begin from: ``dinov2`` (from the hub), a model's name, a hub id, a file, or
            ``relative`` (the relative model of a metric one); empty = random.
        init_head: begin with the head of ``init`` too, except for its last 1x1.
        head_bias: of the last 1x1 at the start of a head with random weights: above 0, or its ReLU may be dead; of a
            metric model, which ends in a sigmoid, the logit of the depth to begin from as a share of its range.

        steps: optimiser steps.
        epochs: passes over the pseudo-labelled samples if there are any, else over the labelled; 0 = ``steps`` counts.
        optimizer: ``adamw`` or ``adam``.
        betas: of it.
        lr_encoder, lr_head: peak learning rates.
        schedule: ``constant``, ``cosine``, ``poly`` or ``one-cycle``, after the warm-up.
        power: of ``poly``; 1 = linear.
        warmup: steps over which learning rates rise.
        weight_decay: on matrices and kernels; norms, biases, tokens and positions are left out, which is our choice.
        decay_all: on those too, as the metric script does.
        clip: largest gradient norm; 0 = any.
        ema: decay a step of averaged weights, which are then what is validated and kept; 0 = no average.
        precision: ``bf16`` or ``fp32``.
        checkpointing: compute activations of the encoder twice instead of keeping them.
        compile: with `torch.compile`.
        shard: spread the model over ranks (FSDP2) instead of copying it (DDP).
        collapse_steps: steps after the warm-up that predictions may stay without correlation with their targets (a mean
            of 0.15 or less in each quarter of them); then the run stops. It is warned of after half of them.
        allow_collapse: only warn.

        num_validation: held-out rendered scenes to score; 0 = none.
        validate_every: steps between two validations, each followed by a checkpoint.
        log_every: steps between two lines of the log.
        keep: checkpoints that are kept.
    """

    model: str
    seed: int = 0

    labelled: tuple[str, ...] = (RENDERED,)
    labelled_weights: tuple[float, ...] = ()
    pseudo_batch: int = 0
    batch_size: int = 32
    accumulation: int = 1
    skip_broken: bool = False
    size_px: tuple[int, int] = (518, 518)
    flip: float = 0.5
    crop_zoom: float = 1.0
    target: str = "disparity-minmax"
    augment: Augmentation | None = None
    labelled_augment: Augmentation | None = None
    cutmix: float = 0.0
    cutmix_area: tuple[float, float] = (0.0, 1.0)

    num_scenes: int = 0
    scene_px: tuple[int, int] = (224, 288)
    sizes: tuple[tuple[float, int, int], ...] = ((0.0, 224, 288),)
    zoom: float = 0.6
    colour: float = 0.7

    objective: str = "labelled"
    ssi: str = "median"
    gradient_weight: float = 0.5
    drop_share: float = 0.0
    drop_gradient: bool = True
    align_weight: float = 0.0
    align_margin: float = 0.85
    align_sees: str = "augmented"
    align_init: str = "dinov2"
    align_encoder: str = ""
    anchor_weight: float = 0.0
    silog_variance: float = 0.5
    silog_root: bool = True

    init: str = ""
    init_head: bool = False
    head_bias: float = 0.0

    steps: int = 1000
    epochs: float = 0.0
    optimizer: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.99)
    lr_encoder: float = 1e-3
    lr_head: float = 1e-3
    schedule: str = "cosine"
    power: float = 1.0
    warmup: int = 500
    weight_decay: float = 0.05
    decay_all: bool = False
    clip: float = 1.0
    ema: float = 0.999
    precision: str = "bf16"
    checkpointing: bool = False
    compile: bool = False
    shard: bool = False
    collapse_steps: int = 200
    allow_collapse: bool = False

    num_validation: int = 256
    validate_every: int = 1000
    log_every: int = 50
    keep: int = 2

    @property
    def labelled_batch(self) -> int:
        """Of a batch, how many samples have true labels."""
        return self.batch_size - self.pseudo_batch

    def check(self) -> None:
        """Refuse fields that contradict each other.

        Raises:
            DatoolError: they do.
        """
        if not 0 <= self.pseudo_batch <= self.batch_size or self.batch_size < 1:
            raise DatoolError(
                f"pseudo_batch is {self.pseudo_batch} of a batch_size of {self.batch_size}.",
                "Give a batch of at least 1, of which the pseudo-labelled samples are a part.",
            )
        if RENDERED in self.labelled and (len(self.labelled) > 1 or self.pseudo_batch):
            raise DatoolError(
                "rendered scenes cannot be mixed with stored samples in a batch.",
                "Write them to disk first: datool data synth --out scenes, then --data scenes/manifest.jsonl.",
            )
        for name in ("accumulation", "steps", "collapse_steps", "validate_every", "log_every", "keep"):
            if getattr(self, name) < 1:
                raise DatoolError(f"{name} is {getattr(self, name)}, expected 1 or more.")
        if not 0 <= self.seed < MAX_SEED:
            raise DatoolError(f"seed is {self.seed}, expected 0 to {MAX_SEED - 1}.")
        if not self.pseudo_batch:
            unused = [name for name in ("align_weight", "drop_share", "cutmix", "augment") if getattr(self, name)]
            if unused:
                raise DatoolError(
                    f"{unused[0]} is {getattr(self, unused[0])!r}, and changes pseudo-labelled samples alone, of which "
                    "there are none.",
                    "Set pseudo_batch, or leave it out.",
                )


def override(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """Return the recipe with ``key=value`` settings applied, as `datool.settings.changed` reads them.

    Raises:
        DatoolError: not ``key=value``, no such field, or a value of another type.
    """
    return changed(recipe, map(split, settings), NOUN)


def parse_recipe(stored: object, place: str) -> Recipe:
    """Return the recipe that an object of JSON is.

    Args:
        stored: as `json.loads` gives it.
        place: where it stood, for messages.
    Raises:
        DatoolError: not a recipe.
    """
    if not isinstance(stored, dict) or "model" not in stored:
        raise DatoolError(f"cannot read recipe {place}: expected an object with the fields of a recipe.")
    recipe: Recipe = from_json(stored, Recipe, place, NOUN)
    return recipe


def write_recipe(recipe: Recipe) -> str:
    """Return the recipe as JSON text that `read_recipe` takes back."""
    return json.dumps(asdict(recipe), indent=2) + "\n"
