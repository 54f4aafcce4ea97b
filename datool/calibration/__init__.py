"""From a relative model's disparity to metres: what is known of a photo, the line through it, and the file of it."""

from datool.calibration.depth_samples import (
    DepthSamples,
    Ground,
    Point,
    ground_samples,
    map_samples,
    parse_point,
    point_samples,
    read_points,
    sample,
)
from datool.calibration.fit import Line, fit_calibration, fit_line
from datool.calibration.rows import Calibration, Calibrations, read_calibration, write_calibration

__all__ = [
    "Calibration",
    "Calibrations",
    "DepthSamples",
    "Ground",
    "Line",
    "Point",
    "fit_calibration",
    "fit_line",
    "ground_samples",
    "map_samples",
    "parse_point",
    "point_samples",
    "read_calibration",
    "read_points",
    "sample",
    "write_calibration",
]
