"""Depth of many photos: every output whole, every photo accounted for, a rerun only does what is left."""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from datool import __version__
from datool.data.manifest import MANIFEST, ManifestRow, append_row, read_manifest, write_manifest
from datool.errors import DatoolError
from datool.estimators.preprocess import MAX_ASPECT
from datool.files import (
    MAX_PIXELS,
    ImageFile,
    check_formats,
    held,
    list_images,
    output_path,
    plan_outputs,
    read_image,
    write_map,
)

# What needs torch (seconds to import) is imported where it is used, so that a misspelt input fails at once.
if TYPE_CHECKING:
    from datool.estimators.predictor import Prediction, Predictor
    from datool.models.weights import LoadedModel

FORMATS = ("png16", "color")
MIXING = "Give another --out, or --overwrite to do these images again."


@dataclass(frozen=True)
class PredictOptions:
    """What to predict, with what, and where to.

    Args:
        inputs: files, folders, globs, ``.txt`` lists or ``-``, as `datool.files.list_images` takes them.
        out: output folder; sub-folders of the inputs are mirrored in it.
        model: name, file or folder; ``auto`` is the model that ``out`` already holds, else as `choose_auto`.
        formats: names of `datool.files.MAP_FORMATS`.
        size_px: short side of the network's input; None takes the model's.
        precision, device, batch_size: as for `Predictor`.
        overwrite: do all images again, and replace files that stand in the way.
        max_pixels, max_aspect: larger and more elongated photos fail.
        fallback: whether ``auto`` may take the bundled model.
    """

    inputs: Sequence[str]
    out: Path
    model: str = "auto"
    formats: Sequence[str] = FORMATS
    size_px: int | None = None
    precision: str = "auto"
    device: str = "auto"
    batch_size: int | str = "auto"
    overwrite: bool = False
    max_pixels: int = MAX_PIXELS
    max_aspect: float = MAX_ASPECT
    fallback: bool = True


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Args:
        todo: images of this run, without those finished earlier.
        done, failed: of them.
        skipped: finished by an earlier run.
        message: something to tell apart from the counts; empty mostly.
    """

    todo: int
    done: int = 0
    failed: int = 0
    skipped: int = 0
    message: str = ""


@dataclass(frozen=True)
class PredictSummary:
    """What a run did.

    Args:
        out: the output folder.
        done, skipped: images finished now, and by earlier runs.
        failed: input and reason of each image that failed.
        model, model_source, model_sha256, licence: what predicted.
        device, precision, size_px, formats: how.
        seconds: of this run, from start to end.
        images_per_s: rate from the first image on; 0 if none was done.
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


def predict(options: PredictOptions, progress: Callable[[Progress], None] = lambda _: None) -> PredictSummary:
    """Write the depth of every image that the inputs name, and ``manifest.jsonl`` with a row an image.

    An image that cannot be read or predicted is a ``failed`` row with its reason; the others go on, and the next run
    tries it again. The run may be killed at any moment: no output is ever half-written, and the same call goes on where
    it ended and comes to the same files.

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
    formats = tuple(sorted(check_formats(options.formats)))
    files = _list(options)
    plan = {_key(file): paths for file, paths in zip(files, _plan(files, out, formats), strict=True)}

    from datool.estimators.predictor import Predictor

    with held(out):
        rows = read_manifest(out)
        loaded = _choose_model(options, rows, progress)
        predictor = Predictor(
            loaded, options.device, options.precision, options.size_px, options.batch_size, options.max_aspect
        )
        pending = ManifestRow(
            input="",
            status="pending",
            model=loaded.name,
            model_spec=_spec(loaded, options.model),
            model_sha256=loaded.sha256,
            size_px=predictor.size_px,
            formats=formats,
            precision=predictor.precision,
        )
        if not options.overwrite:
            _check_same(out, rows.values(), pending)
        todo = [file for file in files if options.overwrite or not _is_finished(out, rows.get(_key(file)))]
        _check_free(files, todo, plan, out, rows, options.overwrite)
        _sweep({path.parent for file in todo if _key(file) in rows for path in plan[_key(file)].values()})
        rows |= {_key(file): replace(pending, input=_key(file)) for file in todo}
        write_manifest(out, rows.values())
        work_started = time.monotonic()
        run = _Run(options, rows, plan, Progress(len(todo), skipped=len(files) - len(todo)), progress)
        run.process(predictor, todo)
        ended = time.monotonic()
    return PredictSummary(
        out=out,
        done=run.counts.done,
        skipped=run.counts.skipped,
        failed=tuple((str(file.path), row.reason) for file in todo if (row := rows[_key(file)]).status == "failed"),
        model=loaded.name,
        model_source=loaded.source,
        model_sha256=loaded.sha256,
        licence=loaded.licence,
        device=str(predictor.device),
        precision=predictor.precision,
        size_px=predictor.size_px,
        formats=formats,
        seconds=ended - started,
        images_per_s=run.counts.done / (ended - work_started),
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
    ) -> None:
        self.options, self.rows, self.plan, self.counts, self.progress = options, rows, plan, counts, progress

    def process(self, predictor: Predictor, todo: Sequence[ImageFile]) -> None:
        """Predict and write ``todo``; however it ends, what was finished is recorded."""
        from datool.estimators.predictor import num_workers

        self.progress(self.counts)
        writing: deque[Future[ManifestRow]] = deque()
        cv2_threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # the threads here and torch's already take every core
        pool = ThreadPoolExecutor(num_workers(), thread_name_prefix="datool-write")
        predictions = predictor.stream(todo, self._read, keep_images="side-by-side" in self.options.formats)
        try:
            with closing(predictions):
                for prediction in predictions:
                    writing.append(pool.submit(self._finish, prediction))
                    while writing and (len(writing) > 2 * num_workers() or writing[0].done()):
                        self._record(writing.popleft().result())
            while writing:
                self._record(writing.popleft().result())
        except (DatoolError, KeyboardInterrupt):
            pool.shutdown(cancel_futures=True)
            with suppress(DatoolError):  # a full disk may refuse the rows too; then these images are done again
                for future in writing:
                    if not future.cancelled() and future.exception() is None:
                        self._record(future.result())
                write_manifest(self.options.out, self.rows.values())
            raise
        finally:
            pool.shutdown()
            cv2.setNumThreads(cv2_threads)
        write_manifest(self.options.out, self.rows.values())

    def _read(self, file: ImageFile) -> np.ndarray:
        return read_image(file.path, self.options.max_pixels)

    def _finish(self, prediction: Prediction[ImageFile]) -> ManifestRow:
        """Write the outputs of one image; return its row. A full disk is raised, since it meets the others too."""
        key = _key(prediction.item)
        row = replace(self.rows[key], image_size=prediction.image_size, network_size=prediction.network_size)
        if isinstance(prediction.result, DatoolError):
            return replace(row, status="failed", reason=str(prediction.result))
        depth = prediction.result
        numbers: dict[str, float] = {}
        meta = {
            "model": row.model,
            "model_sha256": row.model_sha256,
            "size_px": str(row.size_px),
            "datool": __version__,
        }
        try:
            for format, path in self.plan[key].items():
                numbers |= write_map(path, depth, format, prediction.image, meta)
        except DatoolError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT):
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

    def _record(self, row: ManifestRow) -> None:
        self.rows[row.input] = row
        append_row(self.options.out, row)
        field = "done" if row.status == "done" else "failed"
        self.counts = replace(self.counts, **{field: getattr(self.counts, field) + 1})
        self.progress(self.counts)


def _list(options: PredictOptions) -> list[ImageFile]:
    real = os.path.realpath(options.out)
    for given in options.inputs:
        if os.path.isdir(given) and os.path.realpath(given) == real:
            raise DatoolError(f"--out {options.out} is itself an input.", "Give a folder that holds no photos.")
    return list_images(options.inputs, exclude=options.out)


def _plan(files: Sequence[ImageFile], out: Path, formats: Sequence[str]) -> list[dict[str, Path]]:
    """Return format -> path for each image."""
    return [{format: output_path(out, stem, format) for format in formats} for stem in plan_outputs(files)]


def _key(file: ImageFile) -> str:
    return os.path.abspath(file.path)


def _choose_model(
    options: PredictOptions, rows: Mapping[str, ManifestRow], progress: Callable[[Progress], None]
) -> LoadedModel:
    from datool.models.weights import choose_auto, load

    def say(line: str) -> None:
        progress(Progress(0, message=line))

    if options.model != "auto":
        return load(options.model, say)
    recorded = list(rows.values())[-1].model_spec if rows else None
    loaded, reason = choose_auto(recorded, options.fallback, progress=say)
    if reason:
        say(reason)
    return loaded


def _spec(loaded: LoadedModel, given: str) -> str:
    """Return what finds the same model again from any working folder."""
    if os.path.exists(loaded.source):
        return f"{loaded.name}={os.path.abspath(loaded.source)}"
    return loaded.name if given == "auto" else given


def _check_same(out: Path, rows: Iterable[ManifestRow], wanted: ManifestRow) -> None:
    """Refuse to put maps beside those of another model, size or set of formats."""
    for row in rows:
        for what, before, asked in (
            ("the model", f"{row.model} {row.model_sha256[:12]}", f"{wanted.model} {wanted.model_sha256[:12]}"),
            ("--size", row.size_px, wanted.size_px),
            ("--format", ",".join(row.formats), ",".join(wanted.formats)),
        ):
            if before != asked:
                raise DatoolError(f"{out} holds maps of another run: {what} was {before}, now {asked}.", MIXING)


def _is_finished(out: Path, row: ManifestRow | None) -> bool:
    return row is not None and row.status == "done" and all((out / path).is_file() for path in row.outputs.values())


def _check_free(
    files: Sequence[ImageFile],
    todo: Sequence[ImageFile],
    plan: Mapping[str, Mapping[str, Path]],
    out: Path,
    rows: Mapping[str, ManifestRow],
    overwrite: bool,
) -> None:
    """Refuse to write over a photo, over the map of another photo, or over a file that is not datool's."""
    inputs = {_key(file) for file in files}
    owners = {os.path.abspath(out / path): row.input for row in rows.values() for path in row.outputs.values()}
    for file in todo:
        key = _key(file)
        for path in plan[key].values():
            target = os.path.abspath(path)
            if target in inputs:
                raise DatoolError(f"the map of {file.path} would replace the photo {path}.", "Give another --out.")
            if owners.get(target, key) != key and not overwrite:
                raise DatoolError(f"{path} is the map of {owners[target]}; {file.path} would replace it.", MIXING)
            if key not in rows and not overwrite and path.exists():
                raise DatoolError(
                    f"{path} exists, and {out}/{MANIFEST} does not say that datool wrote it.",
                    "Give another --out, or --overwrite to replace it.",
                )


def _sweep(folders: Iterable[Path]) -> None:
    """Remove what a killed run left half-written."""
    for folder in folders:
        for path in folder.glob(".datool-*.tmp"):
            path.unlink(missing_ok=True)
