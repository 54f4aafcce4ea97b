"""From whatever a map holds to depth that points can be made of: in metres, or avowedly without a unit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datool.calibration import Calibrations
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.geometry.relative import to_relative

WAYS = (
    "Take a metric model (--model v2-metric-indoor-small or v2-metric-outdoor-small), give --calibration FILE (of "
    "`datool calibrate`), or --relative for a shape without a unit."
)


@dataclass(frozen=True)
class ScaleFinder:
    """Turns maps into depth.

    Args:
        calibrations: what makes relative disparity metric; None = nothing does.
        name: of their file.
        relative: whether a map without scale may become depth without a unit.
    """

    calibrations: Calibrations | None = None
    name: str = ""
    relative: bool = False

    @property
    def takes_all(self) -> bool:
        """Whether a map without scale is of any use."""
        return self.calibrations is not None or self.relative

    def depth(self, map: DepthMap, photo: Path, model: tuple[str, str, int | None] | None) -> tuple[DepthMap, str]:
        """Return the map as depth, its ambiguity none (metres) or scale (no unit), and how it was turned into that.

        Args:
            map: any.
            photo: by which calibrations know it.
            model: name, hash and input size of what predicted the map, where that is known and not checked yet.
        Raises:
            DatoolError: it lacks scale, and nothing gives one; or the calibration is of another photo or model, or not
                needed.
        """
        if map.ambiguity is Ambiguity.NONE:
            if self.calibrations is not None:
                raise DatoolError(f"the depth of {photo} is metric already.", "Leave --calibration out.")
            return map.to(Quantity.DEPTH), ""
        if self.calibrations is not None:
            if model is not None:
                self.calibrations.check_model(*model)
            return self.calibrations.apply(str(photo), map), f"calibrated by {self.name}"
        if not self.relative:
            lacks = "a scale" if map.ambiguity is Ambiguity.SCALE else "scale and zero"
            raise DatoolError(f"the {map.quantity.value} of {photo} lacks {lacks}.", WAYS)
        return to_relative(map)
