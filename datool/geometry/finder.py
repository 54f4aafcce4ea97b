"""Which camera took a photo, by what is known of it; and no camera where nothing is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datool.depth import Camera
from datool.errors import DatoolError
from datool.geometry.exif import exif_camera
from datool.geometry.intrinsics import IntrinsicsFile, check_focal, check_fov, check_width, focal_camera, fov_camera

WAYS = "Give --focal-px, --fov-deg or --intrinsics; or --assume-fov 60, which bends the result if it is wrong."


@dataclass(frozen=True)
class CameraFinder:
    """Finds the camera of a photo: what is stated for all photos, else the photo's own, else what may be assumed.

    Args:
        focal_px: focal length in pixels of the photo as it is. At most one of the first three is given.
        fov_deg: horizontal field of view.
        intrinsics: of a file.
        assume_fov: horizontal field of view where nothing is known; None = fail.
    Raises:
        DatoolError: more than one statement, or one that cannot be.
    """

    focal_px: float | None = None
    fov_deg: float | None = None
    intrinsics: IntrinsicsFile | None = None
    assume_fov: float | None = None

    def __post_init__(self) -> None:
        stated = {"--focal-px": self.focal_px, "--fov-deg": self.fov_deg, "--intrinsics": self.intrinsics}
        given = [name for name, value in stated.items() if value is not None]
        if len(given) > 1:
            raise DatoolError(f"{' and '.join(given)} state the same thing.", "Give one of them.")
        if self.focal_px is not None:
            check_focal(self.focal_px)
        for fov_deg in (self.fov_deg, self.assume_fov):
            if fov_deg is not None:
                check_fov(fov_deg)

    def find(self, path: Path, photo: Path | None, size: tuple[int, int], own: Camera | None) -> tuple[Camera, str]:
        """Return the camera, and what told it.

        Args:
            path: what the picture is named by.
            photo: its file, whose EXIF may tell; None = there is none.
            size: (height, width) of the photo as read.
            own: what the data set says.
        Raises:
            DatoolError: nothing is known, or what is known is of another picture.
        """
        if self.focal_px is not None:
            return focal_camera(self.focal_px, *size), f"--focal-px {self.focal_px:g}"
        if self.fov_deg is not None:
            return fov_camera(self.fov_deg, *size), f"--fov-deg {self.fov_deg:g}"
        if self.intrinsics is not None:
            known = self.intrinsics.of(photo or path)
            if known is None:
                raise DatoolError(f"{self.intrinsics.path} has no row for {photo or path}.", "Add one.")
            return known.camera(*size), f"--intrinsics {self.intrinsics.path.name}"
        if own is not None:
            check_width(own.fx_px, own.width_px)
            if not (0 < own.cx_px < own.width_px and 0 < own.cy_px < own.height_px):
                raise DatoolError(
                    f"the camera of {path} has its principal point ({own.cx_px:g}, {own.cy_px:g}) outside of the "
                    f"image, which is {own.width_px}x{own.height_px}.",
                    "Is camera_px of another size?",
                )
            return own, "the data set"
        try:
            if photo is None:
                raise DatoolError(f"{path} has no photo, whose EXIF could tell.")
            return exif_camera(photo, *size)
        except DatoolError as error:
            if self.assume_fov is None:
                raise error.reworded(f"no camera is known: {error.problem}", f"{error.hint} {WAYS}".strip()) from error
            return fov_camera(self.assume_fov, *size), f"--assume-fov {self.assume_fov:g}"
