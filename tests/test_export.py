"""Exported files are the model: at every size, with all they need inside, or they are not written."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from random_models import alive
from typer.testing import CliRunner

from datool.cli import app
from datool.engines import export as writing
from datool.engines.export import resize_weights, staged, to_program
from datool.errors import DatoolError
from datool.estimators.load import error_of
from datool.jobs.export import CALIBRATION, ExportOptions, _calibration, export
from datool.models.backbone import to_transformers, write_backbone
from datool.models.depth_anything import build_model
from datool.models.encoders import build_encoder, dinov2_position
from datool.models.weights import LoadedModel, save


@pytest.fixture(scope="module")
def model():
    return alive("nano")


@pytest.fixture(scope="module")
def program(model):
    return to_program(model)


@pytest.fixture
def weights(tmp_path, model):
    save(tmp_path / "nano.safetensors", model, "nano")
    return str(tmp_path / "nano.safetensors")


@pytest.mark.parametrize("size", [(8, 8), (5, 8), (8, 9), (3, 17), (31, 30)])
def test_positions_of_the_graph_are_dinov2s(size):
    torch.manual_seed(0)
    stored = torch.randn(1, 1 + 8 * 8, 16)
    same = torch.tensor(size == (8, 8))
    rows, columns = (resize_weights(count, torch.tensor(float(count)), 8, same) for count in size)
    ours = torch.einsum("hi,wj,ijc->hwc", rows, columns, stored[0, 1:].reshape(8, 8, 16)).flatten(0, 1)
    theirs = dinov2_position(stored, *size, 1)[0, 1:]
    assert (ours - theirs).abs().max() <= 2e-5 * theirs.abs().max()
    if size == (8, 8):
        assert torch.equal(ours, theirs)


def test_one_program_is_the_model_at_every_size(model, program):
    program = program.module()
    patch = model.encoder.spec.patch_px
    for batch, height, width in ((1, 8, 8), (1, 5, 9), (3, 8, 5), (1, 3, 4), (2, 11, 23)):
        image = torch.randn(batch, 3, height * patch, width * patch)
        with torch.inference_mode():
            exact, got = model(image), program(image)
        assert got.shape == exact.shape
        assert error_of(got.numpy(), exact.numpy()) <= 1e-4


def test_the_model_is_left_as_it_was(model, program):
    assert "engines.export" not in model.encoder.vit._pos_embed.__module__


def test_the_command_writes_a_checked_package(tmp_path, weights, program, monkeypatch):
    monkeypatch.setattr("datool.engines.export.to_program", lambda _: program)
    out = tmp_path / "new" / "nano.pt2"
    given = ["export", weights, "--format", "torch-export", "--out", str(out), "--size", "56", "--json"]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["files"] == [str(out)] and told["size_mb"] > 0 and told["error"] <= told["limit"] == 1e-4
    assert [path.name for path in out.parent.iterdir()] == ["nano.pt2"]
    again = CliRunner().invoke(app, given)
    assert again.exit_code == 1 and "exists" in again.stderr


def test_too_large_an_error_writes_nothing(tmp_path, weights, program, monkeypatch):
    monkeypatch.setattr("datool.engines.export.to_program", lambda _: program)
    options = ExportOptions(model=weights, out=tmp_path / "out", format="torch-export", size_px=56, tolerance=0.0)
    with pytest.raises(DatoolError, match=r"from PyTorch's map of a rendered picture, more than 0; nothing"):
        export(options)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": "onx"}, "onnx"),
        ({"precision": "bf16"}, "precision"),
        ({"format": "openvino", "precision": "int8"}, "--calibrate"),
        ({"out": "model.xml"}, "no name for --format onnx"),
    ],
)
def test_what_cannot_be_is_refused_before_work(tmp_path, weights, change, told):
    options = ExportOptions(model=weights, out=tmp_path / change.pop("out", "model.onnx"), **change)
    with pytest.raises(DatoolError, match=told):
        export(options)


def test_an_encoder_with_other_positions_is_refused(model):
    other = build_model("nano")
    other.encoder.spec = replace(other.encoder.spec, dinov2_rule=False)
    with pytest.raises(DatoolError, match="DINOv2's rule"):
        to_program(other)


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "model.xml"
    path.write_text("old")
    with pytest.raises(DatoolError, match="no"), staged(path) as draft:
        draft.write_text("new")
        raise DatoolError("no.")
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["model.xml"]
    with staged(path) as draft:
        draft.write_text("new")
        draft.with_suffix(".bin").write_text("weights")
    assert path.read_text() == "new" and (tmp_path / "model.bin").read_text() == "weights"


def test_a_graph_never_stands_beside_other_weights(tmp_path, monkeypatch):
    path = tmp_path / "model.xml"
    path.write_text("old")
    path.with_suffix(".bin").write_text("old weights")
    moved, replace = [], os.replace

    def killed(source, target):
        if moved:
            raise KeyboardInterrupt
        moved.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt), staged(path) as draft:
        draft.write_text("new")
        draft.with_suffix(".bin").write_text("new weights")
    assert path.with_suffix(".bin").read_text() == "new weights" and not path.exists()


def test_onnx_ends_at_2_gib(tmp_path):
    with torch.device("meta"):
        giant = build_model("depth-anything-v2-giant")
    with pytest.raises(DatoolError, match=r"2 GiB.*openvino"):
        writing.export(LoadedModel(giant, "depth-anything-v2-giant", "", ""), tmp_path / "g.onnx", "onnx", "fp32")


def test_calibration_takes_pictures_from_the_whole_folder(tmp_path):
    for number in range(90):
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), np.full((2, 2, 3), number, np.uint8))

    class Stub:
        prepare = staticmethod(np.asarray)

    taken = [int(picture.max()) for picture in _calibration(tmp_path, Stub())]
    assert len(taken) == len(set(taken)) == CALIBRATION
    assert taken == sorted(taken) and taken[0] == 0 and taken[-1] >= 88 and max(np.diff(taken)) == 2


@pytest.mark.parametrize("name", ["nano", "dinov2-small"])
@torch.inference_mode()
def test_timm_and_transformers_load_the_encoder(tmp_path, name):
    timm = pytest.importorskip("timm")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    encoder = build_encoder(name).eval()
    for key, parameter in encoder.named_parameters():
        if key.endswith("gamma"):
            torch.nn.init.normal_(parameter, 1.0, 0.1)
    write_backbone(encoder, tmp_path)
    side, last = encoder.spec.grid * encoder.spec.patch_px, encoder.spec.num_blocks - 1
    image = torch.randn(1, 3, side, side)
    ours = encoder(image, [last])[0].flatten(2).transpose(1, 2)
    vit = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    theirs = vit.forward_features(image)[:, 1:]
    assert (theirs - ours).norm() <= 1e-5 * ours.norm()
    dino, report = transformers.Dinov2Model.from_pretrained(tmp_path / "transformers", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    theirs = dino.eval()(pixel_values=image).last_hidden_state[:, 1:]
    assert (theirs - ours).norm() <= 1e-5 * ours.norm()


def test_an_encoder_goes_there_and_back(tmp_path, model):
    from safetensors.torch import save_file

    from datool.models.weights import load_encoder

    state = {key: tensor.detach() for key, tensor in model.encoder.vit.state_dict().items()}
    save_file(to_transformers(state), tmp_path / "dino.safetensors")
    back = build_encoder("nano")
    theirs = to_transformers(state)
    assert set(theirs) > {"embeddings.mask_token", "layernorm.weight"}
    torch.nn.init.zeros_(back.vit.pos_embed)
    # nano has no LayerScale, which every DINOv2 has: one is written for it.
    kept = {key: tensor for key, tensor in theirs.items() if "layer_scale" not in key}
    save_file(kept, tmp_path / "dino.safetensors")
    load_encoder(tmp_path / "dino.safetensors", back)
    assert all(torch.equal(tensor, state[key]) for key, tensor in back.vit.state_dict().items())


def test_the_command_writes_the_encoder(tmp_path, weights):
    done = CliRunner().invoke(app, ["export", weights, "--encoder", "--out", str(tmp_path / "encoder")])
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "encoder").iterdir()} == {"timm", "transformers"}


def test_an_encoder_that_is_no_dinov2_is_refused(tmp_path):
    with pytest.raises(DatoolError, match="no DINOv2"):
        write_backbone(build_encoder("tiny"), tmp_path)


def test_the_error_is_relative_to_the_spread():
    exact = np.array([[1.0, 3.0]], np.float32)
    assert error_of(exact, exact) == 0
    assert error_of(exact + 1, exact) == pytest.approx(1.0)
    assert error_of(10 * exact + 10, 10 * exact) == pytest.approx(1.0)
    flat = np.ones((2, 2), np.float32)
    assert error_of(flat, flat) == 0 and error_of(flat + 1, flat) == np.inf
