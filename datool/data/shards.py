"""Samples in tars of a fixed number of rows: the same bytes each time, read in turn or by number.

A set is a folder, and its tars are what `webdataset` reads:

    000000.tar    000000000.jpg, 000000000.depth.exr, 000000000.json, 000000001.jpg, ...
    000000.json   the tar's done marker: its hash, where each sample begins, the rows that failed and why
    index.json    the set: settings, and name, count, bytes and hash of each tar; written last

A key is the number of the row it came from. A sample's json says ``id``, ``pseudo``, ``camera``, ``quantity`` and
``ambiguity``. Tars of others (img2dataset) are read too: what their json does not say is unknown, the id is the key.

Nothing is unpacked to disk. All the same a tar with a member that would leave its folder ("..", an absolute name), a
link or a device is refused: it is not what it says it is.

Source: webdataset.github.io (layout; a key ends at the first dot of a name); POSIX.1-1988 (ustar).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import cv2
import numpy as np

from datool.data.sample import Sample
from datool.data.tars import refuse_unsafe, refused
from datool.depth import Ambiguity, Camera, DepthMap, Quantity
from datool.errors import DatoolError, lookup
from datool.files import LOCK, MAP_FORMATS, decode_image, held, read_map, write_bytes
from datool.files.images import explained

LAYOUT_VERSION = 1
INDEX = "index.json"
# Pictures that webdataset decodes. An image's ending is one of these and nothing more: "0001.depth.png" is none.
MAGIC = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png", b"RIFF": "webp"}
IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")
DEPTH = "depth"
JSON = "json"
JPEG_QUALITY = 95
# No picture is larger; what claims to be would fill the memory.
MAX_MEMBER_BYTES = 1 << 30

# The files of one sample: their endings, and their content.
Members = Mapping[str, bytes]


@dataclass(frozen=True)
class Failed:
    """A row that gave no sample, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Shard:
    """One tar of a set.

    Args:
        name: of the tar, in the set's folder.
        num_samples: in it; rows that failed are not.
        num_failed: rows that gave no sample.
        num_bytes: its size.
        sha256: of its bytes.
    """

    name: str
    num_samples: int
    num_failed: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardSet:
    """A finished set; opening it reads its index and no tar.

    Args:
        folder: where it is.
        settings: all that decided its bytes but the rows.
        shards: in the order of the rows.
    """

    folder: Path
    settings: Mapping[str, Any]
    shards: tuple[Shard, ...]

    def __len__(self) -> int:
        return sum(shard.num_samples for shard in self.shards)

    @property
    def counts(self) -> list[int]:
        """Samples of each shard."""
        return [shard.num_samples for shard in self.shards]

    @property
    def failed(self) -> Iterator[Failed]:
        """The rows that gave no sample, shard by shard."""
        for shard in self.shards:
            if shard.num_failed:
                yield from (Failed(*pair) for pair in _read_json(_marker(self.folder / shard.name))["failed"])

    def read(self, shard: int, number: int) -> Sample:
        """Return sample ``number`` of shard ``shard``, both from 0; it costs one seek, wherever it is.

        Raises:
            IndexError: there is none.
            DatoolError: the shard is not there, broken or refused.
        """
        if not 0 <= shard < len(self.shards) or not 0 <= number < self.shards[shard].num_samples:
            raise IndexError(f"sample {number} of shard {shard} in {self.folder}")
        path = self.folder / self.shards[shard].name
        offset = int(_offsets(path, self.shards[shard].sha256)[number])
        for key, members in _groups(path, offset):
            return decode_sample(key, members, path)
        raise DatoolError(f"{path} has no sample at byte {offset}.", "It changed since it was written; pack it anew.")


def open_shards(folder: Path) -> ShardSet:
    """Return the set in ``folder`` from its index.

    Raises:
        DatoolError: no index, or not one of this version.
    """
    if folder.is_dir() and not (folder / INDEX).exists():
        raise DatoolError(
            f"{folder} has no {INDEX}: no shards, or not finished.", "Run the same `datool data pack` again."
        )
    index = _read_json(folder / INDEX)
    if index.get("layout_version") != LAYOUT_VERSION:
        got = index.get("layout_version")
        raise DatoolError(f"{folder / INDEX}: layout {got}, expected {LAYOUT_VERSION}.", "Pack the set anew.")
    return ShardSet(folder, index["settings"], tuple(Shard(**shard) for shard in index["shards"]))


def read_shard(path: Path, start: int = 0) -> Iterator[Sample]:
    """Yield the samples of a tar in the order in which they are stored, holding one at a time.

    Args:
        path: a tar in WebDataset layout, not compressed.
        start: how many samples to pass over: a seek where the tar has its done marker beside it, else a scan.
    Raises:
        DatoolError: broken, cut short, or with a member that is refused.
    """
    offset = 0
    if start and _marker(path).exists():
        offsets = _read_offsets(path)[1]
        if start >= len(offsets):
            return
        offset, start = int(offsets[start]), 0
    for key, members in _groups(path, offset):
        if start:
            start -= 1
        else:
            yield decode_sample(key, members, path)


# Encoding


def encode_sample(sample: Sample, image: str = "png", depth: str = "exr", stored: bytes | None = None) -> Members:
    """Return the members of a sample by their endings: image, depth if it has one, json.

    Args:
        sample: what to store.
        image: ``png`` (exact) or ``jpeg``.
        depth: a name of `datool.files.MAP_FORMATS` that can be read back.
        stored: bytes of a JPEG, PNG or WebP that decodes to the sample's image, kept as they are in place of ``image``.
    Raises:
        DatoolError: a value that the format cannot hold, or a library is missing.
    """
    said: dict[str, Any] = {"id": sample.id, "pseudo": sample.pseudo}
    members: dict[str, bytes] = {}
    if stored is not None:
        ending = image_ending(stored)
        assert ending is not None, "only pictures that webdataset knows are kept"
        members[ending] = stored
    else:
        ending = lookup({"png": "png", "jpeg": "jpg"}, image, "image format")
        members[ending] = _encode_image(sample.image, ending)
    if sample.depth is not None:
        form = lookup(MAP_FORMATS, depth, "format")
        if form.picture:
            raise DatoolError(f"'{depth}' is a picture, which holds no values.", "Choose exr, npz or png16.")
        members[DEPTH + form.suffix] = form.encode(sample.depth, None, {})[0]
        said |= {"quantity": sample.depth.quantity.value, "ambiguity": sample.depth.ambiguity.value}
    if sample.camera is not None:
        said["camera"] = asdict(sample.camera)
    members[JSON] = json.dumps(said, sort_keys=True).encode("ascii")
    return members


def decode_sample(key: str, members: Members, path: Path) -> Sample:
    """Return the sample in ``members``.

    Args:
        key: what their names begin with.
        members: content by ending.
        path: the tar, for messages.
    Raises:
        DatoolError: one of them is broken.
    """
    where = f"{path}, sample {key}"
    image = next(ending for ending in IMAGE_ENDINGS if ending in members)
    pixels = decode_image(members[image], f"{key}.{image} in {path}")
    with explained(f"{key}.{JSON} in {path}"):
        said = json.loads(members.get(JSON, b"{}"))
        if not isinstance(said, dict):
            raise ValueError(f"{type(said).__name__}, expected an object")
        camera = Camera(**said["camera"]) if isinstance(said.get("camera"), dict) else None
        depth = next((ending for ending in members if ending.startswith(f"{DEPTH}.")), None)
        quantity = Quantity(said["quantity"]) if depth and "quantity" in said else None
        ambiguity = Ambiguity(said["ambiguity"]) if depth and "ambiguity" in said else None
    id = said.get("id")
    try:
        return Sample(
            id if isinstance(id, str) else key,
            pixels,
            None if depth is None else _decode_map(members[depth], f"{key}.{depth}", path, quantity, ambiguity),
            camera,
            said.get("pseudo") is True,
        )
    except DatoolError as error:
        raise DatoolError(f"{where}: {error.problem}", error.hint) from error


def image_ending(data: bytes) -> str | None:
    """Return jpg, png or webp by how a file begins; None for all that webdataset does not decode."""
    ending = next((ending for magic, ending in MAGIC.items() if data.startswith(magic)), None)
    return None if ending == "webp" and data[8:12] != b"WEBP" else ending


def _encode_image(pixels: np.ndarray, ending: str) -> bytes:
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if ending == "jpg" else []
    written, encoded = cv2.imencode(f".{ending}", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), quality)
    if not written:
        raise DatoolError(f"cannot encode {pixels.shape} as {ending}.", "Choose another image format.")
    return encoded.tobytes()


def _decode_map(data: bytes, name: str, path: Path, quantity: Quantity | None, ambiguity: Ambiguity | None) -> DepthMap:
    # The readers of maps take files, since one of their libraries does.
    with tempfile.TemporaryDirectory(prefix="datool-") as folder:
        file = Path(folder) / f"map{PurePosixPath(name).suffix}"
        file.write_bytes(data)
        try:
            return read_map(file, quantity, ambiguity)
        except DatoolError as error:
            raise DatoolError(error.problem.replace(str(file), f"{name} in {path}"), error.hint) from error


# Reading tars


def _groups(path: Path, offset: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield key and members of each sample that has an image, from the header at ``offset`` on."""
    last, members = "", dict[str, bytes]()
    for name, data in _members(path, offset):
        place = PurePosixPath(name)
        stem, _, ending = place.name.partition(".")
        if not stem:
            continue
        key, ending = (place.parent / stem).as_posix(), ending.lower()
        if key != last:
            if not members.keys().isdisjoint(IMAGE_ENDINGS):
                yield last, members
            last, members = key, {}
        if ending in members:
            raise refused(path, name, "the sample has two of that ending")
        if data is not None:
            members[ending] = data
    if not members.keys().isdisjoint(IMAGE_ENDINGS):
        yield last, members


def _members(path: Path, offset: int) -> Iterator[tuple[str, bytes | None]]:
    """Yield names and contents; the content of what is no part of a sample is left where it is, and given as None."""
    with _readable(path), open(path, "rb") as file:
        file.seek(offset)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep every header
                _check(info, path)
                if not info.isdir():
                    yield info.name, _content(tar, info)
            # The library takes a broken header for the end, and a file that ends between two members for a whole one.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise tarfile.ReadError(f"no end mark at byte {tar.offset}")


def _check(info: tarfile.TarInfo, path: Path) -> None:
    refuse_unsafe(info, path)
    if info.size > MAX_MEMBER_BYTES:
        raise refused(path, info.name, f"it is {info.size} bytes, more than {MAX_MEMBER_BYTES}")


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes | None:
    ending = PurePosixPath(info.name).name.partition(".")[2].lower()
    if ending not in (*IMAGE_ENDINGS, JSON) and not ending.startswith(f"{DEPTH}."):
        return None
    return cast("IO[bytes]", tar.extractfile(info)).read()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    with explained(str(path)):
        try:
            yield
        except tarfile.TarError as error:
            raise DatoolError(
                f"cannot read {path}: no tar, or cut short ({error}).", "Fetch it again, or pack it anew."
            ) from error


@lru_cache(maxsize=64)
def _offsets(path: Path, sha256: str) -> np.ndarray:
    """Return where the samples of a tar begin, (N,) int64, from the marker of the tar that has this hash."""
    found, offsets = _read_offsets(path)
    if found != sha256:
        raise DatoolError(f"{_marker(path)} is of another tar than {INDEX} says.", "Pack the set anew.")
    return offsets


def _read_offsets(path: Path) -> tuple[str, np.ndarray]:
    marker = _read_json(_marker(path))
    with explained(str(_marker(path))):
        return marker["shard"]["sha256"], np.array(marker["offsets"], np.int64)


def _marker(path: Path) -> Path:
    return path.with_suffix(".json")


def _read_json(path: Path) -> dict[str, Any]:
    with explained(str(path)):
        return cast("dict[str, Any]", json.loads(path.read_bytes()))


# Writing tars


class ShardWriter:
    """Writes a set, shard by shard; killed at any moment, a new one goes on and comes to the same bytes.

    A shard is a fixed run of rows, so that it depends neither on the others nor on which rows failed. It goes to a
    temporary name, is synced, takes its name, and gets its done marker; the index comes last. What is finished is
    never written again.

    Args:
        folder: of the set; made if it is not there. Held for this process alone until the ``with`` block ends.
        settings: all that decides the bytes but the rows, as JSON has it.
        rows_per_shard: rows of each shard but the last.
    Raises:
        DatoolError: another process writes there, or the folder holds tars that are not datool's.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], rows_per_shard: int) -> None:
        if rows_per_shard < 1:
            raise DatoolError(f"{rows_per_shard} rows per shard, expected at least 1.")
        self.folder, self.rows_per_shard = folder, rows_per_shard
        own = {"layout_version": LAYOUT_VERSION, "rows_per_shard": rows_per_shard}
        self.settings: dict[str, Any] = json.loads(json.dumps({**settings, **own}))
        self._finished: dict[int, Shard] = {}

    def __enter__(self) -> ShardWriter:
        with _writable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            foreign = [*self.folder.glob("*.tar"), *self.folder.glob("*.json")]
            if foreign and not (self.folder / LOCK).exists():
                raise DatoolError(
                    f"{self.folder} holds {foreign[0].name}, which datool did not write.", "Give another --out."
                )
        with ExitStack() as stack:
            stack.enter_context(held(self.folder))
            for path in self.folder.glob(".datool-*.tmp"):  # what a killed run left
                path.unlink()
            self._lock = stack.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._lock.close()

    def is_finished(self, number: int, rows_sha256: str) -> bool:
        """Tell whether shard ``number`` is written, of these rows and with these settings.

        Raises:
            DatoolError: it is written, but of other rows or with other settings.
        """
        path = self._path(number)
        if not _marker(path).exists() or not path.exists():
            return False
        marker = _read_json(_marker(path))
        self._check_settings(marker["settings"])
        if marker["rows_sha256"] != rows_sha256:
            raise DatoolError(
                f"{path} was packed from other rows: the list changed since.", "Give another --out, to begin anew."
            )
        shard = Shard(**marker["shard"])
        if path.stat().st_size != shard.num_bytes:
            raise DatoolError(
                f"{path} is {path.stat().st_size} bytes, written with {shard.num_bytes}: something cut or changed it.",
                "Remove it and its .json, then run the same command.",
            )
        self._finished[number] = shard
        return True

    def write(self, number: int, rows_sha256: str, entries: Iterable[Members | Failed]) -> Shard:
        """Write shard ``number``, holding one sample at a time.

        Args:
            number: of the shard, from 0.
            rows_sha256: identity of its rows, for `is_finished`.
            entries: one a row, in order: the members of its sample, or why it has none.
        Raises:
            DatoolError: disk full or no permission.
        """
        path = self._path(number)
        temporary = self.folder / f".datool-{number:06d}.tmp"
        offsets: list[int] = []
        failed: list[tuple[str, str]] = []
        try:
            with _writable(path), open(temporary, "wb") as file:
                out = _Hashing(file)
                tar = tarfile.open(fileobj=cast("IO[bytes]", out), mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
                for row, entry in enumerate(entries, start=number * self.rows_per_shard):
                    if isinstance(entry, Failed):
                        failed.append((entry.id, entry.reason))
                        continue
                    offsets.append(out.tell())
                    _add(tar, f"{row:09d}", entry)
                tar.close()
                file.flush()
                os.fsync(file.fileno())
            with _writable(path):
                temporary.replace(path)
        except BaseException:
            with suppress(OSError):  # the first failure is the one to tell
                temporary.unlink(missing_ok=True)
            raise
        shard = Shard(path.name, len(offsets), len(failed), out.tell(), out.sha256.hexdigest())
        marker = {"settings": self.settings, "rows_sha256": rows_sha256, "shard": asdict(shard)}
        write_bytes(_marker(path), _json({**marker, "offsets": offsets, "failed": failed}))
        self._finished[number] = shard
        return shard

    def finish(self, num_shards: int) -> ShardSet:
        """Write the index and return the set.

        Args:
            num_shards: how many there are; all were written or found finished.
        Raises:
            DatoolError: the folder holds more shards than that: the list became shorter.
        """
        if self._path(num_shards).exists():
            raise DatoolError(
                f"{self.folder} holds {self._path(num_shards).name}, the rows end before it: the list changed since.",
                "Give another --out, to begin anew.",
            )
        shards = tuple(self._finished[number] for number in range(num_shards))
        index = {
            "layout_version": LAYOUT_VERSION,
            "settings": self.settings,
            "num_samples": sum(shard.num_samples for shard in shards),
            "num_failed": sum(shard.num_failed for shard in shards),
            "shards": [asdict(shard) for shard in shards],
        }
        write_bytes(self.folder / INDEX, _json(index))
        return ShardSet(self.folder, self.settings, shards)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.tar"

    def _check_settings(self, held: Mapping[str, Any]) -> None:
        for name in sorted(held.keys() | self.settings.keys()):
            if held.get(name) != self.settings.get(name):
                raise DatoolError(
                    f"{self.folder} holds shards of another run: {name} was {held.get(name)!r}, "
                    f"now {self.settings.get(name)!r}.",
                    "Give another --out.",
                )


class _Hashing:
    """A file that is only written to, and hashed on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256, self._length = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self._length += len(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self._length


def _add(tar: tarfile.TarFile, key: str, members: Members) -> None:
    for ending, data in members.items():
        info = tarfile.TarInfo(f"{key}.{ending}")  # owner, group and time are 0: the bytes depend on the content alone
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    tar.members = []  # type: ignore[attr-defined]  # it would keep every header


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True).encode("ascii") + b"\n"


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatoolError(
            f"cannot write {path}: {error.strerror or error}.",
            "Free some space or give permission, then run the same command.",
        ) from error
