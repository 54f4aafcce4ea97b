"""Several predictors on one set: paired intervals, functions beside maps, speed, shards."""

import json

import numpy as np
import pytest
from test_evaluate import RELATIVE, SHAPE, command, nano, own_data, predictions

from datool.errors import DatoolError
from datool.evaluation.compare import compare as compare_results
from datool.evaluation.compare import paired_bootstrap
from datool.evaluation.metrics import METRICS
from datool.jobs.evaluate.evaluate import EvalOptions, compare, evaluate

HIGHER = {name: metric.higher_is_better for name, metric in METRICS.items()}


@pytest.fixture
def data(tmp_path):
    truths = own_data(tmp_path / "data", 12)
    predictions(tmp_path / "good", truths)
    rng = np.random.default_rng(2)
    for name, truth in truths.items():
        (tmp_path / "poor/sub").mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / f"poor/{name}.npy", (5 / truth + rng.normal(0, 1, SHAPE)).astype(np.float32))
    return tmp_path


def both(data, **more):
    names = [str(data / "good"), str(data / "poor")]
    return EvalOptions(manifest=data / "data/manifest.jsonl", compare=names, **{**RELATIVE, **more})


# Intervals


def test_the_interval_is_that_of_a_plain_bootstrap():
    rng = np.random.default_rng(0)
    gaps = rng.normal(0.3, 1, (200, 2))
    low, high = paired_bootstrap(gaps, np.ones(200), np.arange(200))
    means = np.stack([gaps[rng.integers(0, 200, 200)].mean(axis=0) for _ in range(4000)])
    np.testing.assert_allclose([low, high], np.quantile(means, [0.025, 0.975], axis=0), atol=0.02)


def test_intervals_are_seeded_hold_the_mean_and_shrink_to_it():
    gaps = np.random.default_rng(0).normal(0.3, 1, (50, 1))
    one, same = (paired_bootstrap(gaps, np.ones(50), np.arange(50), seed=1) for _ in range(2))
    other = paired_bootstrap(gaps, np.ones(50), np.arange(50), seed=2)
    np.testing.assert_array_equal(one, same)
    assert (one != other).any() and one[0, 0] < gaps.mean() < one[1, 0]
    constant = paired_bootstrap(np.full((50, 1), 0.25), np.arange(1.0, 51), np.arange(50))
    np.testing.assert_allclose(constant, 0.25, rtol=1e-12)


def test_images_of_one_scene_that_are_alike_widen_the_interval_of_scenes():
    scenes = np.repeat(np.arange(10), 20)
    gaps = np.random.default_rng(0).normal(0, 1, 10)[scenes][:, None]
    by_image = np.ptp(paired_bootstrap(gaps, np.ones(200), np.arange(200)))
    by_scene = np.ptp(paired_bootstrap(gaps, np.ones(200), scenes))
    assert by_scene > 3 * by_image


def test_weights_are_those_of_pooling():
    gaps, weights = np.array([[1.0], [0.0]]), np.array([3.0, 1.0])
    low, high = paired_bootstrap(gaps, weights, np.array([0, 0]))  # one unit: every draw is the whole
    assert low[0] == high[0] == 0.75


# The job


def test_the_better_maps_are_told_apart_on_the_images_that_both_have(data):
    alone = evaluate(EvalOptions(manifest=data / "data/manifest.jsonl", predictions=data / "poor", **RELATIVE))
    (data / "poor/sub/0.npy").unlink()
    found = compare(both(data))
    (comparison,) = found.comparisons
    good, poor = comparison.table.values()
    assert (comparison.num_images, comparison.num_left_out, comparison.num_units) == (11, 1, 11)
    assert poor["abs_rel"].better == poor["delta1"].better == "no" and good["abs_rel"].better == "-"
    rows = [row for row in alone.results[0].rows if row.id != "sub/0.png"]
    assert poor["abs_rel"].value == pytest.approx(np.mean([row.values["abs_rel"] for row in rows]), rel=1e-12)
    gap = poor["abs_rel"]
    assert gap.difference == pytest.approx(poor["abs_rel"].value - good["abs_rel"].value)
    assert 0 < gap.low < gap.difference < gap.high
    assert found.summaries[1].results[0].failures == {"prediction-missing": 1}
    assert json.loads(found.to_json())["comparisons"][0]["num_images"] == 11


def test_the_same_maps_do_not_differ(data):
    results = [evaluate(EvalOptions(manifest=data / "data/manifest.jsonl", predictions=data / "good", **RELATIVE))] * 2
    found = compare_results(dict(zip("ab", (one.results[0] for one in results), strict=True)), HIGHER)
    assert all(
        (gap.difference, gap.low, gap.high, gap.better) == (0, 0, 0, "open") for gap in found.table["b"].values()
    )


def test_folders_and_groups_can_be_drawn_instead_of_images(data):
    found = compare(both(data, resample="folder")).comparisons[0]
    assert found.num_units == 1 and found.resampled == "folders of images"
    with pytest.raises(DatoolError, match="Did you mean 'folder'"):
        compare(both(data, resample="foldr"))


def test_a_killed_comparison_goes_on(data):
    options = both(data, csv=data / "rows.csv")
    whole = compare(options)
    lines = options.csv.read_text().splitlines(keepends=True)
    options.csv.write_text("".join(lines[:16]) + lines[16][:9])
    again = compare(options)
    assert again.comparisons == whole.comparisons and options.csv.read_text() == "".join(lines)
    assert [summary.results[0].num_skipped for summary in again.summaries] == [12, 3]


def test_what_cannot_be_compared_is_refused(data):
    good = str(data / "good")
    for names in ([good], [good, good], []):
        with pytest.raises(DatoolError, match="two or more different"):
            compare(EvalOptions(manifest=data / "data/manifest.jsonl", compare=names))
    for file in (data / "poor/sub").iterdir():
        file.unlink()
    with pytest.raises(DatoolError, match="no image that all of"):
        compare(both(data))


# Shards


def test_two_shards_joined_are_one_run(data, tmp_path):
    where = {"manifest": data / "data/manifest.jsonl", "predictions": data / "good", **RELATIVE}
    whole = evaluate(EvalOptions(**where)).results[0]
    parts = []
    for number in (0, 1, 2):
        path = tmp_path / f"{number}.csv"
        part = evaluate(EvalOptions(csv=path, shard=(number, 3), **where)).results[0]
        assert part.num_images == 4
        parts.append(path)
    for file in (data / "good/sub").iterdir():
        file.unlink()  # so that nothing can be scored again
    joined = evaluate(EvalOptions(rows=parts, **where)).results[0]
    assert joined.rows == whole.rows and joined.values == whole.values and joined.groups == whole.groups
    assert joined.num_skipped == 12
    with pytest.raises(DatoolError, match="holds scores of protocol"):
        evaluate(EvalOptions(rows=parts, overrides={"far": "10"}, **where))
    with pytest.raises(DatoolError, match="no file of rows"):
        evaluate(EvalOptions(rows=[tmp_path / "no.csv"], **where))
    with pytest.raises(DatoolError, match="cannot be"):
        evaluate(EvalOptions(shard=(2, 2), **where))


# Models and functions


def test_a_model_a_function_and_maps_stand_in_one_table_with_their_speed(data, tmp_path, monkeypatch):
    (tmp_path / "mine_of_eval.py").write_text("def red(image): return image[:, :, 0].astype('float32')\n")
    monkeypatch.syspath_prepend(tmp_path)
    names = [nano(tmp_path), "python:mine_of_eval:red", str(data / "good")]
    how = {"size_px": 28, "device": "cpu", "speed": True, "html": tmp_path / "all.html"}
    found = compare(EvalOptions(manifest=data / "data/manifest.jsonl", compare=names, **RELATIVE, **how))
    model, function, maps = found.summaries
    assert maps.speed is None and function.speed is not None
    assert model.speed.images_per_s > 0 and model.speed.latency_median_s <= model.speed.latency_p90_s
    assert model.speed.peak_bytes > 1 << 20 and model.speed.num_images == 12
    assert found.comparisons[0].table[names[2]]["abs_rel"].better == "yes"
    page = (tmp_path / "all.html").read_text()
    assert "images/s" in page and "python:mine_of_eval:red" in page


def test_the_command_compares_what_is_named_after_it(data):
    asked = ["--manifest", data / "data/manifest.jsonl", "--workers", 1]
    asked += ["--quantity", "disparity", "--ambiguity", "scale-and-shift"]
    named = ["--compare", data / "good", data / "poor"]
    table = command(*asked, *named)
    assert table.exit_code == 0, table.stderr
    for text in ("AbsRel", "better", "2000 paired draws of 12 images", "lsq-disparity"):
        assert text in table.stdout, text
    found = json.loads(command(*asked, *named, "--json", "--quiet").stdout)
    assert [one["name"] for one in found["predictors"]] == [str(data / "good"), str(data / "poor")]
    lone = command(*asked, data / "good")
    assert lone.exit_code == 2 and "put --compare before" in lone.stderr
    bad = command(*asked, "--predictions", data / "good", "--shard", "half")
    assert bad.exit_code == 2 and "expected I/N" in bad.stderr


def test_priors_are_built_in_and_say_what_not_looking_is_worth(data):
    """'Lower is nearer' by hand, and a constant, which the fit turns into the mean disparity of each truth."""
    rows = data / "rows"
    for image in sorted((data / "good").rglob("*.npy")):
        place = rows / image.relative_to(data / "good")
        place.parent.mkdir(parents=True, exist_ok=True)
        np.save(place, np.broadcast_to(np.linspace(0, 1, SHAPE[0], dtype=np.float32)[:, None], SHAPE))
    options = EvalOptions(
        manifest=data / "data/manifest.jsonl", compare=["prior:rows", str(rows), "prior:constant"], **RELATIVE
    )
    found = compare(options)
    by_name, by_hand, constant = (summary.results[0] for summary in found.summaries)
    assert by_name.values == pytest.approx(by_hand.values, rel=1e-6)
    assert constant.num_scored == by_name.num_scored == 12 and constant.flags["constant"] == 12
    with pytest.raises(DatoolError, match="unknown prior 'columns'"):
        evaluate(EvalOptions(manifest=data / "data/manifest.jsonl", model="prior:columns"))
