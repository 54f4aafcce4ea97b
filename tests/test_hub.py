"""Downloads against a hub on the loopback: what works, what fails, what is left behind, and what a rerun does."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from huggingface_hub import constants, file_download
from safetensors.torch import save as to_bytes

from datool.errors import DatoolError
from datool.models import hub, weights
from datool.models.depth_anything import build_model
from datool.models.specs import MODELS

NAME = "depth-anything-v2-small"
REPO = "depth-anything/Depth-Anything-V2-Small-hf"
REVISION = "5" * 40
CONTENT = os.urandom(300_000)


@dataclass
class Hub:
    """What the server has, and how it misbehaves.

    Args:
        files: path under the repository -> content.
        status, error_code: answer this to everything.
        cut: how many downloads to break off half-way.
        lie: announce this content's hash and size, whatever is sent.
        hang: accept connections and never answer.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=lambda: {"model.safetensors": CONTENT})
    status: int = 200
    error_code: str = ""
    cut: int = 0
    lie: bytes = b""
    hang: bool = False
    requests: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """The part of the hub's API that ``hf_hub_download`` uses: HEAD with ETag and commit, GET with Range."""

    protocol_version = "HTTP/1.1"
    state: ClassVar[Hub]
    released: ClassVar[threading.Event]

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        state = self.state
        state.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        if state.hang:
            self.released.wait(30)
            self.close_connection = True
            return
        content = state.files.get(self.path.rpartition("/")[2])
        if state.status != 200 or content is None:
            self.send_response(state.status if state.status != 200 else 404)
            self.send_header("X-Error-Code", state.error_code or "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        told = state.lie or content
        start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", f'"{hashlib.sha256(told).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("X-Linked-Size", str(len(told)))
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if body and state.cut:
            state.cut -= 1
            self.wfile.write(content[start : start + (len(content) - start) // 2])
            self.close_connection = True
        elif body:
            self.wfile.write(content[start:])


@pytest.fixture
def server() -> Iterator[Hub]:
    state = Hub()
    handler = type("OneHandler", (Handler,), {"state": state, "released": threading.Event()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        http.daemon_threads = True
        http.block_on_close = False
        state.url = f"http://127.0.0.1:{http.server_port}"
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        yield state
        handler.released.set()
        http.shutdown()


@pytest.fixture
def cache(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, the loopback hub as HF_ENDPOINT, and a published entry that it serves."""
    point_to(server.url, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for variable in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setitem(hub.PUBLISHED, NAME, hub.Published(REPO, REVISION, hub.APACHE, 1))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    monkeypatch.setattr(file_download.time, "sleep", lambda _: None)  # between retries
    return tmp_path / "cache"


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What importing huggingface_hub under HF_ENDPOINT sets; a subprocess for each test would take seconds."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    for module in (constants, file_download):
        if hasattr(module, "HUGGINGFACE_CO_URL_TEMPLATE"):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", url)


def leftovers(cache: Path) -> list[Path]:
    """Weight bytes in the cache, whole or partial."""
    return [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size > 1000]


def test_fetch_then_cached(server: Hub, cache: Path) -> None:
    assert hub.cached(NAME) is None
    lines: list[str] = []
    path = hub.fetch(NAME, lines.append)
    assert path.read_bytes() == CONTENT
    assert hub.cached(NAME) == path
    assert "Apache-2.0" in lines[0]
    assert server.url in lines[1]
    asked = len(server.requests)
    lines.clear()
    assert hub.fetch(NAME, lines.append) == path
    assert (len(server.requests), lines) == (asked, [])


def test_load_by_name(server: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, NAME, MODELS["nano"])
    server.files["model.safetensors"] = data = to_bytes(build_model("nano").state_dict())
    digest = hashlib.sha256(data).hexdigest()
    monkeypatch.setitem(hub.PUBLISHED, NAME, replace(hub.PUBLISHED[NAME], sha256=digest))
    for spec in (NAME, "v2-small", REPO, REPO.removesuffix("-hf"), REPO.lower()):
        loaded = weights.load(spec)
        assert (loaded.name, loaded.sha256, loaded.licence) == (NAME, digest, "Apache-2.0")
        assert loaded.source == f"{REPO}@{REVISION}"
    model, reason = weights.choose_auto(None, fallback=False)
    assert (model.name, reason) == (NAME, "")
    hub.fetch(NAME).resolve().write_bytes(data[:-1] + b"\1")
    with pytest.raises(DatoolError, match=r"expected .* Delete .*blobs"):
        weights.load(NAME)


def test_somebodys_repository_with_a_config(server: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nano = replace(MODELS["nano"], encoder="dinov2-nano", taps=(0, 1, 2, 3))
    monkeypatch.setitem(MODELS, "nano", nano)
    from datool.models.encoders import ENCODERS

    monkeypatch.setitem(ENCODERS, "dinov2-nano", ENCODERS["nano"])
    backbone = {"out_indices": [1, 2, 3, 4]}
    config = {"model_type": "depth_anything", "backbone_config": backbone, "fusion_hidden_size": nano.features}
    server.files["config.json"] = json.dumps(config).encode()
    server.files["model.safetensors"] = to_bytes(build_model("nano").state_dict())
    assert weights.load("someone/my-depth").name == "nano"
    server.files["config.json"] = b"{}"
    with pytest.raises(DatoolError, match="model_type"):
        weights.load("someone/another")
    del server.files["config.json"]
    with pytest.raises(DatoolError, match=r"config\.json of someone/third: file not found"):
        weights.load("someone/third")


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (404, "RepoNotFound", "repository not found"),
        (404, "RevisionNotFound", "revision not found"),
        (404, "EntryNotFound", "file not found"),
        (403, "GatedRepo", "access is gated.*Ask for access"),
        (401, "GatedRepo", "access is gated.*Ask for access"),
        (403, "", "answered 403.*Log in"),
        (500, "", "answered 500.*later"),
    ],
)
def test_refusals(server: Hub, cache: Path, status: int, code: str, words: str) -> None:
    server.status, server.error_code = status, code or "Other"
    with pytest.raises(DatoolError, match=words) as error:
        hub.fetch(NAME)
    assert "NAME=FILE" in error.value.hint
    assert hub.unreachable(NAME, 5) and hub.unreachable(NAME, 5) in error.value.problem
    assert leftovers(cache) == []
    server.status = 200
    assert hub.fetch(NAME).read_bytes() == CONTENT


def test_connection_refused(server: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    point_to(closed, monkeypatch)
    began = time.monotonic()
    with pytest.raises(DatoolError, match=f"{closed} refused the connection.*HF_ENDPOINT"):
        hub.fetch(NAME)
    assert "refused" in hub.unreachable(NAME, 5)
    assert time.monotonic() - began < 5


def test_cut_off_once_goes_on_where_it_stopped(server: Hub, cache: Path) -> None:
    server.cut = 1
    assert hub.fetch(NAME).read_bytes() == CONTENT
    assert any(request.startswith("GET") and "bytes=" in request for request in server.requests)


def test_cut_off_for_good_then_rerun(server: Hub, cache: Path) -> None:
    server.cut = 1000
    server.files["model.safetensors"] = b"x"  # half of one byte is nothing: no progress, so no endless retries
    with pytest.raises(DatoolError, match=r"cut off half-way.*same command"):
        hub.fetch(NAME)
    assert hub.cached(NAME) is None
    server.cut, server.files["model.safetensors"] = 0, CONTENT
    assert hub.fetch(NAME).read_bytes() == CONTENT
    assert [path.stat().st_size for path in leftovers(cache)] == [len(CONTENT)] * len(leftovers(cache))


def test_wrong_bytes_are_not_kept(server: Hub, cache: Path) -> None:
    server.lie = os.urandom(len(CONTENT))
    with pytest.raises(DatoolError, match=r"SHA-256 is .* expected .* removed"):
        hub.fetch(NAME)
    assert hub.cached(NAME) is None
    assert leftovers(cache) == []
    server.lie = b""
    assert hub.fetch(NAME).read_bytes() == CONTENT


def test_pinned_hash_counts(server: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror that serves another file under a hash of its own is caught where the hash is pinned."""
    monkeypatch.setitem(hub.PUBLISHED, NAME, replace(hub.PUBLISHED[NAME], sha256="0" * 64))
    with pytest.raises(DatoolError, match="expected 0000"):
        hub.fetch(NAME)
    assert leftovers(cache) == []


def test_wrong_size(server: Hub, cache: Path) -> None:
    server.lie = CONTENT + b"more"
    with pytest.raises(DatoolError, match="cut off half-way"):
        hub.fetch(NAME)
    assert hub.cached(NAME) is None


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "disk full at .*cache"), (errno.EACCES, "no permission.*HF_HOME")]
)
def test_cache_that_cannot_be_written(
    server: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "blob")

    with monkeypatch.context() as patch:
        patch.setattr(file_download, "http_get", fail)
        with pytest.raises(DatoolError, match=words):
            hub.fetch(NAME)
    assert leftovers(cache) == []
    assert hub.fetch(NAME).read_bytes() == CONTENT


def test_file_where_the_cache_should_be(server: Hub, cache: Path) -> None:
    cache.write_text("in the way")
    with pytest.raises(DatoolError, match=r"cannot write .*cache.*HF_HOME"):
        hub.fetch(NAME)


def test_dead_network_costs_the_timeout_at_most(server: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(weights, "load", lambda spec, *_: asked.append(spec))
    server.hang = True
    began = time.monotonic()
    _, reason = weights.choose_auto(None, fallback=True, timeout_s=0.5)
    assert time.monotonic() - began < 4  # well before the 5.5 s that the request itself may take
    assert asked == ["tiny"]
    for words in ("cannot be fetched", "within 0.5 s", "much less accurate", "--model NAME", "datool models get"):
        assert words in reason
    with pytest.raises(DatoolError, match=r"cannot get depth-anything-v2-small.*within 0\.5 s.*--no-fallback"):
        weights.choose_auto(None, fallback=False, timeout_s=0.5)


def test_hanging_name_resolution_costs_no_more(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: stop.wait(20))
    began = time.monotonic()
    assert "no answer" in hub.unreachable(NAME, 0.5)
    assert time.monotonic() - began < 4
    stop.set()


def test_offline_variable_is_respected(server: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fetch(NAME)
    server.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.fetch(NAME).read_bytes() == CONTENT
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "other"))
    assert hub.unreachable(NAME, 5) == "--offline or HF_HUB_OFFLINE is set"
    with pytest.raises(DatoolError, match="HF_HUB_OFFLINE is set and the file is not cached"):
        hub.fetch(NAME)
    assert server.requests == []


def test_output_folder_decides_without_asking(server: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "load", lambda spec, *_: spec)
    assert weights.choose_auto("tiny", fallback=False) == ("tiny", "")
    assert server.requests == []


def test_download_that_fails_after_the_probe_falls_back(
    server: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = object()
    real = weights.load
    monkeypatch.setattr(weights, "load", lambda spec, *_: bundled if spec == "tiny" else real(spec))
    server.lie = CONTENT + b"more"
    model, reason = weights.choose_auto(None, fallback=True)
    assert model is bundled
    assert "cut off half-way" in reason


def test_progress_lines_while_bytes_arrive() -> None:
    lines: list[str] = []
    bar = hub._bar(lines.append, every_s=0)(total=4_000_000, initial=1_000_000, desc="x", unit="B")
    with bar:
        bar.update(1_000_000)
        bar.update(2_000_000)
    assert lines == ["2 of 4 MB", "4 of 4 MB"]


def test_every_model_can_be_had_or_says_why() -> None:
    assert set(hub.PUBLISHED) | set(hub.UNPUBLISHED) | {"tiny"} == set(MODELS)
    for name, entry in hub.PUBLISHED.items():
        assert entry.licence
        assert entry.size_mb >= 99
        assert entry.revision == "main" or len(entry.revision) == 40
        assert hub.resolve(entry.repo) == hub.resolve(name.removeprefix("depth-anything-")) == name
        assert name.rpartition("-")[2] in entry.repo.lower()
    assert hub.resolve("depth-anything/Depth-Anything-V2-Metric-Hypersim-Large").endswith("metric-indoor-large")
    assert hub.resolve("LiheYoung/depth_anything_vitb14") == "depth-anything-v1-base"
    assert hub.resolve("no-such") is None


def test_real_environment_variables(server: Hub, tmp_path: Path) -> None:
    """HF_ENDPOINT and HF_HOME as a user sets them, in a process of its own."""
    code = (
        "from datool.models import hub\n"
        f"hub.PUBLISHED[{NAME!r}] = hub.Published({REPO!r}, {REVISION!r}, 'x', 1)\n"
        f"print(hub.unreachable({NAME!r}, 20))\n"
        f"print(hub.fetch({NAME!r}))\n"
    )
    environment = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    environment |= {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
    environment.pop("HF_HUB_OFFLINE", None)
    root = Path(hub.__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True, check=True
    )
    reason, path = result.stdout.splitlines()
    assert reason == ""
    assert Path(path).read_bytes() == CONTENT
    assert Path(path).is_relative_to(tmp_path / "home")
