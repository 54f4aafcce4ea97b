"""From what a user names (files, folders, globs, lists) to the images meant and where each goes."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path

from datool.errors import DatoolError

STDIN = "-"
GLOB_CHARACTERS = frozenset("*?[")
# Files that macOS and archive tools drop beside real images are hidden ("._x.jpg"); this folder holds more of them.
SKIPPED_FOLDERS = frozenset({"__MACOSX"})

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".exr", ".jp2", ".ppm",
    ".pgm", ".gif",
})
# fmt: on


@dataclass(frozen=True)
class ImageFile:
    """One image to read.

    Args:
        path: the file.
        relative: where it goes below an output folder, with the image's own suffix.
    """

    path: Path
    relative: Path


@dataclass(frozen=True)
class _Root:
    """What one input gave: files placed relative to it, and the folder name that tells it from other inputs."""

    label: str
    files: tuple[ImageFile, ...]


def list_images(
    inputs: Sequence[str],
    stdin: Iterable[str] | None = None,
    exclude: Path | None = None,
    suffixes: frozenset[str] = IMAGE_SUFFIXES,
) -> list[ImageFile]:
    """Return the images that ``inputs`` name, in the order of the inputs and sorted inside each folder.

    An input is a file, a folder (recursive), a glob (``**`` too), a ``.txt`` list (a path a line, relative to the
    list's folder, else to the working folder) or ``-`` (paths from stdin, newline- or NUL-separated). Folders and globs
    give files with an image suffix, without hidden ones; a file that is named itself is kept whatever its suffix, and
    when it is missing too, so that reading it fails with a reason. The same file is listed once.

    Where inputs hold the same relative path (``a/x.jpg`` and ``b/x.jpg`` given as ``a b``), all files of those inputs
    go below a folder named after the input, numbered where the names are equal too. Entries of a list keep their
    relative path; absolute ones, and ones with ``..``, go below the folder that they have in common.

    Args:
        inputs: what the user named.
        stdin: the text that ``-`` stands for, in any pieces; None reads the process's stdin.
        exclude: a folder to leave out of folders and globs: the output folder, when it lies inside an input.
        suffixes: of the files that folders and globs give.
    Raises:
        DatoolError: an input matches nothing, or a folder cannot be read.
    """
    seen: set[tuple[str, str]] = set()
    real = cache(os.path.realpath)
    excluded = os.path.realpath(exclude) if exclude is not None else None
    roots: list[_Root] = []
    for given in inputs:
        for root in _expand(given, stdin, excluded, suffixes):
            files = tuple(_unseen(root.files, seen, real))
            if files:
                roots.append(replace(root, files=files))
    return [file for root in _place(roots) for file in root.files]


def walk_images(
    folder: Path, exclude: Path | None = None, suffixes: frozenset[str] = IMAGE_SUFFIXES
) -> Iterator[ImageFile]:
    """Yield the images below a folder: those of a folder before its sub-folders', both sorted; hidden ones left out.

    Holds the names of one folder and its parents at a time, however many there are in all.

    Args:
        folder: where to look.
        exclude: a folder to leave out.
        suffixes: of the files.
    Raises:
        DatoolError: a folder cannot be read.
    """
    excluded = os.path.realpath(exclude) if exclude is not None else None
    return _walk(folder, folder, excluded, set(), suffixes)


def _unseen(files: Iterable[ImageFile], seen: set[tuple[str, str]], real: Callable[[Path], str]) -> Iterator[ImageFile]:
    """Yield the files not met yet under any name of their folder; a link to a file is a file of its own."""
    for file in files:
        identity = real(file.path.parent), file.path.name
        if identity not in seen:
            seen.add(identity)
            yield file


def _expand(given: str, stdin: Iterable[str] | None, excluded: str | None, suffixes: frozenset[str]) -> list[_Root]:
    """Return the roots of one input of the command line."""
    if given == STDIN:
        text = _stdin_text() if stdin is None else "\n".join(_pieces(stdin))
        return _from_entries(_split(text), "stdin", None, excluded, suffixes)
    path = Path(given)
    if path.suffix.lower() == ".txt":
        entries = _split(_list_text(path))
        if not entries:
            raise DatoolError(f"the list {given} names no image.", "Write one path a line.")
        return _from_entries(entries, path.stem, path.parent, excluded, suffixes)
    if path.is_dir():
        files = tuple(_walk(path, path, excluded, set(), suffixes))
        if not files:
            raise DatoolError(f"no image in folder {given}.", f"Looked for {' '.join(sorted(suffixes))}.")
        return [_Root(_folder_name(path), files)]
    if not os.path.lexists(path) and GLOB_CHARACTERS & set(given):
        return [_from_glob(given, excluded, suffixes)]
    if not os.path.lexists(path) and path.suffix.lower() not in suffixes:
        raise DatoolError(f"no such file or folder: {given}.", "Check the name; put a glob in quotes.")
    return [_Root(_folder_name(path.parent), (ImageFile(path, Path(path.name)),))]


def _folder_name(folder: Path) -> str:
    return Path(os.path.realpath(folder)).name or "root"


def _walk(
    folder: Path, root: Path, excluded: str | None, visited: set[str], suffixes: frozenset[str]
) -> Iterator[ImageFile]:
    """Yield the images below ``folder``, files before sub-folders, both sorted; each real folder once (links loop)."""
    real = os.path.realpath(folder)
    if real in visited or real == excluded:
        return
    visited.add(real)
    files, folders = [], []
    try:
        with os.scandir(folder) as scan:
            for entry in scan:
                if entry.name.startswith("."):
                    continue
                # os.path.isdir, since asking the entry raises for a link to itself.
                if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                    folders.append(entry.name)
                # A broken link is kept: reading it fails with a reason, which is better than a picture that is missing.
                elif Path(entry.name).suffix.lower() in suffixes and (entry.is_file() or entry.is_symlink()):
                    files.append(entry.name)
    except OSError as error:
        raise DatoolError(
            f"cannot list folder {folder}: {error.strerror}.", "Give it permission or move it."
        ) from error
    inside = folder.relative_to(root)
    for name in sorted(files):
        yield ImageFile(folder / name, inside / name)
    folders.sort()
    for name in folders:
        if name not in SKIPPED_FOLDERS:
            yield from _walk(folder / name, root, excluded, visited, suffixes)


def _from_glob(pattern: str, excluded: str | None, suffixes: frozenset[str]) -> _Root:
    """Return the images that ``pattern`` matches, and those in the folders that it matches, relative to its fixed part.

    ``Path.glob`` is used since its ``**`` does not follow links, so that links in a circle end.
    """
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if GLOB_CHARACTERS & set(part))
    base = Path(*parts[:fixed])
    rest = str(Path(*parts[fixed:]))
    files: list[ImageFile] = []
    visited: set[str] = set()
    # Files before the folders beside them, as in a walk.
    for path in sorted(base.glob(rest), key=lambda path: (path.is_dir(), path)):
        relative = path.relative_to(base)
        if any(part.startswith(".") or part in SKIPPED_FOLDERS for part in relative.parts):
            continue
        if path.is_dir():
            files.extend(_walk(path, base, excluded, visited, suffixes))
        elif path.suffix.lower() in suffixes and not _is_below(path, excluded):
            files.append(ImageFile(path, relative))
    if not files:
        raise DatoolError(f"no image matches {pattern}.", "Check the pattern; '**' goes into sub-folders.")
    return _Root(_folder_name(base), tuple(files))


def _is_below(path: Path, folder: str | None) -> bool:
    return folder is not None and Path(folder) in Path(os.path.realpath(path)).parents


def _from_entries(
    entries: Sequence[str], label: str, folder: Path | None, excluded: str | None, suffixes: frozenset[str]
) -> list[_Root]:
    """Return the roots for the paths of a list or of stdin; ``folder`` is the list's."""
    if not entries:
        raise DatoolError("stdin names no image.", "Write one path a line, or pipe from find.")
    below: list[ImageFile] = []
    elsewhere: list[Path] = []
    roots: list[_Root] = []
    for entry in entries:
        path = Path(entry)
        if folder is not None and not path.is_absolute():
            path = folder / entry if os.path.lexists(folder / entry) or not os.path.lexists(entry) else path
        if path.is_dir():
            roots.append(_Root(_folder_name(path), tuple(_walk(path, path, excluded, set(), suffixes))))
        elif Path(entry).is_absolute() or ".." in Path(entry).parts:
            elsewhere.append(path)
        else:
            below.append(ImageFile(path, Path(entry)))
    if elsewhere:
        absolute = [Path(os.path.abspath(path)) for path in elsewhere]
        common = os.path.commonpath([path.parent for path in absolute])
        files = tuple(ImageFile(path, full.relative_to(common)) for path, full in zip(elsewhere, absolute, strict=True))
        roots.insert(0, _Root(label, files))
    if below:
        roots.insert(0, _Root(label, tuple(below)))
    if not any(root.files for root in roots):
        raise DatoolError(f"no image in the folders that {label} names: {', '.join(entries[:3])}.", "Check them.")
    return roots


def _list_text(path: Path) -> str:
    try:
        return os.fsdecode(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except OSError as error:
        raise DatoolError(f"cannot read the list {path}: {error.strerror}.", "Check its name.") from error


def _stdin_text() -> str:
    return os.fsdecode(sys.stdin.buffer.read())


def _pieces(stdin: Iterable[str]) -> Iterator[str]:
    """Yield lines with or without their ends, or one long text, without their line ends."""
    for piece in stdin:
        yield piece[:-1] if piece.endswith("\n") else piece


def _split(text: str) -> list[str]:
    """Return the paths in ``text``: NUL-separated when it holds a NUL (names may then hold newlines), else lines."""
    if "\0" in text:
        return [name for name in text.split("\0") if name.strip("\n")]
    return [line.removesuffix("\r") for line in text.split("\n") if line.strip()]


def _place(roots: Sequence[_Root]) -> list[_Root]:
    """Return the roots with relative paths that differ, by putting those that collide below folders of their own."""
    owners = Counter(relative for root in roots for relative in {file.relative for file in root.files})
    collide = [any(owners[file.relative] > 1 for file in root.files) for root in roots]
    taken = {file.relative for root, hits in zip(roots, collide, strict=True) if not hits for file in root.files}
    placed = []
    for root, hits in zip(roots, collide, strict=True):
        files = root.files
        if hits:
            for number in count(1):
                prefix = root.label if number == 1 else f"{root.label}-{number}"
                files = tuple(replace(file, relative=prefix / file.relative) for file in root.files)
                if taken.isdisjoint(file.relative for file in files):
                    break
            taken.update(file.relative for file in files)
        placed.append(replace(root, files=files))
    return placed
