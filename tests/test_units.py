"""Laws of what is labelled: the list of units is the same at each look, held a line at a time, and no other passes."""

import os
import tracemalloc
from pathlib import Path

import pytest

from datool.errors import DatoolError
from datool.labelling.label_set import UNITS, LabelSet, begin
from datool.labelling.shard_plan import find_inputs, list_units

ROWS = 50


def photos(root: Path, count: int, per_folder: int = 250) -> Path:
    for number in range(count):
        path = root / f"{number // per_folder:04d}" / f"{number % per_folder:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def started(root: Path, out: Path) -> str:
    """Begin a set, and mark it as one that something was made of."""
    identity = begin(out, find_inputs([str(root)], {}, out), ROWS, print)
    (out / "labels.json").write_text("{}")
    return identity


def test_each_photo_is_in_one_unit_of_the_length_asked_for(tmp_path):
    identity = started(photos(tmp_path / "in", 620), tmp_path / "out")
    labels = LabelSet(tmp_path / "out", identity)
    units = [labels.unit(number)["files"] for number in range(len(labels))]
    assert [len(files) for files in units] == [ROWS] * 12 + [20]
    named = [name for files in units for name in files]
    assert named == sorted(path.relative_to(tmp_path / "in").as_posix() for path in (tmp_path / "in").rglob("*.jpg"))


def test_folders_are_looked_into_as_units_are_asked_for(tmp_path, monkeypatch):
    root, seen = photos(tmp_path / "in", 1000), []
    look = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: seen.append(path) or look(path))
    units = list_units(find_inputs([str(root)], {}, tmp_path / "out"), ROWS, tmp_path / "out")
    seen.clear()
    for _ in range(5):
        next(units)
    assert seen == [root, root / "0000"]


def test_an_open_set_holds_a_number_a_unit(tmp_path):
    identity = started(photos(tmp_path / "in", 8000), tmp_path / "out")
    tracemalloc.start()
    labels = LabelSet(tmp_path / "out", identity)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(labels) == 160 and held < 8 * 160 + 10_000, "8,000 names are 700 kB"


@pytest.mark.parametrize(
    "change, told", [("more", "then they made only 2 shards"), ("fewer", "now they make only 1 shard")]
)
def test_a_list_with_more_or_fewer_units_is_refused(change, told, tmp_path):
    root = photos(tmp_path / "in", 2 * ROWS)
    identity = started(root, tmp_path / "out")
    before = (tmp_path / "out" / UNITS).read_bytes()
    assert started(root, tmp_path / "out") == identity
    if change == "more":
        photos(root / "later", 1)
    else:
        for number in range(ROWS, 2 * ROWS):
            (root / "0000" / f"{number:04d}.jpg").unlink()
    with pytest.raises(DatoolError, match=told):
        started(root, tmp_path / "out")
    assert (tmp_path / "out" / UNITS).read_bytes() == before


def test_a_folder_without_photos_makes_no_set(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(DatoolError, match="nothing to label"):
        started(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()
