from __future__ import annotations

import fcntl
import functools
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import datool
from datool.cli import app
from datool.models.depth_anything import build_model
from datool.models.weights import save

ROOT = Path(__file__).parent.parent
DATOOL = [sys.executable, "-m", "datool"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    save(path, build_model("nano"), "nano")
    return path


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{seed}.png"), pixels)
    return folder


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_predict_prints_a_table_on_stdout_and_nothing_else(photos, tmp_path, weights):
    result = run(
        "predict", photos, "--out", tmp_path / "out", "--model", weights, "--device", "cpu", "--precision", "fp32"
    )
    assert result.exit_code == 0, result.output
    assert "3 at" in result.stdout and "nano" in result.stdout and "cpu, fp32" in result.stdout
    assert result.stderr == ""
    again = run("predict", photos, "--out", tmp_path / "out", "--model", weights)
    assert again.exit_code == 0 and "3, finished earlier" in again.stdout


def test_json_is_one_object(photos, tmp_path, weights):
    (photos / "bad.jpg").write_bytes(b"no image")
    result = run("predict", photos, "--out", tmp_path / "out", "--model", weights, "--json")
    assert result.exit_code == 1
    summary = json.loads(result.stdout)
    assert (summary["done"], summary["skipped"], summary["model"]) == (3, 0, "nano")
    assert [Path(item["input"]).name for item in summary["failed"]] == ["bad.jpg"]
    assert "not an image" in summary["failed"][0]["reason"]


def test_quiet_is_silent_but_for_failures(photos, tmp_path, weights):
    result = run("predict", photos, "--out", tmp_path / "out", "--model", weights, "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    (photos / "bad\nname.jpg").write_bytes(b"")
    result = run("predict", photos, "--out", tmp_path / "out", "--model", weights, "--quiet")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("failed: ") and "empty" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.jpg.d"], "no such file or folder"),
        (["{photos}", "--model", "tinny"], "Did you mean 'tiny'"),
        (["{photos}", "--model", "{weights}", "--format", "png17"], "Did you mean 'png16'"),
        (["{photos}", "--model", "{weights}", "--device", "tpu0"], "unknown device"),
        (["{photos}", "--model", "{weights}", "--precision", "fp31"], "Did you mean 'fp32'"),
        (["{photos}", "--model", "{weights}", "--batch-size", "few"], "--batch-size"),
        (["{photos}", "--model", "{weights}", "--size", "3"], "--size"),
    ],
)
def test_expected_failures_exit_1_with_a_message(photos, tmp_path, weights, arguments, words):
    filled = [argument.format(photos=photos, weights=weights) for argument in arguments]
    result = run("predict", *filled, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stdout == "" and result.stderr.startswith("error: ")
    assert words in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [["predict"], ["predict", "x.jpg"], ["predict", "x.jpg", "--out"], ["forecast"]])
def test_usage_errors_exit_2(arguments):
    assert run(*arguments).exit_code == 2


def test_version():
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"datool {datool.__version__}\n")


def test_on_a_terminal_a_bar_is_drawn_and_ctrl_c_exits_130(photos, tmp_path, weights):
    for number in range(2997):  # many more than are predicted before the first of them is drawn
        (photos / f"more{number}.png").symlink_to(photos / "0.png")
    try:
        ours, theirs = pty.openpty()
    except OSError:
        pytest.skip("no pseudo-terminals on this machine")
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [*DATOOL, "predict", str(photos), "--out", str(tmp_path / "out"), "--model", str(weights)]
    # What is started in the background of a script ignores Ctrl-C, and so do its children.
    heeded = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=ROOT, stderr=theirs, stdout=subprocess.PIPE, text=True, preexec_fn=heeded)
    os.close(theirs)
    drawn, sent = b"", False
    try:
        while piece := os.read(ours, 4096):
            drawn += piece
            if re.search(rb" [1-9]\d*/3000 ", drawn) and not sent:
                process.send_signal(signal.SIGINT)
                sent = True
    except OSError:  # how Linux says that the other side is closed
        pass
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 130, drawn[-1000:]
    assert stdout == "" and b"interrupted: " in drawn and b"Traceback" not in drawn
    assert b"img/s" in drawn or b"s/img" in drawn
    rows = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    pending = [row["input"] for row in rows if row["status"] == "pending"]
    num_done = sum(row["status"] == "done" for row in rows)
    assert num_done + len(pending) == 3000 and num_done and pending
    for name in pending[5:]:
        (photos / name).unlink()
    summary = json.loads(run("predict", photos, "--out", tmp_path / "out", "--model", weights, "--json").stdout)
    assert (summary["skipped"], summary["done"]) == (num_done, 5)


def test_a_reader_that_leaves_is_no_traceback():
    command = " ".join(DATOOL)
    result = subprocess.run(f"{command} --help | true", shell=True, cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in result.stderr


def test_paths_from_stdin(photos, tmp_path, weights):
    arguments = ["predict", "-", "--out", str(tmp_path / "out"), "--model", str(weights), "--json"]
    result = CliRunner().invoke(app, arguments, input="\n".join(str(path) for path in photos.iterdir()))
    assert json.loads(result.stdout)["done"] == 3, result.stderr
