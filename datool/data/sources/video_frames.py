"""Unlabelled frames of videos at a stated rate: BDD100K, one's own.

The split states the rate: ``1fps`` gives the frames shown at 0 s, 1 s, 2 s ...; ``30fps`` of a video of 10 gives each
frame three times, so give no more than the videos have. The rate of Depth Anything's 8.2 M images of BDD100K is not
published; its 100,000 clips of 40 s give 4 M at 1fps and 8 M at 2fps (derived).

A row holds the time in microseconds. Rows of one video in their order are decoded in one go; any other order costs a
seek to the key frame before. Frames are turned as the video's display matrix says. A video that cannot be opened has
one row, which fails when read.
"""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from datool.data.sample import Sample
from datool.data.sources.base import Row, expect, unlabelled
from datool.errors import DatoolError, require

SUFFIXES = frozenset({".mov", ".mp4", ".m4v", ".avi", ".mkv", ".webm"})
LAYOUT = "<any folders>/<name>.mov (or .mp4, .m4v, .avi, .mkv, .webm); the split is a rate: 1fps, 0.5fps, ..."
RATE = re.compile(r"(\d+(?:\.\d+)?)fps")
SECOND_US = 1_000_000
# Decoding on from the last frame beats seeking up to here.
AHEAD_US = 5 * SECOND_US
# Times are rounded to whole microseconds on both sides.
ROUNDING_US = 2


def index(root: Path, split: str, layout: str = LAYOUT) -> Iterator[Row]:
    """Return a row for every moment of every video below ``root``, sorted by id (``<video>/<microseconds>``).

    Args:
        root: a folder.
        split: frames a second, as ``1fps``.
        layout: for messages.
    Raises:
        DatoolError: no such folder, no video in it, a split that is no rate, or PyAV is not installed.
    """
    match = RATE.fullmatch(split)
    if match is None or float(match[1]) == 0:
        raise DatoolError(f"'{split}' is no rate of frames.", "Write frames a second: 1fps, 0.5fps, 2fps.")
    expect(root, root.is_dir(), "folder", layout)
    named = (path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    found = [path for path in named if path.is_file()]
    expect(root, bool(found), f"video ({' '.join(sorted(SUFFIXES))})", layout)
    _av(found[0])
    paths = sorted(found, key=lambda path: f"{path.relative_to(root).as_posix()}/")
    return _rows(root, paths, float(match[1]))


def read(row: Row) -> Sample:
    """Return the frame that is shown at the row's time.

    Raises:
        DatoolError: the video is unreadable, or PyAV is not installed.
    """
    assert isinstance(row.member, int), "index gives the time"
    with _readable(row.image):
        return Sample(row.id, _cursor(row.image, os.getpid(), threading.get_ident()).at(row.member))


video_frames = unlabelled(index, read, LAYOUT, "1fps")


def _rows(root: Path, paths: list[Path], rate_hz: float) -> Iterator[Row]:
    for path in paths:
        place = path.relative_to(root).as_posix()
        for number in range(_count(path, rate_hz)):
            time_us = round(number * SECOND_US / rate_hz)
            yield Row(f"{place}/{time_us:012d}", path, member=time_us)


def _count(path: Path, rate_hz: float) -> int:
    """Return how many moments lie in a video; 1 where it does not open or does not say how long it is."""
    av = _av(path)
    try:
        with av.open(str(path)) as container:
            stream = next(iter(container.streams.video), None)
            if stream is not None and stream.duration is not None:
                seconds = float(stream.duration * stream.time_base)
            else:
                seconds = (container.duration or 0) / av.time_base
    except av.FFmpegError:
        return 1
    return max(1, math.ceil(seconds * rate_hz - 1e-6))


class _Cursor:
    """A video that is open at some frame.

    Args:
        path: the video.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.container = _av(path).open(str(path))
        if not self.container.streams.video:
            raise DatoolError(f"cannot read {path}: it has no pictures.", "Remove it.")
        self.stream = self.container.streams.video[0]
        self.start_us = self._us(self.stream.start_time or 0)
        self.frames: Iterator[Any] = iter(())
        self.frame: Any = None
        self.following: Any = None

    def at(self, time_us: int) -> np.ndarray:
        """Return the frame shown at ``time_us``: the last one that began by then, as (H, W, 3) uint8 RGB."""
        frame, following = self.frame, self.following
        self.frame = None  # so that a failure is followed by a seek, not by an old frame
        now_us = None if frame is None else self._time_us(frame)
        if now_us is None or not now_us - ROUNDING_US <= time_us <= now_us + AHEAD_US:
            frame, following = None, self._seek(time_us)
        while True:
            if following is None:
                following = self._next()
            late = following is not None and self._time_us(following) > time_us + ROUNDING_US
            if following is None or (late and frame is not None):
                break
            frame, following = following, None
        if frame is None:
            raise DatoolError(f"cannot read {self.path}: no picture at {time_us / SECOND_US:g} s.", "Fetch it again.")
        self.frame, self.following = frame, following
        pixels = frame.to_ndarray(format="rgb24")
        return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))

    def _seek(self, time_us: int) -> Any:
        """Return a frame from which decoding on comes by ``time_us``: a key frame, of which there are few.

        Containers look for key frames by the time of decoding, which may be some frames before the time of showing, so
        that the one found may be late.
        """
        back_us = 0
        while True:
            target_us = max(0, time_us - back_us)
            offset = round((target_us + self.start_us) / SECOND_US / self.stream.time_base)
            self.container.seek(offset, stream=self.stream, backward=True)
            self.frames = self.container.decode(self.stream)
            frame = self._next()
            if frame is None or target_us == 0 or self._time_us(frame) <= time_us + ROUNDING_US:
                return frame
            back_us = 2 * back_us or SECOND_US

    def _next(self) -> Any:
        return next((frame for frame in self.frames if frame.pts is not None), None)

    def _us(self, ticks: int) -> int:
        return round(ticks * self.stream.time_base * SECOND_US)

    def _time_us(self, frame: Any) -> int:
        return self._us(frame.pts) - self.start_us


@lru_cache(maxsize=2)
def _cursor(path: Path, process: int, thread: int) -> _Cursor:
    """Return an open video that nobody else moves: one a thread, and none that a fork inherited."""
    return _Cursor(path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except _av(path).FFmpegError as error:
        raise DatoolError(
            f"cannot read {path}: no video, or cut short ({error.strerror}).", "Fetch it again."
        ) from error


def _av(path: Path) -> ModuleType:
    return require("av", "video", f"reading {path}")
