"""Fetching DA-2K from a hub on the loopback."""

from __future__ import annotations

import io
import json
import zipfile

import cv2
import numpy as np
import pytest
from test_hub import cache, server  # noqa: F401  fixtures

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
