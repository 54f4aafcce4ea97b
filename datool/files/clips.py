"""Write a clip's maps in any of the formats of ``CLIP_FORMATS``: pictures as a film, values as a folder of files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from datool.colour import between_ends, side_by_side, to_picture
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError, lookup
from datool.files.atomic import whole, write_bytes
from datool.files.images import explained
from datool.files.maps import MAP_FORMATS, encode_png16
from datool.files.video import Clip, Encoding, Frame, film_writer

# Of each folder of maps: a line a frame, its file, when it is shown, and what decodes it.
TIMES = "frames.csv"
# Values of 16-bit PNG reach this far beyond a clip's range, so that hardly any frame needs a scale of its own.
ROOM = 0.5

Ends = tuple[float, float]
Add = Callable[[Frame, DepthMap, "Ends | None"], None]


@dataclass(frozen=True)
class ClipFormat:
    """One way to write a clip's maps.

    Args:
        suffix: what follows the clip's name: ``.color.mp4`` is a film, ``.npy`` a folder.
        writer: (path, clip, the caller's fields) -> a context that gives the function to add a frame: (frame, map,
            nearness of the first and last colour or None).
    """

    suffix: str
    writer: Callable[[Path, Clip, Mapping[str, str]], AbstractContextManager[Add]]


def clip_output(out: Path, stem: Path, format: str) -> Path:
    """Return the film or folder for one format of one clip.

    Args:
        out: the output folder.
        stem: one of `datool.files.plan_outputs`.
        format: a name of ``CLIP_FORMATS``.
    Raises:
        DatoolError: unknown format.
    """
    return out / stem.parent / (stem.name + lookup(CLIP_FORMATS, format, "format of clips").suffix)


def check_clip_formats(formats: Sequence[str]) -> list[str]:
    """Return ``formats`` as a list, each known.

    Raises:
        DatoolError: none given, or an unknown one.
    """
    if not formats:
        raise DatoolError("no output format given.", f"Known: {', '.join(CLIP_FORMATS)}.")
    for format in formats:
        lookup(CLIP_FORMATS, format, "format of clips")
    return list(dict.fromkeys(formats))


@contextmanager
def clip_writer(path: Path, format: str, clip: Clip, meta: Mapping[str, str]) -> Iterator[Add]:
    """Give the function that adds a frame to one output of a clip; the output appears when the block ends well.

    Args:
        path: where it goes; see `clip_output`.
        format: a name of ``CLIP_FORMATS``.
        clip: whose frames these are.
        meta: fields to keep in each file of values.
    Raises:
        DatoolError: unknown format, it cannot be written, or an optional library is missing.
    """
    row = lookup(CLIP_FORMATS, format, "format of clips")
    with row.writer(path, clip, meta) as add:
        yield add


@contextmanager
def _film(
    path: Path, clip: Clip, meta: Mapping[str, str], *, encoding: Encoding, draw: Callable[..., np.ndarray]
) -> Iterator[Add]:
    with film_writer(path, encoding, clip) as append:

        def add(frame: Frame, depth: DepthMap, ends: Ends | None) -> None:
            append(frame, draw(frame, depth, ends))

        yield add


@contextmanager
def _folder(path: Path, clip: Clip, meta: Mapping[str, str], *, format: str) -> Iterator[Add]:
    row = MAP_FORMATS[format]
    _check_ours(path)
    with whole(path) as folder:
        folder.mkdir()
        lines = ["file,time_s,scale,offset"]

        def add(frame: Frame, depth: DepthMap, ends: Ends | None) -> None:
            name = (frame.name or f"{frame.number:06d}") + row.suffix
            own = {**meta, "time_s": f"{float(frame.time_s):.6f}"}
            if format == "png16":
                data, numbers = encode_png16(depth, own, _span(depth, ends))
            else:
                data, numbers = row.encode(depth, None, own)
            write_bytes(folder / name, data)
            decode = ",".join(str(numbers.get(key, "")) for key in ("scale", "offset"))
            lines.append(f"{name},{float(frame.time_s):.6f},{decode}")

        yield add
        write_bytes(folder / TIMES, ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))


def _check_ours(folder: Path) -> None:
    """Refuse to replace a folder that holds more than a clip's frames."""
    if not folder.is_dir():
        return
    table = folder / TIMES
    with explained(str(table)):
        lines = table.read_text("utf-8", "surrogateescape").splitlines() if table.is_file() else []
    ours = {TIMES, *(line.rsplit(",", 3)[0] for line in lines)}
    strange = sorted(entry.name for entry in folder.iterdir() if entry.name not in ours)
    if strange:
        raise DatoolError(
            f"cannot replace folder {folder}: it holds {strange[0]}, which is none of the frames that {TIMES} lists.",
            "Move it, or give another --out.",
        )


def _span(depth: DepthMap, ends: Ends | None) -> tuple[float, float] | None:
    """Return the values that a clip's range stands for, with room at both sides."""
    if ends is None:
        return None
    far, near = ends
    if depth.quantity is Quantity.DEPTH:
        if depth.ambiguity is Ambiguity.SCALE_AND_SHIFT:
            far, near = -near, -far
        elif far <= 0:
            return None
        else:
            return 1 / near / (1 + ROOM), 1 / far * (1 + ROOM)
    room = ROOM * (near - far)
    low = far - room if depth.ambiguity is Ambiguity.SCALE_AND_SHIFT else max(0.0, far - room)
    return low, near + room


def _colours(cmap: str, frame: Frame, depth: DepthMap, ends: Ends | None) -> np.ndarray:
    return to_picture(depth, cmap, ends)


def _beside(frame: Frame, depth: DepthMap, ends: Ends | None) -> np.ndarray:
    return side_by_side(frame.image, to_picture(depth, ends=ends))


def _ten_bits(frame: Frame, depth: DepthMap, ends: Ends | None) -> np.ndarray:
    """Return (H, W) uint16, 0 far or unknown to 1023 near."""
    return np.rint(between_ends(depth, ends) * 1023).astype(np.uint16)


# Nobody sees a difference at 18, and 'veryfast' costs a quarter of the default's time.
EIGHT_BITS = Encoding("libx264", "yuv420p", {"crf": "18", "preset": "veryfast"})
# Main 10 is what hardware decodes; H.264 with 10 bits is not. No B-frames: with them x265 gives the packets of films of
# one or two frames no time.
TEN_BITS = Encoding(
    "libx265", "yuv420p10le", {"crf": "10", "preset": "fast", "x265-params": "log-level=none:bframes=0"}, from_rgb=False
)


def _picture(format: str, cmap: str) -> ClipFormat:
    return ClipFormat(
        MAP_FORMATS[format].suffix.removesuffix(".png") + ".mp4",
        partial(_film, encoding=EIGHT_BITS, draw=partial(_colours, cmap)),
    )


CLIP_FORMATS: dict[str, ClipFormat] = {
    **{
        name: ClipFormat(f".{name}", partial(_folder, format=name))
        for name, row in MAP_FORMATS.items()
        if not row.picture
    },
    "color": _picture("color", "Spectral_r"),
    "color-inferno": _picture("color-inferno", "inferno"),
    "color-turbo": _picture("color-turbo", "turbo"),
    "grey": _picture("grey", "grey"),
    "grey10": ClipFormat(".grey10.mp4", partial(_film, encoding=TEN_BITS, draw=_ten_bits)),
    "side-by-side": ClipFormat(".side.mp4", partial(_film, encoding=EIGHT_BITS, draw=_beside)),
}
