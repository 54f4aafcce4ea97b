"""What is done between a prediction and a number, as a value: printed and hashed beside every score."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from datool.depth import Ambiguity, DepthMap, Quantity, same_aspect
from datool.errors import DatoolError, lookup
from datool.evaluation.alignment import ALIGNMENTS, blocks, is_constant
from datool.evaluation.fitted import Fitted, Score
from datool.evaluation.metrics import METRICS, Metric, PixelMetric, measure
from datool.evaluation.selection import CROPS, gathered, one_a_cell, open_range, resize_bilinear, thinned
from datool.evaluation.unscored import UnscoredError
from datool.settings import as_text, changed

__all__ = [
    "CROPS",
    "DENSE",
    "PROTOCOLS",
    "Fitted",
    "Protocol",
    "Score",
    "UnscoredError",
    "aligned_map",
    "fit",
    "override",
    "resize_bilinear",
    "score",
    "score_pairs",
]

AMBIGUITIES = (Ambiguity.NONE, Ambiguity.SCALE, Ambiguity.SCALE_AND_SHIFT)
SPACES = ("disparity", "depth", "native")
CLIPS = ("none", "range", "far")
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
        fit_positive: whether only pixels with a predicted disparity above 0 are fitted.
        fit_max_px: maps with a longer side are thinned (nearest pixel) to it before the fit; 0 = never.
        fit_cells: of each of so many by so many fields of the image one pixel is fitted; 0 = all are.
        floor: of aligned disparity, before it is inverted: a number, or one of ``FLOORS``.
        clip: ``range`` clips aligned depth to [near, far], ``far`` from above alone.
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
    fit_cells: int = 0
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
        values: field -> text, as `datool.settings.changed` reads it: far -> 10, metrics -> abs_rel,delta1.
    Raises:
        DatoolError: unknown field, or a text that is not of its type.
    """
    if "name" in values:
        raise DatoolError("a protocol's name says what it is and cannot be set.", "Change a field: --set far=10.")
    other = changed(protocol, values.items(), "field of a protocol")
    suffix = "".join(f"+{name}={as_text(getattr(other, name))}" for name in sorted(values))
    return replace(other, name=protocol.name + suffix)


def _is_number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


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
    fitted = fit(pred, truth, protocol)
    return Score(_measure(fitted, protocol.metrics), len(fitted.truth), fitted.scale, fitted.shift, fitted.flags)


def fit(pred: DepthMap, truth: DepthMap, protocol: Protocol) -> Fitted:
    """Return a prediction aligned to dense truth: all of `score` but the metrics.

    Raises:
        UnscoredError: as of `score`.
    """
    space = _fit_space(pred, truth, protocol)
    crop = CROPS[protocol.crop]
    frame = crop.cut(truth.shape)
    depth = truth.to(Quantity.DEPTH).values[frame]
    values, resized = _fitting(pred, truth.shape, frame, protocol.resize)
    window = crop.counts(depth.shape)
    valid = _counting(depth, window, protocol)
    counted, inside = gathered(valid, depth[window], values[window])
    if len(counted) < protocol.min_pixels:
        raise UnscoredError(
            "truth-empty", f"{len(counted)} pixels of truth count, at least {protocol.min_pixels} are needed."
        )
    if not np.isfinite(inside).all():
        num_nan = int(np.count_nonzero(np.isnan(inside)))
        if num_nan:
            raise UnscoredError(
                "prediction-nan", f"the prediction is NaN at {num_nan} of {len(inside)} pixels that count."
            )
    if space is not pred.quantity:
        with np.errstate(divide="ignore"):
            inside = 1 / inside.astype(np.float64)
    chosen = _fitted_pixels(valid, window, depth.shape, inside, space, protocol)
    scale, shift = _fit(inside, counted, chosen, space, protocol)
    constant = is_constant(inside) if np.isfinite(inside).all() else False
    flags = (("constant", constant), ("scale-zero", scale == 0), ("scale-negative", scale < 0), ("resized", resized))
    return Fitted(
        inside,
        counted,
        valid,
        tuple(slice(f.start + w.start, f.start + w.stop) for f, w in zip(frame, window, strict=True)),  # type: ignore[arg-type]
        scale,
        shift,
        _floor(protocol, counted),
        space is Quantity.DISPARITY,
        {"none": None, "range": (protocol.near, protocol.far), "far": (-np.inf, protocol.far)}[protocol.clip],
        tuple(name for name, holds in flags if holds),
    )


def aligned_map(pred: DepthMap, truth: DepthMap, protocol: Protocol) -> tuple[np.ndarray, Fitted]:
    """Return the prediction (H, W) float64 of the crop's frame as aligned depth, whole, and the fit: for pictures.

    Raises:
        UnscoredError: as of `score`.
    """
    fitted = fit(pred, truth, protocol)
    values, _ = _fitting(pred, truth.shape, CROPS[protocol.crop].cut(truth.shape), protocol.resize)
    with np.errstate(divide="ignore", invalid="ignore"):
        if fitted.in_disparity is not (pred.quantity is Quantity.DISPARITY):
            values = 1 / values.astype(np.float64)
        return fitted.align(values), fitted


def _fit_space(pred: DepthMap, truth: DepthMap, protocol: Protocol) -> Quantity:
    """Return what is fitted, if this prediction and this truth can be under this protocol."""
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
    return space


def _counting(depth: np.ndarray, window: tuple[slice, slice], protocol: Protocol) -> np.ndarray:
    """Return (h, w) bool: where truth counts in the window of a frame (H, W)."""
    low, high = open_range(protocol.near, protocol.far, protocol.closed)
    inside = depth[window]
    valid = (inside >= low) & (inside <= high)
    if protocol.outliers and np.isfinite(depth).any():
        valid &= inside <= protocol.outliers * np.quantile(depth[np.isfinite(depth)].astype(np.float64), 0.01)
    return valid


def _fitting(pred: DepthMap, shape: tuple[int, int], frame: tuple[slice, slice], how: str) -> tuple[np.ndarray, bool]:
    """Return the prediction (H, W) of the frame's size, and whether it was resized (then it is float64)."""
    of_frame = (frame[0].stop - frame[0].start, frame[1].stop - frame[1].start)
    if pred.shape == of_frame:
        return pred.values, False
    if pred.shape == shape:
        return pred.values[frame], False
    if not same_aspect(pred.shape, shape):
        raise UnscoredError(
            "prediction-size", f"the prediction is {pred.shape}, truth {shape}: another aspect.", "Is it of this image?"
        )
    return resize_bilinear(pred.values.astype(np.float64), shape, how)[frame], True


def _fitted_pixels(
    valid: np.ndarray,
    window: tuple[slice, slice],
    frame: tuple[int, int],
    values: np.ndarray,
    space: Quantity,
    protocol: Protocol,
) -> np.ndarray | None:
    """Return (N,) bool: which of the pixels that count are fitted; None = all."""
    chosen = values > 0 if protocol.fit_positive and space is Quantity.DISPARITY else None
    if not protocol.fit_max_px and not protocol.fit_cells:
        return chosen
    whole = np.zeros(frame, bool)
    whole[window] = valid
    if chosen is not None:
        whole[window][valid] = chosen
    if protocol.fit_max_px:
        whole = thinned(whole, protocol.fit_max_px)
    if protocol.fit_cells:
        whole = one_a_cell(whole, protocol.fit_cells)
    return whole[window][valid]


def _fit(
    values: np.ndarray, depth: np.ndarray, chosen: np.ndarray | None, space: Quantity, protocol: Protocol
) -> tuple[float, float]:
    if protocol.alignment == "none":
        return 1.0, 0.0
    if np.isinf(values).any():
        raise UnscoredError(
            "prediction-infinite", "the prediction is infinite at pixels that count, and cannot be fitted."
        )
    if chosen is not None:
        values, depth = values[chosen], depth[chosen]
    target = depth if space is Quantity.DEPTH else np.divide(1, depth, dtype=np.float64)
    try:
        return ALIGNMENTS[protocol.alignment].fit(values, target)
    except DatoolError as error:
        raise UnscoredError("no-fit", error.problem, error.hint) from error


def _floor(protocol: Protocol, depth: np.ndarray) -> float:
    if protocol.floor == "none":
        return -np.inf
    if protocol.floor == "1/far":
        return 1 / protocol.far
    return 1 / float(depth.max()) if protocol.floor == "1/max-truth" else float(protocol.floor)


def _measure(fitted: Fitted, names: tuple[str, ...]) -> dict[str, float]:
    wrong = [name for name in names if METRICS[name].on == "pairs"]
    if wrong:
        raise DatoolError(f"metric '{wrong[0]}' is of pairs of points, this truth is dense.", "Leave it out.")
    of_pixels = {name: metric for name in names if isinstance(metric := METRICS[name], PixelMetric)}
    parts = ((fitted.depth(part), fitted.truth[part].astype(np.float64)) for part in blocks(len(fitted.truth)))
    values = dict(zip(of_pixels, measure(list(of_pixels.values()), parts), strict=True))
    if len(values) < len(names):
        maps = fitted.maps()
        with np.errstate(all="ignore"):
            for name in names:
                if isinstance(metric := METRICS[name], Metric):
                    values[name] = metric.compute(*maps, fitted.valid)
    undefined = [name for name, value in values.items() if not np.isfinite(value)]
    if undefined:
        with np.errstate(divide="ignore"):
            depth = fitted.depth()
        raise UnscoredError(
            "not-positive",
            f"{', '.join(undefined)} undefined: aligned depth is from {depth.min():g} to {depth.max():g}.",
            "Set a floor or clip=range.",
        )
    return {name: values[name] for name in names}


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


PROTOCOLS: dict[str, Protocol] = {
    # Least squares to 1/truth, floor at 1/max(truth): the reconstruction with MoGe's floor.
    "lsq-disparity": Protocol("lsq-disparity"),
    # The reconstruction of the papers' zero-shot tables, for which no code was released: MiDaS's, clipped.
    "da-v2-reconstructed": Protocol(
        "da-v2-reconstructed", alignment="least-squares-or-zero", floor="1/far", clip="far"
    ),
    # Ranftl et al. 2020; its evaluation gists.
    "midas": Protocol(
        "midas", near=0.0, alignment="least-squares-or-zero", floor="1/far", metrics=("bad_pixels", *DENSE)
    ),
    # Ke et al. 2024; script/depth/eval.py, src/util/alignment.py.
    "marigold": Protocol("marigold", near=1e-5, space="native", fit_positive=True, floor="0.001", clip="range"),
    # Wang et al. 2024; moge/test/metrics.py, affine disparity. MoGe also warps each image by a homography that centres
    # its principal point, whose field of view and size are not published as a rule: UNVERIFIED, and not done here.
    "moge-disparity": Protocol(
        "moge-disparity", near=0.0, far=np.inf, outliers=1000.0, metrics=("rel_moge", "delta1", "abs_rel")
    ),
    # The same harness, of depth: least relative error on at most 64 x 64 pixels, scale and shift, or scale alone.
    "moge-depth": Protocol(
        "moge-depth",
        near=0.0,
        far=np.inf,
        outliers=1000.0,
        space="depth",
        alignment="l1",
        fit_cells=64,
        floor="none",
        metrics=("rel_moge", "abs_rel"),
    ),
    "moge-scale": Protocol(
        "moge-scale",
        near=0.0,
        far=np.inf,
        outliers=1000.0,
        space="depth",
        alignment="l1-scale",
        fit_cells=64,
        floor="none",
        metrics=("rel_moge", "delta1", "abs_rel"),
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
