"""What makes the maps of neighbouring frames one film: cuts, scale and shift, motion.

A relative model gives each frame a scale and shift of its own; shown as they are, maps jump from frame to frame. Here
each is brought to the one before it where the picture stands still.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from datool.depth import Ambiguity, DepthMap
from datool.evaluation.alignment import HUBER_K, MAD_OF_GAUSSIAN

# Long side at which frames are compared, and at which motion is followed.
THUMB_PX, FLOW_PX = 80, 384
# A cut: the thumbnails differ by this much of 255 in the mean, and by this many times what they lately did.
CUT_LEVELS, CUT_TIMES = 24.0, 4.0
# Standing still: a thumbnail's pixel changed by at most this, or by at most the frame's median change.
STILL_LEVELS = 2.0
# How fast a correction fades, a frame: what the model says over a hundred frames is its own; within ten it is held.
FADE = 0.01
# Fits that cannot be: fewer pixels, a worse correlation or a larger change of scale than any camera's motion makes.
MIN_PIXELS, MIN_CORRELATION, MAX_SCALE = 64, 0.5, 2.0
FIT_STEPS = 4
# Of the map before, this much is kept where both frames show the same, and along a motion, which is never quite right.
KEPT, MOVED_KEPT = 0.9, 0.75
# They show the same where the brightness, blurred so far that noise is below it, differs by so many levels, the way
# along the motion and back ends within so many pixels, and the maps differ by so much of their spread.
SOFT_PX, BLUR_PX, SAME_LEVELS, MOVED_LEVELS, MAX_RETURN_PX, MAX_STEP = 15, 11, 1.5, 4.0, 1.0, 0.2
# Motion below this is none: so that what stands still is not blurred by resampling.
STILL_PX = 0.25


@dataclass(frozen=True)
class Steadied:
    """A frame's map beside those before it.

    Args:
        depth: the map, in the scale and shift of its shot.
        is_cut: whether a shot begins here.
    """

    depth: DepthMap
    is_cut: bool


class Steady:
    """Brings the maps of a clip, given one after another, to each other.

    Where a model leaves scale and shift open, a frame's map is fitted to the one before it over the pixels whose
    picture did not change; the product of these fits fades by a hundredth a frame, so that errors do not add up and
    what is slow stays the model's. Metric maps keep their metres. Then what stands still is smoothed over some ten
    frames. A cut begins anew.

    Args:
        flow: smooth what moves too, along the optical flow.
    """

    def __init__(self, flow: bool = False) -> None:
        self._smooth = Smooth(flow)
        self._cuts = Cuts()
        self._thumb: np.ndarray | None = None
        self._before: DepthMap | None = None
        self._scale, self._shift = 1.0, 0.0

    def step(self, image: np.ndarray, depth: DepthMap) -> Steadied:
        """Return the map of the next frame.

        Args:
            image: (H, W, 3) uint8 RGB.
            depth: its map, as the model gave it.
        """
        thumb = shrunk(image, THUMB_PX)
        is_cut = self._cuts.step(thumb)
        if is_cut:
            self._scale, self._shift = 1.0, 0.0
        elif self._before is not None and self._thumb is not None:
            scale, shift = fit_still(depth, self._before, self._thumb, thumb)
            self._scale, self._shift = self._scale * scale, self._scale * shift + self._shift
            self._scale, self._shift = self._scale ** (1 - FADE), self._shift * (1 - FADE)
        self._before, self._thumb = depth, thumb
        if (self._scale, self._shift) != (1.0, 0.0):
            values = depth.values * np.float32(self._scale) + np.float32(self._shift)
            depth = DepthMap(values, depth.quantity, depth.ambiguity)
        return Steadied(self._smooth.step(image, depth, is_cut), is_cut)


class Cuts:
    """Finds where shots begin, from thumbnails given one after another.

    Source: the rule of PySceneDetect's AdaptiveDetector (a change far above the neighbours'), looking back only.
    """

    def __init__(self) -> None:
        self._before: np.ndarray | None = None
        self._usual = 0.0

    def step(self, thumb: np.ndarray) -> bool:
        """Tell whether a shot begins with this frame; the first frame begins one."""
        before, self._before = self._before, thumb
        if before is None:
            return True
        change = float(np.mean(np.abs(thumb - before)))
        is_cut = change > CUT_LEVELS and change > CUT_TIMES * self._usual
        self._usual = 0.0 if is_cut else 0.8 * self._usual + 0.2 * change
        return is_cut


def fit_still(depth: DepthMap, before: DepthMap, thumb: np.ndarray, thumb_before: np.ndarray) -> tuple[float, float]:
    """Return the scale and shift that bring a map to the one before it, over the pixels that stand still.

    Both maps are as noisy as each other, so the scale is the ratio of their spreads and not a regression's, which would
    shrink with every frame; residuals are weighed as Huber's. 1 and 0 where nothing is open or the two do not agree.

    Args:
        depth, before: of this frame and the one before.
        thumb, thumb_before: (h, w) float32 grey of both.
    """
    if depth.ambiguity is Ambiguity.NONE:
        return 1.0, 0.0
    size = thumb.shape[1], thumb.shape[0]
    x = cv2.resize(depth.values, size, interpolation=cv2.INTER_NEAREST)
    y = cv2.resize(before.values, size, interpolation=cv2.INTER_NEAREST)
    change = _change(thumb, thumb_before)
    counts = np.isfinite(x) & np.isfinite(y) & (change <= max(STILL_LEVELS, float(np.median(change[::2, ::2]))))
    x, y = x[counts].astype(np.float64), y[counts].astype(np.float64)
    if len(x) < MIN_PIXELS:
        return 1.0, 0.0
    if depth.ambiguity is Ambiguity.SCALE:
        scale = float(np.median(y) / np.median(x)) if np.median(x) > 0 and np.median(y) > 0 else 1.0
        return (scale, 0.0) if 1 / MAX_SCALE <= scale <= MAX_SCALE else (1.0, 0.0)
    weights = np.ones(len(x))
    scale, shift = 1.0, 0.0
    for _ in range(FIT_STEPS):
        share = weights / weights.sum()
        x_mean, y_mean = float(share @ x), float(share @ y)
        x_var, y_var = float(share @ (x - x_mean) ** 2), float(share @ (y - y_mean) ** 2)
        if x_var <= 0 or y_var <= 0:
            return 1.0, 0.0
        scale = float(np.sqrt(y_var / x_var))
        shift = float(y_mean - scale * x_mean)
        residual = np.abs(scale * x + shift - y)
        limit = HUBER_K * float(np.median(residual)) / MAD_OF_GAUSSIAN
        if limit <= 0:
            break  # half of the pixels are met exactly
        weights = np.minimum(1, limit / np.maximum(residual, limit))
    together = share @ ((x - x_mean) * (y - y_mean)) / np.sqrt(x_var * y_var)
    agree = together >= MIN_CORRELATION and 1 / MAX_SCALE <= scale <= MAX_SCALE
    return (scale, shift) if agree else (1.0, 0.0)


class Smooth:
    """Mixes into each map the one before where both show the same: where the picture stands still, or along its motion.

    Args:
        flow: follow the motion; else only what stands still is smoothed.

    Source: the flow is DIS (Kroeger et al. 2016), OpenCV's ``DISOpticalFlow``; the rest is the usual temporal filter:
    warp, drop what is occluded, mix.
    """

    def __init__(self, flow: bool = False) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST) if flow else None
        self._grey: np.ndarray | None = None
        self._depth: DepthMap | None = None

    def step(self, image: np.ndarray, depth: DepthMap, is_cut: bool) -> DepthMap:
        """Return the map of the next frame, mixed with the one before.

        Args:
            image: (H, W, 3) uint8 RGB.
            depth: its map, in the scale and shift of the one before.
            is_cut: begin anew.
        """
        grey = shrunk(image, FLOW_PX)
        if not is_cut and self._grey is not None and self._depth is not None:
            depth = self._mixed(grey, self._grey, depth, self._depth)
        self._grey, self._depth = grey, depth
        return depth

    def _follow(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        assert self._flow is not None, "only asked where motion is followed"
        return np.asarray(self._flow.calc(start, end, None))  # type: ignore[call-overload]  # its stub knows no None

    def _mixed(self, grey: np.ndarray, grey_before: np.ndarray, depth: DepthMap, before: DepthMap) -> DepthMap:
        height, width = depth.shape
        carried, same, limit = before.values, np.ones(grey.shape, bool), SAME_LEVELS
        kept = np.full(grey.shape, KEPT, np.float32)
        if self._flow is not None:
            now, then = grey.astype(np.uint8), grey_before.astype(np.uint8)
            back = self._follow(now, then)  # from here to where it was
            moved = np.hypot(back[..., 0], back[..., 1]) >= STILL_PX
            back[~moved], kept[moved] = 0, MOVED_KEPT
            same = np.linalg.norm(back + warped(self._follow(then, now), back), axis=2) <= MAX_RETURN_PX
            grey_before, limit = warped(grey_before, back), MOVED_LEVELS
            scale = np.array([width / grey.shape[1], height / grey.shape[0]], np.float32)
            carried = warped(carried, cv2.resize(back, (width, height), interpolation=cv2.INTER_LINEAR) * scale)
        same &= _change(*(cv2.blur(some, (BLUR_PX, BLUR_PX)) for some in (grey, grey_before))) <= limit
        # Softened, so that the border between the mixed and the new leaves no line.
        share = cv2.blur(cv2.erode(same.astype(np.float32), np.ones((SOFT_PX, SOFT_PX))) * kept, (SOFT_PX, SOFT_PX))
        share = cv2.resize(share, (width, height), interpolation=cv2.INTER_LINEAR)
        few = cv2.resize(depth.values, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_NEAREST)
        low, high = np.percentile(few[np.isfinite(few)], [2, 98]) if np.isfinite(few).any() else (0, 0)
        with np.errstate(invalid="ignore"):
            difference = carried - depth.values
            # Fading out from half of the step to one and a half, again for no line.
            share *= np.clip(1.5 - np.abs(difference) / (MAX_STEP * max(high - low, 1e-12)), 0, 1)
        difference[~(share > 0)] = share[~(share > 0)] = 0  # unknown and sky too
        difference *= share
        difference += depth.values
        return DepthMap(difference, depth.quantity, depth.ambiguity)


def _change(grey: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Return (h, w) by how much of 255 each pixel changed, apart from the exposure of the whole."""
    few = slice(None, None, 3)
    exposure = np.median((grey[few, few] + 1) / (before[few, few] + 1))
    return np.abs(grey - before * exposure)


def warped(values: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Return what lies at ``flow`` from each pixel, bilinear.

    Args:
        values: (H, W) or (H, W, 2) float32.
        flow: (H, W, 2) float32 pixels, x first.
    """
    rows, columns = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    return cv2.remap(
        values, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


def shrunk(image: np.ndarray, long_px: int) -> np.ndarray:
    """Return the image in grey, at most ``long_px`` on its long side: (h, w) float32, 0 to 255."""
    height, width = image.shape[:2]
    scale = min(1.0, long_px / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)


def flicker(maps: Iterable[np.ndarray], still: np.ndarray | None = None) -> float:
    """Return how much a film of a still scene changes: the mean absolute change a frame, over the spread of its values.

    The spread is that between the 2nd and 98th percentile, meant over the frames, so that neither scale nor contrast
    counts; 0 for maps that do not change. Give disparity in one scale and shift (aligned), or pictures as shown.

    Args:
        maps: (H, W) of equal size, in the order of showing; unknown is NaN.
        still: (H, W) bool: the pixels that count; None = all.
    """
    changes, spreads = [], []
    before = None
    for values in maps:
        values = np.asarray(values, np.float64)
        values = values.ravel() if still is None else values[still]
        low, high = np.nanpercentile(values, [2, 98])
        spreads.append(high - low)
        if before is not None:
            changes.append(float(np.nanmean(np.abs(values - before))))
        before = values
    if not changes or not any(changes):
        return 0.0
    return float(np.mean(changes) / np.mean(spreads))
