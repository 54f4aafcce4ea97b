"""Metres from a relative model's disparity: scale and shift of each photo, kept in a file that people can read."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from datool.depth import Ambiguity, DepthMap, Quantity, same_aspect
from datool.errors import DatoolError
from datool.files import write_bytes
from datool.files.images import explained

FORMAT = "datool calibration"
VERSION = 1
MEANING = "disparity in 1/m = scale_per_m * prediction + shift_per_m; depth in m = 1 / disparity, sky beyond 20 far_m"
# Farther than so many times the farthest known point is sky.
SKY_FROM = 20.0
AGAIN = "Write it anew with `datool calibrate`."


@dataclass(frozen=True)
class Calibration:
    """What turns the disparity that a model predicted for one photo into 1/m.

    Args:
        scale_per_m: 1/m for each unit of the prediction, above 0.
        shift_per_m: 1/m that the prediction 0 stands for.
        size: (height, width) of the photo.
        found_by: points, sparse depth, ground plane or labels.
        num_points, num_outliers: that there were, and those that the fit set aside.
        near_m, far_m: the depths of the points that count.
        abs_rel: mean relative depth error of the points that count.
        residual_per_m: root of the mean squared disparity error of the points that count.
        scale_error_per_m, shift_error_per_m, correlation: standard errors of both and how they go together; None where
            so few points cannot tell.
        map_near_m, map_far_m: depth that 2 % and 98 % of the map's pixels come out at, sky left out.
        map_near_error_m, map_far_error_m: their standard errors from those of scale and shift.
        warnings: why it should not be trusted; empty mostly.
    Raises:
        DatoolError: a scale that is not above 0, or a number that is not finite.
    """

    scale_per_m: float
    shift_per_m: float
    size: tuple[int, int]
    found_by: str
    num_points: int
    num_outliers: int = 0
    near_m: float | None = None
    far_m: float | None = None
    abs_rel: float | None = None
    residual_per_m: float | None = None
    scale_error_per_m: float | None = None
    shift_error_per_m: float | None = None
    correlation: float | None = None
    map_near_m: float | None = None
    map_far_m: float | None = None
    map_near_error_m: float | None = None
    map_far_error_m: float | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale_per_m) and math.isfinite(self.shift_per_m) and self.scale_per_m > 0):
            raise DatoolError(
                f"a calibration's scale is finite and above 0, its shift finite, got {self.scale_per_m:g} and "
                f"{self.shift_per_m:g}."
            )

    def apply(self, map: DepthMap) -> DepthMap:
        """Return the metric depth of a map of the model's disparity.

        Disparity that comes out at or below 0 becomes sky (depth +inf): 0 is the nearest disparity that can be, such
        pixels are farther than all the others, and at infinity itself the error of the shift puts half of them below.
        So does what comes out farther than 20 times the farthest point that the calibration knows: there disparity is
        a twentieth of anything measured, all error, and one such pixel at 10,000 km would take all its steps from a
        16-bit PNG. Unknown stays unknown.

        Raises:
            DatoolError: not disparity known up to scale and shift, or of another picture's shape.
        """
        if (map.quantity, map.ambiguity) != (Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT):
            raise DatoolError(
                f"a calibration is for disparity known up to scale and shift, got {map.quantity.value} with ambiguity "
                f"'{map.ambiguity.value}'.",
                "Metric maps need none." if map.ambiguity is Ambiguity.NONE else "Predict with a relative model.",
            )
        if not same_aspect(map.shape, self.size):
            raise DatoolError(
                f"the calibration is of a {self.size[1]}x{self.size[0]} photo, the map is "
                f"{map.shape[1]}x{map.shape[0]}: cropped or turned.",
                "Calibrate this photo.",
            )
        disparity = map.values * np.float64(self.scale_per_m) + self.shift_per_m
        disparity[disparity < (1 / (SKY_FROM * self.far_m) if self.far_m else 0)] = 0
        with np.errstate(divide="ignore", over="ignore"):
            depth = np.divide(1, disparity).astype(np.float32)
        return DepthMap(depth, Quantity.DEPTH, Ambiguity.NONE)

    def depth_error_m(self, depth_m: float) -> float | None:
        """Return the standard error of a depth that comes from those of scale and shift; None where unknown.

        The error of the disparity d = scale p + shift, times the square of the depth. The model's own errors from pixel
        to pixel come on top.
        """
        if self.scale_error_per_m is None or self.shift_error_per_m is None or self.correlation is None:
            return None
        value = (1 / depth_m - self.shift_per_m) / self.scale_per_m
        by_scale, by_shift = value * self.scale_error_per_m, self.shift_error_per_m
        variance = by_scale**2 + by_shift**2 + 2 * self.correlation * by_scale * by_shift
        return depth_m**2 * math.sqrt(max(variance, 0.0))


@dataclass(frozen=True)
class Calibrations:
    """The calibrations of photos, all of one model at one size.

    Args:
        model, model_sha256: whose predictions they are for; empty where the maps did not say.
        size_px: short side of the network's input; None where the maps did not say.
        images: absolute path of the photo -> its calibration.
        shared: of every photo (of a camera that stands still); None = each photo has its own.
        sha256: of the file, where there is one.
    """

    model: str
    model_sha256: str
    size_px: int | None
    images: Mapping[str, Calibration] = field(default_factory=dict)
    shared: Calibration | None = None
    sha256: str = ""

    def of(self, id: str) -> Calibration:
        """Return the calibration of a photo.

        Args:
            id: its path.
        Raises:
            DatoolError: there is none.
        """
        found = self.shared or self.images.get(os.path.abspath(id))
        if found is None:
            known = ", ".join(sorted(map(os.path.basename, self.images))[:3])
            raise DatoolError(
                f"no calibration of {id}, there are {len(self.images)}: {known}.",
                "Calibrate this photo too; or, if the camera stood still, all with --shared.",
            )
        return found

    def apply(self, id: str, map: DepthMap) -> DepthMap:
        """Return the metric depth of a photo's map; see `Calibration.apply`.

        Args:
            id: path of the photo.
            map: disparity known up to scale and shift, of the same model (see `check_model`).
        Raises:
            DatoolError: the photo has no calibration, or the map is of another kind or shape.
        """
        return self.of(id).apply(map)

    def check_model(self, model: str, sha256: str, size_px: int | None) -> None:
        """Refuse maps of another model, or of another size of its input: their scale and shift are others.

        Raises:
            DatoolError: they differ, or the calibration does not say whose it is.
        """
        if self.model_sha256 != sha256:
            own = f"{self.model} {self.model_sha256[:12]}" if self.model_sha256 else "an unknown model's maps"
            raise DatoolError(f"the calibration is for {own}, got {model} {sha256[:12]}.", "Calibrate this model.")
        if self.size_px != size_px:
            raise DatoolError(
                f"the calibration is for --size {self.size_px}, got {size_px}.", "Give that size, or calibrate anew."
            )


def read_calibration(path: Path) -> Calibrations:
    """Return what `write_calibration` wrote.

    Raises:
        DatoolError: the file is missing, or not of that form.
    """
    path = Path(path)
    with explained(f"calibration {path}"):
        data = path.read_bytes()
    try:
        content = json.loads(data)
    except ValueError as error:
        raise DatoolError(f"cannot read calibration {path}: no JSON ({error}).", AGAIN) from error
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        raise DatoolError(f"cannot read calibration {path}: not a '{FORMAT}' of version {VERSION}.", AGAIN)
    folder = os.path.abspath(path.parent)
    try:
        return Calibrations(
            model=str(content["model"]),
            model_sha256=str(content["model_sha256"]),
            size_px=content["size_px"],
            images={
                os.path.normpath(os.path.join(folder, image)): _row(row)
                for image, row in (content.get("images") or {}).items()
            },
            shared=None if content.get("shared") is None else _row(content["shared"]),
            sha256=hashlib.sha256(data).hexdigest(),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatoolError(
            f"cannot read calibration {path}: a field is missing or of another kind ({error}).", AGAIN
        ) from error


def write_calibration(path: Path, calibrations: Calibrations) -> None:
    """Write JSON, whole or not at all; photos are named relative to its folder, so that both can be moved together.

    Raises:
        DatoolError: it cannot be written.
    """
    folder = os.path.abspath(Path(path).parent)
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "meaning": MEANING,
        "model": calibrations.model,
        "model_sha256": calibrations.model_sha256,
        "size_px": calibrations.size_px,
    }
    if calibrations.shared is not None:
        content["shared"] = asdict(calibrations.shared)
    else:
        content["images"] = {
            Path(os.path.relpath(image, folder)).as_posix(): asdict(row) for image, row in calibrations.images.items()
        }
    write_bytes(Path(path), json.dumps(content, indent=2).encode("ascii") + b"\n")


def _row(values: Mapping[str, Any]) -> Calibration:
    known = {item.name for item in fields(Calibration)}
    row = {name: value for name, value in values.items() if name in known}
    row["size"] = int(values["size"][0]), int(values["size"][1])
    row["warnings"] = tuple(values.get("warnings") or ())
    return Calibration(**row)
