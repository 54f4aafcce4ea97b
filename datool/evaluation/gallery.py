"""Small pictures of single images for reports: what went in, what came out, what was true, and where it went wrong."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from datool.colour import COLOUR_MAPS, to_picture
from datool.depth import DepthMap
from datool.evaluation.protocols import CROPS, Protocol, aligned_map

WIDTH_PX = 384
JPEG_QUALITY = 82
# The relative error that has the brightest colour.
FULL_ERROR = 0.5
UNKNOWN = np.array([58, 60, 66], np.uint8)
RIGHT, WRONG = (46, 160, 67), (215, 48, 39)


@dataclass(frozen=True)
class Picture:
    """One image of a report.

    Args:
        id: of the image. value: its score in the first metric.
        panels: title -> a JPEG as a data URI.
    """

    id: str
    value: float
    panels: Mapping[str, str]


def dense_picture(
    id: str, value: float, image: np.ndarray, pred: DepthMap, truth: DepthMap, protocol: Protocol
) -> Picture:
    """Return input, prediction, truth and error of one image; prediction and truth share their colours.

    Args:
        id, value: of the image.
        image: (H, W, 3) uint8 RGB.
        pred, truth: as of `datool.evaluation.protocols.score`.
        protocol: by which it was scored.
    Raises:
        UnscoredError: it cannot be scored.
    """
    depth, fitted = aligned_map(pred, truth, protocol)
    frame = CROPS[protocol.crop].cut(truth.shape)
    whole = np.full(truth.shape, np.nan)
    whole[fitted.window] = fitted.maps()[1]
    known = whole[frame]
    relative = np.abs(depth - known) / known
    shape = _small(known.shape)
    error = _coloured(_shrunk(relative, shape) / FULL_ERROR, "inferno")
    ends = np.quantile(1 / fitted.truth.astype(np.float64), [0.02, 0.98])
    if image.shape[:2] == truth.shape:
        image = image[frame]
    return Picture(
        id,
        value,
        {
            "input": _jpeg(cv2.resize(image, _small(image.shape[:2])[::-1], interpolation=cv2.INTER_AREA)),
            "prediction, aligned": _jpeg(_disparity(depth, ends, shape)),
            "truth": _jpeg(_disparity(known, ends, shape)),
            f"relative error, 0 to {FULL_ERROR:.0%}": _jpeg(error),
        },
    )


def pairs_picture(
    id: str, value: float, image: np.ndarray, pred: DepthMap, points: np.ndarray, right: np.ndarray
) -> Picture:
    """Return the photo with its pairs of points, and the prediction.

    Args:
        id, value: of the image.
        image: (H, W, 3) uint8 RGB.
        pred: of the image's aspect.
        points: (N, 2, 2) row and column of the nearer and the farther point.
        right: (N,) bool, whether the prediction has them so.
    """
    shape = _small(image.shape[:2])
    photo = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA)
    factor = shape[1] / image.shape[1]
    for (nearer, farther), good in zip(points, right, strict=True):
        ends = [(int((point[1] + 0.5) * factor), int((point[0] + 0.5) * factor)) for point in (nearer, farther)]
        colour = RIGHT if good else WRONG
        cv2.line(photo, ends[0], ends[1], colour, 1, cv2.LINE_AA)
        cv2.circle(photo, ends[0], 5, colour, -1, cv2.LINE_AA)
        cv2.circle(photo, ends[1], 5, colour, 2, cv2.LINE_AA)
    depth = cv2.resize(to_picture(pred), shape[::-1], interpolation=cv2.INTER_AREA)
    return Picture(id, value, {"input (full dot: nearer; red: wrong)": _jpeg(photo), "prediction": _jpeg(depth)})


def _small(shape: tuple[int, int]) -> tuple[int, int]:
    return max(1, round(shape[0] * WIDTH_PX / shape[1])), WIDTH_PX


def _disparity(depth: np.ndarray, ends: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return a picture of depth, linear in disparity between two ends."""
    with np.errstate(divide="ignore", invalid="ignore"):
        disparity = np.where(depth > 0, 1 / depth, ends[1])
        disparity[np.isnan(depth)] = np.nan
    return _coloured((_shrunk(disparity, shape) - ends[0]) / max(float(ends[1] - ends[0]), 1e-12), "Spectral_r")


def _shrunk(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return (h, w): of each field the mean of what is known, NaN where nothing is; sparse maps stay visible so."""
    known = np.isfinite(values)
    weight = cv2.resize(known.astype(np.float64), shape[::-1], interpolation=cv2.INTER_AREA)
    total = cv2.resize(np.where(known, values, 0.0), shape[::-1], interpolation=cv2.INTER_AREA)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weight > 1e-6, total / weight, np.nan)


def _coloured(share: np.ndarray, cmap: str) -> np.ndarray:
    known = np.isfinite(share)
    index = np.rint(np.clip(np.where(known, share, 0), 0, 1) * 255).astype(np.uint8)
    picture = COLOUR_MAPS[cmap]()[index]
    picture[~known] = UNKNOWN
    return picture


def _jpeg(picture: np.ndarray) -> str:
    _, data = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
