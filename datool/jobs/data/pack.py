"""Write any data set as shards: tars of a fixed number of rows that training reads in any order and on any machines."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from datool import __version__
from datool.data.sample import Sample
from datool.data.shards import Failed, Members, ShardWriter, encode_sample, image_ending
from datool.data.shards.tars import read_member
from datool.data.sources import image_folders, image_lmdb, image_shards, image_tars
from datool.data.sources.base import Row, Source
from datool.data.sources.table import SOURCES, find_root
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError, MissingLibraryError, lookup
from datool.files import MAP_FORMATS, decode_image
from datool.files.images import explained
from datool.parallel import batches, map_threads
from datool.progress import Progress

IMAGES = ("original", "png", "jpeg")
# Of failed rows the summary names so many; all are in the shards' markers.
MAX_NAMED = 100


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """What to pack, and where to.

    Args:
        source: a name of `SOURCES`, or a source of one's own.
        out: folder of the set.
        root: the source's files; None = as `find_root` finds them, which a source of one's own cannot have.
        split: of the source; None = its first.
        rows_per_shard: rows of each tar but the last.
        image: ``original`` keeps the file's bytes where they decode to the sample's image and are JPEG, PNG or WebP,
            and is ``png`` elsewhere; ``png`` is exact; ``jpeg`` is small.
        depth: a name of `datool.files.MAP_FORMATS` that can be read back.
        threads: that read and encode; the bytes do not depend on it.
        retry_failed: write finished shards with failed rows again.
        only: a list of rows (JSON lines with ``id``, in the source's order), as ``datool data filter`` writes it; None
            = all.
    """

    source: str | Source
    out: Path
    root: Path | None = None
    split: str | None = None
    rows_per_shard: int = 1000
    image: str = "original"
    depth: str = "exr"
    threads: int = 1
    retry_failed: bool = False
    only: Path | None = None


@dataclass(frozen=True)
class PackSummary:
    """What a set is, and what a run did for it.

    Args:
        out: the set's folder.
        num_shards, num_samples, num_bytes: of the whole set.
        num_failed: rows that gave no sample.
        failed: the first hundred of them, with their reasons.
        num_skipped: rows in shards that earlier runs had finished.
        seconds: of this run.
        images_per_s: rate of this run; 0 if it had nothing to do.
    """

    out: Path
    num_shards: int
    num_samples: int
    num_bytes: int
    num_failed: int
    failed: tuple[Failed, ...]
    num_skipped: int
    seconds: float
    images_per_s: float


def pack(options: PackOptions, progress: Callable[[Progress], None] = lambda _: None) -> PackSummary:
    """Write the rows of a source as a set of shards.

    Rows are cut into runs in the source's order, a run a shard. A row that cannot be read is kept in its shard's marker
    with the reason; the others go on. The run may be killed at any moment: the same call goes on where it ended and
    comes to the same bytes. Memory does not grow with the set.

    Args:
        options: what, and where to.
        progress: called after each row, and after each shard that was finished before.
    Raises:
        DatoolError: no such source, files or split; ``out`` is in use, or holds shards of other rows or settings; not
            one row of the first shard can be read; or the disk is full.
    """
    started = time.monotonic()
    source, root, name = _find(options)
    split = options.split or source.splits[0]
    settings = {
        "source": name,
        "split": split,
        "image": lookup({image: image for image in IMAGES}, options.image, "image format"),
        "depth": _checked_depth(options.depth, source),
        # Both decide bytes.
        "datool": __version__,
        "opencv": cv2.__version__,
    }
    if options.threads < 1:
        raise DatoolError(f"{options.threads} threads, expected at least 1.")
    counts = Progress()  # rows are listed while they are packed
    entry = partial(_entry, source, options.image, options.depth)
    with ShardWriter(options.out, settings, options.rows_per_shard) as writer:
        number = -1
        listed = source.index(root, split)
        listed = listed if options.only is None else _listed(listed, options.only)
        for number, rows in enumerate(batches(listed, options.rows_per_shard)):
            identity = _identity(rows)
            if writer.is_finished(number, identity) and not (options.retry_failed and _forget_failed(writer, number)):
                counts = replace(counts, skipped=counts.skipped + len(rows))
                progress(counts)
                continue
            made = map_threads(entry, rows, options.threads, ahead=2 * options.threads, name="datool-pack")
            entries = _Counted(made, counts, progress, whole=number == 0)
            with closing(made):
                writer.write(number, identity, entries)
            counts = entries.counts
        if number < 0:
            raise DatoolError(f"{root} has no rows to pack.", f"Expected layout:\n{source.layout}")
        shards = writer.finish(number + 1)
    seconds = time.monotonic() - started
    return PackSummary(
        out=options.out,
        num_shards=len(shards.shards),
        num_samples=len(shards),
        num_bytes=sum(shard.num_bytes for shard in shards.shards),
        num_failed=sum(shard.num_failed for shard in shards.shards),
        failed=tuple(islice(shards.failed, MAX_NAMED)),
        num_skipped=counts.skipped,
        seconds=seconds,
        images_per_s=counts.done / seconds,
    )


class _Counted:
    """The entries of one shard on their way into it, counted.

    ``whole``: refuse a shard of nothing but failures. At the start that is a missing library or a wrong mount, not the
    files, and it must not be written down as what became of them.
    """

    def __init__(
        self,
        entries: Iterable[Members | Failed],
        counts: Progress,
        progress: Callable[[Progress], None],
        whole: bool,
    ) -> None:
        self.entries, self.counts, self.progress, self.whole = entries, counts, progress, whole

    def __iter__(self) -> Iterator[Members | Failed]:
        first, any_done = None, False
        for entry in self.entries:
            if isinstance(entry, Failed):
                first = first or entry
                self.counts = replace(self.counts, failed=self.counts.failed + 1)
            else:
                any_done = True
                self.counts = replace(self.counts, done=self.counts.done + 1)
            yield entry
            self.progress(self.counts)
        if self.whole and first is not None and not any_done:
            raise DatoolError(f"no row of the first shard can be read; '{first.id}': {first.reason}")


def _find(options: PackOptions) -> tuple[Source, Path, str]:
    if isinstance(options.source, str):
        given = {} if options.root is None else {options.source: options.root}
        return lookup(SOURCES, options.source, "data set"), find_root(options.source, given), options.source
    if options.root is None:
        raise DatoolError(f"no root for {options.source.title}.", "Give PackOptions(root=...).")
    return options.source, options.root, options.source.title


def _checked_depth(format: str, source: Source) -> str:
    """Return the format of maps; fail now rather than for each row if it needs a library that is not there."""
    form = lookup(MAP_FORMATS, format, "format")
    if form.picture:
        raise DatoolError(f"'{format}' is a picture, which holds no values.", "Choose exr, npz or png16.")
    if source.read not in ENCODED:
        form.encode(DepthMap(np.ones((1, 1), np.float32), Quantity.DEPTH, Ambiguity.NONE), None, {})
    return format


def _listed(rows: Iterator[Row], only: Path) -> Iterator[Row]:
    """Yield the rows that a list names; both are in one order, so that nothing is held."""
    with explained(str(only)), open(only, "rb") as file:
        wanted = (json.loads(line)["id"] for line in file)
        next_id = next(wanted, None)
        for row in rows:
            if row.id == next_id:
                yield row
                next_id = next(wanted, None)
        if next_id is not None:
            raise DatoolError(
                f"{only} names '{next_id}', which the source does not hold, or holds before the row above.",
                "Give the list that `datool data filter` wrote for this source.",
            )


def _forget_failed(writer: ShardWriter, number: int) -> bool:
    """Tell whether a finished shard has failed rows, and if so make it unfinished, its old tar staying until then."""
    marker = writer.folder / f"{number:06d}.json"
    with explained(str(marker)):
        if not json.loads(marker.read_bytes())["shard"]["num_failed"]:
            return False
        marker.unlink()
    return True


def _identity(rows: Sequence[Row]) -> str:
    """Return a hash of which rows these are: ids, names and places of files, but not the folder they lie in."""
    sha256 = hashlib.sha256()
    for row in rows:
        files = [path and path.name for path in (row.image, row.depth, row.mask, row.confidence, row.camera)]
        sha256.update(json.dumps([row.id, files, row.member]).encode("ascii") + b"\n")
    return sha256.hexdigest()


def _entry(source: Source, image: str, depth: str, row: Row) -> Members | Failed:
    try:
        sample, stored = _read(source, row)
        kept = stored if image == "original" else None
        return encode_sample(sample, "jpeg" if image == "jpeg" else "png", depth, kept)
    except MissingLibraryError:
        raise  # the same for every row
    except DatoolError as error:
        return Failed(row.id, str(error))


def _read(source: Source, row: Row) -> tuple[Sample, bytes | None]:
    """Return the sample, and the bytes of a JPEG, PNG or WebP that decode to its image, if it came from some."""
    if source.read in ENCODED:
        # The file is the sample, so it is decoded once; and a compressed tar must not be read twice.
        name, data = _file(source, row)
        if image_ending(data):
            return Sample(row.id, decode_image(data, name)), data
        return (source.read(row) if row.member is None else Sample(row.id, decode_image(data, name))), None
    sample = source.read(row)
    if row.image.suffix.lower() in SUFFIXES:
        data = row.image.read_bytes()
        if image_ending(data) and np.array_equal(decode_image(data, str(row.image)), sample.image):
            return sample, data
    return sample, None


def _file(source: Source, row: Row) -> tuple[str, bytes]:
    """Return a name for messages, and the bytes of a row's image as they are stored."""
    if source.read is image_lmdb.read:
        return f"{row.member} in {row.image}", image_lmdb.read_bytes(row)
    if isinstance(row.member, int):
        name, data = read_member(row.image, row.member)
        return f"{name} in {row.image}", data
    with explained(str(row.image)):
        return str(row.image), row.image.read_bytes()


SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# Readers whose sample is a decoded file and nothing else.
ENCODED = (image_folders.read, image_lmdb.read, image_tars.read, image_shards.read)
