"""Laws of recipes and of the loop, on the nano model."""

import json
from dataclasses import replace

import pytest
import torch

from datool.data.transforms import NUM_COLOUR_DRAWS, NUM_WINDOW_DRAWS, colour, disparity_target, window
from datool.errors import DatoolError
from datool.jobs.train import train
from datool.models.weights import load
from datool.training.recipes import RECIPES, override, read_recipe, write_recipe

NANO = replace(RECIPES["nano"], num_scenes=8, num_validation=4, batch_size=4, steps=4, validate_every=2, log_every=1)


def lines(out):
    """The log without what the clock decides."""
    return [{k: v for k, v in json.loads(text).items() if k != "images_per_s"} for text in open(out / "log.jsonl")]


def test_stopped_and_resumed_is_never_stopped_bit_for_bit(tmp_path):
    train(NANO, tmp_path / "whole")

    class Killed(BaseException):
        pass

    def kill(line):
        if line["step"] == 3:
            raise Killed

    with pytest.raises(Killed):
        train(NANO, tmp_path / "halves", progress=kill)
    train(NANO, tmp_path / "halves", resume=True)
    whole = {json.dumps(line, sort_keys=True) for line in lines(tmp_path / "whole")}
    halves = {json.dumps(line, sort_keys=True) for line in lines(tmp_path / "halves")}
    assert whole == halves
    one, two = (torch.load(tmp_path / run / "last.ckpt", weights_only=True) for run in ("whole", "halves"))
    for name, value in one["averaged"].items():
        assert torch.equal(value, two["averaged"][name]), name


def test_it_learns_its_own_scenes(tmp_path):
    recipe = replace(NANO, steps=150, warmup=5, colour=0.0, zoom=1.0, validate_every=150, log_every=10, num_scenes=4)
    train(recipe, tmp_path / "run")
    losses = [line["loss"] for line in lines(tmp_path / "run") if "loss" in line]
    assert losses[-1] < 0.6 * losses[0]


def test_the_kept_weights_load_as_a_model(tmp_path):
    summary = train(NANO, tmp_path / "run")
    loaded = load(summary.weights)
    assert loaded.name == "nano" and summary.steps == 4
    assert loaded.model(torch.rand(1, 3, 56, 70)).shape == (1, 56, 70)


def test_a_folder_holds_one_run(tmp_path):
    train(NANO, tmp_path / "run")
    with pytest.raises(DatoolError, match="holds a run already"):
        train(NANO, tmp_path / "run")
    with pytest.raises(DatoolError, match="cannot read recipe"):
        train(NANO, tmp_path / "none", resume=True)


def test_a_written_recipe_is_itself_a_recipe(tmp_path):
    for name, recipe in RECIPES.items():
        path = tmp_path / f"{name}.json"
        path.write_text(write_recipe(recipe))
        assert read_recipe(str(path)) == recipe == read_recipe(name)


@pytest.mark.parametrize(
    "setting, message",
    [
        ("stps=3", "Did you mean 'steps'"),
        ("steps", "expected key=value"),
        ("steps=many", "is not a value"),
        ("steps=1.5", "recipe field 'steps'"),
        ("sizes=[[0,1]]", "recipe field 'sizes'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(setting, message):
    with pytest.raises(DatoolError, match=message):
        override(RECIPES["nano"], [setting])


def test_settings_are_typed_by_their_field():
    recipe = override(RECIPES["nano"], ["steps=7", "zoom=1", "sizes=[[0, 56, 70]]", "ssi=least-squares"])
    assert (recipe.steps, recipe.zoom, recipe.sizes, recipe.ssi) == (7, 1.0, ((0.0, 56, 70),), "least-squares")


def test_targets_are_disparity_between_0_and_1_with_sky_at_0():
    depth = torch.tensor([[[1.0, 2.0], [torch.inf, torch.nan]]])
    target, valid = disparity_target(depth)
    assert target.tolist() == [[[1.0, 0.5], [0.0, 0.0]]] and valid.tolist() == [[[True, True], [True, False]]]
    flat, _ = disparity_target(torch.full((1, 2, 2), 3.0))
    assert flat.isfinite().all()


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
