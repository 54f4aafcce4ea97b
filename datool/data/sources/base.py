"""What a data set is: a way to list its rows, and a way to read one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from datool.data.sample import Sample
from datool.depth import Ambiguity, Quantity
from datool.errors import DatoolError


@dataclass(frozen=True)
class Row:
    """All that reading one sample needs.

    Args:
        id: name within the data set, stable over releases and machines: a relative path with forward slashes.
        image: file of the image, or the container that holds it.
        depth, mask, confidence, camera: further files; None where the set has none.
        member: name or number inside a container.
    """

    id: str
    image: Path
    depth: Path | None = None
    mask: Path | None = None
    confidence: Path | None = None
    camera: Path | None = None
    member: str | int | None = None


@dataclass(frozen=True)
class Source:
    """One data set.

    Args:
        index: (root, split) -> rows, sorted by id.
        read: row -> sample in metres, depth up to scale, or disparity; masks and camera applied.
        splits: names that ``index`` takes; the first is the default.
        layout: what the root must look like, for messages.
        quantity, ambiguity: of every sample's map; None = unlabelled.
        title: the set's name, and where it is described.
    """

    index: Callable[[Path, str], Iterator[Row]]
    read: Callable[[Row], Sample]
    splits: tuple[str, ...]
    layout: str
    quantity: Quantity | None
    ambiguity: Ambiguity | None
    title: str


def expect(root: Path, found: bool, what: str, layout: str) -> None:
    """Raise with the expected layout unless ``found``.

    Args:
        root: the folder that was given.
        found: whether what must be there is there.
        what: what was looked for, with its pattern.
        layout: of the whole set.
    Raises:
        DatoolError: not found.
    """
    if not root.is_dir():
        raise DatoolError(f"no folder {root}.", f"Expected layout:\n{layout}")
    if not found:
        raise DatoolError(f"{root} holds no {what}.", f"Is the download unpacked whole? Expected layout:\n{layout}")
