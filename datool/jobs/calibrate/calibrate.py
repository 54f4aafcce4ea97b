"""Metric scale for a relative model, by measured points, sparse depth, the ground under the camera, or labels."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np

from datool.calibration import (
    Calibration,
    Calibrations,
    DepthSamples,
    Ground,
    Point,
    fit_calibration,
    ground_samples,
    map_samples,
    parse_point,
    point_samples,
    read_points,
    sample,
    write_calibration,
)
from datool.data.sources.manifest import Entry, entries, read_entry
from datool.depth import Ambiguity, DepthMap, Quantity, same_aspect
from datool.errors import DatoolError
from datool.estimators.saved import SavedMap, SavedMaps
from datool.files import ImageFile, list_images, read_image
from datool.files.stored_map import MapMeaning
from datool.geometry.finder import CameraFinder
from datool.geometry.intrinsics import read_intrinsics
from datool.jobs.calibrate.disparity import Found, ModelDisparity, SavedDisparity
from datool.progress import Progress, messages

WAYS = "Give one of --points (or --point), --sparse, --camera-height-m and --labelled."
# Quantiles of each map that stand for it.
SPREAD = np.linspace(0, 1, 201)
# A shared calibration that misses the photos by so many times the error of their own is warned of.
UNLIKE = 1.5
# What a stated pitch or horizon may easily be wrong by; and the share of depth from which that is warned of.
SLIP_DEG, SLIP_SHARE = 0.5, 0.1


@dataclass(frozen=True, kw_only=True)
class GroundOptions:
    """The camera over flat ground; see `datool.calibration.Ground`.

    Args:
        height_m, pitch_deg, horizon_row: of the camera.
        mask: picture that is above 0 where the ground is to be looked for, for all photos.
        focal_px, fov_deg, intrinsics: the camera; without them EXIF tells, and else assume_fov.
    """

    height_m: float
    pitch_deg: float | None = None
    horizon_row: float | None = None
    mask: Path | None = None
    focal_px: float | None = None
    fov_deg: float | None = None
    intrinsics: Path | None = None
    assume_fov: float | None = None


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """What to calibrate, by what, and where to.

    Args:
        out: the file to write.
        inputs: photos, as `datool.files.list_images` takes them; none with ``labelled``, which names them.
        points: CSV of ``x,y,metres`` or ``image,x,y,metres``; point: such lines.
        sparse: depth in metres of a photo: 16-bit PNG, npy, npz, EXR, TIFF or PFM; of several a folder or a pattern
            with ``{id}`` or ``{stem}``. 0 is unknown.
        divisor: metres = stored / divisor, in ``sparse``.
        ground: camera over flat ground.
        labelled: manifest with depth.
        shared: one calibration for all photos instead of one each.
        model, size_px, precision, device, batch_size: what predicts; as for `datool predict`.
        maps: folder or pattern of saved maps, instead of predicting.
        overwrite: replace ``out``.
    """

    out: Path
    inputs: Sequence[str] = ()
    points: Path | None = None
    point: Sequence[str] = ()
    sparse: str | None = None
    divisor: float | None = None
    ground: GroundOptions | None = None
    labelled: Path | None = None
    shared: bool = False
    model: str = "auto"
    maps: str | None = None
    size_px: int | None = None
    precision: str = "auto"
    device: str = "auto"
    batch_size: int | str = "auto"
    overwrite: bool = False


@dataclass(frozen=True)
class PhotoFit:
    """One photo.

    Args:
        image: absolute path.
        own: its own calibration; None if its points alone determine none.
        median_error, shared_median_error: median relative depth error at its points by its own calibration, and by the
            shared one; None where there is none.
    """

    image: str
    own: Calibration | None
    median_error: float | None = None
    shared_median_error: float | None = None


@dataclass(frozen=True)
class CalibrateSummary:
    """What was found.

    Args:
        out: the file written.
        calibrations: as written.
        photos: each photo that could be predicted and has known depth.
        failed: photo and reason of each other.
    """

    out: Path
    calibrations: Calibrations
    photos: tuple[PhotoFit, ...]
    failed: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Predicted disparity beside known depth at points of one photo, (N,) each; and quantiles of its whole map."""

    image: str
    size: tuple[int, int]
    pred: np.ndarray
    depth_m: np.ndarray
    groups: np.ndarray
    spread: np.ndarray

    def fit(self, way: _Way) -> Calibration:
        return way.doubted(fit_calibration(self.pred, self.depth_m, self.spread, self.size, way.found_by, self.groups))

    def median_error(self, calibration: Calibration) -> float:
        """Return the median relative depth error, points that come out as sky counting as 1."""
        disparity = np.maximum(calibration.scale_per_m * self.pred + calibration.shift_per_m, 0)
        with np.errstate(divide="ignore"):
            return float(np.median(np.minimum(np.abs(1 / disparity / self.depth_m - 1), 1)))


def calibrate(options: CalibrateOptions, progress: Callable[[Progress], None] = lambda _: None) -> CalibrateSummary:
    """Find scale and shift of the disparity of each photo, or one of all, and write them to a file.

    A photo that cannot be read, predicted or fitted is passed over with its reason; the others are written.

    Args:
        options: what, by what, where to.
        progress: called after each photo, and with messages.
    Raises:
        DatoolError: not one way to know depth; an unreadable or contradicting file; a model whose disparity has scale
            and shift already; no photo that could be calibrated; or ``out`` is there.
    """
    if options.out.exists() and not options.overwrite:
        raise DatoolError(f"{options.out} exists.", "Give another --out, or --overwrite to replace it.")
    photos, way = _choose_way(options)
    source = _source(options, progress)
    pairs: list[_Pairs] = []
    own: dict[str, Calibration] = {}
    failed: dict[str, DatoolError] = {}
    progress(Progress(len(photos)))
    for found in source.predict(photos, way.read):
        image = _key(found.photo)
        try:
            row = _pairs(found, way)
            if not options.shared:
                own[image] = row.fit(way)
            pairs.append(row)
        except DatoolError as error:
            failed[image] = error
        progress(Progress(len(photos), len(pairs), len(failed)))
    if not pairs:
        image, first = next(iter(failed.items()))
        raise first.reworded(f"{image}: {first.problem}") from first
    origin = source.origin
    if options.shared:
        shared, fits = _share(pairs, way)
    else:
        shared, fits = None, [PhotoFit(row.image, own[row.image], row.median_error(own[row.image])) for row in pairs]
    calibrations = Calibrations(origin.model, origin.model_sha256, origin.size_px, own, shared)
    write_calibration(options.out, calibrations)
    reasons = tuple((image, str(error)) for image, error in failed.items())
    return CalibrateSummary(options.out, calibrations, tuple(fits), reasons)


def _source(options: CalibrateOptions, progress: Callable[[Progress], None]) -> ModelDisparity | SavedDisparity:
    if options.maps is not None:
        return SavedDisparity(options.maps)
    from datool.estimators.load import ModelOptions, open_predictor

    asked = ModelOptions(
        model=options.model,
        device=options.device,
        precision=options.precision,
        size_px=options.size_px,
        batch_size=options.batch_size,
    )
    return ModelDisparity(open_predictor(asked, messages(progress)))


def _pairs(found: Found, way: _Way) -> _Pairs:
    map = found.result
    if isinstance(map, DatoolError):
        raise map
    if not same_aspect(map.shape, found.size):
        raise DatoolError(
            f"its map is {map.shape[1]}x{map.shape[0]}, the photo {found.size[1]}x{found.size[0]}.",
            "Predict it again.",
        )
    known = way.known(found.photo, found.size)
    pred = sample(map, known)
    undefined = np.isnan(pred)
    if undefined.any() and not known.dense:
        x, y = known.x_px[undefined][0], known.y_px[undefined][0]
        raise DatoolError(f"its map is unknown (NaN) at the point ({x:g}, {y:g}).", "Give a point where it is known.")
    known, pred = known.of(~undefined), pred[~undefined]
    spread = np.nanquantile(map.values, SPREAD) if map.valid.any() else np.zeros(1)
    return _Pairs(_key(found.photo), found.size, pred, known.depth_m, known.groups(), spread)


def _key(photo: ImageFile) -> str:
    return os.path.abspath(photo.path)


def _share(pairs: Sequence[_Pairs], way: _Way) -> tuple[Calibration, list[PhotoFit]]:
    """Return one calibration of all photos, and how it compares with each photo's own."""
    size = pairs[0].size
    for row in pairs:
        if row.size != size:
            raise DatoolError(
                f"--shared is for one camera that stands still: {pairs[0].image} is {size[1]}x{size[0]}, "
                f"{row.image} is {row.size[1]}x{row.size[0]}.",
                "Leave --shared out, or give photos of one camera.",
            )
    first = np.cumsum([0, *(int(row.groups.max(initial=-1)) + 1 for row in pairs)])
    shared = fit_calibration(
        np.concatenate([row.pred for row in pairs]),
        np.concatenate([row.depth_m for row in pairs]),
        np.concatenate([row.spread for row in pairs]),
        size,
        way.found_by,
        np.concatenate([row.groups + start for row, start in zip(pairs, first, strict=False)]),
    )
    shared = way.doubted(shared)
    fits = []
    for row in pairs:
        try:
            own: Calibration | None = row.fit(way)
        except DatoolError:  # its points alone need not determine a line
            own = None
        error = None if own is None else row.median_error(own)
        fits.append(PhotoFit(row.image, own, error, row.median_error(shared) if len(row.pred) else None))
    both = [(fit.median_error, fit.shared_median_error) for fit in fits if fit.median_error and fit.shared_median_error]
    if both:
        alone, together = np.median(both, axis=0)
        if together > UNLIKE * alone + 0.01:
            doubt = (
                f"the photos do not share a scale well: median depth error {together:.1%} by the shared one, "
                f"{alone:.1%} by their own."
            )
            shared = replace(shared, warnings=(*shared.warnings, doubt))
    return shared, fits


# What is known


class _Way:
    """How depth comes to be known: (photo, its size) -> depth at places of it."""

    def __init__(self, found_by: str, known: Callable[[ImageFile, tuple[int, int]], DepthSamples]) -> None:
        self.found_by, self.known = found_by, known

    def read(self, photo: ImageFile) -> np.ndarray:
        """Return the photo, (H, W, 3) uint8 RGB."""
        return read_image(photo.path)

    def doubted(self, found: Calibration) -> Calibration:
        """Return a calibration with what this way may be wrong by besides the fit."""
        return found


class _OnGround(_Way):
    """Flat ground, whose depth hangs on the horizon."""

    def __init__(self, ground: Ground, finder: CameraFinder) -> None:
        direction = (
            f"horizon at row {ground.horizon_row:g}" if ground.pitch_deg is None else f"{ground.pitch_deg:g} deg down"
        )
        super().__init__(
            f"ground plane, camera {ground.height_m:g} m above it, {direction}",
            lambda photo, size: ground_samples(ground, finder.find(photo.path, photo.path, size, None)[0]),
        )
        self.finder = finder
        # The disparity at the horizon, of a camera that looks down by as much more than was said.
        self.slip_per_m = math.tan(math.radians(SLIP_DEG)) / ground.height_m

    def read(self, photo: ImageFile) -> np.ndarray:
        image = super().read(photo)
        self.finder.find(photo.path, photo.path, image.shape[:2], None)  # without a camera it is predicted in vain
        return image

    def doubted(self, found: Calibration) -> Calibration:
        share = self.slip_per_m * (found.map_far_m or 0.0)
        if share < SLIP_SHARE:
            return found
        doubt = (
            f"a horizon wrong by {SLIP_DEG:g} degrees would move depth at {found.map_far_m:.3g} m by {share:.0%}, "
            "nearer in proportion."
        )
        return replace(found, warnings=(*found.warnings, doubt))


class _Labels(_Way):
    """The depth of a manifest's rows, kept from when the photo is read until it is asked for."""

    def __init__(self, rows: Mapping[str, Entry]) -> None:
        super().__init__("labels", self._known)
        self.rows = rows
        self.depths: dict[str, DepthMap | None] = {}

    def read(self, photo: ImageFile) -> np.ndarray:
        found = read_entry(self.rows[_key(photo)])
        self.depths[_key(photo)] = found.depth
        return found.image

    def _known(self, photo: ImageFile, size: tuple[int, int]) -> DepthSamples:
        depth = self.depths.pop(_key(photo))
        if depth is None or depth.ambiguity is not Ambiguity.NONE:
            got = "none" if depth is None else f"known up to {depth.ambiguity.value}"
            raise DatoolError(f"its row's depth is {got}, expected metres.", "Give metric depth.")
        return map_samples(depth, size)


def _choose_way(options: CalibrateOptions) -> tuple[list[ImageFile], _Way]:
    """Return the photos, and how their depth is known."""
    given = {
        "--points": options.points is not None or bool(options.point),
        "--sparse": options.sparse is not None,
        "--camera-height-m": options.ground is not None,
        "--labelled": options.labelled is not None,
    }
    ways = [name for name, there in given.items() if there]
    if len(ways) != 1:
        raise DatoolError(f"got {' and '.join(ways) or 'nothing'} that tells true depth.", WAYS)
    if options.divisor is not None and options.sparse is None:
        raise DatoolError("--divisor is of --sparse, which is not given.", WAYS)
    if options.labelled is not None:
        if options.inputs:
            raise DatoolError("--labelled names its photos itself.", "Leave INPUTS out.")
        rows = {os.path.abspath(entry.image): entry for _, entry in entries(options.labelled)}
        if not rows:
            raise DatoolError(f"{options.labelled} has no rows.", "Give a manifest with depth.")
        return [ImageFile(entry.image, Path(entry.id)) for entry in rows.values()], _Labels(rows)
    if not options.inputs:
        raise DatoolError("no photo to calibrate.", "Name photos; or --labelled MANIFEST, which names them.")
    photos = list_images(options.inputs)
    if options.sparse is not None:
        return photos, _sparse(options.sparse, options.divisor, photos)
    if options.ground is not None:
        return photos, _ground(options.ground)
    return photos, _points(options, photos)


def _points(options: CalibrateOptions, photos: Sequence[ImageFile]) -> _Way:
    points = [*map(parse_point, options.point), *(read_points(options.points) if options.points else ())]
    of: dict[str, list[Point]] = {_key(photo): [] for photo in photos}
    for point in points:
        end = PurePath(point.image).parts
        keys = [key for key in of if not end or PurePath(key).parts[-len(end) :] == end]
        if len(keys) != 1:
            what = f"'{point.image}' is the name of" if end else "a point without an image's name is for"
            raise DatoolError(
                f"{point.where}: {what} {len(keys)} of the {len(photos)} photos, expected one.",
                "Write image,x,y,metres with as much of the image's path as tells it apart.",
            )
        of[keys[0]].append(point)
    return _Way("points", lambda photo, size: point_samples(of[_key(photo)], size))


def _sparse(place: str, divisor: float | None, photos: Sequence[ImageFile]) -> _Way:
    """Return the way of depth files; 0 is unknown in all of them, as projected LiDAR has it."""
    meaning = MapMeaning(quantity=Quantity.DEPTH, ambiguity=Ambiguity.NONE, divisor=divisor, invalid=(0,))
    one = None if "{" in place or Path(place).is_dir() else SavedMap(Path(place), meaning)
    folder = None
    if one is None:
        folder = SavedMaps(place, meaning).among(photo.relative.as_posix() for photo in photos)
    elif len(photos) > 1:
        raise DatoolError(
            f"--sparse is one file, got {len(photos)} photos.",
            "Give a folder, or a pattern such as 'lidar/{stem}.png'.",
        )

    def known(photo: ImageFile, size: tuple[int, int]) -> DepthSamples:
        found = one if folder is None else folder.find(photo.relative.as_posix(), photo.path)
        if found is None:
            raise DatoolError(f"--sparse {place} has no depth of {photo.path}.", "Leave the photo out, or add it.")
        return map_samples(found.read(), size)

    return _Way("sparse depth", known)


def _ground(options: GroundOptions) -> _Way:
    mask = None if options.mask is None else read_image(options.mask).max(axis=2) > 0
    ground = Ground(options.height_m, options.pitch_deg, options.horizon_row, mask)
    file = None if options.intrinsics is None else read_intrinsics(options.intrinsics)
    return _OnGround(ground, CameraFinder(options.focal_px, options.fov_deg, file, options.assume_fov))
