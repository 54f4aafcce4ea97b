"""A folder of pseudo labels that any number of workers fill: the same bytes whoever does what, and killed wherever.

    labels.json          all that decides the bytes: model, sizes, formats, versions, hardware; and a hash of the list
    units.jsonl          the list: what is a unit (`datool.labelling.shard_plan`), a line each; a unit is a shard
    000000.tar           as `datool.data.shards`: the label, json, and the picture if it is kept
    000000.json          the unit's done marker, written last: counts, hash, where samples begin, failures and why
    index.json           the set, once all units are done: what `train-student --data` opens

In files instead of shards a unit is ``maps/000000/000012.half.exr`` (and ``images/000000/000012.jpg``), its marker
holds the rows, and what comes last is ``manifest.jsonl``.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from datool.data.manifest import MANIFEST
from datool.data.shards import DEPTH, INDEX, JSON, Failed, Members, Shard
from datool.data.shards.reading import LAYOUT_VERSION, read_json
from datool.data.shards.writing import check_settings, to_json, write_tar
from datool.errors import DatoolError
from datool.files.atomic import whole, writable, write_bytes
from datool.files.images import explained
from datool.labelling.leases import UNFINISHED, sweep, temporary, working
from datool.labelling.shard_plan import HASHED_BYTES, Input, list_units

LABELS, UNITS = "labels.json", "units.jsonl"
FORMATS = ("shards", "files")
# What the rate is taken over, so that a night's pause does not count.
RATE_S = 600.0
ANOTHER = "Give another --out."


@dataclass(frozen=True)
class LabelStatus:
    """How far a set is, by the marks of all its workers.

    Args:
        out: its folder.
        num_units, units_done, units_claimed: shards in all, done, and being worked on.
        done, failed: photos in units that are done, and of them those without a label.
        reasons: how often each kind of failure.
        images_per_s: of all workers, over the last ten minutes of work; 0 = not known yet.
        left_s: at that rate; None = not known yet.
        finished: whether the index is there.
        message: something to tell apart from the counts; empty mostly.
    """

    out: Path
    num_units: int = 0
    units_done: int = 0
    units_claimed: int = 0
    done: int = 0
    failed: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    images_per_s: float = 0.0
    left_s: float | None = None
    finished: bool = False
    message: str = ""


class LabelSet:
    """The folder, opened by one worker.

    Args:
        folder: begun by `begin`.
        units_sha256: of the list that this worker was started with; None = whatever it is.
    Raises:
        DatoolError: no such set, or another list.
    """

    def __init__(self, folder: Path, units_sha256: str | None = None) -> None:
        self.folder = folder
        if not (folder / UNITS).exists():
            raise DatoolError(f"{folder} holds no labels.", "Begin them: datool pseudo-label INPUTS --model NAME.")
        self.identity, self._starts = _scan(folder / UNITS)
        if units_sha256 not in (None, self.identity):
            raise DatoolError(f"another command just began {folder} with other inputs.", ANOTHER)
        self._markers: dict[int, tuple[float, Mapping[str, Any]]] = {}
        self.settings: Mapping[str, Any] = {}

    def __len__(self) -> int:
        return len(self._starts) - 1

    def unit(self, number: int) -> dict[str, Any]:
        """Return a unit, as `datool.labelling.shard_plan.read_unit` takes it."""
        start, end = map(int, self._starts[number : number + 2])
        with explained(str(self.folder / UNITS)), open(self.folder / UNITS, "rb") as file:
            file.seek(start)
            found: dict[str, Any] = json.loads(file.read(end - start))
        return found

    def agree(self, settings: Mapping[str, Any]) -> None:
        """Write down what decides the bytes, or check that it is what was written down.

        Raises:
            DatoolError: it is not; names what differs.
        """
        path = self.folder / LABELS
        wanted = json.loads(json.dumps({**settings, "layout_version": LAYOUT_VERSION, "units_sha256": self.identity}))
        if not path.exists():
            self.put(path, to_json(wanted), "labels")
        check_settings(self.folder, read_json(path), wanted)
        self.settings = wanted

    def is_done(self, number: int) -> bool:
        """Tell whether a unit is done."""
        return self._marker(number).exists()

    def units_done(self) -> set[int]:
        """Return the units that are done, by one look at the folder."""
        with explained(str(self.folder)):
            names = os.listdir(self.folder)
        return {int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdecimal()}

    def write(self, number: int, entries: Iterable[Members | Failed], places: Iterable[Mapping[str, Any]]) -> bool:
        """Write a unit and its marker; False if another took it over meanwhile.

        Args:
            number: of the unit.
            entries: one a photo, in order: the members of its sample, or why it has none.
            places: where each photo is, in the same order; for files only, whose rows name them.
        Raises:
            DatoolError: disk full or no permission.
        """
        sweep(self.folder, number)
        keyed = ((f"{number:06d}{row:06d}", entry) for row, entry in enumerate(entries))
        try:
            if self.settings["format"] == "shards":
                path = self.folder / f"{number:06d}.tar"
                shard, offsets, failed = write_tar(path, temporary(self.folder, f"{number:06d}-tar"), keyed)
                meta: dict[str, Any] = {"offsets": offsets}
            else:
                shard, rows, failed = self._write_files(number, keyed, places)
                meta = {"rows": rows}
            marker = {"units_sha256": self.identity, "shard": asdict(shard), "failed": failed, **meta}
            self.put(self._marker(number), to_json(marker), f"{number:06d}-done")
        except DatoolError as error:
            cause = error.__cause__
            taken = isinstance(cause, OSError) and cause.errno in (errno.ENOENT, errno.ESTALE)
            if taken and UNFINISHED in str(getattr(cause, "filename", "")) and self.folder.exists():
                return False
            raise
        return True

    def finish(self, roots: Sequence[str]) -> None:
        """Check all units, remove what the killed left, and write what names the whole set.

        Args:
            roots: of the inputs, as they are here.
        Raises:
            DatoolError: a shard is not what its marker says.
        """
        sweep(self.folder)
        if not self._is_shards():
            self.put(self.folder / MANIFEST, b"".join(self._rows(roots)), "manifest")
            return
        shards = [self._checked(number) for number in range(len(self))]
        index = {
            "layout_version": LAYOUT_VERSION,
            "settings": self.settings,
            "roots": list(roots),
            "num_samples": sum(shard.num_samples for shard in shards),
            "num_failed": sum(shard.num_failed for shard in shards),
            "shards": [asdict(shard) for shard in shards],
        }
        self.put(self.folder / INDEX, to_json(index), "index")

    @property
    def data(self) -> Path:
        """What ``--data`` of the training commands takes, once the set is finished."""
        return self.folder if self._is_shards() else self.folder / MANIFEST

    def status(self) -> LabelStatus:
        """Return how far it is; markers are read once."""
        for number in self.units_done() - self._markers.keys():
            with suppress(FileNotFoundError):
                at = self._marker(number).stat().st_mtime
                self._markers[number] = at, _counts(read_json(self._marker(number)))
        found = sorted(self._markers.values(), key=lambda pair: pair[0])
        reasons: Counter[str] = Counter()
        for _, counts in found:
            reasons.update(counts["reasons"])
        rate, left = _rate([(at, counts["images"]) for at, counts in found], len(self) - len(found))
        return LabelStatus(
            out=self.folder,
            num_units=len(self),
            units_done=len(found),
            units_claimed=working(self.folder),
            done=sum(counts["images"] for _, counts in found),
            failed=sum(reasons.values()),
            reasons=dict(reasons.most_common()),
            images_per_s=rate,
            left_s=left,
            finished=(self.folder / (INDEX if self._is_shards() else MANIFEST)).exists(),
        )

    def failed(self, most: int) -> list[Failed]:
        """Return the first photos without a label."""
        found: list[Failed] = []
        for number in sorted(number for number, (_, counts) in self._markers.items() if counts["reasons"]):
            if len(found) < most:
                found += [Failed(*pair) for pair in read_json(self._marker(number))["failed"]]
        return found[:most]

    def put(self, path: Path, data: bytes, what: str) -> None:
        """Write a file whole or not at all.

        Raises:
            DatoolError: it cannot be written; its cause is a FileNotFoundError if the temporary file was taken away.
        """
        write_bytes(path, data, temporary(self.folder, what))

    def _write_files(
        self, number: int, keyed: Iterable[tuple[str, Members | Failed]], places: Iterable[Mapping[str, Any]]
    ) -> tuple[Shard, list[dict[str, Any]], list[tuple[str, str]]]:
        """Write each member to a file; return what they are as a shard, their manifest rows, and what failed."""
        sha256, num_bytes = hashlib.sha256(), 0
        rows: list[dict[str, Any]] = []
        failed: list[tuple[str, str]] = []
        for (key, entry), place in zip(keyed, places, strict=True):
            if isinstance(entry, Failed):
                failed.append((entry.id, entry.reason))
                rows.append({"id": entry.id, "image": place, "status": "failed", "reason": entry.reason})
                continue
            row: dict[str, Any] = json.loads(entry[JSON])
            scale = row.pop("scale", 1)
            if scale != 1:  # a power of two, as its inverse
                row |= {"divisor": 1 / scale, "invalid": None}
            for ending, data in entry.items():
                if ending == JSON:
                    continue
                kind = "depth" if ending.startswith(f"{DEPTH}.") else "image"
                kind = "disagreement" if ending.startswith("disagreement.") else kind
                suffix = ending if kind == "image" else ending.partition(".")[2]
                path = self.folder / FOLDERS[kind] / f"{number:06d}" / f"{key[6:]}.{suffix}"
                with writable(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                self.put(path, data, f"{number:06d}-{key[6:]}")
                sha256.update(data)
                num_bytes += len(data)
                row[kind] = path.relative_to(self.folder).as_posix()
            rows.append(row)
        return Shard(f"{number:06d}", len(rows) - len(failed), len(failed), num_bytes, sha256.hexdigest()), rows, failed

    def _rows(self, roots: Sequence[str]) -> Iterator[bytes]:
        """Yield the manifest's lines."""
        for number in range(len(self)):
            for row in read_json(self._marker(number))["rows"]:
                if isinstance(row.get("image"), dict):
                    row["image"] = str(Path(roots[row["image"]["input"]]) / row["image"]["path"])
                yield to_json(row)

    def _checked(self, number: int) -> Shard:
        marker, path = read_json(self._marker(number)), self.folder / f"{number:06d}.tar"
        if marker["units_sha256"] != self.identity:
            raise DatoolError(f"{self._marker(number)} is of another set.", ANOTHER)
        shard = Shard(**marker["shard"])
        with explained(str(path)):
            num_bytes = path.stat().st_size
        if num_bytes != shard.num_bytes:
            raise DatoolError(
                f"{path} is {num_bytes} bytes, written with {shard.num_bytes}: something cut or changed it.",
                "Remove it and its .json, then run the same command.",
            )
        return shard

    def _is_shards(self) -> bool:
        if not self.settings and (self.folder / LABELS).exists():
            self.settings = read_json(self.folder / LABELS)
        return self.settings.get("format") != "files"

    def _marker(self, number: int) -> Path:
        return self.folder / f"{number:06d}.json"


def begin(folder: Path, inputs: Sequence[Input], rows_per_unit: int, progress: Callable[[str], None]) -> str:
    """Write the list of units, or check that it is the one that is there; return its hash.

    Args:
        folder: of the set; made if it is not there.
        inputs: what is to be labelled.
        rows_per_unit: photos of a unit of a folder or manifest.
        progress: told when listing takes a while.
    Raises:
        DatoolError: nothing to label, another list than before, or files in the folder that are no labels.
    """
    path = folder / UNITS
    if folder.exists() and not path.exists():
        foreign = [item for pattern in ("*.tar", "*.json", "*.jsonl") for item in folder.glob(pattern)]
        if foreign:
            raise DatoolError(f"{folder} holds {foreign[0].name}, and no labels that datool began.", ANOTHER)
    started = time.monotonic()
    lines = list_units(inputs, rows_per_unit, folder)
    lines = chain([next(lines)], lines)  # a folder is made for something
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists() or not ((folder / LABELS).exists() or any(folder.glob("[0-9]*.json")))
    sha256 = _write_list(folder, lines) if is_new else _check_list(folder, lines)
    if time.monotonic() - started > 10:
        progress(f"listing the inputs took {time.monotonic() - started:.0f} s.")
    return sha256


def _write_list(folder: Path, lines: Iterable[bytes]) -> str:
    """Write the list, whole or not at all; return its hash. Held a line at a time: a list may be gigabytes."""
    sha256 = hashlib.sha256()
    with whole(folder / UNITS, temporary(folder, "units")) as unfinished, open(unfinished, "wb") as file:
        for line in lines:
            file.write(line)
            sha256.update(line)
    return sha256.hexdigest()


def _check_list(folder: Path, lines: Iterable[bytes]) -> str:
    """Compare the list that is there with the one of now, a line at a time; return their hash.

    Raises:
        DatoolError: they differ; says where.
    """
    path, sha256 = folder / UNITS, hashlib.sha256()
    with explained(str(path)), open(path, "rb") as held:
        for number, (before, now) in enumerate(zip_longest(held, lines, fillvalue=b"")):
            if before != now:
                told = _difference(number, before, now)
                raise DatoolError(f"the inputs are not those that {folder} was begun with: {told}.", ANOTHER)
            sha256.update(now)
    return sha256.hexdigest()


def _scan(path: Path) -> tuple[str, np.ndarray]:
    """Return the hash of a list of units, and where its lines begin and the last one ends: a number a unit."""
    sha256, starts, at = hashlib.sha256(), [np.zeros(1, np.int64)], 0
    with explained(str(path)), open(path, "rb") as file:
        while block := file.read(HASHED_BYTES):
            sha256.update(block)
            starts.append(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + at + 1)
            at += len(block)
    return sha256.hexdigest(), np.concatenate(starts)


def _difference(number: int, before: bytes, now: bytes) -> str:
    """Return in words where two lists part, from the two lines of that number; one may be empty."""
    if not before or not now:
        return f"now they make only {number} shards" if before else f"then they made only {number} shards"
    one, two = json.loads(before), json.loads(now)
    changed = next(name for name in [*one, *two] if one.get(name) != two.get(name))
    was, is_now = one.get(changed), two.get(changed)
    if isinstance(was, list) and isinstance(is_now, list):
        was, is_now = next(
            (pair for pair in zip(was, is_now, strict=False) if pair[0] != pair[1]),
            (f"{len(was)} photos", f"{len(is_now)} photos"),
        )
    return f"in shard {number}, {changed} was {was!r}, now {is_now!r}"


def _counts(marker: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `LabelSet.status` keeps of a marker."""
    reasons = Counter(_kind(reason) for _, reason in marker["failed"])
    return {"images": marker["shard"]["num_samples"] + len(marker["failed"]), "reasons": reasons}


def _kind(reason: str) -> str:
    """Return a reason without what names the photo."""
    text = reason.partition(": ")[2] or reason
    return text.partition(" (")[0].partition(". ")[0].rstrip(".")


def _rate(found: Sequence[tuple[float, int]], units_left: int) -> tuple[float, float | None]:
    """Return photos a second and seconds left, from when units ended and the photos of each."""
    recent = [pair for pair in found if pair[0] >= found[-1][0] - RATE_S]
    if len(recent) < 2 or recent[-1][0] <= recent[0][0]:
        return 0.0, None
    seconds = recent[-1][0] - recent[0][0]
    # The first one's photos were labelled before it ended.
    return sum(images for _, images in recent[1:]) / seconds, units_left * seconds / (len(recent) - 1)


FOLDERS = {"depth": "maps", "image": "images", "disagreement": "disagreement"}
