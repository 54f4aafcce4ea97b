"""The recipes by name: the papers', small ones that run the same code in minutes, and the bundled model's.

Learning rates, steps, batch sizes, loss weights and what the data are stand here and nowhere else. What a paper states
is cited at its recipe; what it leaves open is marked there as our choice, and every number is a field.

Sources: V1 = Yang et al. 2024, arXiv:2401.10891; V2 = Yang et al. 2024, arXiv:2406.09414; "issue" = of the authors'
repositories, LiheYoung/Depth-Anything (V1) and DepthAnything/Depth-Anything-V2 (V2); script = V2's
``metric_depth/train.py``, ``dist_train.sh`` and ``util/loss.py``.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from datool.data.batches.augment import Augmentation
from datool.errors import DatoolError, lookup
from datool.training.recipe import Recipe, override, parse_recipe, write_recipe

__all__ = ["RECIPES", "Recipe", "override", "read_recipe", "write_recipe"]


def read_recipe(spec: str) -> Recipe:
    """Return a named recipe, or the one that a ``recipe.json`` holds.

    Raises:
        DatoolError: no such name, or a file that holds no recipe.
    """
    if not spec.endswith(".json"):
        return lookup(RECIPES, spec, "recipe")
    try:
        stored = json.loads(Path(spec).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatoolError(f"cannot read recipe {spec}: {error}.") from error
    return parse_recipe(stored, spec)


# What both papers share: 518, encoder 5e-6, decoder ten times that, DINOv2 to begin with. Our choices: no warm-up, no
# averaged weights (V1's author was asked for an EMA teacher and did not confirm one, V1 issue 179), gradients clipped
# at norm 1, bf16, and betas as PyTorch has them.
_PAPERS = Recipe(
    model="depth-anything-v2-small",
    init="dinov2",
    # The head begins with random weights, and for half of all seeds below its last ReLU everywhere: such a model never
    # learns. This lifts it above: what comes before the bias is within 0.13 (52 heads of all sizes).
    head_bias=0.5,
    lr_encoder=5e-6,
    lr_head=5e-5,
    betas=(0.9, 0.999),
    # V1 section 4: linear decay. V2 does not say; the same.
    schedule="poly",
    power=1.0,
    warmup=0,
    # AdamW's own default; neither paper states one.
    weight_decay=0.01,
    ema=0.0,
    num_validation=0,
    validate_every=5000,
    log_every=100,
    # At 5e-6 a new head takes its time.
    collapse_steps=4000,
)

_V1_LABELLED = ("blendedmvs", "diml", "hrwsi", "irs", "megadepth", "tartanair")

_TEACHER_V1 = replace(
    _PAPERS,
    # V1 section 4: ViT-L, six labelled sets simply concatenated, flip alone, 20 epochs, AdamW.
    # Our choice: TartanAir without its `amusement`, whose sky is a dome of unknown distance (its own split).
    model="depth-anything-v1-large",
    labelled=_V1_LABELLED,
    epochs=20.0,
    # Our choice: V1 states no batch size; V2's teacher has 64.
    batch_size=64,
    # V1's equations have no gradient matching; its author says that teacher and student use it (V1 issue 198), not how
    # much. MiDaS's weight is 0.5.
    ssi="median",
    gradient_weight=0.5,
)

_STUDENT_V1 = replace(
    _TEACHER_V1,
    # V1 section 4: begins anew from DINOv2, labelled : unlabelled 1 : 2 in each batch, one pass over the unlabelled.
    # Our choice: 192 in all, as V2's student; V1 states the ratio alone.
    objective="student-v1",
    pseudo_batch=128,
    batch_size=192,
    epochs=1.0,
    # Section 3.2: colour jitter, blur and CutMix with probability 0.5, on unlabelled pictures alone. Our choice: boxes
    # of any share of the picture, as CutMix has them, cut off at its edge (UniMatch's are 2 to 40 % and inside it).
    augment=Augmentation(),
    cutmix=0.5,
    # Section 3.3: the mean of the labelled, unlabelled and alignment losses, of weight 1 each; margin .85. Our choices,
    # as the paper does not say: alignment's mean is over the tokens that are kept, not over all, and so is larger; and
    # the frozen encoder sees the student's own, perturbed picture (align_sees).
    align_weight=1.0,
)

_TEACHER_V2 = replace(
    _PAPERS,
    # V2 section 7.1: Giant, five synthetic sets without re-sampling, batch 64, 160K iterations, Adam.
    model="depth-anything-v2-giant",
    labelled=("blendedmvs", "hypersim", "irs", "tartanair", "vkitti2"),
    batch_size=64,
    steps=160_000,
    optimizer="adam",
    weight_decay=0.0,
    # Not as the text has it (see `_v2_text`), with which 5 of 6 small runs learned nothing: V1's form with MiDaS's
    # weight, which is the authors' own released loss (Video Depth Anything, loss/loss.py) but for its trimming.
    # `datool.training.objectives.Relative` has the figures.
    ssi="median",
    gradient_weight=0.5,
    # So that Giant fits.
    checkpointing=True,
    shard=True,
)

_STUDENT_V2 = replace(
    _TEACHER_V2,
    # V2 section 7.1: pseudo-labelled pictures alone, batch 192, 480K iterations, the 10 % largest losses of each left
    # out, V1's alignment beside. Small, Base and Large differ in the model alone.
    model="depth-anything-v2-small",
    objective="student-v2",
    labelled=(),
    pseudo_batch=192,
    batch_size=192,
    steps=480_000,
    # Our choice: pixels are ranked by the scale-and-shift-invariant loss, and are left out of gradient matching too
    # (drop_gradient); the paper speaks of regions, its author of pixels (V2 issue 108).
    drop_share=0.1,
    # The weight of alignment is not stated; 1 as in V1. Our choice: the sum of both losses, where V1 takes their mean.
    align_weight=1.0,
    # As V1; its author calls them unnecessary for S and B taught by G (V2 issue 207): --set augment=null cutmix=0.
    augment=Augmentation(),
    cutmix=0.5,
    checkpointing=False,
    shard=False,
)


def _v2_text(recipe: Recipe) -> Recipe:
    """Return a recipe with the loss of V2's text: ssi and gradient matching 1 : 2 (section 7.1), by least squares (the
    MiDaS code that its author names, V2 issue 137)."""
    return replace(recipe, ssi="least-squares", gradient_weight=2.0)


_METRIC = replace(
    _PAPERS,
    # The script: SiLog, AdamW with weight decay 0.01, encoder 5e-6 and the rest ten times that, poly 0.9 without
    # warm-up, 4 images on each of 8 GPUs, 120 epochs, fp32, random 518 crops and flips, no change of colour. The
    # encoder begins as the relative model's, the head anew.
    objective="metric",
    target="depth",
    init="relative",
    head_bias=0.0,
    power=0.9,
    decay_all=True,
    batch_size=32,
    epochs=120.0,
    precision="fp32",
    clip=0.0,
)

_METRIC_V1 = replace(
    _METRIC,
    # V1's fine-tune, metric_depth/zoedepth/models/zoedepth/config_zoedepth.json: 5 epochs of 16, 1.61e-4, the encoder
    # a fiftieth of that, weight decay 0.01, one cycle, 392x518 of whole pictures, SiLog alone. The encoder begins as
    # V1's. ZoeDepth's loss forgives 0.85 of a wrong scale (its beta is 0.15). Our choices: V2's metric head
    # in place of ZoeDepth's bins; crops in place of whole pictures; betas that do not cycle.
    init="depth-anything-v1-large",
    batch_size=16,
    epochs=5.0,
    lr_encoder=1.61e-4 / 50,
    lr_head=1.61e-4,
    schedule="one-cycle",
    silog_variance=0.85,
    decay_all=False,
    clip=0.1,
    size_px=(392, 518),
)

# What the small recipes share: rendered scenes or own files at 112 pixels, minutes on two CPU cores.
_NANO = Recipe(
    model="nano",
    num_scenes=1000,
    scene_px=(112, 144),
    sizes=((0.0, 112, 112),),
    size_px=(112, 112),
    head_bias=0.5,
    batch_size=16,
    steps=600,
    warmup=50,
    ema=0.98,
    lr_encoder=1e-3,
    lr_head=1e-3,
    num_validation=64,
    validate_every=200,
    log_every=20,
)

# What the bundled model and its teacher share: ImageNet's EfficientNet-Lite, small pictures, hours on one CPU core.
_TINY = Recipe(
    model="tiny-teacher",
    init="efficientnet-lite2",
    head_bias=1.0,
    labelled=(),
    size_px=(192, 256),
    crop_zoom=0.6,
    labelled_augment=Augmentation(grey=0.1, blur=0.3),
    batch_size=16,
    steps=4000,
    # The fresh head learns as fast as a small one does, the trained encoder at 0.3 of it.
    lr_encoder=1.5e-4,
    lr_head=5e-4,
    warmup=200,
    ema=0.995,
    ssi="median",
    gradient_weight=0.5,
    num_validation=0,
    validate_every=500,
    log_every=50,
)

RECIPES: dict[str, Recipe] = {
    "teacher-v1": _TEACHER_V1,
    "student-v1": _STUDENT_V1,
    "teacher-v2": _TEACHER_V2,
    "student-v2": _STUDENT_V2,
    "teacher-v2-published": _v2_text(_TEACHER_V2),
    "student-v2-published": _v2_text(_STUDENT_V2),
    # As student-v2 but for one term that holds the scale of the output, which otherwise only grows: see
    # `datool.training.losses.scale_anchor`.
    "student-v2-stable": replace(_STUDENT_V2, anchor_weight=0.1),
    # Hypersim, to 20 m.
    "metric-indoor": replace(_METRIC, model="depth-anything-v2-metric-indoor-small", labelled=("hypersim",)),
    # Virtual KITTI 2, to 80 m; what is farther, sky included, is out of the loss (V2 issue 109).
    "metric-outdoor": replace(_METRIC, model="depth-anything-v2-metric-outdoor-small", labelled=("vkitti2",)),
    # NYU Depth V2's own training images (BTS's list: --set 'labelled=["nyu:FILE"]'), to 10 m.
    "metric-nyu": replace(_METRIC_V1, model="metric-nyu-large", labelled=("nyu:train",)),
    # Eigen's training images of KITTI, to 80 m. Zoe's 384x768 to the nearest multiples of 14.
    "metric-kitti": replace(
        _METRIC_V1, model="metric-kitti-large", labelled=("kitti:eigen-train",), size_px=(378, 770)
    ),
    # The same code in minutes: without DINOv2, so from random weights and with its learning rates.
    "nano-teacher": _NANO,
    "nano-student-v1": replace(
        _NANO,
        objective="student-v1",
        labelled=(),
        pseudo_batch=16,
        batch_size=24,
        augment=Augmentation(),
        cutmix=0.5,
    ),
    "nano-student-v2": replace(
        _NANO,
        objective="student-v2",
        labelled=(),
        pseudo_batch=16,
        drop_share=0.1,
        augment=Augmentation(),
        cutmix=0.5,
    ),
    "nano-metric": replace(
        _NANO,
        model="nano-metric",
        objective="metric",
        target="depth",
        schedule="poly",
        power=0.9,
        # 80 m x sigmoid(-3) = 3.8 m. From 40 m, a bias of 0, 300 steps pass before there is as much shape as in 60.
        head_bias=-3.0,
    ),
    # The model that ships, trained on two CPU cores.
    "tiny": Recipe(
        model="tiny",
        num_scenes=12_000,
        scene_px=(112, 144),
        sizes=((0.0, 96, 128), (0.85, 112, 144)),
        colour=0.5,
        batch_size=16,
        steps=5600,
        gradient_weight=0.1,
        lr_encoder=5e-4,
        lr_head=5e-4,
        warmup=300,
        validate_every=700,
    ),
    # The bundled model's chain: a teacher on rendered scenes and labelled photos, a student on its labels beside them.
    "tiny-teacher": _TINY,
    "tiny-student": replace(
        _TINY,
        model="tiny-student",
        objective="student-v1",
        pseudo_batch=12,
        batch_size=20,
        drop_share=0.1,
        augment=Augmentation(),
        cutmix=0.5,
        align_weight=0.5,
        align_init="efficientnet-lite2",
    ),
    # The whole path in seconds, for tests and for a first look.
    "nano": Recipe(
        model="nano",
        num_scenes=64,
        scene_px=(56, 70),
        sizes=((0.0, 56, 70),),
        head_bias=0.5,
        batch_size=8,
        steps=60,
        warmup=10,
        ema=0.9,
        num_validation=16,
        validate_every=30,
        log_every=10,
    ),
}
