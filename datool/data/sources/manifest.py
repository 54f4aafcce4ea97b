"""A manifest as a data set: ``manifest.jsonl``, one JSON object a line, one image each: own data without code.

A row of one's own names an ``image`` and, if it has one, its ``depth``, both relative to the manifest's folder:

    {"image": "a.jpg"}
    {"image": "a.jpg", "depth": "a.npy"}
    {"image": "a.jpg", "depth": "a.png", "divisor": 1000, "camera_px": [525, 525, 320, 240]}

What ``datool predict`` and ``pseudo-label`` write is read as well (``input``, ``outputs``; see `datool.data.manifest`):
the most exact of the maps written, as a pseudo label; rows that failed or were not begun are passed over.

Fields, all but ``image`` optional:

- ``image`` (or ``input``), ``depth`` (or ``truth``), ``mask``: paths. The mask is above 0 where the depth counts.
- ``quantity``: depth or disparity. ``ambiguity``: none, scale or scale-and-shift. A file that says them itself (16-bit
  PNG, EXR, npz and TIFF of datool) need not be repeated and may not be contradicted; else depth in metres is meant.
  Disparity never goes without ``unit`` or ``ambiguity``.
- ``unit``: of the values after division: m, cm or mm of depth, 1/m of disparity; px (what follows is ignored) of stereo
  disparity, which is known up to scale.
- ``divisor``: value = stored / divisor; needed by whole numbers without ``unit``: a PNG that is not datool's, 8 or 16
  bits. A file of datool's may have none.
- ``invalid``, ``infinite``: a stored number or a list of them that mean unknown, and sky. Without ``invalid`` 0 is
  unknown in whole numbers, and in depth with a divisor (null = no number is).
- ``camera_px``: [fx, fy, cx, cy] of the image in pixels; cx and cy count from the corner of the top-left pixel (add 0.5
  to OpenCV's).
- ``id`` (or ``name``): else the image as it is written. ``pseudo``: whether the depth is a model's label. ``status``:
  ``failed`` and ``pending`` rows are passed over.

Other fields are kept in `Entry.fields`. Nothing is held in memory but one offset every 256 rows, so ten million rows
open in seconds. Two rows for one image are two samples; let a run of predict end, and it leaves one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from datool.data.manifest import MANIFEST as FILE_NAME
from datool.data.sample import Sample
from datool.data.sources.base import Row, Source, expect
from datool.data.sources.decode import read_png8
from datool.depth import Ambiguity, Camera, DepthMap, Quantity
from datool.errors import DatoolError, lookup
from datool.files.images import explained, read_image
from datool.files.maps import EXACT_FIRST, MAP_FORMATS
from datool.files.stored_map import MapMeaning, read_stored_map

SPLITS = ("all",)
LAYOUT = """\
manifest.jsonl, with a row an image: {"image": "a.jpg", "depth": "a.npy"}; paths are relative to its folder"""

EVERY = 256
BLOCK_BYTES = 1 << 24
# No row is as short.
BLANK_BYTES = 8
SKIPPED = ("failed", "pending")
SKIPPED_STATUS = re.compile(rb'"status"\s*:\s*"(?:failed|pending)"')
HALF = MAP_FORMATS["exr-half"].suffix


@dataclass(frozen=True)
class Entry:
    """One row, checked.

    Args:
        id: name within the manifest.
        image, depth, mask: files.
        quantity, ambiguity, unit: of the values; None = not said.
        divisor: value = stored / divisor; None = values are stored as they are.
        invalid, infinite: stored numbers that mean unknown, and sky; invalid None = as `MapMeaning` has it.
        camera_px: fx, fy, cx, cy.
        pseudo: whether the depth is a model's label.
        status: as the row says; empty if it does not.
        where: the manifest and the line, for messages.
        fields: what the row says besides.
    """

    id: str
    image: Path
    depth: Path | None
    mask: Path | None
    quantity: Quantity | None
    ambiguity: Ambiguity | None
    unit: str | None
    divisor: float | None
    invalid: tuple[float, ...] | None
    infinite: tuple[float, ...]
    camera_px: tuple[float, float, float, float] | None
    pseudo: bool
    status: str
    where: str
    fields: Mapping[str, Any]


class Manifest:
    """The rows of a manifest that are usable, by number.

    Opening counts lines in blocks and notes where every 256th row begins; no row is checked before it is asked for.

    Args:
        path: the file, or its folder.
    Raises:
        DatoolError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = _file(path)
        self._length = 0
        self._offsets = self._scan()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Entry]:
        """Yield the rows in the order of the file."""
        return (entry for _, entry in entries(self.path))

    def __getitem__(self, number: int) -> Entry:
        """Return row ``number``, from 0; negative ones count from the end.

        Raises:
            IndexError: there is none.
            DatoolError: it is not of a row's form.
        """
        if not -self._length <= number < self._length:
            raise IndexError(f"row {number} of {self._length} in {self.path}")
        number %= self._length
        offset = int(self._offsets[number // EVERY])
        with explained(str(self.path)), open(self.path, "rb") as file:
            file.seek(offset)
            usable = (line for line in file if not _is_passed_over(line))
            line = next(line for place, line in enumerate(usable) if place == number % EVERY)
        return parse(line, self.path, f"{self.path}, row {number}")

    def _scan(self) -> np.ndarray:
        """Count the rows, and return the offsets of every 256th: (N,) int64."""
        found, base, rest = [np.zeros(0, np.int64)], 0, b""
        with explained(str(self.path)), open(self.path, "rb") as file:
            while block := file.read(BLOCK_BYTES):
                block = rest + block
                end = block.rfind(b"\n") + 1
                found.append(self._note(block[:end], base))
                base, rest = base + end, block[end:]
            if rest:
                found.append(self._note(rest + b"\n", base))
        return np.concatenate(found)

    def _note(self, block: bytes, base: int) -> np.ndarray:
        """Add the rows of whole lines to the length, and return the offsets of those whose number 256 divides."""
        ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
        starts = np.concatenate([np.zeros(min(1, len(ends)), np.int64), ends[:-1] + 1])
        doubtful = set(np.flatnonzero(ends - starts < BLANK_BYTES).tolist())
        doubtful.update(
            int(np.searchsorted(starts, match.start(), "right")) - 1 for match in SKIPPED_STATUS.finditer(block)
        )
        passed = [line for line in sorted(doubtful) if _is_passed_over(block[starts[line] : ends[line]])]
        starts = np.delete(starts, passed)
        noted = starts[-self._length % EVERY :: EVERY] + base
        self._length += len(starts)
        return noted


def entries(path: Path) -> Iterator[tuple[int, Entry]]:
    """Yield the usable rows of a manifest in its order, with their offsets in bytes, holding one at a time.

    Args:
        path: the file, or its folder.
    Raises:
        DatoolError: it cannot be read, or a line is not of a row's form.
    """
    path = _file(path)
    offset = 0
    with explained(str(path)), open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not _is_passed_over(line):
                yield offset, parse(line, path, f"{path}:{number}")
            offset += len(line)


def parse(line: bytes, path: Path, where: str) -> Entry:
    """Return a line as a checked row.

    Args:
        line: one JSON object.
        path: the manifest, to whose folder paths are relative.
        where: the place of the line, for messages.
    Raises:
        DatoolError: no JSON object, without an image, or a field of another type.
    """
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DatoolError(
            f"{where}: no JSON, or cut short ({error}): {line[:60]!r}.", "Write the line anew."
        ) from error
    if not isinstance(row, dict):
        raise DatoolError(f"{where}: got {type(row).__name__}, expected a JSON object.", LAYOUT)
    fields = {}
    for name, value in row.items():
        if name not in CHECKS:
            fields[name] = value
        elif value is not None and not CHECKS[name][0](value):
            raise DatoolError(f"{where}: '{name}' is {_short(value)}, expected {CHECKS[name][1]}.")
    image = row.get("image", row.get("input"))
    if image is None:
        raise DatoolError(f"{where}: no 'image', got {', '.join(row) or 'nothing'}.", LAYOUT)
    divisor = row.get("divisor")
    outputs = row.get("outputs")
    depth = _output(outputs, where) if outputs else row.get("depth", row.get("truth"))
    folder = path.parent
    return Entry(
        id=str(row.get("id", row.get("name", image))),
        image=folder / image,
        depth=None if depth is None else folder / depth,
        mask=None if row.get("mask") is None else folder / row["mask"],
        quantity=None if row.get("quantity") is None else Quantity(row["quantity"]),
        ambiguity=None if row.get("ambiguity") is None else Ambiguity(row["ambiguity"]),
        unit=row.get("unit"),
        divisor=divisor,
        invalid=_numbers(row["invalid"]) if "invalid" in row else None,
        infinite=_numbers(row.get("infinite")),
        camera_px=_camera_px(row),
        pseudo=bool(row.get("pseudo", bool(outputs))),
        status=row.get("status") or "",
        where=where,
        fields=fields,
    )


def read_entry(entry: Entry) -> Sample:
    """Return the sample of a row.

    Raises:
        DatoolError: a file is unreadable, or not what the row says.
    """
    image = read_image(entry.image)
    height, width = image.shape[:2]
    camera = None if entry.camera_px is None else Camera(*entry.camera_px, height, width)
    try:
        depth = None if entry.depth is None else _depth(entry, entry.depth)
    except DatoolError as error:
        raise error.reworded(f"{entry.where}: {error.problem}") from error
    return Sample(entry.id, image, depth, camera, entry.pseudo)


def index(root: Path, split: str) -> Iterator[Row]:
    """Yield the usable rows in the manifest's order; ``camera`` is the manifest, ``member`` where the row begins in it.

    Args:
        root: the manifest, or its folder.
        split: ``all``.
    Raises:
        DatoolError: there is none, or a line is not of a row's form.
    """
    lookup(dict.fromkeys(SPLITS), split, "split of a manifest")
    path = _file(root)
    expect(path.parent, path.is_file(), path.name, LAYOUT)
    return (
        Row(entry.id, entry.image, entry.depth, entry.mask, camera=path, member=offset)
        for offset, entry in entries(path)
    )


def read(row: Row) -> Sample:
    """Return the sample.

    Raises:
        DatoolError: a file is unreadable, or not what the row says; or the manifest has changed.
    """
    assert row.camera is not None and isinstance(row.member, int), "index gives the manifest and the offset"
    with explained(str(row.camera)), open(row.camera, "rb") as file:
        file.seek(row.member)
        line = file.readline()
    entry = parse(line, row.camera, f"{row.camera}, byte {row.member}")
    if entry.id != row.id:
        raise DatoolError(f"{entry.where}: row '{entry.id}', expected '{row.id}'.", "The manifest changed; begin anew.")
    return read_entry(entry)


def _file(path: Path) -> Path:
    return path / FILE_NAME if path.is_dir() else path


def _is_passed_over(line: bytes) -> bool:
    """Tell whether a line is blank or a row that failed or was not begun."""
    if not line.strip():
        return True
    if not SKIPPED_STATUS.search(line):
        return False
    try:
        row = json.loads(line)
    except ValueError:
        return False  # `parse` tells what is wrong with it
    return isinstance(row, dict) and row.get("status") in SKIPPED


def _output(outputs: Mapping[str, str], where: str) -> str:
    known = [name for name in EXACT_FIRST if name in outputs]
    if not known:
        raise DatoolError(
            f"{where}: outputs {', '.join(outputs)} are pictures, which hold no values.",
            f"Predict with --format {EXACT_FIRST[-2]}, or another of {', '.join(EXACT_FIRST)}.",
        )
    return outputs[known[0]]


def _camera_px(row: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    values = row.get("camera_px")
    if values is None and row.get("camera"):
        values = [row["camera"][name] for name in CAMERA_FIELDS]
    return None if values is None else (float(values[0]), float(values[1]), float(values[2]), float(values[3]))


def _depth(entry: Entry, path: Path) -> DepthMap:
    meaning = MapMeaning(
        quantity=entry.quantity,
        ambiguity=entry.ambiguity,
        unit=entry.unit,
        divisor=entry.divisor,
        invalid=entry.invalid,
        infinite=entry.infinite,
        said_by="the row",
    )
    scale = 1.0
    if entry.pseudo and entry.divisor is not None and path.name.endswith(HALF):
        # Pseudo labels are scaled to fit half floats; the files are datool's all the same.
        meaning, scale = replace(meaning, divisor=None), 1 / entry.divisor
    mask = None if entry.mask is None else read_png8(entry.mask, "a mask")
    return read_stored_map(path, meaning, assumed=Quantity.DEPTH, scale=scale, mask=mask)


def _numbers(value: Any) -> tuple[float, ...]:
    return () if value is None else tuple(value) if isinstance(value, list) else (value,)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_numbers(value: object) -> bool:
    return _is_number(value) or (isinstance(value, list) and all(map(_is_number, value)))


def _is_camera(value: object) -> bool:
    return isinstance(value, dict) and all(_is_number(value.get(name)) for name in CAMERA_FIELDS)


CAMERA_FIELDS = ("fx_px", "fy_px", "cx_px", "cy_px")
TEXT = (_is_text, "a text")
CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "image": TEXT,
    "input": TEXT,
    "depth": TEXT,
    "truth": TEXT,
    "mask": TEXT,
    "outputs": (lambda value: isinstance(value, dict) and all(map(_is_text, value.values())), "an object of paths"),
    "quantity": (lambda value: value in [item.value for item in Quantity], "depth or disparity"),
    "ambiguity": (lambda value: value in [item.value for item in Ambiguity], "none, scale or scale-and-shift"),
    "unit": TEXT,
    "divisor": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "invalid": (_is_numbers, "a number, a list of them, or null"),
    "infinite": (_is_numbers, "a number, a list of them, or null"),
    "camera_px": (lambda value: isinstance(value, list) and len(value) == 4 and _is_numbers(value), "[fx, fy, cx, cy]"),
    "camera": (_is_camera, f"an object of numbers {', '.join(CAMERA_FIELDS)}"),
    "id": TEXT,
    "name": TEXT,
    "pseudo": (lambda value: isinstance(value, bool), "true or false"),
    "status": TEXT,
}

MANIFEST = Source(index, read, SPLITS, LAYOUT, None, None, "a manifest (rows say what their depth is)")
