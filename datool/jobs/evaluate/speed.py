"""How fast an estimator is, and how much memory it takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from datool.depth import DepthMap
from datool.errors import DatoolError
from datool.evaluation.results import Speed

WARM_UP = 2


class Streams(Protocol):
    """An estimator that also takes many photos in its own batches."""

    def predict(self, images: Sequence[np.ndarray]) -> list[DepthMap]:
        """Return one map an image."""
        ...

    def stream(self, items: Iterable[Any], read: Callable[[Any], np.ndarray]) -> Iterable[Any]:
        """Yield one prediction an item."""
        ...


def measure_speed(estimator: Streams, images: Sequence[np.ndarray]) -> Speed:
    """Return the rate, the latency and the peak memory of an estimator on photos in memory.

    Two photos go first and are not counted. A GPU is waited for, since maps come back to the CPU.

    Args:
        estimator: on one device.
        images: (H, W, 3) uint8 RGB each, at least one.
    Raises:
        DatoolError: no photo, or one that cannot be estimated.
    """
    if not images:
        raise DatoolError("no photo to measure the speed on.")
    estimator.predict(images[:WARM_UP])
    on_gpu = torch.cuda.is_available() and torch.cuda.memory_allocated() > 0
    _forget_peak(on_gpu)
    seconds = []
    for image in images:
        started = time.perf_counter()
        estimator.predict([image])
        seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    for prediction in estimator.stream(range(len(images)), lambda number: images[number]):
        if isinstance(prediction.result, DatoolError):
            raise prediction.result
    rate = len(images) / (time.perf_counter() - started)
    median, late = np.quantile(seconds, [0.5, 0.9])
    on = f"{torch.cuda.get_device_name()}, memory of the GPU" if on_gpu else f"{_cpu()}, memory of the process"
    return Speed(rate, float(median), float(late), _peak(on_gpu), on, len(images))


def _cpu() -> str:
    count = torch.get_num_threads()
    return f"CPU, {count} thread{'s' if count > 1 else ''}"


def _forget_peak(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # what an earlier model took does not count


def _peak(on_gpu: bool) -> int:
    if on_gpu:
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
