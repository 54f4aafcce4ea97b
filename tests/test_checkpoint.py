"""Laws of a run that is interrupted: it goes on as if it never had been."""

import json
import random
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from ranks import lines, options, run_killed

from datool.errors import DatoolError
from datool.jobs.train import train
from datool.models.weights import read_state
from datool.training.dataloading import Places
from datool.training.recipes import RECIPES

NANO = replace(RECIPES["nano"], num_scenes=8, num_validation=4, batch_size=4, steps=9, validate_every=2, log_every=1)
STUDENT = replace(
    RECIPES["nano-student-v1"], batch_size=6, pseudo_batch=4, size_px=(28, 42), num_validation=0, steps=9,
    validate_every=2, log_every=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Five noisy photos with depth, as labelled ones and as a teacher's."""
    root = tmp_path_factory.mktemp("own")
    generator = np.random.default_rng(0)
    with open(root / "manifest.jsonl", "w") as manifest:
        for number in range(5):
            cv2.imwrite(str(root / f"{number}.png"), generator.integers(0, 256, (40, 50, 3), np.uint8))
            np.save(root / f"{number}.npy", generator.uniform(1, 9, (40, 50)).astype(np.float32))
            manifest.write(json.dumps({"image": f"{number}.png", "depth": f"{number}.npy"}) + "\n")
    return Places((root,), (root,))


def same_weights(one, two):
    first, second = (read_state(path / "last.safetensors")[0] for path in (one, two))
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def killed_and_resumed(recipe, out, steps, **rest):
    for number, step in enumerate((*steps, None)):
        run_killed(step, recipe, options(out, resume=number > 0, **rest))


def test_killed_twice_is_never_killed_bit_for_bit(tmp_path):
    train(NANO, options(tmp_path / "whole"))
    # Before any checkpoint, and beyond two of them.
    killed_and_resumed(NANO, tmp_path / "killed", (1, 5))
    assert lines(tmp_path / "whole") == lines(tmp_path / "killed")
    assert same_weights(tmp_path / "whole", tmp_path / "killed")


def test_of_stored_samples_too_mixed_and_perturbed(tmp_path, places):
    pytest.importorskip("kornia")
    train(STUDENT, options(tmp_path / "whole", places=places))
    killed_and_resumed(STUDENT, tmp_path / "killed", (5,), places=places)
    assert lines(tmp_path / "whole") == lines(tmp_path / "killed")
    assert same_weights(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_killed_at_ten_random_steps_is_never_killed_bit_for_bit(tmp_path):
    recipe = replace(NANO, steps=40, validate_every=3)
    train(recipe, options(tmp_path / "whole"))
    steps = sorted(random.SystemRandom().sample(range(1, 40), 10))
    killed_and_resumed(recipe, tmp_path / "killed", steps)
    assert lines(tmp_path / "whole") == lines(tmp_path / "killed"), steps
    assert same_weights(tmp_path / "whole", tmp_path / "killed"), steps


def test_a_run_goes_on_without_what_it_began_from(tmp_path):
    train(NANO, options(tmp_path / "teacher"))
    recipe = replace(NANO, init=str(tmp_path / "teacher" / "best.safetensors"))
    run_killed(3, recipe, options(tmp_path / "run"))
    (tmp_path / "teacher" / "best.safetensors").unlink()
    assert train(recipe, options(tmp_path / "run", resume=True)).steps == 9


def test_the_last_few_are_kept(tmp_path):
    train(replace(NANO, keep=3), options(tmp_path))
    found = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert found == ["step-00000006.ckpt", "step-00000008.ckpt", "step-00000009.ckpt"]


def test_a_damaged_one_is_named_and_the_one_before_it_serves(tmp_path):
    train(NANO, options(tmp_path))
    last = tmp_path / "checkpoints" / "step-00000009.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(DatoolError, match=r"cannot resume from .*step-00000009"):
        train(NANO, options(tmp_path, resume=True))
    last.unlink()
    assert train(NANO, options(tmp_path, resume=True)).steps == 9


def test_what_a_run_is_stays_and_how_it_runs_may_change(tmp_path):
    # Least squares, since a median jumps, and small steps: else rounding would grow from step to step.
    whole = replace(NANO, precision="fp32", ssi="least-squares", num_validation=0, lr_encoder=1e-4, lr_head=1e-4)
    train(whole, options(tmp_path / "whole"))
    run_killed(5, whole, options(tmp_path / "parts"))
    with pytest.raises(DatoolError, match="another batch_size"):
        train(whole, options(tmp_path / "parts", resume=True, settings=("batch_size=8",)))
    train(whole, options(tmp_path / "parts", resume=True, settings=("accumulation=2",)))
    one, two = (lines(tmp_path / name)[-1] for name in ("whole", "parts"))
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-6)
    assert json.loads((tmp_path / "parts" / "recipe.json").read_text())["accumulation"] == 2


def test_other_data_or_another_recipe_are_refused(tmp_path, places):
    root = tmp_path / "own"
    shutil.copytree(places.data[0], root)
    recipe = replace(STUDENT, objective="labelled", pseudo_batch=0, cutmix=0.0, augment=None, steps=2)
    given = options(tmp_path / "run", places=Places((root,)))
    train(recipe, given)
    stored = tmp_path / "run" / "recipe.json"
    whole = stored.read_text()
    stored.write_text(whole.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(DatoolError, match="in the recipe of the checkpoint seed was 0, now 1"):
        train(recipe, replace(given, resume=True))
    stored.write_text(whole)
    train(recipe, replace(given, resume=True))
    manifest = root / "manifest.jsonl"
    manifest.write_text(manifest.read_text() * 2)
    with pytest.raises(DatoolError, match=r"\(5,\) samples then, \(10,\) now"):
        train(recipe, replace(given, resume=True))


def test_samples_that_others_are_taken_for_are_told(tmp_path, places):
    root = tmp_path / "own"
    shutil.copytree(places.data[0], root)
    (root / "3.png").write_bytes(b"")
    recipe = replace(STUDENT, objective="labelled", pseudo_batch=0, cutmix=0.0, augment=None, steps=4)
    recipe = replace(recipe, skip_broken=True)
    train(recipe, options(tmp_path / "run", places=Places((root,))))
    told = [line for line in lines(tmp_path / "run") if line.get("event") == "skipped"]
    assert told and all("the file is empty" in reason for line in told for reason in line["reasons"])
