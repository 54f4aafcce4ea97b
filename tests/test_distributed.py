"""Laws of several ranks: they are one rank, whoever holds what part of the model; what stops one stops all."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from ranks import lines, noisy_photos, options, run_killed, run_ranks, train_quietly

from datool.data.batches.stored import RenderedBatches
from datool.errors import DatoolError
from datool.jobs.train import train
from datool.models.weights import load
from datool.training.dataloading import Places
from datool.training.distributed import Ranks, process_group
from datool.training.recipes import RECIPES

# Least squares, since a median jumps, and small steps, since Adam's are as large for gradients that are rounding alone:
# with either, rounding would grow from step to step (to 1e-4 in six of 1e-3).
NANO = replace(
    RECIPES["nano"], num_scenes=8, num_validation=4, batch_size=4, steps=6, validate_every=2, log_every=1,
    precision="fp32", ssi="least-squares", lr_encoder=1e-4, lr_head=1e-4,
)  # fmt: skip
FIGURES = ("loss", "ssi", "gradient", "abs_rel", "delta1")


def figures(out):
    return [[line[name] for name in FIGURES if name in line] for line in lines(out)]


def alike(one, two, rel=1e-6):
    return all(a == pytest.approx(b, rel=rel) for a, b in zip(figures(one), figures(two), strict=True))


@pytest.mark.parametrize("changes", [{}, {"model": "nano-conv", "scene_px": (64, 96), "sizes": ((0.0, 64, 96),)}])
def test_two_ranks_are_one_rank(changes, tmp_path):
    recipe = replace(NANO, **changes)
    train(recipe, options(tmp_path / "one"))
    assert run_ranks(2, train_quietly, recipe, options(tmp_path / "two")) == [0, 0]
    assert alike(tmp_path / "one", tmp_path / "two")


def test_two_ranks_in_parts_are_one_rank(tmp_path):
    train(NANO, options(tmp_path / "one"))
    assert run_ranks(2, train_quietly, replace(NANO, accumulation=2), options(tmp_path / "two")) == [0, 0]
    assert alike(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("name, pseudo_batch", [("nano-student-v1", 2), ("nano-student-v2", 4)])
def test_two_ranks_of_a_student_are_one_rank(name, pseudo_batch, tmp_path):
    """Boxes of pictures that another rank has, the dropped tenth and alignment included."""
    pytest.importorskip("kornia")
    own = noisy_photos(tmp_path)
    train(replace(NANO, steps=1), options(tmp_path / "teacher"))
    recipe = replace(
        RECIPES[name], size_px=(28, 42), batch_size=4, pseudo_batch=pseudo_batch, steps=4, log_every=1,
        num_validation=0, precision="fp32", ssi="least-squares", cutmix=1.0, align_weight=1.0, align_margin=1.0,
        align_init=str(tmp_path / "teacher" / "best.safetensors"),
    )  # fmt: skip
    places = Places((own,), (own,) if pseudo_batch < 4 else ())
    train(recipe, options(tmp_path / "one", places=places))
    assert run_ranks(2, train_quietly, recipe, options(tmp_path / "two", places=places)) == [0, 0]
    one, two = ([line["loss"] for line in lines(tmp_path / out) if "loss" in line] for out in ("one", "two"))
    assert len(one) == 4 and two == pytest.approx(one, rel=1e-6)


def test_a_sharded_model_is_a_copied_one_and_goes_on_on_any_number_of_ranks(tmp_path):
    train(NANO, options(tmp_path / "one"))
    sharded = replace(NANO, shard=True, checkpointing=True)
    assert run_ranks(2, _stopped, 4, sharded, options(tmp_path / "two")) == [1, 1]
    assert (tmp_path / "two" / "checkpoints" / "step-00000004").is_dir()
    assert run_ranks(1, train_quietly, sharded, options(tmp_path / "two", resume=True)) == [0]
    assert alike(tmp_path / "one", tmp_path / "two", rel=1e-5)
    assert load(tmp_path / "two").name == "nano"


def _stopped(at, recipe, options):
    """Train up to a step, and fail there on every rank."""
    take = RenderedBatches.batches

    def batches(self, step):
        for number, batch in enumerate(take(self, step), start=step):
            if number == at:
                raise DatoolError("far enough.")
            yield batch

    RenderedBatches.batches = batches
    train(recipe, options)


def test_on_another_number_of_ranks_the_same_samples_remain(tmp_path):
    recipe = replace(NANO, num_scenes=64)
    assert run_ranks(1, _noting, tmp_path / "ids", recipe, options(tmp_path / "whole")) == [0]
    whole = _noted(tmp_path / "ids")
    run_killed(3, recipe, options(tmp_path / "run"))  # its last checkpoint is of step 2
    assert run_ranks(2, _noting, tmp_path / "rest", recipe, options(tmp_path / "run", resume=True)) == [0, 0]
    rest = _noted(tmp_path / "rest")
    assert rest == {step: ids for step, ids in whole.items() if step >= 2}
    assert sum(len(ids) for ids in whole.values()) == len(set().union(*whole.values())) == 24
    assert alike(tmp_path / "whole", tmp_path / "run")


def _noting(path, recipe, options):
    """Train, and write down which samples each step saw."""
    take = RenderedBatches.batches

    def batches(self, step):
        for number, batch in enumerate(take(self, step), start=step):
            with open(f"{path}.{self.rank}", "a") as file:
                file.write(json.dumps([number, batch.ids]) + "\n")
            yield batch

    RenderedBatches.batches = batches
    train(recipe, options)


def _noted(path):
    found = {}
    for part in path.parent.glob(f"{path.name}.*"):
        for step, ids in map(json.loads, part.read_text().splitlines()):
            found.setdefault(step, set()).update(ids)
    return found


def test_samples_of_which_nothing_is_known_have_no_part_on_any_rank(tmp_path):
    own = noisy_photos(tmp_path)
    for number in (0, 1, 3):
        np.save(own / f"{number}.npy", np.full((40, 50), np.nan, np.float32))
    recipe = replace(NANO, size_px=(28, 42), num_validation=0)
    places = Places((own,))
    train(recipe, options(tmp_path / "one", places=places))
    assert run_ranks(2, train_quietly, recipe, options(tmp_path / "two", places=places)) == [0, 0]
    assert alike(tmp_path / "one", tmp_path / "two")
    one, two = ([line["correlation"] for line in lines(tmp_path / out)] for out in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-4, abs=1e-6)


def test_ranks_that_learn_nothing_stop_together(tmp_path):
    dead = replace(NANO, head_bias=-100.0, warmup=0, collapse_steps=4)
    assert run_ranks(2, _collapsed, dead, options(tmp_path / "run")) == [0, 0]
    events = [(line["step"], line["event"]) for line in lines(tmp_path / "run") if "event" in line]
    assert events == [(2, "uncorrelated"), (4, "collapsed")]


def _collapsed(recipe, options):
    with pytest.raises(DatoolError, match="step 4: the model learns nothing"):
        train(recipe, options)


def test_what_one_rank_cannot_read_stops_all(tmp_path):
    assert run_ranks(2, _broken, tmp_path, NANO, options(tmp_path / "run")) == [0, 0]
    for rank in range(2):
        assert (tmp_path / f"error{rank}").read_text() == "rank 1 of 2: cannot read scene 7. Look at it."


def _broken(folder, recipe, options):
    take = RenderedBatches.batches

    def batches(self, step):
        for number, batch in enumerate(take(self, step)):
            if number == 2 and self.rank == 1:
                raise DatoolError("cannot read scene 7.", "Look at it.")
            yield batch

    rank = []

    def noted(self, step):
        rank.append(self.rank)
        return batches(self, step)

    RenderedBatches.batches = noted
    try:
        train(recipe, options)
    except DatoolError as error:
        (folder / f"error{rank[0]}").write_text(str(error))


def test_a_batch_that_ranks_cannot_share_is_refused(tmp_path):
    assert run_ranks(2, _refused, replace(NANO, batch_size=5), options(tmp_path)) == [0, 0]
    assert not (tmp_path / "recipe.json").exists()


def _refused(recipe, options):
    with pytest.raises(DatoolError, match="a batch of 5 for 2 ranks"):
        train(recipe, options)


def test_one_process_needs_no_group():
    with process_group(torch.device("cpu")) as ranks:
        assert ranks == Ranks(torch.device("cpu")) and ranks.first
        assert ranks.gather(3) == [3] and ranks.together(lambda: 4) == 4
        assert ranks.mean(torch.tensor(5.0)) == 5
    assert not torch.distributed.is_initialized()
