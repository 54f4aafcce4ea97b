"""Laws of a whole run: from a recipe and data to a model that loads, by the job and by the commands."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from ranks import lines, noisy_photos, options
from typer.testing import CliRunner

from datool.cli import app
from datool.data.batches.transforms import NUM_COLOUR_DRAWS, NUM_WINDOW_DRAWS, colour, window
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.jobs.train import plan, train
from datool.models.specs import MODELS
from datool.models.weights import load
from datool.training.dataloading import Places, groups_of, own_set
from datool.training.recipes import RECIPES, read_recipe
from datool.training.validation import mean_scores

NANO = replace(RECIPES["nano"], num_scenes=8, num_validation=4, batch_size=4, steps=4, validate_every=2, log_every=1)
FEW = ["--set", "num_scenes=8", "--set", "num_validation=4", "--set", "validate_every=2", "--set", "log_every=1"]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return noisy_photos(tmp_path_factory.mktemp("own"))


def datool(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_it_learns_its_own_scenes(tmp_path):
    recipe = replace(NANO, steps=150, warmup=5, colour=0.0, zoom=1.0, validate_every=150, log_every=10, num_scenes=4)
    train(recipe, options(tmp_path / "run"))
    losses = [line["loss"] for line in lines(tmp_path / "run") if "loss" in line]
    assert losses[-1] < 0.6 * losses[0]


def test_the_kept_weights_load_as_a_model_and_so_does_the_folder(tmp_path):
    summary = train(NANO, options(tmp_path / "run"))
    for spec in (summary.weights, tmp_path / "run", str(tmp_path / "run")):
        loaded = load(spec)
        assert loaded.name == "nano" and loaded.source.endswith("best.safetensors")
        assert loaded.model(torch.rand(1, 3, 56, 70)).shape == (1, 56, 70)
    scores = [line for line in lines(tmp_path / "run") if "abs_rel" in line]
    assert summary.steps == 4 and summary.scores["abs_rel"] == min(line["abs_rel"] for line in scores)


def test_without_held_out_data_the_last_weights_are_the_model(tmp_path):
    summary = train(replace(NANO, num_validation=0), options(tmp_path))
    assert summary.scores == {} and summary.weights.name == "last.safetensors"
    assert load(tmp_path).source.endswith("last.safetensors")


def test_a_folder_holds_one_run(tmp_path):
    train(NANO, options(tmp_path / "run"))
    with pytest.raises(DatoolError, match="holds a run already"):
        train(NANO, options(tmp_path / "run"))
    with pytest.raises(DatoolError, match="cannot read recipe"):
        train(NANO, options(tmp_path / "none", resume=True))


def test_what_cannot_begin_leaves_no_run_behind(tmp_path):
    for recipe, said in (
        (RECIPES["teacher-v2"], "no files of 'blendedmvs'"),
        (RECIPES["nano-student-v2"], "trains on a teacher's labels"),
        (RECIPES["nano-student-v1"], "labelled ones, and there are none"),
        (replace(RECIPES["nano"], target="disparity"), "rendered scenes have no target"),
        (replace(NANO, optimizer="sgd"), "unknown optimizer 'sgd'"),
        (replace(NANO, precision="fp8"), "unknown precision 'fp8'"),
        (replace(NANO, init=str(tmp_path / "none")), "no weights"),
        (replace(NANO, sizes=((0.0, 112, 100),)), "sizes is 112x100, and nano takes multiples of 14. Nearest: 112x98"),
    ):
        with pytest.raises(DatoolError, match=said):
            train(recipe, options(tmp_path / "run"))
        assert not (tmp_path / "run" / "recipe.json").exists()


@pytest.mark.parametrize("name", ["nano-teacher", "nano-student-v1", "nano-student-v2", "nano-metric"])
def test_every_stage_trains_on_own_data_and_is_scored_on_it(name, tmp_path, own):
    if RECIPES[name].augment is not None:
        pytest.importorskip("kornia")
    recipe = replace(RECIPES[name], steps=2, validate_every=2, size_px=(28, 42), batch_size=6)
    recipe = replace(recipe, pseudo_batch=min(recipe.pseudo_batch, 4 if name.endswith("v1") else 6))
    places = Places((own,), (own,) if name == "nano-student-v1" else (), own)
    summary = train(recipe, options(tmp_path, places=places))
    assert set(summary.scores) - {"unscored"} <= {"abs_rel", "delta1"} and summary.scores
    assert load(tmp_path).name == recipe.model


def test_a_student_aligned_with_a_frozen_encoder(tmp_path, own):
    pytest.importorskip("kornia")
    train(NANO, options(tmp_path / "teacher"))
    recipe = replace(
        RECIPES["nano-student-v2"], steps=2, size_px=(28, 42), batch_size=4, pseudo_batch=4, num_validation=0,
        align_weight=1.0, align_margin=1.0, align_init=str(tmp_path / "teacher" / "best.safetensors"),
    )  # fmt: skip
    train(recipe, options(tmp_path / "run", places=Places((own,))))
    assert 0 < lines(tmp_path / "run")[-1]["alignment"] <= 2


def test_a_validation_set_that_cannot_be_scored_is_refused(tmp_path, own):
    blind, scaled = tmp_path / "blind.jsonl", tmp_path / "scaled.jsonl"
    row = json.loads((own / "manifest.jsonl").read_text().splitlines()[0])
    row = {**row, "image": str(own / row["image"]), "depth": str(own / row["depth"])}
    blind.write_text(json.dumps({"image": row["image"]}))
    scaled.write_text(json.dumps({**row, "quantity": "depth", "ambiguity": "scale"}))
    metric = replace(RECIPES["nano-metric"], steps=1, batch_size=2, num_validation=0, num_scenes=4)
    for path, said in ((blind, "has no truth"), (scaled, "known up to scale; the model predicts metres")):
        with pytest.raises(DatoolError, match=said):
            train(metric, options(tmp_path / path.stem, places=Places(validation=path)))


def test_a_plan_counts_and_costs_without_training(tmp_path, own):
    found = plan(RECIPES["nano-metric"], options(tmp_path / "run", places=Places((own,))))
    assert found.samples == {f"manifest {own}": 5} and found.steps == 600
    assert found.budget.parameters == sum(value.numel() for value in load_nano().parameters())
    assert found.budget.hours > 0 and not (tmp_path / "run").exists()
    bigger = plan(replace(RECIPES["nano"], batch_size=16), options(tmp_path)).budget
    smaller = plan(replace(RECIPES["nano"], batch_size=16, accumulation=4), options(tmp_path)).budget
    assert bigger.activation_bytes > 3 * smaller.activation_bytes
    assert bigger.flops_per_image == pytest.approx(smaller.flops_per_image)
    missing = plan(RECIPES["metric-indoor"], options(tmp_path))
    assert missing.steps is None and "no files of 'hypersim'" in missing.samples["hypersim"]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_is_printed_without_data(name, tmp_path):
    done = datool("train-student", "--recipe", name, "--out", tmp_path / "run", "--dry-run", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["recipe"]["model"] == RECIPES[name].model
    assert bool(found["missing"]) == (RECIPES[name].pseudo_batch > 0 or RECIPES[name].labelled == ())
    wanted = ("Write them: datool pseudo-label", "--labelled FILE", "--data FILE")
    assert not found["missing"] or any(words in found["missing"] for words in wanted)


def load_nano():
    from datool.models.depth_anything import build_model

    return build_model("nano")


def test_epochs_are_passes_over_the_samples(tmp_path, own):
    recipe = replace(RECIPES["nano-metric"], epochs=4.0, batch_size=2)
    assert plan(recipe, options(tmp_path, places=Places((own,)))).steps == 10


def test_the_command_trains_goes_on_and_says_so(tmp_path):
    out = tmp_path / "run"
    done = datool("train-teacher", "--recipe", "nano", "--out", out, "--steps", 4, "--batch-size", 4, *FEW, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 4
    stored = read_recipe(str(out / "recipe.json"))
    assert (stored.steps, stored.batch_size, stored.num_scenes) == (4, 4, 8)
    again = datool("train-teacher", "--out", out, "--resume", "--json")
    assert again.exit_code == 0 and json.loads(again.stdout)["weights"] == str(out / "best.safetensors")
    assert datool("train-teacher", "--out", out, "--resume", "--steps", 9).exit_code == 2
    refused = datool("train-teacher", "--recipe", "nano", "--out", out)
    assert refused.exit_code == 1 and "holds a run already" in refused.stderr


def test_a_collapsed_run_ends_with_1_unless_it_is_allowed(tmp_path):
    dead = ["--set", "head_bias=-100", "--set", "collapse_steps=4", "--set", "warmup=0", "--batch-size", 4, *FEW]
    run = ["train-teacher", "--recipe", "nano", "--out", tmp_path / "run", "--steps", 6, *dead]
    done = datool(*run)
    assert done.exit_code == 1 and "a constant map in its place" in done.stderr and "--allow-collapse" in done.stderr
    assert "uncorrelated, loss" in done.stderr
    on = datool("train-teacher", "--out", tmp_path / "run", "--resume", "--allow-collapse", "--json")
    assert on.exit_code == 0 and json.loads(on.stdout)["steps"] == 6
    assert datool(*run[:4], tmp_path / "other", *run[5:], "--allow-collapse").exit_code == 0


def test_labels_without_a_known_pixel_train_nothing(tmp_path, own):
    for row in (own / "manifest.jsonl").read_text().splitlines():
        np.save(tmp_path / json.loads(row)["depth"], np.full((40, 50), np.nan, np.float32))
        shutil.copy(own / json.loads(row)["image"], tmp_path)
    shutil.copy(own / "manifest.jsonl", tmp_path)
    done = datool(
        "train-teacher", "--recipe", "nano", "--data", tmp_path / "manifest.jsonl", "--out", tmp_path / "run",
        "--steps", 3, "--size", 28, "--batch-size", 2, "--workers", 0, *FEW, "--set", "log_every=20",
    )  # fmt: skip
    assert done.exit_code == 1 and "no pixel of any target was known" in done.stderr and "data check" in done.stderr
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_training_does_not_take_an_exchanged_map_for_a_good_one():
    row, truth = MODELS["nano"], np.random.default_rng(0).uniform(1, 9, (20, 30)).astype(np.float32)
    known = DepthMap(truth, Quantity.DEPTH, Ambiguity.NONE)

    def scores(values):
        return mean_scores(iter([(values.astype(np.float32), known)]), row)

    right, constant, exchanged = scores(3 / truth + 2), scores(np.ones_like(truth)), scores(-3 / truth + 2)
    assert right["abs_rel"] < 1e-5 and exchanged == pytest.approx(constant) and constant["abs_rel"] > 0.1


def test_a_dry_run_prints_the_recipe_as_a_file_and_writes_nothing(tmp_path):
    done = datool("train-student", "--out", tmp_path / "run", "--dry-run", "--data", tmp_path / "none.jsonl")
    assert done.exit_code == 1 and "no data at" in done.stderr
    done = datool("train-teacher", "--recipe", "nano", "--out", tmp_path / "run", "--dry-run", "--json")
    found = json.loads(done.stdout)
    assert found["recipe"]["model"] == "nano" and found["steps"] == 60 and not (tmp_path / "run").exists()
    text = datool("train-teacher", "--recipe", "nano", "--out", tmp_path / "run", "--dry-run").stdout
    assert json.loads(text[: text.index("}\n") + 1])["model"] == "nano" and "memory" in text


def test_options_reach_the_recipe(tmp_path):
    def recipe(command, *arguments):
        done = datool(command, "--out", tmp_path, "--dry-run", "--json", *arguments)
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)["recipe"]

    teacher = recipe("train-teacher", "--recipe", "teacher-v1", "--model", "v2-small", "--steps", 7, "--size", 252)
    assert teacher["model"] == "depth-anything-v2-small" and teacher["size_px"] == [252, 252]
    assert (teacher["steps"], teacher["epochs"]) == (7, 0)
    assert recipe("train-teacher", "--recipe", "nano-teacher", "--size", 56)["sizes"] == [[0.0, 56, 56]]
    metric = recipe("train-metric", "--init", "v2-base", "--init-head", "--precision", "bf16")
    assert (metric["init"], metric["init_head"], metric["precision"]) == ("v2-base", True, "bf16")
    wrong = datool("train-student", "--recipe", "student-v1", "--out", tmp_path, "--batch-size", 10, "--dry-run")
    assert wrong.exit_code == 2 and "cannot be split like that" in wrong.stderr


# Windows and colours of rendered scenes


def test_a_window_moves_image_and_depth_together():
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(4, 30, 40, generator=generator).cumsum(2)
    image = depth[:, None].expand(-1, 3, -1, -1)
    whole = torch.full((4, NUM_WINDOW_DRAWS), 0.5)
    same_image, same_depth = window(image, depth, (30, 40), 1.0, whole)
    torch.testing.assert_close(same_image, image)
    torch.testing.assert_close(same_depth, depth)
    mirrored, _ = window(image, depth, (30, 40), 1.0, torch.zeros_like(whole))
    torch.testing.assert_close(mirrored, image.flip(3))
    smooth = torch.linspace(0, 1, 40).expand(4, 30, 40)
    part_image, part_depth = window(
        smooth[:, None].expand(-1, 3, -1, -1),
        smooth,
        (16, 16),
        0.4,
        torch.rand(4, NUM_WINDOW_DRAWS, generator=generator),
    )
    assert (part_image[:, 0] - part_depth).abs().max() < 1 / 39


def test_colour_keeps_the_range_and_strength_0_keeps_the_picture():
    image = torch.rand(4, 3, 8, 8).clamp(min=1e-3)
    draws = torch.rand(4, NUM_COLOUR_DRAWS)
    torch.testing.assert_close(colour(image, 0.0, draws), image)
    changed = colour(image, 1.0, draws)
    assert changed.min() >= 0 and changed.max() <= 1 and not torch.equal(changed, image)


def test_the_manifest_of_labels_kept_as_shards_means_their_folder(tmp_path):
    from datool.data.shards import INDEX

    (tmp_path / INDEX).write_text("{}")
    assert own_set(tmp_path / "manifest.jsonl") == own_set(tmp_path)
    with pytest.raises(DatoolError, match="no data at"):
        own_set(tmp_path / "other.jsonl")


def test_sky_masks_find_their_set_by_name_or_path(tmp_path):
    (tmp_path / "own.jsonl").write_text("{}")
    own, masks = tmp_path / "own.jsonl", tmp_path / "masks"
    recipe = RECIPES["teacher-v1"]
    by_path = Places(data=(own,), sky={str(own): masks})
    by_name = Places(sky={"hrwsi": masks})
    for places in (by_path, Places.from_json(by_path.to_json())):
        assert [spec.sky for spec in groups_of(recipe, places)[0].sets] == [masks]
    skies = {spec.source: spec.sky for spec in groups_of(recipe, by_name)[0].sets}
    assert skies.pop("hrwsi") == masks and set(skies.values()) == {None}
    with pytest.raises(DatoolError, match="sky masks of diode, which is not trained on"):
        groups_of(recipe, Places(sky={"diode": masks}))
