"""Fetch a benchmark from the hub, unpack it, and check what came."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from datool.data.shards.tars import refused
from datool.data.sources.da2k import ANNOTATIONS, read_pairs
from datool.data.sources.table import SOURCES, VARIABLE
from datool.errors import DatoolError, lookup
from datool.files import held
from datool.models import hub


@dataclass(frozen=True)
class Archive:
    """A data set on the Hugging Face hub, as one zip file.

    Args:
        repo: of kind dataset.
        file: its zip.
        revision: branch or commit.
        licence: of the data.
        size_mb: to download, in 10^6 bytes.
    """

    repo: str
    file: str
    revision: str
    licence: str
    size_mb: int


@dataclass(frozen=True)
class GetSummary:
    """What was fetched.

    Args:
        root: folder to give as ``--root NAME=DIR``.
        num_images: that are there.
        missing: images that the annotations name and the archive lacks.
    """

    root: Path
    num_images: int
    missing: tuple[str, ...]


def get_data(name: str, out: Path | None = None, progress: Callable[[str], None] = lambda _: None) -> GetSummary:
    """Fetch a data set into ``out``, else ``$DATOOL_DATA/NAME``, else ``data/NAME``; nothing is fetched twice.

    Args:
        name: of `ARCHIVES`.
        out: folder of it.
        progress: gets lines of text, the licence and the size first.
    Raises:
        DatoolError: no such set, a download that failed (a rerun goes on), an archive that would write outside of its
            folder, or one without what the set must hold.
    """
    archive = lookup(ARCHIVES, name, "data set that can be fetched")
    base = os.environ.get(VARIABLE)
    root = out or (Path(base) / name if base else Path("data") / name)
    with held(root):
        done = root / f".{name}.complete"
        if not done.exists():
            progress(f"{name}: {SOURCES[name].title}, licence {archive.licence}, {archive.size_mb} MB")
            try:
                path = hub.download(archive.repo, archive.file, archive.revision, progress, kind="dataset")
            except DatoolError as error:
                layout = f"Expected layout of that folder:\n{SOURCES[name].layout}"
                raise DatoolError(error.problem, f"{error.hint} {layout}") from error
            _unpack(path, root)
            done.touch()
    rows = list(SOURCES[name].index(root, SOURCES[name].splits[0]))
    missing = tuple(row.id for row in rows if not row.image.is_file())
    read_pairs(root)
    return GetSummary(root, len(rows) - len(missing), missing)


def _unpack(path: Path, root: Path) -> None:
    """Write the members below ``root``; if one would leave it, nothing is written."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            for member in members:
                name = PurePosixPath(member.filename.replace("\\", "/"))
                if name.is_absolute() or ".." in name.parts:
                    raise refused(path, member.filename, "it would leave the folder")
                if stat.S_ISLNK(member.external_attr >> 16):
                    raise refused(path, member.filename, "it is a link")
            members.sort(key=lambda member: member.filename.endswith(ANNOTATIONS))  # last, so that half a set has none
            for member in members:
                if not member.is_dir():
                    place = root / member.filename
                    place.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as source, open(place, "wb") as target:
                        shutil.copyfileobj(source, target, 1 << 20)
    except (OSError, zipfile.BadZipFile) as error:
        raise DatoolError(
            f"cannot unpack {path} into {root}: {error}.", "Free space, or delete the file, and run the same again."
        ) from error


# UNVERIFIED: the name of the zip was not seen by us on the hub; its size and licence are from the authors' pages.
ARCHIVES: dict[str, Archive] = {
    "da2k": Archive("depth-anything/DA-2K", "DA-2K.zip", "main", "Apache-2.0", 681),
}
