"""Laws of the table of data sets: every row is complete, and a root is found where the rule says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from datool.data.sources.base import Source
from datool.data.sources.table import SOURCES, VARIABLE, find_root, find_source
from datool.errors import DatoolError


@pytest.fixture(autouse=True)
def _empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)


def test_a_given_root_wins_over_the_variable_and_that_over_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, variable, folder = tmp_path / "given", tmp_path / "all/nyu", tmp_path / "data/nyu"
    for path in (given, variable, folder):
        path.mkdir(parents=True)
    assert find_root("nyu", {}).resolve() == folder
    monkeypatch.setenv(VARIABLE, str(tmp_path / "all"))
    assert find_root("nyu", {"kitti": given}) == variable
    assert find_root("nyu", {"nyu": given}) == given
    variable.rmdir()
    assert find_root("nyu", {}).resolve() == folder


def test_nothing_there_names_all_places_and_the_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/nowhere")
    with pytest.raises(DatoolError, match=r"/nowhere/vkitti2 and data/vkitti2 not there") as error:
        find_root("vkitti2", {})
    for part in ("--root vkitti2=DIR", "$DATOOL_DATA/vkitti2", "data/vkitti2", SOURCES["vkitti2"].layout):
        assert part in error.value.hint
    (tmp_path / "data/vkitti2").mkdir(parents=True)
    with pytest.raises(DatoolError, match=r"/gone not there"):  # what was given is not replaced by anything else
        find_root("vkitti2", {"vkitti2": Path("/gone")})


def test_shards_may_be_a_pattern_and_a_manifest_a_file(tmp_path: Path) -> None:
    pattern, manifest = tmp_path / "{000..111}.tar", tmp_path / "own.jsonl"
    manifest.write_text("")
    assert find_root("laion", {"laion": pattern}) == pattern
    assert find_root("manifest", {"manifest": manifest}) == manifest


def test_an_unknown_name_is_guessed() -> None:
    with pytest.raises(DatoolError, match="unknown data set 'nyuv2'") as error:
        find_root("nyuv2", {})
    assert "Did you mean 'nyu'?" in error.value.hint


@pytest.mark.parametrize(("name", "source"), SOURCES.items(), ids=SOURCES)
def test_rows_are_complete(name: str, source: Source, tmp_path: Path) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert source.splits and source.layout and source.title
    assert (source.quantity is None) == (source.ambiguity is None)
    with pytest.raises(DatoolError):
        list(source.index(tmp_path / "nowhere", source.splits[0]))


def test_the_table_needs_no_slow_or_optional_library() -> None:
    code = "import datool.data.sources.table, sys; print(*(set(sys.argv[1:]) & set(sys.modules)))"
    names = ["torch", "h5py", "scipy", "lmdb", "av", "braceexpand", "OpenEXR", "webdataset"]
    found = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert found.stdout.split() == []


def test_a_folder_called_shards_is_meant_before_the_kind_of_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("shards", "images", "hypersim", "data/hypersim"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "shards/000.tar").write_bytes(b"")
    assert find_source("shards", {}) == ("tars", Path("shards"))
    assert find_source("images", {}) == ("images", Path("images"))
    assert find_source("hypersim", {}) == ("hypersim", Path("data/hypersim")), "a data set keeps its own place"
    assert find_source("shards", {"shards": tmp_path / "images"}) == ("shards", tmp_path / "images")
