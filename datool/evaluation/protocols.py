"""What is done between a prediction and a number, as a value: printed and hashed beside every score."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError, lookup
from datool.evaluation.alignment import ALIGNMENTS, is_constant
from datool.evaluation.metrics import METRICS

# As `Sample`: sizes are whole pixels, so a smaller map may miss the aspect by this share.
ASPECT_TOLERANCE = 0.02
AMBIGUITIES = (Ambiguity.NONE, Ambiguity.SCALE, Ambiguity.SCALE_AND_SHIFT)
Box = tuple[slice, slice]


class UnscoredError(DatoolError):
    """An image that gets no score: counted and named, never averaged away.

    Args:
        kind: one word or two for counting, such as ``prediction-nan``.
        problem, hint: as of `DatoolError`.
    """

    def __init__(self, kind: str, problem: str, hint: str = "") -> None:
        super().__init__(problem, hint)
        self.kind = kind


@dataclass(frozen=True)
class Crop:
    """Two rectangles: what the image is cut to before anything else, and what of that counts.

    Args:
        frame: (height, width) that the image is cut to, at the bottom and centred; None = not cut.
        shares: top, bottom, left, right of what counts, as shares of height and width; None = all.
        pixels: the same in pixels.
        title: in words.
    """

    frame: tuple[int, int] | None = None
    shares: tuple[float, float, float, float] | None = None
    pixels: tuple[int, int, int, int] | None = None
    title: str = ""

    def cut(self, shape: tuple[int, int]) -> Box:
        """Return where the frame lies in an image.

        Raises:
            UnscoredError: the image is smaller.
        """
        if self.frame is None:
            return slice(0, shape[0]), slice(0, shape[1])
        if shape[0] < self.frame[0] or shape[1] < self.frame[1]:
            raise UnscoredError("truth-size", f"truth of {shape} is smaller than the crop of {self.frame}.")
        top, left = shape[0] - self.frame[0], (shape[1] - self.frame[1]) // 2
        return slice(top, shape[0]), slice(left, left + self.frame[1])

    def counts(self, shape: tuple[int, int]) -> Box:
        """Return what counts in the frame of this shape; shares are cut down to whole pixels."""
        if self.pixels is not None:
            top, bottom, left, right = self.pixels
        elif self.shares is not None:
            sides = (shape[0], shape[0], shape[1], shape[1])
            top, bottom, left, right = (int(share * side) for share, side in zip(self.shares, sides, strict=True))
        else:
            return slice(0, shape[0]), slice(0, shape[1])
        return slice(top, bottom), slice(left, right)


BENCHMARK_FRAME = (352, 1216)
GARG = (0.40810811, 0.99189189, 0.03594771, 0.96405229)
EIGEN = (0.3324324, 0.91351351, 0.0359477, 0.96405229)

CROPS: dict[str, Crop] = {
    "none": Crop(title="all"),
    "garg": Crop(shares=GARG, title="Garg et al. 2016"),
    "eigen": Crop(shares=EIGEN, title="Eigen et al. 2014, KITTI"),
    "eigen-nyu": Crop(pixels=(45, 471, 41, 601), title="Eigen et al. 2014, NYU"),
    "kb": Crop(BENCHMARK_FRAME, title="KITTI's depth benchmark: bottom 352 rows, centre 1216 columns"),
    "kb-garg": Crop(BENCHMARK_FRAME, GARG, title="benchmark crop, then Garg's"),
    "kb-eigen": Crop(BENCHMARK_FRAME, EIGEN, title="benchmark crop, then Eigen's"),
}

SPACES = ("disparity", "depth", "native")
CLIPS = ("none", "range")
RESIZES = ("centres", "corners")
AVERAGES = ("image", "pooled")
FLOORS = ("none", "1/far", "1/max-truth")
DENSE = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "i_rmse", "delta1", "delta2", "delta3")


@dataclass(frozen=True)
class Protocol:
    """All that decides a number, given maps.

    Args:
        name: for people; not hashed.
        split: of the data set; empty = its first.
        crop: a name of `CROPS`.
        near, far: the range of truth that counts, in its unit.
        closed: whether near and far themselves count.
        outliers: truth beyond this many times its 1 % quantile does not count; 0 = all counts.
        min_pixels: images with fewer that count are unscored, and named.
        space: what is fitted: ``disparity`` (to 1/truth), ``depth``, or ``native``, what the prediction is.
        alignment: a name of `ALIGNMENTS`.
        fit_positive: whether only pixels with a prediction above 0 are fitted.
        fit_max_px: maps with a longer side are thinned (nearest pixel) to it before the fit; 0 = never.
        floor: of aligned disparity, before it is inverted: a number, or one of ``FLOORS``.
        clip: ``range`` clips aligned depth to [near, far].
        resize: how a map of another size comes to truth's: bilinear with pixel ``centres`` (align_corners=False) or
            ``corners`` (True) in place.
        flip: whether a model's prediction is the mean with that of the mirrored image; saved maps are as they are.
        average: of a set: ``image`` (mean over images) or ``pooled`` (weighted by the pixels or pairs that count).
        metrics: names of `METRICS`.
    Raises:
        DatoolError: a name or number that cannot be.
    """

    name: str
    split: str = ""
    crop: str = "none"
    near: float = 1e-3
    far: float = 80.0
    closed: bool = False
    outliers: float = 0.0
    min_pixels: int = 10
    space: str = "disparity"
    alignment: str = "least-squares"
    fit_positive: bool = False
    fit_max_px: int = 0
    floor: str = "1/max-truth"
    clip: str = "none"
    resize: str = "centres"
    flip: bool = False
    average: str = "image"
    metrics: tuple[str, ...] = DENSE

    def __post_init__(self) -> None:
        lookup(CROPS, self.crop, "crop")
        lookup(ALIGNMENTS, self.alignment, "alignment")
        for name in self.metrics:
            lookup(METRICS, name, "metric")
        for field, known in (("space", SPACES), ("clip", CLIPS), ("resize", RESIZES), ("average", AVERAGES)):
            lookup(dict.fromkeys(known), getattr(self, field), field)
        if self.floor not in FLOORS and not _is_number(self.floor):
            raise DatoolError(f"unknown floor '{self.floor}'.", f"Known: a number, {', '.join(FLOORS)}.")
        if not 0 <= self.near < self.far:
            raise DatoolError(f"near {self.near:g} and far {self.far:g} hold no range.", "Give 0 <= near < far.")
        if not self.metrics or self.min_pixels < 1:
            raise DatoolError(f"{len(self.metrics)} metrics over {self.min_pixels} pixels are no score.")

    def describe(self) -> dict[str, Any]:
        """Return the fields that decide numbers, ready for JSON: an infinite far end is the text ``inf``."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        del values["name"]
        return {name: "inf" if value == np.inf else value for name, value in values.items()}

    @property
    def sha256(self) -> str:
        """The first 12 digits of the hash of `describe`'s canonical JSON."""
        text = json.dumps(self.describe(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def override(protocol: Protocol, values: Mapping[str, str]) -> Protocol:
    """Return the protocol with fields replaced by texts, typed as the field is; its name tells them.

    Args:
        protocol: what to begin with.
        values: field -> text: ``far=10``, ``closed=true``, ``metrics=abs_rel,delta1``.
    Raises:
        DatoolError: unknown field, or a text that is not of its type.
    """
    known = {field.name: getattr(protocol, field.name) for field in fields(protocol) if field.name != "name"}
    changed = {name: _typed(name, text, lookup(known, name, "field of a protocol")) for name, text in values.items()}
    suffix = "".join(f"+{name}={values[name]}" for name in sorted(values))
    return replace(protocol, name=protocol.name + suffix, **changed) if changed else protocol


def _typed(name: str, text: str, like: object) -> Any:
    try:
        if isinstance(like, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(like, tuple):
            return tuple(part.strip() for part in text.split(",") if part.strip())
        return type(like)(text)  # type: ignore[call-arg]
    except (ValueError, KeyError) as error:
        raise DatoolError(f"--set {name}={text}: expected {type(like).__name__}, such as {like}.") from error


def _is_number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


@dataclass(frozen=True)
class Score:
    """One image.

    Args:
        values: metric -> value.
        weight: pixels or pairs that count.
        scale, shift: of the fit.
        flags: what was strange though it could be scored: ``constant``, ``scale-zero``, ``scale-negative``,
            ``resized``, ``tie``, ``unknown-point``.
    """

    values: dict[str, float]
    weight: int
    scale: float = 1.0
    shift: float = 0.0
    flags: tuple[str, ...] = ()


def score(pred: DepthMap, truth: DepthMap, protocol: Protocol) -> Score:
    """Align a map to dense truth and score it.

    In this order: cut to the crop's frame, resize the prediction to truth, choose the pixels that count, fit, floor,
    invert, clip, measure. A constant prediction, and a fitted scale of 0 or below, are scored and flagged.

    Args:
        pred: of truth's size, of the crop's frame, or of truth's aspect (then it is resized and flagged).
        truth: depth, or what turns into it.
        protocol: how.
    Raises:
        UnscoredError: another aspect; fewer than ``min_pixels`` of truth count; NaN where they do; infinite where it is
            fitted; a prediction more ambiguous than the alignment removes, or that cannot be inverted into the space
            of the fit; an aligned depth that a metric is not defined for.
    """
    crop = CROPS[protocol.crop]
    if truth.ambiguity is Ambiguity.SCALE_AND_SHIFT:
        raise UnscoredError("truth-meaning", "truth known up to scale and shift is no truth to align to.")
    removes = ALIGNMENTS[protocol.alignment].removes
    if removes is Ambiguity.NONE and truth.ambiguity is not Ambiguity.NONE:
        raise UnscoredError("truth-meaning", f"alignment 'none' needs truth in metres, got {truth.ambiguity.value}.")
    if AMBIGUITIES.index(pred.ambiguity) > AMBIGUITIES.index(removes):
        raise UnscoredError(
            "prediction-meaning",
            f"alignment '{protocol.alignment}' cannot take a prediction known up to {pred.ambiguity.value}.",
            "Choose alignment=least-squares, or a metric model.",
        )
    space = pred.quantity if protocol.space == "native" else Quantity(protocol.space)
    if space is not pred.quantity and pred.ambiguity is Ambiguity.SCALE_AND_SHIFT:
        raise UnscoredError(
            "prediction-meaning",
            f"{pred.quantity.value} known up to scale and shift cannot be fitted in {space.value}.",
            f"Choose space=native or space={pred.quantity.value}.",
        )

    frame = crop.cut(truth.shape)
    depth = truth.to(Quantity.DEPTH).values[frame].astype(np.float64)
    values, resized = _fitting(pred, truth.shape, frame, protocol.resize)
    valid = _counting(depth, protocol, crop)
    num_pixels = int(np.count_nonzero(valid))
    if num_pixels < protocol.min_pixels:
        raise UnscoredError(
            "truth-empty", f"{num_pixels} pixels of truth count, at least {protocol.min_pixels} are needed."
        )
    num_nan = int(np.count_nonzero(np.isnan(values[valid])))
    if num_nan:
        raise UnscoredError("prediction-nan", f"the prediction is NaN at {num_nan} of {num_pixels} pixels that count.")
    if space is not pred.quantity:
        with np.errstate(divide="ignore"):
            values = 1 / values

    scale, shift, constant = _fit(values, depth, valid, space, protocol)
    with np.errstate(divide="ignore", invalid="ignore"):
        aligned = scale * values + shift if protocol.alignment != "none" else values
        if space is Quantity.DISPARITY:
            aligned = 1 / np.maximum(aligned, _floor(protocol, depth[valid]))
    if protocol.clip == "range":
        aligned = np.clip(aligned, protocol.near, protocol.far)
    flags = [("constant", constant), ("scale-zero", scale == 0), ("scale-negative", scale < 0), ("resized", resized)]
    return Score(
        _measure(aligned, depth, valid, protocol.metrics),
        num_pixels,
        scale,
        shift,
        tuple(name for name, holds in flags if holds),
    )


def _counting(depth: np.ndarray, protocol: Protocol, crop: Crop) -> np.ndarray:
    """Return (H, W) bool: where truth counts."""
    valid = np.zeros(depth.shape, bool)
    valid[crop.counts(depth.shape)] = True
    valid &= np.isfinite(depth)
    with np.errstate(invalid="ignore"):
        if protocol.closed:
            valid &= (depth >= protocol.near) & (depth <= protocol.far)
        else:
            valid &= (depth > protocol.near) & (depth < protocol.far)
        if protocol.outliers and np.isfinite(depth).any():
            valid &= depth <= protocol.outliers * np.quantile(depth[np.isfinite(depth)], 0.01)
    return valid


def _fitting(pred: DepthMap, shape: tuple[int, int], frame: Box, how: str) -> tuple[np.ndarray, bool]:
    """Return the prediction (H, W) float64 of the frame's size, and whether it was resized."""
    values = pred.values.astype(np.float64)
    of_frame = (frame[0].stop - frame[0].start, frame[1].stop - frame[1].start)
    if pred.shape == of_frame:
        return values, False
    if pred.shape == shape:
        return values[frame], False
    if abs(pred.shape[0] / shape[0] / (pred.shape[1] / shape[1]) - 1) > ASPECT_TOLERANCE:
        raise UnscoredError(
            "prediction-size", f"the prediction is {pred.shape}, truth {shape}: another aspect.", "Is it of this image?"
        )
    return resize_bilinear(values, shape, how)[frame], True


def _fit(
    values: np.ndarray, depth: np.ndarray, valid: np.ndarray, space: Quantity, protocol: Protocol
) -> tuple[float, float, bool]:
    """Return scale, shift, and whether the prediction is constant."""
    inside = values[valid]
    constant = bool(np.isfinite(inside).all()) and is_constant(inside)
    if protocol.alignment == "none":
        return 1.0, 0.0, constant
    if np.isinf(inside).any():
        raise UnscoredError(
            "prediction-infinite", "the prediction is infinite at pixels that count, and cannot be fitted."
        )
    chosen = valid & (values > 0) if protocol.fit_positive else valid
    if protocol.fit_max_px and max(values.shape) > protocol.fit_max_px:
        thin = np.zeros_like(valid)
        thin[np.ix_(*(_thinned(side, protocol.fit_max_px / max(values.shape)) for side in values.shape))] = True
        chosen = chosen & thin
    target = depth[chosen] if space is Quantity.DEPTH else 1 / depth[chosen]
    try:
        scale, shift = ALIGNMENTS[protocol.alignment].fit(values[chosen], target)
    except DatoolError as error:
        raise UnscoredError("no-fit", error.problem, error.hint) from error
    return scale, shift, constant


def _thinned(side: int, factor: float) -> np.ndarray:
    """Return the rows that nearest-neighbour resizing to ``side * factor`` takes."""
    count = max(1, int(side * factor))
    return np.floor(np.arange(count) * (side / count)).astype(int)


def _floor(protocol: Protocol, depth: np.ndarray) -> float:
    if protocol.floor == "none":
        return -np.inf
    if protocol.floor == "1/far":
        return 1 / protocol.far
    return float(1 / depth.max()) if protocol.floor == "1/max-truth" else float(protocol.floor)


def _measure(aligned: np.ndarray, depth: np.ndarray, valid: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    pred, truth = aligned[valid], depth[valid]
    values = {}
    with np.errstate(all="ignore"):
        for name in names:
            metric = METRICS[name]
            if metric.on == "pairs":
                raise DatoolError(f"metric '{name}' is of pairs of points, this truth is dense.", "Leave it out.")
            given = (pred, truth) if metric.on == "pixels" else (aligned, depth, valid)
            values[name] = metric.compute(*given)
    undefined = [name for name, value in values.items() if not np.isfinite(value)]
    if undefined:
        raise UnscoredError(
            "not-positive",
            f"{', '.join(undefined)} undefined: aligned depth is from {pred.min():g} to {pred.max():g}.",
            "Set a floor or clip=range.",
        )
    return values


def score_pairs(
    pred: DepthMap, nearer: np.ndarray, farther: np.ndarray, size: tuple[int, int], protocol: Protocol
) -> Score:
    """Score which of two points a map has nearer: strictly larger disparity, or strictly smaller depth.

    A tie is wrong, and so is an unknown value; both are flagged. Nothing is aligned.

    Args:
        pred: of the image's size, or of its aspect (then it is resized and flagged); floats are compared as they are.
        nearer, farther: (N, 2) row and column in pixels of the image.
        size: (height, width) of the image.
        protocol: gives ``resize`` and ``metrics``.
    Raises:
        UnscoredError: another aspect, no pair, or a point outside of the image.
    """
    points = np.concatenate([nearer, farther])
    if not len(nearer):
        raise UnscoredError("truth-empty", "no pair of points.")
    if (points < 0).any() or (points >= size).any():
        raise UnscoredError("truth-invalid", f"a point lies outside of the image of {size}.")
    values, resized = _fitting(pred, size, (slice(0, size[0]), slice(0, size[1])), protocol.resize)
    if pred.quantity is Quantity.DEPTH:
        values = -values
    first, second = values[nearer[:, 0], nearer[:, 1]], values[farther[:, 0], farther[:, 1]]
    wrong = [name for name in protocol.metrics if METRICS[name].on != "pairs"]
    if wrong:
        raise DatoolError(f"metric '{wrong[0]}' needs dense truth, got pairs of points.", "Leave it out.")
    flags = [
        ("constant", is_constant(np.concatenate([first, second]))),
        ("tie", bool((first == second).any())),
        ("unknown-point", bool(np.isnan(np.concatenate([first, second])).any())),
        ("resized", resized),
    ]
    return Score(
        {name: METRICS[name].compute(first, second) for name in protocol.metrics},
        len(nearer),
        flags=tuple(name for name, holds in flags if holds),
    )


def resize_bilinear(values: np.ndarray, shape: tuple[int, int], how: str) -> np.ndarray:
    """Return a map resized bilinearly, without antialias, in float64.

    Args:
        values: (h, w).
        shape: (H, W) wanted.
        how: ``centres`` keeps pixel centres in place by area (align_corners=False), ``corners`` the corner pixels.
    """
    for axis, wanted in enumerate(shape):
        given = values.shape[axis]
        if how == "corners":
            place = np.linspace(0, given - 1, wanted) if wanted > 1 else np.zeros(1)
        else:
            place = np.clip((np.arange(wanted) + 0.5) * (given / wanted) - 0.5, 0, given - 1)
        low = np.minimum(place.astype(int), max(given - 2, 0))
        high = np.minimum(low + 1, given - 1)
        share = (place - low).reshape((-1, 1) if axis == 0 else (1, -1))
        values = np.take(values, low, axis) * (1 - share) + np.take(values, high, axis) * share
    return values


PROTOCOLS: dict[str, Protocol] = {
    # Least squares to 1/truth, floor at 1/max(truth): the reconstruction with MoGe's floor.
    "lsq-disparity": Protocol("lsq-disparity"),
    # The reconstruction of the papers' zero-shot tables, for which no code was released: MiDaS's, clipped.
    "da-v2-reconstructed": Protocol("da-v2-reconstructed", floor="1/far", clip="range"),
    # Ranftl et al. 2020; its evaluation gists.
    "midas": Protocol(
        "midas", near=0.0, alignment="least-squares-or-zero", floor="1/far", metrics=("bad_pixels", *DENSE)
    ),
    # Ke et al. 2024; script/depth/eval.py, src/util/alignment.py.
    "marigold": Protocol("marigold", near=1e-5, space="native", fit_positive=True, floor="0.001", clip="range"),
    # Wang et al. 2024; moge/test/metrics.py, affine disparity.
    "moge-disparity": Protocol(
        "moge-disparity", near=0.0, far=np.inf, outliers=1000.0, metrics=("rel_moge", "delta1", "abs_rel")
    ),
    # Bhat et al. 2023; zoedepth/utils/misc.py, as Depth Anything V1's metric models are scored.
    "zoe-metric": Protocol(
        "zoe-metric", space="depth", alignment="none", floor="none", clip="range", resize="corners", flip=True
    ),
    # Depth-Anything-V2 metric_depth/train.py; 20 m indoors, 80 m outdoors.
    "v2-metric": Protocol(
        "v2-metric",
        closed=True,
        space="depth",
        alignment="none",
        floor="none",
        resize="corners",
        metrics=("delta1", "delta2", "delta3", "abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog_half"),
    ),
    # Yang et al. 2024, section 6: pairs of points, pooled.
    "da-2k": Protocol("da-2k", alignment="none", floor="none", average="pooled", metrics=("accuracy", "whdr")),
}
