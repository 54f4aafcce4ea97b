"""From a relative model's disparity to metres: what is known of a photo, the line through it, and the file of it."""

from datool.calibration.fit import Line, fit_calibration, fit_line
from datool.calibration.known import (
    Ground,
    Known,
    Point,
    ground_known,
    map_known,
    parse_point,
    points_known,
    read_points,
    sample,
)
from datool.calibration.rows import Calibration, Calibrations, read_calibration, write_calibration

__all__ = [
    "Calibration",
    "Calibrations",
    "Ground",
    "Known",
    "Line",
    "Point",
    "fit_calibration",
    "fit_line",
    "ground_known",
    "map_known",
    "parse_point",
    "points_known",
    "read_calibration",
    "read_points",
    "sample",
    "write_calibration",
]
