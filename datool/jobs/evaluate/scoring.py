"""One image: its sample read, its map had, both scored; whatever is expected to go wrong becomes the row's reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from datool.data.sample import Sample
from datool.data.sources.base import Row
from datool.data.sources.da2k import Pair
from datool.data.sources.table import SOURCES
from datool.depth import DepthMap
from datool.errors import DatoolError, MissingLibraryError
from datool.estimators.saved import SavedMap
from datool.evaluation.protocols import CROPS, Protocol, UnscoredError, fit, score, score_pairs
from datool.evaluation.results import ImageRow, half_octaves
from datool.files.stored_map import WrongValuesError


@dataclass(frozen=True)
class Task:
    """What scoring one image needs; small, since it goes to another process.

    Args:
        blank: its row, without a score.
        source: of the data set. sample: the image there.
        protocol: how.
        saved: its map; None = there is none, or a model predicts it.
        pairs: its pairs of points; empty = its truth is dense.
        by_depth: whether the row tells how the error lies over depth.
    """

    blank: ImageRow
    source: str
    sample: Row
    protocol: Protocol
    saved: SavedMap | None
    pairs: tuple[Pair, ...]
    by_depth: bool


def score_saved(task: Task) -> ImageRow:
    """Return the row of an image whose map was saved earlier."""
    if task.saved is None:
        return failed(task.blank, "prediction-missing", DatoolError("no saved map of this image."))
    return scored(task, task.saved.read)


def scored(task: Task, pred: Callable[[], DepthMap], sample: Sample | None = None) -> ImageRow:
    """Return the row of one image; whatever is expected to go wrong becomes the row's reason."""
    by_depth: Mapping[int, tuple[int, float]] = {}
    try:
        sample = read_sample(task) if sample is None else sample
        found = read_prediction(pred)
        if task.pairs:
            nearer, farther = (np.array([getattr(pair, name) for pair in task.pairs]) for name in ("nearer", "farther"))
            result = score_pairs(found, nearer, farther, sample.image.shape[:2], task.protocol)
        elif sample.depth is None:
            raise UnscoredError("truth-missing", "this image has no truth.")
        else:
            result = score(found, sample.depth, task.protocol)
            if task.by_depth:
                fitted = fit(found, sample.depth, task.protocol)
                truth = fitted.truth.astype(np.float64)
                by_depth = half_octaves(truth, np.abs(fitted.depth() - truth) / truth)
    except UnscoredError as error:
        return failed(task.blank, error.kind, error)
    return replace(
        task.blank,
        flags=result.flags,
        weight=result.weight,
        scale=result.scale,
        shift=result.shift,
        values=result.values,
        by_depth=by_depth,
    )


def read_sample(task: Task) -> Sample:
    """Return photo and truth.

    Raises:
        UnscoredError: they cannot be read.
    """
    try:
        return SOURCES[task.source].read(task.sample)
    except MissingLibraryError:
        raise  # the same for every image
    except DatoolError as error:
        raise UnscoredError(kind_of(error, task.sample), error.problem, error.hint) from error


def kind_of(error: DatoolError, sample: Row, read_size: tuple[int, int] | None = None) -> str:
    """Return what to count a failure as; ``read_size`` is the image's, where it could be read."""
    if isinstance(error, UnscoredError):
        return error.kind
    if read_size is not None:
        return "prediction-failed"
    return "sample-unreadable" if sample.image.is_file() else "image-missing"


def read_prediction(pred: Callable[[], DepthMap]) -> DepthMap:
    """Return what ``pred`` gives.

    Raises:
        UnscoredError: it cannot be read, or holds values that its quantity does not allow.
    """
    try:
        return pred()
    except WrongValuesError as error:
        raise UnscoredError("prediction-sign", error.problem, error.hint) from error
    except MissingLibraryError:
        raise  # the same for every image
    except DatoolError as error:
        raise UnscoredError("prediction-unreadable", error.problem, error.hint) from error


def cut(sample: Sample, protocol: Protocol) -> Sample:
    """Return the sample with its image and truth cut to the protocol's frame, as the network is to see it."""
    crop = CROPS[protocol.crop]
    if crop.frame is None or sample.depth is None:
        return sample
    if sample.depth.shape != sample.image.shape[:2]:
        raise UnscoredError("truth-size", f"crop '{protocol.crop}' needs truth of the image's size.")
    frame = crop.cut(sample.depth.shape)
    depth = DepthMap(np.ascontiguousarray(sample.depth.values[frame]), sample.depth.quantity, sample.depth.ambiguity)
    return replace(sample, image=np.ascontiguousarray(sample.image[frame]), depth=depth, camera=None)


def mirrored(image: np.ndarray) -> np.ndarray:
    """Return an image or a map with left and right changed."""
    return np.ascontiguousarray(image[:, ::-1])


def unmirrored(depth: DepthMap) -> DepthMap:
    """Return the map of a mirrored photo as that of the photo."""
    return DepthMap(mirrored(depth.values), depth.quantity, depth.ambiguity)


def mean_of(one: DepthMap, other: DepthMap) -> DepthMap:
    """Return the mean of two maps of one photo."""
    return DepthMap((one.values + other.values) / np.float32(2), one.quantity, one.ambiguity)


def failed(row: ImageRow, kind: str, error: DatoolError) -> ImageRow:
    """Return the row of an image without a score."""
    return replace(row, status="failed", kind=kind, reason=str(error))
