"""Where each output goes: names that mirror the inputs and never meet."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from datool.errors import DatoolError, lookup
from datool.files.listing import ImageFile
from datool.files.maps import MAP_FORMATS

MAX_NAME_BYTES = 255


def plan_outputs(files: Sequence[ImageFile]) -> list[Path]:
    """Return for each image its output path below the output folder, without a format's suffix.

    ``sub/a.jpg`` gives ``sub/a``. Images whose outputs could meet in any format (``a.jpg`` with ``a.png``, or with
    ``a.color.jpg``, whose png16 is the colour picture of ``a``) all keep their suffix: ``sub/a.jpg``. Names are
    compared as macOS and Windows do, without case. What meets even then gets a hash of its path, and so does a name
    that would pass 255 bytes, cut before it. The plan depends on the set of images, not on their order or on the
    formats asked for.

    Raises:
        DatoolError: two images have the same relative path.
    """
    relatives = [file.relative for file in files]
    twice, times = Counter(relatives).most_common(1)[0] if relatives else (None, 0)
    if times > 1:
        raise DatoolError(f"two images go to the same place: {twice}.", "List the inputs with list_images.")
    plan = [_shortened(relative.with_suffix("")) for relative in relatives]
    kept = [_shortened(relative) for relative in relatives]
    while bare := [index for index in _meeting(plan) if plan[index] != kept[index]]:
        for index in bare:
            plan[index] = kept[index]
    for index in _meeting(plan):
        plan[index] = _hashed(relatives[index])
    return plan


def output_path(out: Path, stem: Path, format: str) -> Path:
    """Return the file for one format of one image.

    Args:
        out: the output folder.
        stem: one of ``plan_outputs``.
        format: a name of ``MAP_FORMATS``.
    Raises:
        DatoolError: unknown format.
    """
    return out / stem.parent / (stem.name + lookup(MAP_FORMATS, format, "format").suffix)


def check_formats(formats: Sequence[str]) -> list[str]:
    """Return ``formats`` as a list, each known and each with a file name of its own.

    Raises:
        DatoolError: none given, an unknown one, or two that would write the same file.
    """
    if not formats:
        raise DatoolError("no output format given.", f"Known: {', '.join(MAP_FORMATS)}.")
    owner: dict[str, str] = {}
    for format in formats:
        suffix = lookup(MAP_FORMATS, format, "format").suffix
        if suffix in owner:
            raise DatoolError(f"formats '{owner[suffix]}' and '{format}' write the same file (*{suffix}).", "Drop one.")
        owner[suffix] = format
    return list(formats)


def _folded(path: Path) -> str:
    """Return the name as file systems that ignore case and Unicode form compare it."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def _meeting(plan: Sequence[Path]) -> list[int]:
    """Return the places of the stems whose files of some format have the name of another's."""
    owners: dict[str, list[int]] = defaultdict(list)
    for index, stem in enumerate(plan):
        owners[_folded(stem)].append(index)
    meeting: set[int] = set()
    for name, indices in owners.items():
        if len(indices) > 1:
            meeting.update(indices)
        bare, dot, infix = name.rpartition(".")
        if dot + infix in INFIXES and bare in owners:
            meeting.update(indices, owners[bare])
    return sorted(meeting)


def _shortened(path: Path) -> Path:
    """Return ``path``, its name cut and hashed if the longest suffix would take it past 255 bytes."""
    return path if len(os.fsencode(path.name)) <= ROOM else _hashed(path)


def _hashed(path: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    kept = os.fsencode(path.name)[: ROOM - len(digest) - 1].decode("utf-8", "ignore")
    return path.with_name(f"{kept}~{digest}")


# What stands between an input's name and the file type: ".color", ".half", ...
INFIXES = frozenset(Path(f"x{row.suffix}").stem[1:] for row in MAP_FORMATS.values()) - {""}
ROOM = MAX_NAME_BYTES - max(len(row.suffix) for row in MAP_FORMATS.values())
