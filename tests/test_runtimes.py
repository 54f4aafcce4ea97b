"""Each runtime gives the model's maps, tells what it runs, and refuses what datool did not write."""

from __future__ import annotations

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from random_models import alive, spread

import datool
from datool.data.manifest import read_manifest
from datool.engines import export as writing
from datool.engines import exported as runtimes
from datool.engines.base import Card, TorchEngine
from datool.engines.export import FORMATS, metadata, to_program
from datool.errors import DatoolError, MissingLibraryError, require
from datool.estimators import load as opening
from datool.estimators.load import choose, error_of, open_model
from datool.estimators.predictor import Predictor
from datool.jobs.predict.predict import PredictOptions, predict
from datool.models.specs import find_exported
from datool.models.weights import load, save

LIBRARIES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",), "torch-export": ()}
SHAPES = [(90, 120), (120, 90), (112, 112), (33, 200)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    save(path, alive("nano"), "nano")
    return load(path)


@pytest.fixture(scope="module")
def program(loaded):
    return to_program(loaded.model)


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(1)
    small = [rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8) for height, width in SHAPES]
    return [
        cv2.resize(image, shape[::-1], interpolation=cv2.INTER_CUBIC)
        for image, shape in zip(small, SHAPES, strict=True)
    ]


@pytest.fixture(scope="module")
def exported(tmp_path_factory, loaded, program):
    """Return a function that writes a format once and gives its file."""
    folder, done = tmp_path_factory.mktemp("exported"), {}

    def write(format, precision="fp32", calibration=()):
        for library in LIBRARIES[format]:
            pytest.importorskip(library)
        path = folder / f"{format}-{precision}{FORMATS[format].suffix}"
        if path not in done:
            done[path] = metadata(loaded, format, precision, 20)
            FORMATS[format].write(program, path, json.dumps(done[path]), precision, 20, calibration)
        return path, done[path]

    return write


def exact(loaded):
    return Predictor(loaded, "cpu", "fp32", at_network_size=True)


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_gives_the_models_maps_at_every_size(exported, loaded, photos, format):
    path, entry = exported(format)
    file = runtimes.read(path)
    assert file.entry == json.loads(json.dumps(entry))
    assert file.card == Card.of(loaded.model, "nano")
    assert (file.name, file.precision, file.entry["weights_sha256"]) == ("nano", "fp32", loaded.sha256)
    engine = runtimes.engine(file)
    near = Predictor(engine, at_network_size=True, batch_size=2)
    for photo, one, other in zip(photos, near.predict(photos), exact(loaded).predict(photos), strict=True):
        assert error_of(one.values, other.values) <= 1e-4
        assert (one.quantity, one.ambiguity) == (other.quantity, other.ambiguity)
        assert Predictor(engine).predict(photo).shape == photo.shape[:2]


@pytest.fixture(scope="module")
def convolutional(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "conv.safetensors"
    save(path, spread(alive("nano-conv")), "nano-conv")
    model = load(path)
    return model, to_program(model.model)


@pytest.mark.parametrize("format", FORMATS)
def test_a_convolutional_models_file_gives_its_maps_at_every_size(tmp_path, convolutional, photos, format):
    for library in LIBRARIES[format]:
        pytest.importorskip(library)
    model, program = convolutional
    path = tmp_path / f"conv{FORMATS[format].suffix}"
    FORMATS[format].write(program, path, json.dumps(metadata(model, format, "fp32", 20)), "fp32", 20, ())
    near = Predictor(runtimes.engine(runtimes.read(path)), at_network_size=True, batch_size=2)
    for one, other in zip(near.predict(photos), exact(model).predict(photos), strict=True):
        assert one.values.std() > 0.3 and error_of(one.values, other.values) <= 1e-4


def test_int8_of_a_convolutional_model_keeps_floats_whole(tmp_path, convolutional, photos):
    pytest.importorskip("nncf")
    pytest.importorskip("openvino")
    model, program = convolutional
    sharp = exact(model)
    inputs = [np.ascontiguousarray(sharp.prepare(photo).transpose(2, 0, 1)[None]) for photo in photos]
    sizes = {}
    for precision in ("fp32", "int8"):
        path, entry = tmp_path / f"{precision}.xml", metadata(model, "openvino", precision, None)
        FORMATS["openvino"].write(program, path, json.dumps(entry), precision, 20, inputs)
        sizes[precision] = path.with_suffix(".bin").stat().st_size
    file = runtimes.read(path)
    assert (file.precision, file.floats) == ("int8", "fp32") and sizes["int8"] < sizes["fp32"] / 2
    maps = Predictor(runtimes.engine(file), at_network_size=True).predict(photos)
    truth = [depth.values for depth in sharp.predict(photos)]
    assert 0 < max(error_of(depth.values, one) for depth, one in zip(maps, truth, strict=True)) <= 0.2


def test_bf16_and_int8_are_near(exported, loaded, photos):
    pytest.importorskip("nncf")
    sharp = exact(loaded)
    truth = [depth.values for depth in sharp.predict(photos)]
    inputs = [np.ascontiguousarray(sharp.prepare(photo).transpose(2, 0, 1)[None]) for photo in photos]
    for precision, most in (("bf16", 0.03), ("int8", 0.2)):
        engine = runtimes.engine(runtimes.read(exported("openvino", precision, inputs)[0]))
        assert engine.precision == precision
        maps = Predictor(engine, at_network_size=True).predict(photos)
        assert 0 < max(error_of(depth.values, one) for depth, one in zip(maps, truth, strict=True)) <= most


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_lanes_change_no_map(exported, photos, format):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        predictor = Predictor(runtimes.engine(runtimes.read(exported(format)[0])))
        one, two = (
            {p.item: p.result.values for p in predictor.stream(range(4), lambda index: photos[index], lanes=lanes)}
            for lanes in (1, 2)
        )
    finally:
        torch.set_num_threads(before)
    assert all(error_of(one[index], two[index]) <= 1e-5 for index in range(4))


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_file_is_refused(exported, tmp_path, format):
    path, _ = exported(format)
    broken = tmp_path / f"broken{path.suffix}"
    for content in (b"", b"not a model", path.read_bytes()[: path.stat().st_size // 2]):
        broken.write_bytes(content)
        with pytest.raises(DatoolError, match="broken"):
            runtimes.engine(runtimes.read(broken))
    with pytest.raises(DatoolError, match="no model file"):
        open_model(str(tmp_path / f"absent{path.suffix}"))


@pytest.mark.parametrize("text", ["", "{", '{"row": "nano"}'])
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_file_that_datool_did_not_write_is_refused(exported, tmp_path, format, text):
    path, _ = exported(format)
    foreign = tmp_path / path.name
    if format == "onnx":
        import onnx

        model = onnx.load(path)
        onnx.helper.set_model_props(model, {"datool": text} if text else {"made": "elsewhere"})
        onnx.save(model, foreign)
    else:
        import openvino

        model = openvino.Core().read_model(path)
        model.set_rt_info(text, ["datool"] if text else ["made"])
        if not text:
            model.set_rt_info("", ["datool"])
        openvino.save_model(model, foreign)
    with pytest.raises(DatoolError, match="damaged" if text else "not written by datool"):
        open_model(foreign)


def test_weights_must_lie_beside(exported, tmp_path):
    path, _ = exported("openvino")
    alone = tmp_path / path.name
    alone.write_bytes(path.read_bytes())
    with pytest.raises(DatoolError, match=r"weights|cannot read"):
        open_model(alone)


def test_load_takes_a_file(exported, loaded, photos):
    predictor = datool.load(exported("torch-export")[0])
    assert (
        error_of(predictor.predict(photos[0]).values, Predictor(loaded, "cpu", "fp32").predict(photos[0]).values) < 1e-4
    )


def test_a_folder_names_the_one_file_in_it(exported, tmp_path):
    path, _ = exported("torch-export")
    assert find_exported(tmp_path) is None and find_exported("tiny") is None
    (tmp_path / path.name).write_bytes(path.read_bytes())
    assert find_exported(tmp_path) == tmp_path / path.name
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert find_exported(tmp_path) is None


def test_a_file_takes_its_own_runtime_and_precision(exported):
    file = open_model(exported("torch-export")[0])
    assert choose(file)[0].runtime == choose(file, "auto")[0].runtime == "torch"
    for options, told in (
        ({"runtime": "onnx"}, "file for torch"),
        ({"precision": "bf16"}, "written in fp32"),
        ({"runtime": "onx"}, "onnx"),
    ):
        with pytest.raises(DatoolError, match=told):
            choose(file, **options)


def test_auto_takes_the_fastest_that_is_near_enough(loaded, photos, monkeypatch):
    """Which is faster is the clock's; here bf16 is fast, and as wrong as it is."""
    monkeypatch.setattr(opening, "_installed", lambda name: name == "torch")
    clock = iter([0.0, 9.0, 10.0, 11.0] * 2)
    monkeypatch.setattr(opening.time, "perf_counter", lambda: next(clock))
    assert choose(loaded, "auto", tolerance=1.0, photos=lambda: photos)[0].precision == "bf16"
    engine, reason = choose(loaded, "auto", tolerance=1e-5, photos=lambda: photos)
    assert engine.precision == "fp32" and "torch bf16" in reason and "fastest within 1e-05" in reason
    assert choose(loaded, "auto", precision="fp32")[0].precision == "fp32"


def test_auto_says_where_nothing_is_near_enough(loaded, photos, monkeypatch):
    monkeypatch.setattr(opening, "_installed", lambda name: name == "torch")
    with pytest.raises(DatoolError, match="no runtime is within --tolerance"):
        choose(loaded, "auto", precision="bf16", tolerance=0.0, photos=lambda: photos)


def test_weights_are_converted_once(loaded, exported, photos, tmp_path, monkeypatch):
    path, _ = exported("onnx")
    calls = []

    def write(model, draft, format, precision):
        calls.append(format)
        draft.write_bytes(path.read_bytes())

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(writing, "export", write)
    for _ in range(2):
        engine, _ = choose(loaded, "onnx")
        assert (engine.runtime, engine.precision) == ("onnx", "fp32")
    assert calls == ["onnx"] and len(list(opening.cache_folder("exports").iterdir())) == 1
    next(opening.cache_folder("exports").iterdir()).write_bytes(b"cut off")
    assert choose(loaded, "onnx")[0].runtime == "onnx" and len(calls) == 2
    monkeypatch.setattr(opening, "_code", lambda: "changed")
    assert choose(loaded, "onnx")[0].runtime == "onnx" and len(calls) == 3
    with pytest.raises(DatoolError, match="--calibrate"):
        choose(loaded, "openvino", precision="int8")


def test_auto_does_not_stumble_over_a_photo_that_is_refused(loaded, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "_installed", lambda name: name == "torch")
    save(tmp_path / "nano.safetensors", loaded.model, "nano")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 90, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "b.png"), photos[0])
    inputs = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    options = PredictOptions(
        inputs=inputs,
        out=tmp_path / "out",
        model=str(tmp_path / "nano.safetensors"),
        formats=("npy",),
        runtime="auto",
        tolerance=1.0,
    )
    summary = predict(options)
    assert summary.done == 1 and "--max-aspect" in summary.failed[0][1]


def test_forms_of_openvino_are_few_where_weights_are_large(monkeypatch):
    monkeypatch.setattr(runtimes._PerSize, "_compile", lambda self, size: Form())

    class Form:
        def create_infer_request(self):
            return self

        def infer(self, inputs):
            return {"depth": inputs["image"]}

    for weights_bytes, kept in ((1 << 20, 1), (99 << 20, 12), (400 << 20, 5), (5 << 30, 2)):
        forms = runtimes._PerSize(None, None, {}, weights_bytes)
        for width in (*range(1, 20), 3):
            assert forms.run(np.zeros((1, 3, 1, width))).shape[-1] == width
        assert len(forms._compiled) == kept and list(forms._compiled)[-1] in ((), (1, 3, 1, 3))


FIRST_CALLS = """
import os, sys, threading, torch
from pathlib import Path
from datool.engines import exported as runtimes
engine = runtimes.engine(runtimes.read(Path(sys.argv[1])))
torch.set_num_threads(1)
start = threading.Barrier(4)
def call():
    image = torch.zeros(1, 28, 28, 3)
    start.wait()
    engine.run(image)
    os.write(1, b"done\\n")  # whole, beside the others'
sys.setswitchinterval(1e-6)
for _ in range(4):
    threading.Thread(target=call).start()
"""


def test_first_calls_from_several_threads_do_not_hang(exported):
    # Alone, OpenVINO hangs for ever in four of five such processes.
    command = [sys.executable, "-c", FIRST_CALLS, str(exported("openvino")[0])]
    told = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert told.stdout.split() == ["done"] * 4, told.stderr


def test_a_package_says_which_sizes_it_cannot_take(exported, photos):
    engine = runtimes.engine(runtimes.read(exported("torch-export")[0]))
    with pytest.raises(DatoolError, match=r"cannot take an input of 42x28.*--size"):
        Predictor(engine, size_px=28).predict(photos[0])


def test_a_missing_library_names_its_extra():
    with pytest.raises(MissingLibraryError, match="nothing_like_it") as told:
        require("nothing_like_it", "onnx", "running a file")
    assert "pip install 'datool[onnx]'" in told.value.hint


def test_predict_records_the_runtime_and_refuses_to_mix(exported, loaded, photos, tmp_path):
    path, _ = exported("onnx")
    cv2.imwrite(str(tmp_path / "a.png"), photos[0])
    options = PredictOptions(inputs=[str(tmp_path / "a.png")], out=tmp_path / "out", model=str(path), formats=("npy",))
    summary = predict(options)
    assert (summary.runtime, summary.done) == ("onnx", 1)
    row = next(iter(read_manifest(tmp_path / "out").values()))
    assert row.runtime == "onnx" and row.model == "nano"
    assert (
        predict(PredictOptions(inputs=[str(tmp_path / "a.png")], out=tmp_path / "out", formats=("npy",))).skipped == 1
    )
    with pytest.raises(DatoolError, match="another run"):
        predict(
            PredictOptions(
                inputs=[str(tmp_path / "a.png")], out=tmp_path / "out", model=loaded.source, formats=("npy",)
            )
        )


def test_an_engine_that_runs_out_of_memory_is_given_less(loaded, photos):
    sizes = []

    class Small(TorchEngine):
        def run(self, image_bhw3):
            sizes.append(len(image_bhw3))
            if len(image_bhw3) > 1:
                raise RuntimeError("Failed to allocate memory for requested buffer of size 1")
            return super().run(image_bhw3)

    predictor = Predictor(Small(loaded.model, "cpu", "fp32"), batch_size=4)
    assert len(predictor.predict([photos[0]] * 4)) == 4
    assert sizes == [4, 2, 1, 1, 1, 1]
