"""Fetching DA-2K from a hub on the loopback."""

from __future__ import annotations

import io
import json
import zipfile

import cv2
import numpy as np
import pytest
from test_hub import cache, server  # noqa: F401  fixtures
from typer.testing import CliRunner

from datool.cli import app
from datool.data.sources.table import FETCHED, find_root
from datool.errors import DatoolError
from datool.jobs.data.get import ARCHIVES, get_data

KINDS = ("indoor", "outdoor")


def archive(extra: dict[str, bytes] | None = None) -> bytes:
    """Return a small DA-2K as a zip; one of its images is missing, as in the authors' own."""
    data = io.BytesIO()
    pair = {"point1": [1, 2], "point2": [3, 4], "closer_point": "point1"}
    names = [f"images/{kind}/{number}.png" for kind in KINDS for number in range(2)]
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("DA-2K/annotations.json", json.dumps({name: [pair] for name in names}))
        for name in names[:-1]:
            file.writestr(f"DA-2K/{name}", cv2.imencode(".png", np.zeros((8, 9, 3), np.uint8))[1].tobytes())
        for name, content in (extra or {}).items():
            file.writestr(name, content)
    return data.getvalue()


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_the_cards_line_needs_nothing_but_a_network(server, cache, tmp_path, monkeypatch):  # noqa: F811
    """`datool eval --bench da2k`: the set and the model are had, and named in the table."""
    noise = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (8, 9, 3), np.uint8))[1].tobytes()
    server.files["DA-2K.zip"] = archive({"DA-2K/images/outdoor/1.png": noise})
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATOOL_DATA", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # put back afterwards: --offline sets it
    done = run("eval", "--bench", "da2k")
    assert done.exit_code == 0, done.stderr
    assert "4 images" in done.stdout and "tiny" in done.stdout and "da-2k" in done.stdout
    assert "681 MB" in done.stderr and "Apache-2.0" in done.stderr, "size and licence are told before it is fetched"
    assert "so datool uses 'tiny'" in done.stderr, "the hub of this test has no V2 Small"
    asked = len([path for path in server.requests if "DA-2K" in path])
    again = run("eval", "--bench", "da2k", "--json", "--priors", "--offline")
    assert again.exit_code == 0 and len([path for path in server.requests if "DA-2K" in path]) == asked
    predictors = json.loads(again.stdout)["predictors"]
    found = {each["name"]: each["results"][0]["values"]["accuracy"] for each in predictors}
    assert list(found) == ["tiny", "prior:rows", "prior:constant"] and found["prior:constant"] == 0


def test_half_a_set_is_gone_on_with_and_offline_says_where_it_is_to_be_had(server, cache, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # put back afterwards: --offline sets it
    done = run("eval", "--bench", "da2k", "--offline")
    assert done.exit_code == 1 and not server.requests
    assert (
        "/datasets/depth-anything/DA-2K/resolve/main/DA-2K.zip" in done.stderr
        and "DA-2K/annotations.json" in done.stderr
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    (tmp_path / "data/da2k/DA-2K/images/indoor").mkdir(parents=True)  # as a kill in the middle of unpacking leaves it
    server.files["DA-2K.zip"] = archive()
    done = run("eval", "--bench", "da2k", "--model", "tiny")
    assert done.exit_code == 1 and "images/outdoor/1.png" in done.stderr and "3 scored" in done.stdout


def test_what_can_be_fetched_is_named_where_it_is_missing(tmp_path, monkeypatch):
    assert set(FETCHED) == set(ARCHIVES)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatoolError) as error:
        find_root("da2k", {})
    assert "datool data get da2k" in error.value.hint and "annotations.json" in error.value.hint


def test_it_is_fetched_once_and_then_found(server, cache, tmp_path, monkeypatch):  # noqa: F811
    server.files["DA-2K.zip"] = archive()
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    summary = get_data("da2k", progress=lines.append)
    assert summary.num_images == 3 and summary.missing == ("images/outdoor/1.png",)
    assert "Apache-2.0" in lines[0] and "681 MB" in lines[0]
    assert find_root("da2k", {}).resolve() == summary.root.resolve()
    asked = len(server.requests)
    assert get_data("da2k") == summary and len(server.requests) == asked
    assert any("/datasets/depth-anything/DA-2K/" in request for request in server.requests)


def test_a_download_that_breaks_off_is_gone_on_with(server, cache, tmp_path):  # noqa: F811
    server.files["DA-2K.zip"] = archive({"DA-2K/padding": bytes(200_000)})
    server.cut = 20
    with pytest.raises(DatoolError, match="cannot download"):
        get_data("da2k", tmp_path / "set")
    server.cut = 0
    assert get_data("da2k", tmp_path / "set").num_images == 3


@pytest.mark.parametrize("name", ["../evil", "/evil", "DA-2K/../../evil"])
def test_an_archive_that_would_leave_its_folder_writes_nothing(server, cache, tmp_path, name):  # noqa: F811
    server.files["DA-2K.zip"] = archive({name: b"x"})
    with pytest.raises(DatoolError, match="would leave the folder"):
        get_data("da2k", tmp_path / "set")
    assert not list(tmp_path.rglob("evil")) and not (tmp_path / "set" / "DA-2K").exists()
