"""Tiles: what they agree on is the whole, what they show is their own, and no seam is left."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datool.data.manifest import read_manifest
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.estimators.tiling import Tiled, agreed, tiles
from datool.evaluation.alignment import fit_scale_and_shift
from datool.files import read_map
from datool.jobs.predict.predict import PredictOptions, predict
from datool.models.depth_anything import build_model
from datool.models.weights import save

SIGNS = Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT


class Seen:
    """An estimator that reads the true values off the picture, with a scale and shift for each call as asked."""

    def __init__(self, scales=(1.0,), shifts=(0.0,), signs=SIGNS, blur=0.0):
        self.scales, self.shifts, self.signs, self.blur, self.calls = scales, shifts, signs, blur, 0
        self.sizes = []

    def predict(self, images):
        maps = []
        for image in images:
            scale, shift = (some[self.calls % len(some)] for some in (self.scales, self.shifts))
            values = image[..., 0].astype(np.float32)
            if self.blur:  # as a network does, whose input is small: in shares of the picture's side
                values = cv2.GaussianBlur(values, (0, 0), self.blur * max(values.shape))
            maps.append(DepthMap(values * np.float32(scale) + np.float32(shift), *self.signs))
            self.calls += 1
            self.sizes.append(image.shape[:2])
        return maps


def picture(height=400, width=520, seed=0):
    """Steps, slopes and detail."""
    rng = np.random.default_rng(seed)
    base = cv2.resize(rng.uniform(20, 200, (4, 5)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(12):
        x, y, radius = rng.integers(0, width), rng.integers(0, height), rng.integers(10, 60)
        cv2.circle(base, (int(x), int(y)), int(radius), float(rng.uniform(20, 200)), -1)
    fine = cv2.resize(rng.normal(0, 6, (height // 4, width // 4)).astype(np.float32), (width, height))
    return np.repeat(np.clip(base + fine, 1, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def error(depth, truth):
    scale, shift = fit_scale_and_shift(depth.values.ravel(), truth.ravel().astype(np.float32))
    return float(np.abs(scale * depth.values + shift - truth).mean() / np.ptp(truth.astype(float)))


def test_a_perfect_estimator_gives_its_map():
    image = picture()
    truth = image[..., 0].astype(np.float32)
    assert np.abs(Tiled(Seen(), 160).predict([image])[0].values - truth).max() < 1e-2


def test_tiles_of_any_scale_and_shift_agree():
    image, rng = picture(), np.random.default_rng(1)
    estimator = Seen(rng.uniform(0.3, 3, 97), rng.uniform(-100, 100, 97))
    assert error(Tiled(estimator, 160).predict([image])[0], image[..., 0]) < 0.01


def test_tiles_bring_the_detail_that_the_whole_has_not():
    image = picture()
    blurred = error(Seen(blur=0.02).predict([image])[0], image[..., 0])
    assert error(Tiled(Seen(blur=0.02), 130).predict([image])[0], image[..., 0]) < 0.7 * blurred


@pytest.mark.parametrize("value", [0.0, 3.5])
def test_a_constant_gives_a_constant(value):
    estimator = Seen(scales=(0.0,), shifts=(value,))
    assert np.allclose(Tiled(estimator, 128).predict([picture()])[0].values, value, atol=1e-5)


@pytest.mark.parametrize("tile", [520, 521, 4000])
def test_a_picture_that_fits_in_a_tile_is_predicted_as_it_is(tile):
    image, estimator = picture(), Seen()
    depth = Tiled(estimator, tile).predict([image])[0]
    assert estimator.sizes == [(400, 520)]
    assert np.array_equal(depth.values, image[..., 0])


@pytest.mark.parametrize("tile", [64, 100, 333, 450])
@pytest.mark.parametrize("size", [(400, 520), (90, 700), (701, 333)])
def test_any_size_of_picture_and_tile_fits(tile, size):
    image = picture(*size)
    depth = Tiled(Seen(), tile).predict([image])[0]
    assert depth.shape == size and np.abs(depth.values - image[..., 0]).max() < 1e-2


@pytest.mark.parametrize("size", [(1, 9000), (9000, 2)])
def test_a_picture_of_a_few_rows_has_a_map(size):
    image = np.full((*size, 3), 7, np.uint8)
    assert np.allclose(Tiled(Seen(), 64).predict([image])[0].values, 7)


def test_no_seam_where_tiles_contradict():
    rng = np.random.default_rng(2)
    slope = np.tile(np.linspace(30, 220, 600), (600, 1))
    image = np.repeat(np.clip(slope + rng.normal(0, 4, slope.shape), 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    estimator = Seen(rng.uniform(0.5, 2, 89), rng.uniform(-50, 50, 89))
    values = Tiled(estimator, 200, 40).predict([image])[0].values
    borders = {where.start for where, _ in tiles(600, 200, 40)} | {where.stop for where, _ in tiles(600, 200, 40)}
    inner = np.array(sorted(side for side in borders if 0 < side < 600))
    for axis in (0, 1):
        steps = np.abs(np.diff(values, axis=axis)).mean(axis=1 - axis)
        at_borders = steps[inner - 1].mean()
        assert at_borders <= 1.1 * np.delete(steps, inner - 1).mean()


def test_metres_stay_metres_and_sky_stays_sky():
    image = np.maximum(picture(), 2)
    truth = 1 + image[..., 0].astype(np.float32) / 20

    class Metres:
        def predict(self, images):
            maps = []
            for some in images:
                values = 1 + some[..., 0].astype(np.float32) / 20
                values[some[..., 0] == 1] = np.inf
                maps.append(DepthMap(values, Quantity.DEPTH, Ambiguity.NONE))
            return maps

    depth = Tiled(Metres(), 160).predict([image])[0]
    assert (depth.quantity, depth.ambiguity) == (Quantity.DEPTH, Ambiguity.NONE)
    assert np.abs(depth.values / truth - 1).mean() < 0.02
    image[:200] = 1
    depth = Tiled(Metres(), 160).predict([image])[0]
    assert np.median(depth.values[:150]) > 1e3 and np.abs(depth.values[260:] / truth[260:] - 1).mean() < 0.02


def test_unknown_stays_unknown():
    image = picture()

    class Holes(Seen):
        def predict(self, images):
            maps = super().predict(images)
            for depth, some in zip(maps, images, strict=True):
                depth.values[some[..., 0] > 190] = np.nan
            return maps

    depth = Tiled(Holes(), 160).predict([image])[0]
    assert np.array_equal(depth.valid, image[..., 0] <= 190)


@settings(max_examples=60, deadline=None)
@given(side=st.integers(1, 3000), tile=st.integers(64, 900), share=st.floats(0.02, 0.5))
def test_tiles_cover_a_side_and_their_weights_add_up_to_one(side, tile, share):
    total = np.zeros(side)
    overlap = max(1, int(tile * share))
    for where, weights in tiles(side, tile, overlap):
        assert where.stop - where.start == min(tile, side) and weights.min() >= 0
        total[where] += weights
    assert np.allclose(total, 1, atol=1e-5)


def test_a_tile_that_contradicts_the_whole_adds_nothing():
    rng = np.random.default_rng(0)
    whole = np.tile(np.linspace(0, 1, 32, dtype=np.float32), (32, 1))
    against = cv2.resize(1 - whole, (320, 320))
    assert np.abs(agreed(against, whole) - cv2.resize(whole, (320, 320))).mean() < 0.03
    noise = rng.normal(0, 1, (320, 320)).astype(np.float32)
    assert np.abs(agreed(noise, whole) - cv2.resize(whole, (320, 320))).mean() < 0.2


def test_what_cannot_be_is_refused():
    with pytest.raises(DatoolError, match="--tile"):
        Tiled(Seen(), 20)
    for overlap in (0, 81):
        with pytest.raises(DatoolError, match="--overlap"):
            Tiled(Seen(), 160, overlap)


def test_the_job_tiles_and_says_so(tmp_path):
    torch.manual_seed(0)
    save(tmp_path / "nano.safetensors", build_model("nano"), "nano")
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos/large.png"), picture(300, 400))
    cv2.imwrite(str(tmp_path / "photos/small.png"), picture(100, 120))
    (tmp_path / "photos/broken.png").write_bytes(b"")
    options = PredictOptions(
        inputs=[str(tmp_path / "photos")],
        out=tmp_path / "out",
        model=str(tmp_path / "nano.safetensors"),
        formats=["npz"],
        size_px=56,
        tile_px=160,
    )
    summary = predict(options)
    assert (summary.done, len(summary.failed)) == (2, 1)
    rows = read_manifest(options.out)
    assert {row.tiling for row in rows.values()} == {"160+40"}
    assert read_map(options.out / "large.npz").shape == (300, 400)
    with pytest.raises(DatoolError, match="--tile"):
        predict(
            PredictOptions(inputs=options.inputs, out=options.out, model=options.model, formats=["npz"], size_px=56)
        )
