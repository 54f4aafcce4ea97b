"""A model as a file for other runtimes, checked against PyTorch on a real picture before it is handed over."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datool.errors import DatoolError, lookup
from datool.files import list_images, read_image

if TYPE_CHECKING:
    from datool.estimators.predictor import Predictor

OPSET = 20
# The largest error that is no mistake, of `datool.estimators.load.error_of`.
LIMITS = {"fp32": 1e-4, "bf16": 1e-2, "int8": 3e-2}
# Pictures of a folder that int8 is calibrated on, evenly taken from it.
CALIBRATION = 48


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export and how.

    Args:
        model: name, file or folder of weights.
        out: a file with the format's suffix, or a folder.
        format: row of `datool.engines.export.FORMATS`.
        precision: fp32, bf16 or int8, as the format has it.
        opset: of ONNX.
        size_px: short side of the pictures that it is checked and calibrated on; None takes the model's.
        check: the picture to check on; None = a rendered one.
        calibrate: file or folder of photos, for int8.
        tolerance: the largest error; None takes LIMITS.
        encoder: write the encoder alone, as `datool.models.backbone` says; the options above do not matter then.
        overwrite: replace files that are there.
    """

    model: str
    out: Path
    format: str = "onnx"
    precision: str = "fp32"
    opset: int = OPSET
    size_px: int | None = None
    check: Path | None = None
    calibrate: Path | None = None
    tolerance: float | None = None
    encoder: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class ExportSummary:
    """What was written.

    Args:
        files: the paths; the first is what `predict --model` takes.
        model, source, licence: whose weights.
        format, precision, opset: how.
        error, limit: against PyTorch in float32, and the largest allowed; None of an encoder, which is not compared.
        checked_on: the picture.
        size_mb: of all files, in 10^6 bytes.
        seconds: from start to end.
    """

    files: tuple[Path, ...]
    model: str
    source: str
    licence: str
    format: str
    precision: str
    opset: int | None
    error: float | None
    limit: float | None
    checked_on: str
    size_mb: float
    seconds: float


def export(options: ExportOptions, progress: Callable[[str], None] = lambda _: None) -> ExportSummary:
    """Write a model for another runtime, whole or not at all.

    It is read back and run on a picture, upright and on its side, so that two shapes of input are tried; what is
    farther from PyTorch than allowed is not written.

    Args:
        options: what and how.
        progress: gets lines of text.
    Raises:
        DatoolError: no such model, format or picture; a file in the way; a missing library; or too large an error.
    """
    started = time.monotonic()
    from datool.engines import exported
    from datool.engines.export import FORMATS, staged
    from datool.engines.export import export as write
    from datool.estimators.load import error_of
    from datool.estimators.predictor import Predictor
    from datool.models.weights import load

    if options.encoder:
        return _export_encoder(options, started)
    row = lookup(FORMATS, options.format, "format")
    lookup(dict.fromkeys(row.precisions), options.precision, f"precision of --format {options.format}")
    if options.precision == "int8" and options.calibrate is None:
        raise DatoolError("int8 needs pictures to calibrate on.", "Give a folder of your photos: --calibrate DIR.")
    loaded = load(options.model, progress)
    exact = Predictor(loaded, "cpu", "fp32", options.size_px, at_network_size=True)
    path = _target(options, f"{loaded.name}-{options.precision}{row.suffix}", row.suffix)
    picture, checked_on = _picture(options.check)
    limit = LIMITS[options.precision] if options.tolerance is None else options.tolerance
    with staged(path) as draft:
        entry = write(
            loaded, draft, options.format, options.precision, options.opset, _calibration(options.calibrate, exact)
        )
        near = Predictor(exported.engine(exported.read(draft)), size_px=options.size_px, at_network_size=True)
        shapes = (picture, np.ascontiguousarray(picture.transpose(1, 0, 2)))
        error = max(error_of(near.predict(image).values, exact.predict(image).values) for image in shapes)
        if not error <= limit:
            raise DatoolError(
                f"the {options.format} file in {options.precision} is {error:.2g} from PyTorch's map of {checked_on}, "
                f"more than {limit:g}; nothing was written.",
                f"Take --precision fp32, or allow it: --tolerance {error * 1.2:.2g}."
                + (" More or other photos in --calibrate may help." if options.precision == "int8" else ""),
            )
        names = sorted((file.name for file in draft.parent.iterdir()), key=lambda name: name != path.name)
    files = tuple(path.with_name(name) for name in names)
    return ExportSummary(
        files=files,
        model=loaded.name,
        source=loaded.source,
        licence=loaded.licence,
        format=options.format,
        precision=options.precision,
        opset=entry["opset"],
        error=error,
        limit=limit,
        checked_on=checked_on,
        size_mb=sum(file.stat().st_size for file in files) / 1e6,
        seconds=time.monotonic() - started,
    )


def _export_encoder(options: ExportOptions, started: float) -> ExportSummary:
    from datool.models.backbone import backbone_files, write_backbone
    from datool.models.weights import load

    loaded = load(options.model)
    files = tuple(options.out / name for name in backbone_files(loaded.model.encoder))
    _check_free(files, options.overwrite)
    write_backbone(loaded.model.encoder, options.out)
    return ExportSummary(
        files=files,
        model=loaded.name,
        source=loaded.source,
        licence=loaded.licence,
        format="encoder",
        precision="fp32",
        opset=None,
        error=None,
        limit=None,
        checked_on="",
        size_mb=sum(file.stat().st_size for file in files) / 1e6,
        seconds=time.monotonic() - started,
    )


def _target(options: ExportOptions, name: str, suffix: str) -> Path:
    """Return the file to write: ``--out`` itself, or in it."""
    path = options.out if options.out.suffix == suffix else options.out / name
    if path is not options.out and options.out.suffix in (".onnx", ".xml", ".pt2", ".bin"):
        raise DatoolError(
            f"--out {options.out} is no name for --format {options.format}.", f"Give a folder, or a name on {suffix}."
        )
    _check_free([path, *([path.with_suffix(".bin")] if suffix == ".xml" else [])], options.overwrite)
    return path


def _check_free(paths: tuple[Path, ...] | list[Path], overwrite: bool) -> None:
    for path in paths:
        if path.exists() and not overwrite:
            raise DatoolError(f"{path} exists.", "Give another --out, or --overwrite to replace it.")


def _picture(given: Path | None) -> tuple[np.ndarray, str]:
    """Return the picture to check on and what to call it."""
    if given is not None:
        return read_image(given), str(given)
    from datool.render import render

    return render(0, range(1), 480, 640).image_b3hw[0].permute(1, 2, 0).numpy(), "a rendered picture"


def _calibration(given: Path | None, predictor: Predictor) -> list[np.ndarray]:
    """Return pictures as the network takes them, (1, 3, h, w) float32."""
    if given is None:
        return []
    files = list_images([str(given)])
    if len(files) > CALIBRATION:
        files = [files[index * len(files) // CALIBRATION] for index in range(CALIBRATION)]
    inputs = (predictor.prepare(read_image(file.path)) for file in files)
    return [np.ascontiguousarray(np.asarray(pixels).transpose(2, 0, 1)[None]) for pixels in inputs]
