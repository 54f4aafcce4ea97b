"""Every command opens a model in the same way: an exported file, and a folder that holds one, are models everywhere."""

import json

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import datool
from datool.cli import app
from datool.engines.exported import RUNTIMES
from datool.models.depth_anything import build_model
from datool.models.hub import sha256_of
from datool.models.specs import EXPORTED_SUFFIXES
from datool.models.weights import save


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Photos with truth, and a random model as an exported program, alone in a folder."""
    root = tmp_path_factory.mktemp("door")
    torch.manual_seed(0)
    model = build_model("nano")
    with torch.no_grad():
        torch.nn.init.constant_(model.head.output2[2].bias, 5.0)
        model.head.output2[2].weight.mul_(1e3)
    save(root / "nano.safetensors", model, "nano")
    (root / "photos").mkdir()
    rng = np.random.default_rng(0)
    with open(root / "truth.jsonl", "w") as manifest:
        for number in range(2):
            cv2.imwrite(str(root / f"photos/{number}.png"), rng.integers(0, 255, (60, 80, 3), np.uint8))
            np.save(root / f"{number}.npy", rng.uniform(1, 9, (60, 80)).astype(np.float32))
            manifest.write(json.dumps({"image": f"photos/{number}.png", "depth": f"{number}.npy"}) + "\n")
    done = run("export", root / "nano.safetensors", "--format", "torch-export", "--out", root / "exported/nano.pt2")
    assert done.exit_code == 0, done.stderr
    return root


@pytest.mark.parametrize("spec", ["exported/nano.pt2", "exported"])
def test_an_exported_file_and_its_folder_are_a_model_for_every_command(place, spec, tmp_path):
    photo, model = place / "photos/0.png", place / spec
    exact = datool.load(place / "nano.safetensors", device="cpu", precision="fp32").predict(photo).values
    assert np.ptp(exact) > 0.1
    points = []
    for x, y in ((5, 5), (70, 50), (40, 9)):
        points += ["--point", f"{x},{y},{5 / exact[y, x]}"]
    for arguments in (
        ("predict", photo, "--out", tmp_path / "maps", "--format", "npy"),
        ("pointcloud", photo, "--out", tmp_path / "clouds", "--relative", "--fov-deg", "60"),
        ("calibrate", photo, "--out", tmp_path / "c.json", *points),
        ("eval", "--manifest", place / "truth.jsonl", "--json"),
        ("pseudo-label", place / "photos", "--out", tmp_path / "labels"),
    ):
        done = run(*arguments, "--model", model)
        assert done.exit_code == 0, f"{arguments[0]}: {done.stderr}"
    np.testing.assert_allclose(datool.load(model).predict(photo).values, exact, atol=1e-4 * np.ptp(exact))
    np.testing.assert_allclose(np.load(tmp_path / "maps/0.npy"), exact, atol=1e-4 * np.ptp(exact))
    labels = json.loads((tmp_path / "labels/labels.json").read_text())
    assert labels["model_sha256"] == sha256_of(place / "exported/nano.pt2"), "another file would give other labels"


def test_each_runtime_has_a_suffix_of_its_own():
    assert {name: runtime.suffix for name, runtime in RUNTIMES.items()} == EXPORTED_SUFFIXES
