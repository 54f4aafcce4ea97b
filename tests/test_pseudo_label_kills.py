"""The law of pseudo labels at size: 20,000 photos, three ways to share the work, twenty kills of each, the same bytes.

Minutes each, so not run by default: ``pytest -m slow tests/test_pseudo_label_kills.py -s``. Two hosts are two network
namespaces with a host name each, which only root can make.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from datool.models.depth_anything import build_model
from datool.models.weights import save

pytestmark = pytest.mark.slow
pytest.importorskip("OpenEXR")
ROOT = Path(__file__).parent.parent
NUM, KILLS, PATIENCE_S = 20_000, 20, 1800


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with photos, one of them broken, a model, and the labels of one worker that nobody disturbed."""
    folder = tmp_path_factory.mktemp("kills")
    torch.manual_seed(0)
    save(folder / "nano.safetensors", build_model("nano"), "nano")
    for number in range(NUM):
        size = (64, 48) if number % 4 else (48, 64)
        pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        data = cv2.imencode(".jpg", cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC))[1].tobytes()
        path = folder / "photos" / f"{number // 1000:02d}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if number != 3 else data[:200])
    started = time.monotonic()
    assert start(command(folder, "quiet")).wait(PATIENCE_S) == 0
    print(f"\n{NUM} photos, undisturbed: {time.monotonic() - started:.0f} s", flush=True)
    return folder


def command(work: Path, out: str, *rest: str) -> list[str]:
    paths = [work / "photos", "--out", work / out, "--model", work / "nano.safetensors"]
    how = ["--size", "112", "--device", "cpu", "--rows-per-shard", "200", "--quiet"]
    return [sys.executable, "-m", "datool", "pseudo-label", *map(str, paths), *how, *rest]


def start(arguments: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(arguments, cwd=ROOT, env=environment, start_new_session=True)


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def disturb(commands: list[list[str]], out: Path, seed: int) -> tuple[int, int]:
    """Run commands, each killed now and then and started again, until all end; return kills, and those mid-shard."""
    rng, kills, torn = random.Random(seed), 0, 0
    running = [start(each) for each in commands]
    deadline = time.monotonic() + PATIENCE_S
    while any(process.poll() is None for process in running):
        assert time.monotonic() < deadline, "they hang"
        if kills == KILLS:
            time.sleep(0.5)
            continue
        time.sleep(rng.uniform(0.2, 12))
        number = rng.randrange(len(running))
        with suppress(ProcessLookupError):
            os.killpg(running[number].pid, signal.SIGKILL)
        if running[number].wait() != -signal.SIGKILL:
            continue
        kills += 1
        torn += any(out.glob(".datool-*.tmp"))
        running[number] = start(commands[number])
    assert [process.wait() for process in running] == [0] * len(running)
    return kills, torn


def check(work: Path, out: str, kills: int, torn: int, started: float) -> None:
    print(f"{out}: {kills} kills, {torn} with a file half written, {time.monotonic() - started:.0f} s", flush=True)
    assert start(command(work, out)).wait(PATIENCE_S) == 0
    assert contents(work / out) == contents(work / "quiet")
    assert not list((work / out).rglob(".datool-*"))
    assert kills == KILLS
    shutil.rmtree(work / out)


def test_three_local_workers(work):
    started = time.monotonic()
    workers = [command(work, "local", "--worker", f"{number}/3") for number in range(3)]
    check(work, "local", *disturb(workers, work / "local", 0), started)


def test_two_ray_workers(work):
    pytest.importorskip("ray")
    started = time.monotonic()
    driver = start(command(work, "ray", "--engine", "ray", "--workers", "2"))
    rng, kills, torn = random.Random(1), 0, 0
    while driver.poll() is None:
        assert time.monotonic() - started < PATIENCE_S, "it hangs"
        time.sleep(rng.uniform(0.2, 12))
        leases = sorted((work / "ray").glob(".datool-*.lease"))
        if kills == KILLS or not leases:
            continue
        with suppress(OSError, ValueError):  # it is done, or just begins
            os.kill(json.loads(rng.choice(leases).read_text())[1], signal.SIGKILL)
            kills += 1
            torn += any((work / "ray").glob(".datool-*.tmp"))
    assert driver.returncode == 0
    check(work, "ray", kills, torn, started)


@pytest.fixture
def hosts():
    """Two network namespaces; give what runs a command in each, under a host name of its own."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("needs root, ip and unshare")
    names = [f"datool-{letter}-{os.getpid()}" for letter in "ab"]
    for name in names:
        subprocess.run(["ip", "netns", "add", name], check=True)
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    named = 'hostname "$0" && exec "$@"'
    yield [["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", named, name] for name in names]
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def test_two_hosts_that_share_a_folder(work, hosts):
    started = time.monotonic()
    workers = [[*host, *command(work, "hosts", "--worker", f"{number}/2")] for number, host in enumerate(hosts)]
    check(work, "hosts", *disturb(workers, work / "hosts", 2), started)
