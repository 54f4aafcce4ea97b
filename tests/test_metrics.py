"""Laws of alignment and scoring, and the published disparities of real images."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.evaluation.alignment import fit_scale_and_shift
from datool.evaluation.protocols import PROTOCOLS, Score, score

REAL = Path(__file__).parents[2] / "shared" / "real"


def disparity(values: np.ndarray) -> DepthMap:
    return DepthMap(values.astype(np.float32), Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)


def depth(values: np.ndarray) -> DepthMap:
    return DepthMap(values.astype(np.float32), Quantity.DEPTH, Ambiguity.NONE)


def scored(pred: DepthMap, known: DepthMap) -> Score:
    return score(pred, known, PROTOCOLS["lsq-disparity"])


def truth(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 20, (30, 40))


@given(st.floats(1e-3, 1e3), st.floats(-100, 100), st.integers(0, 100))
def test_a_known_scale_and_shift_come_back(scale, shift, seed):
    pred = np.random.default_rng(seed).uniform(0, 1, 500)
    got_scale, got_shift = fit_scale_and_shift(pred, scale * pred + shift)
    assert got_scale == pytest.approx(scale, rel=1e-9, abs=1e-9)
    assert got_shift == pytest.approx(shift, rel=1e-9, abs=1e-8)


def test_a_perfect_prediction_scores_perfect_whatever_its_scale_and_shift():
    scores = scored(disparity(3 / truth() + 2), depth(truth()))
    assert scores.values["abs_rel"] < 1e-4 and scores.values["delta1"] == 1


def test_a_constant_prediction_scores_like_the_best_constant():
    scores = scored(disparity(np.full((30, 40), 0.7)), depth(truth()))
    best = 1 / (1 / truth()).mean()
    assert scores.scale == 0
    assert scores.values["abs_rel"] == pytest.approx(np.mean(np.abs(best - truth()) / truth()), rel=1e-5)


def test_unknown_and_infinite_pixels_do_not_count():
    known = truth()
    pred = np.random.default_rng(1).uniform(0, 1, known.shape)
    expected = scored(disparity(pred[5:]), depth(known[5:]))
    known[:2], known[2:4], known[4] = np.nan, np.inf, 500.0
    assert scored(disparity(pred), depth(known)) == expected


def test_disparity_below_the_floor_counts_as_the_farthest_truth():
    known = np.array([[1.0, 2.0, 4.0, 8.0, 8.0] * 4])
    pred = np.array([[1.0, 0.5, 0.25, 0.125, -5.0] * 4])
    scores = scored(disparity(pred), depth(known))
    aligned = 1 / np.maximum(scores.scale * pred + scores.shift, 1 / 8)
    assert aligned.max() == pytest.approx(8)
    assert scores.values["abs_rel"] == pytest.approx(np.mean(np.abs(aligned - known) / known), rel=1e-6)


def test_too_few_pixels_are_refused():
    with pytest.raises(DatoolError, match="at least 10"):
        scored(disparity(np.ones((3, 3))), depth(np.ones((3, 3))))


@pytest.mark.skipif(not REAL.exists(), reason="the real images are not part of the project")
@pytest.mark.parametrize(
    "name, abs_rel, delta1", [("kitti-71", 0.0805, 0.958), ("kitti-75", 0.0923, 0.892), ("nyu-room", 0.0241, 0.9992)]
)
def test_published_disparities_score_as_known(name, abs_rel, delta1):
    rows = {row["name"]: row for row in map(json.loads, (REAL / "manifest.jsonl").read_text().splitlines())}
    row = rows[name]
    pixels = cv2.imread(str(REAL / row["truth"]), cv2.IMREAD_UNCHANGED)
    known = np.where(pixels == row["invalid"], np.nan, pixels / row["divisor"])
    scores = scored(disparity(np.load(REAL / row["published_disparity"])), depth(known))
    assert scores.values["abs_rel"] == pytest.approx(abs_rel, abs=5e-5)
    assert scores.values["delta1"] == pytest.approx(delta1, abs=5e-4)
