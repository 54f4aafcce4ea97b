"""Depth of films from any estimator of photos, without flicker, in the memory of a few frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import count, islice, takewhile
from math import ceil

import numpy as np

from datool.colour import nearness
from datool.depth import DepthMap
from datool.errors import DatoolError
from datool.estimators import Estimator
from datool.estimators.steady import Steady
from datool.files.video import Clip, Frame
from datool.parallel import map_threads

RANGES = ("clip", "ema", "frame")
# Frames that are predicted together, bounded by their pixels too.
CHUNK_FRAMES, CHUNK_PIXELS = 16, 16_000_000
# Frames that tell the range of a clip; what of their values counts; what is added at both ends.
RANGE_FRAMES, RANGE_PERCENT, MARGIN = 64, (0.5, 99.5), 0.05
# How many values of a map tell its range.
RANGE_VALUES = 50_000
# Frames that the range sees coming, and how much of it stays from frame to frame.
LOOK_AHEAD, KEPT_RANGE = 12, 0.9

Ends = tuple[float, float]


@dataclass(frozen=True)
class Shown:
    """A frame with its map, ready to be shown.

    Args:
        frame: as it was given.
        depth: its map; of a relative model in the scale and shift of its shot.
        ends: `datool.colour.nearness` of the first and the last colour; None = the map's own.
        is_cut: whether a shot begins here.
    """

    frame: Frame
    depth: DepthMap
    ends: Ends | None
    is_cut: bool


class Video:
    """Estimates the depth of clips with an estimator of photos.

    Args:
        estimator: any.
        range: what pictures show as far and near: ``clip``, the same in all frames, from a first look at 64 of them;
            ``ema``, an average that follows the film, sees 12 frames ahead and begins anew at cuts; ``frame``, each
            frame's own, which flickers, with maps exactly as of photos.
        flow: also smooth maps along the optical flow; not with ``frame``.
        finish: what to make of each map once it is steady, such as metres by a calibration; None = nothing.
    Raises:
        DatoolError: unknown range, or flow with ``frame``.
    """

    def __init__(
        self,
        estimator: Estimator,
        range: str = "clip",
        flow: bool = False,
        finish: Callable[[DepthMap], DepthMap] | None = None,
    ) -> None:
        if range not in RANGES:
            raise DatoolError(f"--range {range} is not known.", f"Known: {', '.join(RANGES)}.")
        if flow and range == "frame":
            raise DatoolError("--flow smooths, --range frame leaves each frame as it is.", "Drop one of the two.")
        self.estimator, self.range, self.flow = estimator, range, flow
        self.finish = finish or (lambda depth: depth)

    def predict(self, images: Sequence[np.ndarray]) -> list[DepthMap]:
        """Return the maps of frames that follow each other, held in memory; for files see `stream`.

        Args:
            images: (H, W, 3) uint8 RGB of equal size.
        """
        frames = (Frame(number, Fraction(number), image) for number, image in enumerate(images))
        with closing(self._steadied(frames)) as steadied:
            return [depth for _, depth, _ in steadied]

    def stream(self, clip: Clip) -> Generator[Shown]:
        """Yield the frames of a clip with their maps, in order.

        Raises:
            DatoolError: the clip cannot be read to its end, or a frame not be predicted.
        """
        ends = self._ends_of(clip) if self.range == "clip" else None
        with closing(self._steadied(clip.frames())) as steadied:
            if self.range == "ema":
                yield from _following(steadied)
            else:
                for frame, depth, is_cut in steadied:
                    yield Shown(frame, depth, ends, is_cut)

    def _steadied(self, frames: Generator[Frame]) -> Generator[tuple[Frame, DepthMap, bool]]:
        steady = None if self.range == "frame" else Steady(self.flow)
        with closing(self._predicted(frames)) as predicted:
            for frame, depth in predicted:
                if steady is None:
                    yield frame, self.finish(depth), False
                else:
                    steadied = steady.step(frame.image, depth)
                    yield frame, self.finish(steadied.depth), steadied.is_cut

    def _predicted(self, frames: Generator[Frame]) -> Generator[tuple[Frame, DepthMap]]:
        """Yield frames with their maps; the next ones are decoded while these are predicted."""
        # The thread ends before the frames are closed, since what runs cannot be closed.
        chunks = map_threads(lambda _: _chunk(frames), count(), 1, ahead=1, name="datool-decode")
        with closing(frames), closing(chunks):
            for chunk in takewhile(len, chunks):
                yield from zip(chunk, self.estimator.predict([frame.image for frame in chunk]), strict=True)

    def _ends_of(self, clip: Clip) -> Ends | None:
        """Return the range of a whole clip, from frames evenly apart."""
        every = max(1, ceil(clip.num_frames / RANGE_FRAMES))
        with closing(self._predicted(clip.frames(every))) as predicted:
            maps = (self.finish(depth) for _, depth in predicted)
            ends = [ends for depth in maps if (ends := range_of(depth)) is not None]
        if not ends:
            return None
        return _widened(min(far for far, _ in ends), max(near for _, near in ends))


def range_of(depth: DepthMap) -> Ends | None:
    """Return the nearness of a map's far and near end, without the outermost half percent; None if all is unknown."""
    step = max(1, round((depth.values.size / RANGE_VALUES) ** 0.5))
    values = nearness(DepthMap(np.ascontiguousarray(depth.values[::step, ::step]), depth.quantity, depth.ambiguity))
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    far, near = np.percentile(values, RANGE_PERCENT)
    return float(far), float(near)


def _widened(far: float, near: float) -> Ends:
    margin = MARGIN * (near - far)
    return far - margin, near + margin


def _following(steadied: Iterable[tuple[Frame, DepthMap, bool]]) -> Iterator[Shown]:
    """Yield frames with a range that follows the film; 12 of them wait for what comes."""
    waiting: deque[tuple[Frame, DepthMap, bool, Ends | None]] = deque()
    source = iter(steadied)
    now: Ends | None = None
    while True:
        for frame, depth, is_cut in islice(source, LOOK_AHEAD + 1 - len(waiting)):
            waiting.append((frame, depth, is_cut, range_of(depth)))
        if not waiting:
            return
        frame, depth, is_cut, _ = waiting[0]
        coming = list(_of_one_shot(waiting))
        if coming:
            target = min(far for far, _ in coming), max(near for _, near in coming)
            if is_cut or now is None:
                now = target
            else:
                far, near = (KEPT_RANGE * old + (1 - KEPT_RANGE) * new for old, new in zip(now, target, strict=True))
                now = far, near
        waiting.popleft()
        yield Shown(frame, depth, None if now is None else _widened(*now), is_cut)


def _of_one_shot(waiting: Iterable[tuple[Frame, DepthMap, bool, Ends | None]]) -> Iterator[Ends]:
    for number, (_, _, is_cut, ends) in enumerate(waiting):
        if number and is_cut:
            return
        if ends is not None:
            yield ends


def _chunk(frames: Iterator[Frame]) -> list[Frame]:
    """Return the next frames, few where they are large."""
    chunk = list(islice(frames, 1))
    if chunk:
        pixels = chunk[0].image.shape[0] * chunk[0].image.shape[1]
        chunk += islice(frames, min(CHUNK_FRAMES, max(1, CHUNK_PIXELS // pixels)) - 1)
    return chunk
