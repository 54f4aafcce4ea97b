"""Laws of a step and of the loop, on the nano model: it learns, and says what goes wrong."""

import json
import math
from dataclasses import replace
from itertools import count, pairwise

import pytest
import torch

from datool.data.sample import Batch
from datool.errors import DatoolError
from datool.models.depth_anything import build_model
from datool.training.distributed import Ranks
from datool.training.init_weights import init_model
from datool.training.loop import run
from datool.training.objectives import make_objective
from datool.training.optimizers import SCHEDULES, schedule_share
from datool.training.recipes import RECIPES
from datool.training.trainer import Trainer, opened
from datool.training.watch import Watch

NANO = replace(
    RECIPES["nano"], batch_size=4, warmup=5, steps=40, ema=0.0, num_validation=0, validate_every=40, log_every=1,
    head_bias=0.5,
)  # fmt: skip
CPU = Ranks(torch.device("cpu"))


def one_batch(size=4):
    """Pictures whose brightness is their disparity."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(size, 1, 3, 4, generator=generator)
    target = torch.nn.functional.interpolate(coarse, (42, 56), mode="bilinear")[:, 0]
    batch = Batch.of(target[:, None].expand(-1, 3, -1, -1).contiguous(), target, torch.ones_like(target).bool())
    return replace(batch, ids=tuple(f"photo-{number}" for number in range(size)))


class Repeated:
    """The same batch at every step, in as many parts as it is to be taken in."""

    def __init__(self, batch, parts=1, broken=None):
        self.batch, self.parts, self.broken = batch, parts, broken

    def batches(self, step):
        size = len(self.batch) // self.parts
        for number in count(step):
            batch = self.batch
            if self.broken and self.broken[0] == number:
                target = batch.target.clone()
                target[self.broken[1]] = torch.nan
                batch = replace(batch, target=target)
            for part in range(self.parts):
                yield batch.part(slice(part * size, (part + 1) * size))


def trainer(recipe, data, objective=None):
    objective = objective or make_objective(recipe, None, -1)
    return Trainer(recipe, recipe.steps, lambda: init_model(recipe), objective, data, CPU)


def losses(trainer, steps):
    with opened(trainer.data, 0) as batches:
        return [trainer.take(step, batches).losses["loss"] for step in range(steps)]


def log(out):
    return [json.loads(line) for line in open(out / "log.jsonl")]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("ssi", ["median", "least-squares"])
def test_it_overfits_one_batch(precision, ssi):
    recipe = replace(NANO, steps=120, precision=precision, ssi=ssi, lr_encoder=2e-3, lr_head=2e-3)
    found = losses(trainer(recipe, Repeated(one_batch())), recipe.steps)
    assert found[-1] < 0.1 * found[0]


def test_parts_of_a_batch_are_the_batch():
    recipe = replace(NANO, precision="fp32", ssi="least-squares", head_bias=0.0)

    def spread(found):
        """Have the random head's map vary by about 1: it varies by 3e-5, and the loss would enlarge its rounding."""
        with torch.no_grad():
            found.model.head.output2[2].weight.mul_(1e4)
        return found

    whole = losses(spread(trainer(recipe, Repeated(one_batch()))), 5)
    parts = losses(spread(trainer(replace(recipe, accumulation=4), Repeated(one_batch(), 4))), 5)
    assert whole == pytest.approx(parts, rel=1e-5)


def test_activations_computed_twice_are_the_same():
    recipe = replace(NANO, precision="fp32")
    twice = losses(trainer(replace(recipe, checkpointing=True), Repeated(one_batch())), 3)
    assert losses(trainer(recipe, Repeated(one_batch())), 3) == twice


def test_the_average_follows_the_weights():
    recipe = replace(NANO, ema=0.9)
    mine = trainer(recipe, Repeated(one_batch()))
    expected = None
    with opened(mine.data, 0) as batches:
        for step in range(4):
            mine.take(step, batches)
            now = mine.model.head.output1.weight.detach().clone()
            expected = now if expected is None else 0.9 * expected + 0.1 * now
    torch.testing.assert_close(mine.averaged.head.output1.weight, expected)


def test_the_encoder_learns_at_its_own_rate():
    mine = trainer(replace(NANO, lr_encoder=0.0, weight_decay=0.0), Repeated(one_batch()))
    before = {name: value.clone() for name, value in mine.model.named_parameters()}
    losses(mine, 2)
    for name, value in mine.model.named_parameters():
        assert torch.equal(value, before[name]) is name.startswith("encoder."), name


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_schedules_rise_to_the_peak_and_do_not_rise_again(name):
    recipe = replace(NANO, schedule=name, warmup=5, power=0.9)
    shares = [schedule_share(recipe, step, 40) for step in range(40)]
    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and shares[5] == 1
    assert all(one >= two >= 0 for one, two in pairwise(shares[5:]))


@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_that_is_not_finite_stops_and_names_its_samples(tmp_path, parts):
    mine = trainer(replace(NANO, accumulation=parts), Repeated(one_batch(), parts, broken=(3, 2)))
    with pytest.raises(DatoolError, match=r"step 4 is not finite, in bf16 and again in fp32: .* of samples photo-2\."):
        run(mine, tmp_path)
    assert [line["step"] for line in log(tmp_path)] == [1, 2, 3]
    assert all(value.isfinite().all() for value in mine.model.parameters())


class Fails:
    """An objective that gives NaN in bf16 at one step, as an overflow would."""

    wants_tokens = False

    def __init__(self, objective, at):
        self.objective, self.at, self.calls = objective, at, 0

    def counts(self, batch):
        return self.objective.counts(batch)

    def __call__(self, prediction, tokens, batch, counts=None):
        self.calls += 1
        found = self.objective(prediction, tokens, batch, counts)
        if self.calls == self.at and torch.is_autocast_enabled("cpu"):
            found["loss"] = found["loss"] * torch.nan
        return found


def test_a_step_that_only_bf16_cannot_take_is_taken_in_fp32(tmp_path):
    objective = Fails(make_objective(NANO, None, -1), at=3)
    run(trainer(replace(NANO, steps=5), Repeated(one_batch()), objective), tmp_path)
    events = [line for line in log(tmp_path) if "event" in line]
    assert [(line["step"], line["event"]) for line in events] == [(3, "taken again in fp32")]
    assert events[0]["ids"] == ["photo-0", "photo-1", "photo-2", "photo-3"]
    assert log(tmp_path)[-1]["step"] == 5


def test_a_spike_is_logged_with_its_samples(tmp_path):
    class Spikes(Fails):
        def __call__(self, prediction, tokens, batch, counts=None):
            self.calls += 1
            found = self.objective(prediction, tokens, batch, counts)
            return found | {"loss": found["loss"] * (100 if self.calls == self.at else 1)}

    run(trainer(NANO, Repeated(one_batch()), Spikes(make_objective(NANO, None, -1), at=30)), tmp_path)
    (event,) = [line for line in log(tmp_path) if "event" in line]
    assert (event["step"], event["event"]) == (30, "spike") and len(event["ids"]) == 4
    assert event["loss"] > 5 * event["median"]


class Full(Fails):
    """An objective for which memory suffices for so many images."""

    def __call__(self, prediction, tokens, batch, counts=None):
        if len(batch) > self.at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much.\nMore words.")
        return self.objective(prediction, tokens, batch, counts)


@pytest.mark.parametrize("room, said", [(2, "2 at once fit: .*accumulation=4"), (1, "1 at once fit: .*accumulation=8")])
def test_out_of_memory_names_the_batch_that_fits(room, said):
    recipe = replace(NANO, batch_size=8)
    mine = trainer(recipe, Repeated(one_batch(8)), Full(make_objective(recipe, None, -1), room))
    with pytest.raises(DatoolError, match=rf"step 1 does not fit .* 8 images of 56x42 .*{said}"):
        losses(mine, 1)
    assert recipe.accumulation == mine.recipe.accumulation == 1


def test_out_of_memory_for_one_image_says_what_else_helps():
    mine = trainer(NANO, Repeated(one_batch()), Full(make_objective(NANO, None, -1), 0))
    with pytest.raises(DatoolError, match="Not one fits: --set checkpointing=true"):
        losses(mine, 1)


def test_every_parameter_gets_a_gradient():
    model = build_model("nano")
    prediction, tokens = model(torch.rand(1, 3, 28, 28), features=True)
    (prediction.sum() + tokens.sum()).backward()
    assert not [name for name, value in model.named_parameters() if value.grad is None]


def test_without_tensorboard_the_log_has_all(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    run(trainer(replace(NANO, steps=2), Repeated(one_batch())), tmp_path)
    assert not (tmp_path / "tensorboard").exists() and len(log(tmp_path)) == 2


def test_tensorboard_gets_numbers_and_pictures(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(trainer(replace(NANO, steps=3), Repeated(one_batch())), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    (picture,) = events.Images("image | prediction | target")
    assert (picture.width, picture.height, picture.step) == (3 * 56, 42, 3)


DEAD = replace(NANO, head_bias=-100.0, warmup=2, steps=12, collapse_steps=8, validate_every=5)


def test_a_model_that_learns_nothing_is_warned_of_then_stopped(tmp_path):
    """A dead head: the same everywhere, whatever the picture."""
    with pytest.raises(DatoolError, match=r"step 10: the model learns nothing\. Over the last 8 steps .* by 0\.00"):
        run(trainer(DEAD, Repeated(one_batch())), tmp_path)
    events = [line for line in log(tmp_path) if "event" in line]
    assert [(line["step"], line["event"]) for line in events] == [(6, "uncorrelated"), (10, "collapsed")]
    # What a dead head says is a constant map, so it costs what that does: all of the normalised target.
    for line in events:
        assert line["correlation"] == 0 and line["loss"] == pytest.approx(line["constant_loss"], rel=1e-5)
        assert line["constant_loss"] > 1


def test_going_on_from_a_checkpoint_stops_at_the_same_step(tmp_path):
    for resume in (False, True):
        with pytest.raises(DatoolError, match=r"step 10: the model learns nothing"):
            run(trainer(DEAD, Repeated(one_batch())), tmp_path, resume)
    assert [line["step"] for line in log(tmp_path) if line.get("event") == "collapsed"] == [10]


def test_a_collapse_that_is_allowed_is_written_down(tmp_path):
    outcome = run(trainer(replace(DEAD, allow_collapse=True), Repeated(one_batch())), tmp_path)
    events = [(line["step"], line["event"]) for line in log(tmp_path) if "event" in line]
    assert outcome.steps == 12 and events == [(6, "uncorrelated"), (10, "collapsed")]


def test_a_model_that_learns_is_not_stopped(tmp_path):
    recipe = replace(NANO, steps=60, collapse_steps=40)
    run(trainer(recipe, Repeated(one_batch())), tmp_path)
    assert not [line for line in log(tmp_path) if "event" in line] and log(tmp_path)[-1]["correlation"] > 0.5


def test_near_and_far_exchanged_counts_as_learning_nothing():
    watch = Watch()
    seen = [-0.9, -0.8, 0.05, 0.1, -0.7, -1.0, math.nan, 0.3, -0.5]
    assert [watch.see(correlation, 2) for correlation in seen] == [False, True] * 3 + [False, False, True]
    assert watch.collapsed and watch.correlation == pytest.approx((-0.85 + 0.075 - 0.85 - 0.1) / 4)


def test_one_span_that_correlates_is_enough_to_go_on():
    watch = Watch()
    for correlation in (0.0, 0.0, 0.0, 0.2, 0.0, 0.0, 0.0):
        watch.see(correlation, 1)
        assert not watch.collapsed
    copy = Watch(**json.loads(json.dumps(watch.to_json())))
    assert copy == watch and copy.see(0.0, 1) and copy.collapsed


def test_targets_of_which_nothing_is_known_leave_no_weights(tmp_path):
    batch = one_batch()
    nothing = replace(batch, valid=torch.zeros_like(batch.valid))
    with pytest.raises(DatoolError, match="no pixel of any target was known in 3 steps"):
        run(trainer(replace(NANO, steps=3, log_every=20), Repeated(nothing)), tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_in_parts_samples_of_which_nothing_is_known_have_no_part():
    batch = one_batch()
    valid = batch.valid.clone()
    valid[2:] = False
    recipe = replace(NANO, precision="fp32", steps=3)
    part = losses(trainer(recipe, Repeated(batch.part(slice(2)))), 3)
    whole = losses(trainer(recipe, Repeated(replace(batch, valid=valid))), 3)
    parts = losses(trainer(replace(recipe, accumulation=2), Repeated(replace(batch, valid=valid), 2)), 3)
    assert whole == pytest.approx(part, rel=1e-4) and parts == pytest.approx(whole, rel=1e-4)
