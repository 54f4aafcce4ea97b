"""datool's evaluation against the same sums in NumPy: same maps, same processes, same machine, in one run.

    python benchmarks/evaluate.py --num 1000 --processes 2

Maps of 1242x375 with smooth truth, either known at a fifth of the pixels, as from lidar, or at all; predictions are its
disparity, scaled, shifted and noisy. 8 different maps go round. Contenders, each a function (prediction, truth) -> ten
values, in as many processes as the other:

- ``datool``: `datool.evaluation.protocols.score` under ``lsq-disparity``;
- ``numpy``: masked, vectorised, float64: each map's valid pixels taken once, least squares in closed form, the ten
  metrics by their formulas with the ratio, the difference and the logarithms shared between them.

``memory`` has the maps in memory, ``npy`` reads each prediction from a file (the truth stays in memory). Printed are
CPU and wall milliseconds a map, the ratio of CPU times, and the largest difference between any two values.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes over maps, on both sides

import cv2
import numpy as np

from datool.depth import Ambiguity, DepthMap, Quantity
from datool.evaluation.protocols import PROTOCOLS, score

HEIGHT_PX, WIDTH_PX, NUM_DIFFERENT = 375, 1242, 8
NEAR, FAR = 1e-3, 80.0
MAPS: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
PLACE = ""


def make(kind: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (prediction, truth) float32 maps."""
    rng = np.random.default_rng(0)
    maps = []
    for _ in range(NUM_DIFFERENT):
        coarse = rng.uniform(0.02, 0.5, (12, 38)).astype(np.float32)
        disparity = cv2.resize(coarse, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_CUBIC).clip(0.014, 1)
        truth = (1 / disparity).astype(np.float32)
        pred = (3 * disparity + 0.2 + rng.normal(0, 0.02, disparity.shape)).astype(np.float32)
        if kind == "lidar":
            truth[rng.random(truth.shape) < 0.8] = np.nan
        maps.append((pred, truth))
    return maps


def by_numpy(pred: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the ten values, as one writes them down."""
    pred, truth = pred.astype(np.float64), truth.astype(np.float64)
    valid = np.isfinite(truth) & (truth > NEAR) & (truth < FAR)
    pred, truth = pred[valid], truth[valid]
    inverse = 1 / truth
    pred_mean, inverse_mean = pred.mean(), inverse.mean()
    scale = ((pred - pred_mean) * (inverse - inverse_mean)).mean() / ((pred - pred_mean) ** 2).mean()
    pred = 1 / np.maximum(scale * pred + inverse_mean - scale * pred_mean, 1 / truth.max())
    ratio = np.maximum(pred / truth, truth / pred)
    difference = pred - truth
    log = np.log(pred) - np.log(truth)
    return {
        "abs_rel": (np.abs(difference) / truth).mean(),
        "sq_rel": (difference**2 / truth).mean(),
        "rmse": np.sqrt((difference**2).mean()),
        "rmse_log": np.sqrt((log**2).mean()),
        "log10": np.abs(np.log10(pred) - np.log10(truth)).mean(),
        "silog": 100 * np.sqrt((log**2).mean() - log.mean() ** 2),
        "i_rmse": np.sqrt(((1 / pred - inverse) ** 2).mean()),
        **{f"delta{power}": (ratio < 1.25**power).mean() for power in (1, 2, 3)},
    }


def by_datool(pred: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the ten values, as `datool eval` has them."""
    relative = DepthMap(pred, Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)
    return score(relative, DepthMap(truth, Quantity.DEPTH, Ambiguity.NONE), PROTOCOLS["lsq-disparity"]).values


CONTENDERS = {"numpy": by_numpy, "datool": by_datool}


def start(place: str) -> None:
    """Give a process its maps."""
    global PLACE
    PLACE = place
    for kind in ("lidar", "dense"):
        MAPS[kind] = make(kind)


def work(job: tuple[str, str, str, int]) -> tuple[float, list[dict[str, float]]]:
    """Return the CPU seconds that a share of the maps took, and the values of the different ones."""
    name, kind, source, count = job
    found = []
    started = time.process_time()
    for number in range(count):
        pred, truth = MAPS[kind][number % NUM_DIFFERENT]
        if source == "npy":
            pred = np.load(f"{PLACE}/{kind}-{number % NUM_DIFFERENT}.npy")
        values = CONTENDERS[name](pred, truth)
        if number < NUM_DIFFERENT:
            found.append(values)
    return time.process_time() - started, found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--num", type=int, default=1000, help="maps")
    arguments.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="of each contender")
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    print(f"{options.num} maps of {WIDTH_PX}x{HEIGHT_PX}, {options.processes} processes, median of {options.rounds}")
    print(
        f"{'truth':6} {'from':7} {'':7} {'CPU ms/map':>11} {'wall ms/map':>12} {'times faster':>13} {'difference':>11}"
    )
    with tempfile.TemporaryDirectory() as place:
        for kind in ("lidar", "dense"):
            for number, (pred, _) in enumerate(make(kind)):
                np.save(Path(place) / f"{kind}-{number}.npy", pred)
        with ProcessPoolExecutor(options.processes, get_context("spawn"), start, (place,)) as pool:
            for kind in ("lidar", "dense"):
                for source in ("memory", "npy"):
                    report(pool, kind, source, options)


def report(pool: ProcessPoolExecutor, kind: str, source: str, options: argparse.Namespace) -> None:
    """Run both contenders in turn and print a line each."""
    share = -(-options.num // options.processes)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTENDERS}
    values = {}
    for _ in range(options.rounds):
        for name in CONTENDERS:
            started = time.perf_counter()
            found = list(pool.map(work, [(name, kind, source, share)] * options.processes))
            times[name].append((sum(seconds for seconds, _ in found), time.perf_counter() - started))
            values[name] = found[0][1]
    pairs = list(zip(values["numpy"], values["datool"], strict=True))
    apart = max(abs(one[name] - other[name]) for one, other in pairs for name in one)
    middle = {
        name: [1e3 * median(column) / options.num for column in zip(*rows, strict=True)] for name, rows in times.items()
    }
    for name, (cpu, wall) in middle.items():
        last = f"{middle['numpy'][0] / cpu:13.2f} {apart:11.1e}" if name == "datool" else ""
        print(f"{kind:6} {source:7} {name:7} {cpu:11.2f} {wall:12.2f} {last}")


if __name__ == "__main__":
    main()
