"""Laws of errors: they keep their kind through processes and wrappings, and a missing library blames no file."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError, MissingLibraryError, require
from datool.evaluation.unscored import UnscoredError
from datool.files import write_map
from datool.jobs.data.check import CheckOptions, check
from datool.jobs.data.pack import PackOptions, pack
from datool.jobs.evaluate.evaluate import EvalOptions, evaluate


def missing() -> DatoolError:
    with pytest.raises(MissingLibraryError) as caught:
        require("nothing_like_it.inside", "exr", "reading a.exr", "Or write another.")
    return caught.value


def test_a_library_is_returned_or_the_line_that_installs_it():
    assert require("json", "exr", "this") is json
    error = missing()
    assert error.problem == "reading a.exr needs an optional library that is not installed: nothing_like_it."
    assert error.hint == "Install it: pip install 'datool[exr]'. Or write another."


def test_a_broken_library_says_what_is_broken(tmp_path, monkeypatch):
    (tmp_path / "torn_library.py").write_text("raise ImportError('libtorn.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingLibraryError, match=r"broken \(libtorn\.so\.1.*torn_library\."):
        require("torn_library", "exr", "this")


@pytest.mark.parametrize(
    "error", [DatoolError("p.", "h."), missing(), UnscoredError("no-fit", "p.", "h.")], ids=lambda it: type(it).__name__
)
def test_errors_keep_their_kind_through_processes_and_wrappings(error):
    for other in (pickle.loads(pickle.dumps(error)), pickle.loads(pickle.dumps(error.reworded("row 3: it")))):
        assert type(other) is type(error) and other.hint == error.hint
        assert getattr(other, "kind", None) == getattr(error, "kind", None)
    assert str(error.reworded("row 3: it", "Do this.")) == "row 3: it Do this."
    assert error.reworded("other").problem == "other" != error.problem


def manifest(folder: Path) -> Path:
    """Write a set of two pairs, whose depth needs OpenEXR, and return its manifest."""
    import cv2

    pixels = np.random.default_rng(0)
    for name in "ab":
        cv2.imwrite(str(folder / f"{name}.png"), pixels.integers(0, 255, (48, 64, 3), np.uint8))
        depth = pixels.uniform(1, 5, (48, 64)).astype(np.float32)
        write_map(folder / f"{name}.exr", DepthMap(depth, Quantity.DEPTH, Ambiguity.NONE), "exr")
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps({"image": f"{name}.png", "depth": f"{name}.exr"}) + "\n" for name in "ab"))
    return path


@pytest.mark.parametrize("job", ["check", "pack", "evaluate"])
def test_a_missing_library_is_told_once_and_marks_no_row(tmp_path, monkeypatch, job):
    pytest.importorskip("OpenEXR")
    path = manifest(tmp_path)
    jobs = {
        "check": lambda: check(CheckOptions(sources=[str(path)], num_workers=1)),
        "pack": lambda: pack(PackOptions(source="manifest", root=path, out=tmp_path / "out", threads=1)),
        "evaluate": lambda: evaluate(
            EvalOptions(manifest=path, predictions=str(tmp_path / "{stem}.exr"), csv=tmp_path / "rows.csv", workers=1)
        ),
    }
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(MissingLibraryError, match=r"datool\[exr\]"):
        jobs[job]()
    assert not (tmp_path / "rows.csv").exists() or "a" not in (tmp_path / "rows.csv").read_text().split("\n", 1)[1]
