from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import datool
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.engines.base import PRECISIONS, TorchEngine, choose_device, choose_precision
from datool.errors import DatoolError
from datool.estimators.predictor import MAX_LANES, WAITS_S, Predictor
from datool.models.depth_anything import build_model
from datool.models.weights import save
from datool.parallel import num_io_threads

SHAPES = [(90, 120), (120, 90), (60, 80), (90, 120), (112, 112), (33, 200), (90, 121)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model("nano").eval()


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in SHAPES]


def on_cpu(model, precision="fp32", **options):
    return Predictor(model, device="cpu", precision=precision, **options)


def spread(depth):
    return depth.values.max() - depth.values.min()


def test_a_map_has_the_photos_size_and_the_models_meaning(model, photos):
    for photo, depth in zip(photos, on_cpu(model).predict(photos), strict=True):
        assert depth.shape == photo.shape[:2]
        assert (depth.quantity, depth.ambiguity) == (Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)
        assert depth.values.min() >= 0


def test_batches_of_mixed_sizes_equal_one_by_one(model, photos):
    alone = [on_cpu(model).predict(photo) for photo in photos]
    for batch_size in (1, 2, 3, 16):
        together = on_cpu(model, batch_size=batch_size).predict(photos)
        for one, other in zip(alone, together, strict=True):
            assert np.abs(one.values - other.values).max() <= 1e-5 * spread(one)


def test_a_photo_alone_equals_the_network_by_hand(model, photos):
    photo = photos[0]
    predictor = on_cpu(model)
    pixels = predictor.prepare(photo)
    with torch.no_grad():
        values = model(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None])
    by_hand = F.interpolate(values[None], photo.shape[:2], mode="bilinear", align_corners=True)[0, 0].numpy()
    got = predictor.predict(photo)
    assert np.abs(got.values - by_hand).max() <= 1e-5 * spread(got)
    small = on_cpu(model, at_network_size=True).predict(photo)
    assert small.shape == pixels.shape[:2]
    assert np.abs(small.values - values[0].numpy()).max() <= 1e-5 * spread(small)


def test_an_engine_takes_the_place_of_a_model(model, photos):
    engine = TorchEngine(model, "cpu", "fp32")
    predictor = Predictor(engine, size_px=140)
    assert (predictor.device, predictor.precision) == (engine.device, "fp32")
    same = on_cpu(model, size_px=140).predict(photos[0])
    assert np.array_equal(predictor.predict(photos[0]).values, same.values)


def test_size_scales_the_networks_input(model, photos):
    assert on_cpu(model, size_px=140).prepare(photos[0]).shape == (140, 182, 3)
    with pytest.raises(DatoolError, match="--size"):
        on_cpu(model, size_px=5)


def test_low_precision_is_near(model, photos):
    exact = on_cpu(model, precision="fp32").predict(photos[0])
    near = on_cpu(model, precision="bf16").predict(photos[0])
    assert 0 < np.abs(exact.values - near.values).max() < 0.02 * exact.values.max()


def test_unknown_choices_are_refused(model):
    with pytest.raises(DatoolError, match="precision"):
        on_cpu(model, precision="fp8")
    with pytest.raises(DatoolError, match="unknown device"):
        choose_device("gpu0")
    with pytest.raises(DatoolError, match="--batch-size"):
        on_cpu(model, batch_size=0)
    with pytest.raises(DatoolError, match="--batch-size"):
        on_cpu(model, batch_size="many")


def test_devices(model):
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_precision("auto", torch.device("cpu")) in ("fp32", "bf16")
    assert choose_precision("auto", torch.device("mps")) == "fp32"
    assert {choose_precision(name, torch.device("cpu")) for name in PRECISIONS} == set(PRECISIONS)
    if not torch.cuda.is_available():
        with pytest.raises(DatoolError, match="'cuda' is not available"):
            choose_device("cuda")
        assert choose_device("auto").type in ("mps", "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_cpu(photos):
    torch.manual_seed(0)
    cpu = Predictor(build_model("nano"), device="cpu", precision="fp32").predict(photos)
    torch.manual_seed(0)
    gpu = Predictor(build_model("nano"), device="cuda", precision="fp32").predict(photos)
    for one, other in zip(cpu, gpu, strict=True):
        assert np.abs(one.values - other.values).max() <= 1e-2 * spread(one)


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_image_is_refused(model, bad):
    with pytest.raises(DatoolError, match="RGB"):
        on_cpu(model).predict(bad)


def test_stream_gives_each_item_once_and_errors_in_place(model, photos):
    def read(index):
        if index == 2:
            raise DatoolError("cannot read number 2.")
        return photos[index]

    predictions = list(on_cpu(model, batch_size=3).stream(range(len(photos)), read))
    assert sorted(prediction.item for prediction in predictions) == list(range(len(photos)))
    for prediction in predictions:
        assert isinstance(prediction.result, DatoolError) == (prediction.item == 2)
        assert prediction.image is None
        if prediction.item != 2:
            assert prediction.image_size == SHAPES[prediction.item]


def test_lanes_change_no_map_and_leave_torchs_threads_alone(model, photos):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        one, two = (
            {p.item: p.result for p in on_cpu(model).stream(range(6), lambda index: photos[index], lanes=lanes)}
            for lanes in (1, 2)
        )
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert all(np.abs(one[index].values - two[index].values).max() <= 1e-5 * spread(one[index]) for index in one)


def test_stream_order_is_the_same_in_every_run(model, photos):
    def read(index):
        time.sleep(0.001 * (index % 3))
        return photos[index % len(photos)]

    orders = [[p.item for p in on_cpu(model, batch_size=2).stream(range(20), read)] for _ in range(2)]
    assert orders[0] == orders[1]


def test_stream_reads_ahead_but_not_all(model, photos):
    read = []
    stream = on_cpu(model).stream(iter(range(1000)), lambda index: read.append(index) or photos[0])
    next(stream)
    stream.close()
    assert 1 < len(read) <= 4 * MAX_LANES + num_io_threads()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("datool-")]


def test_a_batch_that_does_not_fit_is_halved(model, photos, monkeypatch):
    sizes = []
    whole = Predictor._forward

    def forward(self, batch, image_sizes):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, batch, image_sizes)

    alone = on_cpu(model).predict(photos[0])
    monkeypatch.setattr(Predictor, "_forward", forward)
    maps = on_cpu(model, batch_size=8).predict([photos[0]] * 8)
    assert sizes == [8, 4, 2, 2, 2, 2]
    assert all(np.abs(depth.values - alone.values).max() <= 1e-5 * spread(alone) for depth in maps)


def test_a_photo_that_never_fits_fails_alone(model, photos, monkeypatch):
    whole = Predictor._forward

    def forward(self, batch, image_sizes):
        if (120, 90) in image_sizes:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ...")
        return whole(self, batch, image_sizes)

    monkeypatch.setattr(Predictor, "_forward", forward)
    results = {p.item: p.result for p in on_cpu(model).stream(range(3), lambda index: photos[index])}
    assert isinstance(results[1], DatoolError) and "not enough memory" in results[1].problem
    assert results[0].shape == (90, 120) and results[2].shape == (60, 80)


def test_a_photo_that_finds_no_room_waits_for_it(model, photos, monkeypatch):
    full = {1: 2, 2: 99}  # how often there is no room for a photo

    def read(number):
        full[number] = full.get(number, 0) - 1
        if full[number] >= 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return photos[0]

    predictor = Predictor(model, "cpu", size_px=28)
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    found = {each.item: each.result for each in predictor.stream(range(3), read)}
    assert isinstance(found[0], DepthMap) and isinstance(found[1], DepthMap)
    assert isinstance(found[2], DatoolError) and isinstance(found[2].__cause__, MemoryError)
    assert len(waited) == 2 + len(WAITS_S)


def test_a_bug_is_not_taken_for_lack_of_memory(model, photos, monkeypatch):
    def forward(self, batch, image_sizes):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Predictor, "_forward", forward)
    with pytest.raises(RuntimeError, match="shapes"):
        on_cpu(model).predict(photos[0])


def test_values_that_are_no_numbers_are_an_error(photos):
    torch.manual_seed(0)
    broken = build_model("nano")
    with torch.no_grad():
        broken.head.output2[2].bias.fill_(float("inf"))
    with pytest.raises(DatoolError, match="--precision fp32"):
        on_cpu(broken).predict(photos[0])


def test_load(model, photos, tmp_path):
    save(tmp_path / "nano.safetensors", model, "nano")
    predictor = datool.load(tmp_path / "nano.safetensors", device="cpu", precision="fp32")
    depth = predictor.predict(photos[0])
    assert isinstance(depth, datool.DepthMap)
    assert np.array_equal(depth.values, on_cpu(model).predict(photos[0]).values)
    with pytest.raises(AttributeError, match="nothing"):
        _ = datool.nothing
