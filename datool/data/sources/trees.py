"""What lies in a data set's folders, and what its official lists name, without opening any data."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from datool.data.sources.base import Row
from datool.errors import DatoolError, lookup
from datool.files.images import explained

LIST_SUFFIXES = frozenset({".txt", ".list"})


def folders(parent: Path) -> list[str]:
    """Return the names of the folders in ``parent``, hidden ones left out; none where it is no folder.

    They are sorted as the paths that begin with them are ("a b/x" comes before "a/x").
    """
    names = [entry.name for entry in _entries(parent) if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(names, key=lambda name: name + "/")


def keys(folder: Path, prefix: str, suffix: str) -> list[str]:
    """Return what stands between ``prefix`` and ``suffix`` in the names of ``folder``'s files, sorted."""
    return sorted(
        entry.name[len(prefix) : len(entry.name) - len(suffix)]
        for entry in _entries(folder)
        if len(entry.name) > len(prefix) + len(suffix)
        and entry.name.startswith(prefix)
        and entry.name.endswith(suffix)
        and not entry.name.startswith(".")
    )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with explained(f"folder {folder}"):
        if not folder.is_dir():
            return []
        with os.scandir(folder) as entries:
            return list(entries)


def find_root(root: Path, below: Sequence[str], is_it: Callable[[Path], bool]) -> Path:
    """Return the first of ``root`` and its ``below`` that ``is_it``, else ``root``."""
    return next((place for place in (root, *(root / name for name in below)) if is_it(place)), root)


def require_pairs(images: Path, image_keys: Sequence[str], truth: Path, truth_keys: Sequence[str], layout: str) -> None:
    """Raise unless every image has its truth and the other way round, as in sets that were rendered whole.

    Raises:
        DatoolError: something stands alone.
    """
    alone = sorted(set(image_keys) ^ set(truth_keys))
    if alone:
        raise DatoolError(
            f"{images} holds {len(image_keys)} images but {truth} holds {len(truth_keys)} maps for them: "
            f"'{alone[0]}' is in one only.",
            f"Is the download unpacked whole? Expected layout:\n{layout}",
        )


def check_split(split: str, splits: Sequence[str], title: str) -> None:
    """Raise with the nearest name unless ``split`` is one of ``splits``.

    Raises:
        DatoolError: it is not.
    """
    lookup(dict.fromkeys(splits), split, f"split of {title}")


def find_list(root: Path, split: str, splits: Sequence[str], title: str) -> Path | None:
    """Return the list file that ``split`` names, or None where it is one of ``splits``.

    Args:
        root: of the data set, below which a list is looked for too.
        split: a name of ``splits``, or a .txt or .list file.
        splits: the names that are no file.
        title: of the data set, for messages.
    Raises:
        DatoolError: neither.
    """
    if Path(split).suffix not in LIST_SUFFIXES:
        check_split(split, splits, title)
        return None
    found = next((path for path in (Path(split), root / split) if path.is_file()), None)
    if found is None:
        raise DatoolError(f"no list {split} here or in {root}.", f"Name a file, or one of {', '.join(splits)}.")
    return found


def read_list(path: Path) -> list[list[str]]:
    """Return the words of each line; blank lines and ones that begin with # are left out.

    Raises:
        DatoolError: the list is unreadable or names nothing.
    """
    with explained(f"list {path}"):
        text = path.read_text("utf-8")
    lines = [words for line in text.splitlines() if (words := line.split()) and not words[0].startswith("#")]
    if not lines:
        raise DatoolError(f"the list {path} names nothing.", "Fetch it again.")
    return lines


def inside(text: str, start: re.Pattern[str], path: Path) -> str:
    """Return the end of a listed path from the first part that ``start`` matches whole.

    Official lists hold absolute paths of their authors' machines, or leave a leading folder out.

    Args:
        text: the listed path.
        start: what the first folder of the data set is called.
        path: the list, for messages.
    Raises:
        DatoolError: no part matches.
    """
    parts = text.split("/")
    first = next((number for number, part in enumerate(parts) if start.fullmatch(part)), None)
    if first is None or ".." in parts[first:]:
        raise DatoolError(f"cannot place '{text}' of list {path}: no folder in it matches {start.pattern}.")
    return "/".join(parts[first:])


def listed(rows: Iterable[Row], path: Path, layout: str) -> Iterator[Row]:
    """Return the rows of a list sorted by id, after finding that their files are there.

    Folders are listed instead of asking for every file, since there are tens of thousands of them.

    Args:
        rows: one a line.
        path: the list, for messages.
        layout: of the data set.
    Raises:
        DatoolError: files are missing.
    """
    found = cache(lambda folder: frozenset(entry.name for entry in _entries(folder)))
    ordered = sorted(rows, key=lambda row: row.id)
    missing = [
        file
        for row in ordered
        for file in (row.image, row.depth, row.mask, row.confidence)
        if file is not None and file.name not in found(file.parent)
    ]
    if missing:
        raise DatoolError(
            f"{len(missing)} of the files that the list {path} names are not there, first {missing[0]}.",
            f"Is the download unpacked whole? Expected layout:\n{layout}",
        )
    return iter(ordered)
