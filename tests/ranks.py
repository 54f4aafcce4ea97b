"""Processes for tests: ranks that train together, and runs that get killed. Each is forked from a server that has
imported torch and run nothing, so that it starts at once."""

import json
import multiprocessing
import os
import signal
import socket

import cv2
import numpy as np

from datool.jobs.train import TrainOptions, train

PATIENCE_S = 120


def _context():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["datool.jobs.train"])
    return context


def _child(environment, work, args):
    import torch

    torch.set_num_threads(1)
    os.environ.update(environment)
    work(*args)


def _start(environment, work, args):
    process = _context().Process(target=_child, args=(environment, work, args))
    process.start()
    return process


def run_ranks(world, work, *args):
    """Call ``work(*args)`` in ``world`` processes that know each other as torchrun's do; return their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [_start({**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, work, args) for rank in range(world)]
    for process in processes:
        process.join(PATIENCE_S)
        assert process.exitcode is not None, "a rank hangs"
    return [process.exitcode for process in processes]


def run_killed(at, recipe, options):
    """Train in a process that is killed, as by kill -9, when it has logged step ``at``; None = not killed."""
    process = _start({}, _train_and_die, (at, recipe, options))
    process.join(PATIENCE_S)
    assert process.exitcode == (0 if at is None else -signal.SIGKILL)


def _train_and_die(at, recipe, options):
    def watch(line):
        if line.get("step") == at:
            os.kill(os.getpid(), signal.SIGKILL)

    train(recipe, options, None if at is None else watch)


def train_quietly(recipe, options):
    """Train; what several ranks are to call."""
    train(recipe, options)


def options(out, **rest):
    return TrainOptions(out=out, device="cpu", num_workers=0, **rest)


def lines(out):
    """The log without what the clock decides."""
    return [{k: v for k, v in json.loads(text).items() if k != "images_per_s"} for text in open(out / "log.jsonl")]


def noisy_photos(root):
    """Write a manifest of five noisy photos with metres beside them; return its folder."""
    generator = np.random.default_rng(0)
    with open(root / "manifest.jsonl", "w") as manifest:
        for number in range(5):
            cv2.imwrite(str(root / f"{number}.png"), generator.integers(0, 256, (40, 50, 3), np.uint8))
            np.save(root / f"{number}.npy", generator.uniform(1, 9, (40, 50)).astype(np.float32))
            manifest.write(json.dumps({"image": f"{number}.png", "depth": f"{number}.npy"}) + "\n")
    return root
