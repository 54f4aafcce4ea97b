"""Depth of many photos and films: every output whole, every input accounted for, a rerun only does what is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from datool.calibration import Calibrations, read_calibration
from datool.data.manifest import CLIPS, ManifestRow, append_row, read_manifest, write_manifest
from datool.data.outputs import Frames, check_free, check_same, is_finished, key_of, list_inputs, plan_outputs, sweep
from datool.errors import DatoolError
from datool.estimators.preprocess import MAX_ASPECT
from datool.files import MAX_PIXELS, ImageFile, held, read_image, write_map
from datool.files.atomic import disk_is_full
from datool.files.stored_map import refuse_depth
from datool.files.video import Clip, Film, FrameFolder
from datool.parallel import map_threads, num_io_threads
from datool.progress import Progress, messages

# What needs torch (seconds to import) is imported where it is used, so that a misspelt input fails at once.
if TYPE_CHECKING:
    from datool.estimators.load import OpenedModel
    from datool.estimators.predictor import Prediction, Predictor
    from datool.estimators.tiling import Tiled

FORMATS = ("png16", "color")
RANGE = "clip"


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What to predict, with what, and where to.

    Args:
        inputs: files, folders, globs, ``.txt`` lists or ``-``, as `datool.files.list_images` takes them; what has the
            suffix of a film is one.
        out: output folder; sub-folders of the inputs are mirrored in it.
        model: name, file or folder; ``auto`` is the model that ``out`` already holds, else as `choose_auto`.
        formats: names of `datool.files.MAP_FORMATS`; of films also ``grey10``.
        size_px: short side of the network's input; None takes the model's.
        precision, device, batch_size: as for `Predictor`.
        compile: as `datool.engines.base.TorchEngine.compile`.
        runtime, tolerance: as for `datool.estimators.load.choose`; ``auto`` takes what ``out`` was begun with.
        overwrite: do all images again, and replace files that stand in the way.
        max_pixels, max_aspect: larger and more elongated photos fail.
        as_photo: whether 16-bit grey pictures, which are depth maps mostly, are photos.
        fallback: whether ``auto`` may take the bundled model.
        calibration: file of `datool calibrate`; maps are then depth in metres.
        tile_px, overlap_px: cut larger pictures into tiles, as `datool.estimators.tiling.Tiled`; None = do not.
        range, flow: how the frames of films are brought to each other, as `datool.estimators.video.Video`.
        sequence_hz: take each folder of images as a film of so many frames a second.
    """

    inputs: Sequence[str]
    out: Path
    model: str = "auto"
    formats: Sequence[str] = FORMATS
    size_px: int | None = None
    precision: str = "auto"
    device: str = "auto"
    batch_size: int | str = "auto"
    compile: bool = False
    overwrite: bool = False
    max_pixels: int = MAX_PIXELS
    max_aspect: float = MAX_ASPECT
    as_photo: bool = False
    fallback: bool = True
    calibration: Path | None = None
    tile_px: int | None = None
    overlap_px: int | None = None
    range: str = RANGE
    flow: bool = False
    sequence_hz: float | None = None
    runtime: str | None = None
    tolerance: float = 1e-2


@dataclass(frozen=True)
class PredictSummary:
    """What a run did.

    Args:
        out: the output folder.
        done: images finished now.
        films, frames: films finished now, and what they hold.
        skipped: images and films finished by earlier runs.
        failed: input and reason of each that failed.
        model, model_source, model_sha256, licence: what predicted.
        device, precision, size_px, formats, runtime: how.
        seconds: of this run, from start to end.
        images_per_s: rate of images and frames from the first on; 0 if none was done.
    """

    out: Path
    done: int
    skipped: int
    failed: tuple[tuple[str, str], ...]
    model: str
    model_source: str
    model_sha256: str
    licence: str
    device: str
    precision: str
    size_px: int
    formats: tuple[str, ...]
    seconds: float
    images_per_s: float
    films: int = 0
    frames: int = 0
    runtime: str = "torch"


def predict(options: PredictOptions, progress: Callable[[Progress], None] = lambda _: None) -> PredictSummary:
    """Write the depth of every image and film that the inputs name.

    ``manifest.jsonl`` gets a row an image, ``clips.jsonl`` a row a film. What cannot be read or predicted is a
    ``failed`` row with its reason; the others go on, and the next run tries it again. The run may be killed at any
    moment: no output is ever half-written, and the same call goes on where it ended (with a film, at its start) and
    comes to the same files.

    Args:
        options: what, with what, where to.
        progress: called after each image, and with messages.
    Raises:
        DatoolError: nothing to predict; no such model or device; ``out`` is in use, holds maps of another model, size
            or set of formats, or files that are not datool's; or the disk is full (what is finished is kept).
        KeyboardInterrupt: as it came, once what was being written is finished and recorded.
    """
    started = time.monotonic()
    out = options.out
    photos, films = list_inputs(options.inputs, out, options.sequence_hz)
    files = [*photos, *films]
    formats = tuple(sorted(options.formats))
    plan = plan_outputs(photos, films, out, formats)
    calibrations = None if options.calibration is None else read_calibration(options.calibration)

    from datool.estimators.tiling import Tiled
    from datool.estimators.video import Video

    with held(out):
        rows, film_rows = read_manifest(out), read_manifest(out, CLIPS)
        opened = _open_model(options, rows | film_rows, photos, films, progress)
        loaded, predictor = opened.model, opened.predictor
        estimator: Predictor | Tiled = predictor
        if options.tile_px is not None:
            estimator = Tiled(predictor, options.tile_px, options.overlap_px)
        elif options.overlap_px is not None:
            raise DatoolError("--overlap is that of tiles.", "Give --tile too.")
        Video(estimator, options.range, options.flow)  # refuses what cannot be early
        if calibrations is not None:
            calibrations.check_model(loaded.name, loaded.sha256, predictor.size_px)
        pending = ManifestRow(
            input="",
            status="pending",
            model=loaded.name,
            model_spec=opened.spec(options.model),
            model_sha256=loaded.sha256,
            size_px=predictor.size_px,
            formats=formats,
            precision=predictor.precision,
            runtime=predictor.engine.runtime,
            calibration=None if calibrations is None else calibrations.sha256,
            tiling=f"{estimator.tile_px}+{estimator.overlap_px}" if isinstance(estimator, Tiled) else None,
        )
        pending_film = replace(pending, steadying=options.range + (" flow" if options.flow else ""))
        if not options.overwrite:
            check_same(out, rows.values(), pending)
            check_same(out, film_rows.values(), pending_film)
        known = rows | film_rows
        photos, films = (
            [file for file in some if options.overwrite or not _is_finished(out, known.get(key_of(file)), file)]
            for some in (photos, films)
        )
        todo = [*photos, *films]
        check_free(files, todo, plan, out, known, options.overwrite)
        sweep({out} | {path.parent for file in todo if key_of(file) in known for path in plan[key_of(file)].values()})
        rows |= {key_of(file): replace(pending, input=key_of(file)) for file in photos}
        film_rows |= {key_of(file): replace(pending_film, input=key_of(file)) for file in films}
        work_started = time.monotonic()
        run = _Run(options, rows, plan, Progress(len(photos), skipped=len(files) - len(todo)), progress, calibrations)
        run.process(estimator, photos)
        frames = _write_films(options, film_rows, plan, estimator, calibrations, run.counts, progress, films)
        ended = time.monotonic()
    known = rows | film_rows
    return PredictSummary(
        out=out,
        done=run.counts.done,
        films=len(frames),
        frames=sum(frames),
        skipped=run.counts.skipped,
        failed=tuple((str(file.path), row.reason) for file in todo if (row := known[key_of(file)]).status == "failed"),
        model=loaded.name,
        model_source=loaded.source,
        model_sha256=loaded.sha256,
        licence=loaded.licence,
        device=str(predictor.device),
        precision=predictor.precision,
        runtime=predictor.engine.runtime,
        size_px=predictor.size_px,
        formats=formats,
        seconds=ended - started,
        images_per_s=(run.counts.done + sum(frames)) / (ended - work_started),
    )


class _Run:
    """The images of one call on their way: read and predicted by the predictor, written in threads, recorded here."""

    def __init__(
        self,
        options: PredictOptions,
        rows: dict[str, ManifestRow],
        plan: Mapping[str, Mapping[str, Path]],
        counts: Progress,
        progress: Callable[[Progress], None],
        calibrations: Calibrations | None,
    ) -> None:
        self.options, self.rows, self.plan, self.counts, self.progress = options, rows, plan, counts, progress
        self.calibrations = calibrations

    def process(self, estimator: Predictor | Tiled, todo: Sequence[ImageFile]) -> None:
        """Predict and write ``todo``; however it ends, what was finished is recorded."""
        # Pictures that need tiles are large: few may wait.
        most = 2 * num_io_threads() if self.options.tile_px is None else 1
        self.progress(self.counts)
        if not self.rows:  # films alone
            return
        write_manifest(self.options.out, self.rows.values())
        cv2_threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # the threads here and torch's already take every core
        predictions = estimator.stream(todo, self._read, keep_images="side-by-side" in self.options.formats)
        rows = map_threads(
            self._finish,
            predictions,
            num_io_threads(),
            ahead=most,
            eager=True,
            unread=self._record_late,
            name="datool-write",
        )
        try:
            with closing(rows):
                for row in rows:
                    self._record(row)
        except (DatoolError, KeyboardInterrupt):
            with suppress(DatoolError):
                write_manifest(self.options.out, self.rows.values())
            raise
        finally:
            cv2.setNumThreads(cv2_threads)
        write_manifest(self.options.out, self.rows.values())

    def _read(self, file: ImageFile) -> np.ndarray:
        if self.calibrations is not None:
            self.calibrations.of(key_of(file))  # what has none is not worth predicting
        if not self.options.as_photo:
            refuse_depth(file.path)
        return read_image(file.path, self.options.max_pixels)

    def _finish(self, prediction: Prediction[ImageFile]) -> ManifestRow:
        """Write the outputs of one image; return its row. A full disk is raised, since it meets the others too."""
        key = key_of(prediction.item)
        row = replace(self.rows[key], image_size=prediction.image_size, network_size=prediction.network_size)
        if isinstance(prediction.result, DatoolError):
            return replace(row, status="failed", reason=str(prediction.result))
        depth = prediction.result
        numbers: dict[str, float] = {}
        try:
            if self.calibrations is not None:
                depth = self.calibrations.apply(key, depth)
            for format, path in self.plan[key].items():
                numbers |= write_map(path, depth, format, prediction.image, row.meta())
        except DatoolError as error:
            if disk_is_full(error):
                raise
            return replace(row, status="failed", reason=str(error))
        return replace(
            row,
            status="done",
            outputs={name: path.relative_to(self.options.out).as_posix() for name, path in self.plan[key].items()},
            quantity=depth.quantity.value,
            ambiguity=depth.ambiguity.value,
            scale=numbers.get("scale"),
            offset=numbers.get("offset"),
        )

    def _record_late(self, row: ManifestRow) -> None:
        """Record what was done when the end came early; a full disk may refuse the row, and the image is done again."""
        with suppress(DatoolError):
            self._record(row)

    def _record(self, row: ManifestRow) -> None:
        self.rows[row.input] = row
        append_row(self.options.out, row)
        field = "done" if row.status == "done" else "failed"
        self.counts = replace(self.counts, **{field: getattr(self.counts, field) + 1})
        self.progress(self.counts)


def _write_films(
    options: PredictOptions,
    rows: dict[str, ManifestRow],
    plan: Mapping[str, Mapping[str, Path]],
    estimator: Predictor | Tiled,
    calibrations: Calibrations | None,
    counts: Progress,
    progress: Callable[[Progress], None],
    films: Sequence[ImageFile],
) -> list[int]:
    """Predict and write ``films`` one after another; return the number of frames of each that is done."""
    from datool.estimators.video import Video
    from datool.jobs.predict.films import Reel

    def video(key: str) -> Video:
        finish = None if calibrations is None else partial(calibrations.apply, key)
        return Video(estimator, options.range, options.flow, finish)

    def count(todo: int, done: int, failed: int) -> None:
        progress(replace(counts, todo=counts.todo + todo, done=counts.done + done, failed=counts.failed + failed))

    reel = Reel(options.out, rows, plan, video, count)
    return reel.write({key_of(file): partial(_open, file, options) for file in films})


def _open(file: ImageFile, options: PredictOptions) -> Clip:
    if not isinstance(file, Frames) or options.sequence_hz is None:
        return Film(file.path, options.max_pixels)
    rate_hz = Fraction(options.sequence_hz).limit_denominator(1001)
    return FrameFolder(file.path, file.frames, rate_hz, options.max_pixels)


def _is_finished(out: Path, row: ManifestRow | None, file: ImageFile) -> bool:
    """Tell whether an input is done; a folder that gained or lost frames is not."""
    changed = isinstance(file, Frames) and row is not None and row.num_frames != len(file.frames)
    return is_finished(out, row) and not changed


def _open_model(
    options: PredictOptions,
    rows: Mapping[str, ManifestRow],
    photos: Sequence[ImageFile],
    films: Sequence[ImageFile],
    progress: Callable[[Progress], None],
) -> OpenedModel:
    """Return the model, ready; ``auto`` takes what the folder was begun with."""
    from datool.estimators.load import PHOTOS, ModelOptions, open_predictor

    begun = list(rows.values())[-1] if rows else None
    runtime, precision = options.runtime, options.precision
    if runtime == "auto" and begun and not options.overwrite:
        runtime, precision = begun.runtime, begun.precision

    def first() -> list[np.ndarray]:
        images = []
        for file in photos[:PHOTOS]:
            with suppress(DatoolError):  # its row will tell
                if not options.as_photo:
                    refuse_depth(file.path)
                image = read_image(file.path, options.max_pixels)
                if max(image.shape[:2]) <= options.max_aspect * min(image.shape[:2]):
                    images.append(image)
        for film in films[: PHOTOS - len(images)]:
            with suppress(DatoolError), closing(_open(film, options).frames()) as frames:
                images.append(next(frames).image)
        return images

    asked = ModelOptions(
        model=options.model,
        device=options.device,
        precision=precision,
        size_px=options.size_px,
        batch_size=options.batch_size,
        max_aspect=options.max_aspect,
        runtime=runtime,
        tolerance=options.tolerance,
        compile=options.compile,
        fallback=options.fallback,
    )
    return open_predictor(asked, messages(progress), begun.model_spec if begun else None, first)
