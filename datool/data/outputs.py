"""What a run of predict reads and writes: the inputs, the place of each output, and what must not be touched."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Protocol

from datool.data.manifest import MANIFEST, ManifestRow
from datool.errors import DatoolError
from datool.files import IMAGE_SUFFIXES, MAP_FORMATS, ImageFile, check_formats, list_images, output_path
from datool.files import plan_outputs as plan_stems
from datool.files.atomic import remove
from datool.files.clips import CLIP_FORMATS, check_clip_formats, clip_output
from datool.files.video import VIDEO_SUFFIXES, numbers_in

MIXING = "Give another --out, or --overwrite to do these images again."


@dataclass(frozen=True)
class Frames(ImageFile):
    """Images that make a clip, with the folder, or the first and the last of some of its files, for a path.

    Args:
        frames: the files, in the order of their numbers.
    """

    frames: tuple[Path, ...] = ()


class Done(Protocol):
    """What a manifest says of one input."""

    @property
    def status(self) -> str: ...  # noqa: D102
    @property
    def outputs(self) -> Mapping[str, str]: ...  # noqa: D102


def list_inputs(
    inputs: Sequence[str], out: Path, sequence_hz: float | None = None
) -> tuple[list[ImageFile], list[ImageFile]]:
    """Return the images, and the films: files, or folders of images where these are frames.

    Args:
        inputs: as `datool.files.list_images` takes them.
        out: the output folder, which is left out of folders.
        sequence_hz: take each folder of images as a film of so many frames a second.
    Raises:
        DatoolError: nothing found, ``out`` is an input, or a rate that is none.
    """
    real = os.path.realpath(out)
    for given in inputs:
        if os.path.isdir(given) and os.path.realpath(given) == real:
            raise DatoolError(f"--out {out} is itself an input.", "Give a folder that holds no photos.")
    files = list_images(inputs, exclude=out, suffixes=IMAGE_SUFFIXES | VIDEO_SUFFIXES)
    films = [file for file in files if file.path.suffix.lower() in VIDEO_SUFFIXES]
    photos = [file for file in files if file.path.suffix.lower() not in VIDEO_SUFFIXES]
    if sequence_hz is None:
        return photos, films
    if not 0 < sequence_hz <= 1000:
        raise DatoolError(f"--sequence {sequence_hz:g} is no rate of frames.", "Give frames a second, such as 25.")
    return [], films + _sequences(photos)


def _sequences(photos: Iterable[ImageFile]) -> list[Frames]:
    """Return the clips that the images of each folder make: all of a folder's, or those named, ``007-012.png``."""
    folders: dict[Path, list[ImageFile]] = {}
    for photo in photos:
        folders.setdefault(photo.path.parent, []).append(photo)
    clips: list[Frames] = []
    taken: set[Path] = set()
    for folder, files in folders.items():
        place = files[0].relative.parent
        bare = Path(os.path.realpath(folder)).name if place == Path() else str(place)
        frames = tuple(sorted((file.path for file in files), key=numbers_in))
        path, part = folder, ""
        if not _image_names(folder) <= {frame.name for frame in frames}:
            part = f"/{frames[0].stem}-{frames[-1].stem}"
            path = folder / (frames[0].stem + "-" + frames[-1].name)
        # The suffix is what `plan_stems` takes off, so that a folder's own dots stay.
        names = (Path(f"{bare}{'' if number == 1 else f'-{number}'}{part}.frames") for number in count(1))
        relative = next(name for name in names if name not in taken)
        taken.add(relative)
        clips.append(Frames(path, relative, frames))
    return clips


def _image_names(folder: Path) -> set[str]:
    names = os.listdir(folder) if folder.is_dir() else []
    return {name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")}


def plan_outputs(
    photos: Sequence[ImageFile], films: Sequence[ImageFile], out: Path, formats: Sequence[str]
) -> dict[str, dict[str, Path]]:
    """Return the paths by format for each input, by its key.

    Args:
        photos, films: of `list_inputs`.
        out: the output folder.
        formats: names of `datool.files.MAP_FORMATS`; of films alone also of `datool.files.clips.CLIP_FORMATS`.
    Raises:
        DatoolError: none given, unknown, or two that would write the same file.
    """
    alone = [format for format in formats if format in CLIP_FORMATS and format not in MAP_FORMATS]
    if photos and alone:
        raise DatoolError(f"--format {alone[0]} is of films, and {photos[0].path} is a photo.", "Predict them apart.")
    if photos or not films:
        check_formats(formats)
    if films:
        check_clip_formats(formats)
    plan = {}
    for number, (file, stem) in enumerate(zip([*photos, *films], plan_stems([*photos, *films]), strict=True)):
        place = output_path if number < len(photos) else clip_output
        plan[key_of(file)] = {format: place(out, stem, format) for format in formats}
    return plan


def key_of(file: ImageFile) -> str:
    """Return what an input is called in the manifest: its absolute path."""
    return os.path.abspath(file.path)


def check_same(out: Path, rows: Iterable[ManifestRow], wanted: ManifestRow) -> None:
    """Refuse to put maps beside those of another model, size, calibration or set of formats."""
    for row in rows:
        for what, before, asked in (
            ("the model", f"{row.model} {row.model_sha256[:12]}", f"{wanted.model} {wanted.model_sha256[:12]}"),
            ("--size", row.size_px, wanted.size_px),
            ("--format", ",".join(row.formats), ",".join(wanted.formats)),
            ("--runtime", row.runtime, wanted.runtime),
            ("--tile", row.tiling, wanted.tiling),
            ("--range", row.steadying, wanted.steadying),
            ("--calibration", (row.calibration or "none")[:12], (wanted.calibration or "none")[:12]),
        ):
            if before != asked:
                raise DatoolError(f"{out} holds maps of another run: {what} was {before}, now {asked}.", MIXING)


def is_finished(out: Path, row: Done | None) -> bool:
    """Tell whether an input is done and its outputs are there."""
    return row is not None and row.status == "done" and all((out / path).exists() for path in row.outputs.values())


def check_free(
    files: Sequence[ImageFile],
    todo: Sequence[ImageFile],
    plan: Mapping[str, Mapping[str, Path]],
    out: Path,
    rows: Mapping[str, ManifestRow],
    overwrite: bool,
) -> None:
    """Refuse to write over a photo, over the map of another photo, or over a file that is not datool's."""
    inputs = {key_of(file) for file in files}
    owners = {os.path.abspath(out / path): row.input for row in rows.values() for path in row.outputs.values()}
    for file in todo:
        key = key_of(file)
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


def sweep(folders: Iterable[Path]) -> None:
    """Remove what a killed run left half-written."""
    for folder in folders:
        for path in folder.glob(".datool-*.tmp"):
            remove(path)
