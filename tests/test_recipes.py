"""Recipes are values: the papers' numbers, and a way there and back."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files

import pytest

from datool.data.batches.augment import Augmentation
from datool.data.sources.table import SOURCES
from datool.errors import DatoolError
from datool.evaluation.benchmarks import BENCHMARKS, protocol_for
from datool.models.specs import MODELS
from datool.training.dataloading import named_set
from datool.training.objectives import OBJECTIVES
from datool.training.optimizers import schedule_share
from datool.training.recipe import RENDERED, Recipe
from datool.training.recipes import RECIPES, override, read_recipe, write_recipe


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_resolves_and_comes_back_from_its_file(name, tmp_path):
    recipe = RECIPES[name]
    recipe.check()
    assert recipe.model in MODELS and recipe.objective in OBJECTIVES
    assert all(name == RENDERED or named_set(name, {}).split for name in recipe.labelled)
    assert (recipe.target == "depth") == (MODELS[recipe.model].max_depth_m is not None)
    path = tmp_path / "recipe.json"
    path.write_text(write_recipe(recipe))
    assert read_recipe(str(path)) == recipe


def test_the_papers_numbers():
    v1, v2 = RECIPES["teacher-v1"], RECIPES["teacher-v2"]
    assert set(v1.labelled) == {"blendedmvs", "diml", "hrwsi", "irs", "megadepth", "tartanair"}
    assert (v1.model, v1.epochs, v1.optimizer, v1.augment, v1.cutmix) == (
        "depth-anything-v1-large", 20, "adamw", None, 0,
    )  # fmt: skip
    assert set(v2.labelled) == {"blendedmvs", "hypersim", "irs", "tartanair", "vkitti2"}
    assert (v2.model, v2.batch_size, v2.steps, v2.optimizer) == ("depth-anything-v2-giant", 64, 160_000, "adam")
    s1, s2 = RECIPES["student-v1"], RECIPES["student-v2"]
    assert 2 * s1.labelled_batch == s1.pseudo_batch and s1.cutmix == 0.5 and s1.augment is not None and s1.epochs == 1
    assert (s2.batch_size, s2.steps, s2.labelled_batch, s2.drop_share) == (192, 480_000, 0, 0.1)
    for recipe in (v1, v2, s1, s2):
        assert (recipe.lr_encoder, recipe.lr_head, recipe.size_px) == (5e-6, 5e-5, (518, 518))
    for name in ("teacher-v2", "student-v2"):
        published = RECIPES[f"{name}-published"]
        assert published.gradient_weight == 2 and published.ssi == "least-squares"
        assert replace(published, ssi="median", gradient_weight=0.5) == RECIPES[name]
    for recipe in (s1, s2):
        assert recipe.align_weight and recipe.align_margin == 0.85
    for name, far in (("metric-indoor", 20), ("metric-outdoor", 80)):
        metric = RECIPES[name]
        assert MODELS[metric.model].max_depth_m == far and metric.power == 0.9 and metric.epochs == 120
        assert (metric.batch_size, metric.weight_decay, metric.silog_variance) == (32, 0.01, 0.5)


def test_v1s_metric_fine_tunes_train_on_the_sets_own_training_images():
    for name, sets, far, size in (("nyu", "nyu:train", 10, (392, 518)), ("kitti", "kitti:eigen-train", 80, (378, 770))):
        recipe = RECIPES[f"metric-{name}"]
        assert recipe.labelled == (sets,) and MODELS[recipe.model].max_depth_m == far and recipe.size_px == size
        assert (recipe.epochs, recipe.batch_size, recipe.lr_head, recipe.clip) == (5, 16, 1.61e-4, 0.1)
        assert recipe.lr_head == pytest.approx(50 * recipe.lr_encoder)
        shares = [schedule_share(recipe, step, 1000) for step in (0, 699, 850, 999)]
        assert shares[:2] == [1, 1] and shares[2] == pytest.approx(0.5, abs=1e-3) and 1e-4 <= shares[3] < 2e-4


def test_no_recipe_trains_on_what_benchmarks_score():
    for name, source in SOURCES.items():
        for split in source.scored:
            with pytest.raises(DatoolError, match=f"benchmarks score split '{split}' of '{name}'"):
                named_set(f"{name}:{split}", {})
    benches = {(row.source, protocol.split or SOURCES[row.source].splits[0])
               for bench, row in BENCHMARKS.items() for protocol in (protocol_for(bench),)}  # fmt: skip
    assert all(split in SOURCES[name].scored for name, split in benches)
    assert named_set("nyu", {}).split == "train" and named_set("kitti", {}).split == "eigen-train"
    assert named_set("nyu:mine.txt", {}).split == "mine.txt" and named_set("irs", {}).split == "all"
    with pytest.raises(DatoolError, match="benchmarks score 'eth3d'"):
        named_set("eth3d", {})


def test_the_stable_student_differs_in_one_field():
    published, stable = (json.loads(write_recipe(RECIPES[name])) for name in ("student-v2", "student-v2-stable"))
    assert [key for key in published if published[key] != stable[key]] == ["anchor_weight"]


def test_the_bundled_recipe_reads_as_the_named_one():
    stored = files("datool.models") / "bundled" / "tiny.recipe.json"
    assert read_recipe(str(stored)) == RECIPES["tiny"]


def test_settings_reach_fields_and_fields_of_fields():
    recipe = override(
        RECIPES["student-v2"],
        ["steps=7", "lr_head=1", "labelled=[\"irs\"]", "augment.blur=0.25", "ssi=median", "cutmix_area=[0.1,0.5]"],
    )  # fmt: skip
    assert recipe.steps == 7 and recipe.lr_head == 1.0 and recipe.labelled == ("irs",) and recipe.ssi == "median"
    assert recipe.augment == Augmentation(blur=0.25) and recipe.cutmix_area == (0.1, 0.5)
    assert override(recipe, ["augment=null"]).augment is None
    assert override(override(recipe, ["augment=null"]), ["augment={}"]).augment == Augmentation()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("stepz=7", "did you mean|steps"),
        ("steps=often", "not a value"),
        ("steps=1.5", "steps"),
        ("steps", "expected key=value"),
        ("augment.blurr=1", "blur"),
        ("steps.blur=1", "cannot set steps.blur"),
    ],
)
def test_a_wrong_setting_says_what_is_wrong(setting, said):
    with pytest.raises(DatoolError, match=said):
        override(RECIPES["student-v2"], [setting])


@pytest.mark.parametrize("size", ["small", "base", "large", "giant"])
def test_a_students_size_is_a_choice_of_model_alone(size):
    recipe = override(RECIPES["student-v2"], [f"model=depth-anything-v2-{size}"])
    recipe.check()
    assert MODELS[recipe.model].encoder == f"dinov2-{size}"
    assert recipe.align_encoder == ""  # the frozen encoder has the student's own size, so there is no projector


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("nano-teacher", "log_every=0", "log_every is 0"),
        ("nano-teacher", "seed=20261121", "seed is 20261121"),
        ("nano-teacher", "drop_share=0.1", "changes pseudo-labelled samples alone"),
        ("teacher-v2", "align_weight=1", "changes pseudo-labelled samples alone"),
    ],
)
def test_what_cannot_be_or_has_no_effect_is_refused(name, setting, said):
    with pytest.raises(DatoolError, match=said):
        override(RECIPES[name], [setting]).check()


def test_contradicting_fields_are_refused():
    with pytest.raises(DatoolError, match="pseudo_batch is 9 of a batch_size of 8"):
        Recipe("nano", batch_size=8, pseudo_batch=9).check()
    with pytest.raises(DatoolError, match="rendered scenes cannot be mixed"):
        Recipe("nano", labelled=("rendered", "irs")).check()
