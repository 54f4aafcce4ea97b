"""Rendered scenes with exact depth, to files or to shards: picture ``number`` is a function of (seed, number, size)."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from datool import __version__
from datool.data.manifest import MANIFEST
from datool.data.sample import Sample
from datool.data.shards import DEPTH, IMAGE_ENDINGS, JSON, Members, ShardWriter, encode_sample
from datool.depth import Ambiguity, Camera, DepthMap, Quantity
from datool.errors import DatoolError, lookup
from datool.files import MAP_FORMATS, held, write_bytes
from datool.parallel import batches, map_processes
from datool.progress import Progress

Result = TypeVar("Result")

if TYPE_CHECKING:
    from datool.render import Photos

FORMATS = ("manifest", "shards")
# What decided the files of a folder, so that another run does not mix its own in.
SETTINGS = "synth.json"
# Pictures that a worker renders at once.
BATCH_CPU, BATCH_GPU = 32, 256
FOLDER = 1000


@dataclass(frozen=True, kw_only=True)
class SynthOptions:
    """What to render, and where to.

    Args:
        out: folder of the set.
        num: pictures, numbers 0 to num - 1 of the endless set ``seed``.
        height_px, width_px: of each.
        seed: any whole number.
        format: ``manifest`` (files and manifest.jsonl) or ``shards``.
        image: ``png`` (exact) or ``jpeg``.
        depth: a name of `datool.files.MAP_FORMATS` that says what it holds: png16, exr, npz, tiff.
        family: of scenes; None = a mixture.
        textures: folder of photos laid on surfaces, 256 of them drawn by the seed; None = none.
        rows_per_shard: of ``shards``.
        device: of torch; on a GPU one process renders.
        num_workers: processes; 0 = one a CPU core. They change no byte.
    """

    out: Path
    num: int
    height_px: int = 480
    width_px: int = 640
    seed: int = 0
    format: str = "manifest"
    image: str = "jpeg"
    depth: str = "png16"
    family: str | None = None
    textures: Path | None = None
    rows_per_shard: int = 1000
    device: str = "cpu"
    num_workers: int = 0


@dataclass(frozen=True)
class SynthSummary:
    """What a set is, and what a run did for it.

    Args:
        out: its folder.
        num: pictures of the whole set; num_skipped of them were finished by earlier runs.
        seconds: of this run.
        images_per_s: rate of this run; 0 if it had nothing to do.
    """

    out: Path
    num: int
    num_skipped: int
    seconds: float
    images_per_s: float


def synth(options: SynthOptions, progress: Callable[[Progress], None] = lambda _: None) -> SynthSummary:
    """Render a set; killed and run again, it goes on and comes to the same bytes.

    Args:
        options: what, and where to.
        progress: called after every few pictures.
    Raises:
        DatoolError: an unknown format, a folder that holds another set or other files, or a full disk.
    """
    started = time.monotonic()
    lookup(dict.fromkeys(FORMATS, True), options.format, "format")
    if options.num < 1:
        raise DatoolError(f"{options.num} pictures, expected at least 1.")
    if options.depth in ("npy", "pfm"):
        raise DatoolError(f"'{options.depth}' does not say what it holds.", "Choose png16, exr, npz or tiff.")
    settings = _settings(options)
    write = _write_shards if options.format == "shards" else _write_files
    state = write(options, settings, progress)
    seconds = time.monotonic() - started
    return SynthSummary(options.out, options.num, options.num - state.todo, seconds, state.done / seconds)


def _settings(options: SynthOptions) -> dict[str, object]:
    """Return all that decides bytes."""
    import torch

    from datool.models.hub import sha256_of
    from datool.render import photos

    names = ("num", "height_px", "width_px", "seed", "format", "image", "depth", "family")
    meta = {name: getattr(options, name) for name in names}
    if options.textures is not None:
        meta["textures"] = sha256_of(*photos.choose(options.textures, seed=options.seed))
    # Draws are equal everywhere, pixels to rounding only.
    return {**meta, "device": torch.device(options.device).type, "datool": __version__, "torch": torch.__version__}


def _write_shards(options: SynthOptions, settings: dict[str, object], progress: Callable[[Progress], None]) -> Progress:
    with ShardWriter(options.out, settings, options.rows_per_shard) as writer:
        runs = list(enumerate(batches(range(options.num), options.rows_per_shard)))
        left = [(number, run) for number, run in runs if not writer.is_finished(number, _identity(run))]
        state = Progress(sum(len(run) for _, run in left))
        progress(state)
        made = _made(options, [number for _, run in left for number in run])

        def counted(length: int) -> Iterator[Members]:
            nonlocal state
            for _ in range(length):
                yield next(made)
                state = replace(state, done=state.done + 1)
                progress(state)

        for number, run in left:
            writer.write(number, _identity(run), counted(len(run)))
        writer.finish(len(runs))
    return state


def _write_files(options: SynthOptions, settings: dict[str, object], progress: Callable[[Progress], None]) -> Progress:
    out = options.out
    with held(out):
        _claim(out, settings)
        todo = [number for number in range(options.num) if not all(path.exists() for path in _paths(options, number))]
        state = Progress(len(todo))
        progress(state)
        for done in _mapped(options, _render_to_files, todo):
            state = replace(state, done=state.done + done)
            progress(state)
        rows = (_row(options, number) for number in range(options.num))
        write_bytes(out / MANIFEST, b"".join(json.dumps(row).encode("ascii") + b"\n" for row in rows))
    return state


def _claim(out: Path, settings: dict[str, object]) -> None:
    """Write down what decides the files of a folder, or refuse one that holds others."""
    path = out / SETTINGS
    if path.exists():
        before = json.loads(path.read_bytes())
        for name in sorted(before.keys() | settings.keys()):
            # More pictures of the same set may be added.
            if before.get(name) != settings.get(name) and name != "num":
                raise DatoolError(
                    f"{out} holds another set: {name} was {before.get(name)!r}, now {settings.get(name)!r}.",
                    "Give another --out.",
                )
    elif (out / MANIFEST).exists():
        raise DatoolError(f"{out} holds a {MANIFEST} that datool data synth did not write.", "Give another --out.")
    write_bytes(path, json.dumps(settings, sort_keys=True).encode("ascii") + b"\n")


def _made(options: SynthOptions, numbers: Sequence[int]) -> Iterator[Members]:
    """Return the members of each picture, in order."""
    return chain.from_iterable(_mapped(options, _render, numbers))


def _mapped(
    options: SynthOptions, function: Callable[[SynthOptions, Sequence[int]], Result], numbers: Sequence[int]
) -> Iterator[Result]:
    return map_processes(
        partial(function, options),
        batches(numbers, _batch(options)),
        _workers(options),
        name=lambda run: f"picture {run[0]}",
        parts=lambda run: [[number] for number in run],
    )


def _render_to_files(options: SynthOptions, numbers: Sequence[int]) -> int:
    """Write the files of some pictures; return how many."""
    for number, members in zip(numbers, _render(options, numbers), strict=True):
        for path, ending in zip(_paths(options, number), _endings(options), strict=True):
            write_bytes(path, members[ending])
    return len(numbers)


@lru_cache(maxsize=1)
def _photos(folder: Path | None, seed: int, device: str) -> Photos | None:
    """Return the textures, read once by each process."""
    from datool.render import Photos

    return None if folder is None else Photos.load(folder, device, seed=seed)


def _render(options: SynthOptions, numbers: Sequence[int]) -> list[Members]:
    import torch

    from datool.render import render

    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)  # the others have the other cores
    made = render(
        options.seed,
        numbers,
        options.height_px,
        options.width_px,
        device=options.device,
        family=options.family,
        photos=_photos(options.textures, options.seed, options.device),
    )
    images = made.image_b3hw.permute(0, 2, 3, 1).cpu().numpy()
    depths, cameras = made.depth_bhw.cpu().numpy(), made.camera_b4.cpu().numpy().astype(np.float64).tolist()
    return [
        encode_sample(
            Sample(
                f"{number:09d}",
                np.ascontiguousarray(image),
                DepthMap(depth, Quantity.DEPTH, Ambiguity.NONE),
                Camera(fx, fy, cx, cy, options.height_px, options.width_px),
            ),
            options.image,
            options.depth,
        )
        for number, image, depth, (fx, fy, cx, cy) in zip(numbers, images, depths, cameras, strict=True)
    ]


def _row(options: SynthOptions, number: int) -> dict[str, object]:
    """Return the row of a picture in the manifest; its camera stands in a small file beside it."""
    image, depth, camera = (path.relative_to(options.out).as_posix() for path in _paths(options, number))
    meta = json.loads((options.out / camera).read_bytes())["camera"]
    camera_px = [meta[name] for name in ("fx_px", "fy_px", "cx_px", "cy_px")]
    return {"id": f"{number:09d}", "image": image, "depth": depth, "camera_px": camera_px}


def _endings(options: SynthOptions) -> tuple[str, str, str]:
    ending = lookup({"png": "png", "jpeg": "jpg"}, options.image, "image format")
    assert ending in IMAGE_ENDINGS, "shards and files are named alike"
    return ending, DEPTH + lookup(MAP_FORMATS, options.depth, "format").suffix, JSON


def _paths(options: SynthOptions, number: int) -> list[Path]:
    folder = options.out / f"{number // FOLDER:06d}"
    return [folder / f"{number:09d}.{ending}" for ending in _endings(options)]


def _identity(numbers: Sequence[int]) -> str:
    return f"{numbers[0]}-{numbers[-1]}"


def _batch(options: SynthOptions) -> int:
    return BATCH_CPU if options.device == "cpu" else BATCH_GPU


def _workers(options: SynthOptions) -> int:
    return options.num_workers if options.device == "cpu" else 1
