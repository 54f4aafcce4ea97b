"""What a data set is: a way to list its rows, and a way to read one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

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
        scored: of ``splits``, those that benchmarks score, or that hold what they score: nothing trains on them.
    """

    index: Callable[[Path, str], Iterator[Row]]
    read: Callable[[Row], Sample]
    splits: tuple[str, ...]
    layout: str
    quantity: Quantity | None
    ambiguity: Ambiguity | None
    title: str
    scored: tuple[str, ...] = ()

    def training_split(self, name: str, split: str | None) -> str:
        """Return the split to train on: the one that was asked for, else the first that no benchmark scores.

        Args:
            name: of the data set, for messages.
            split: of ``splits`` or a list file; None = whichever may be trained on.
        Raises:
            DatoolError: benchmarks score that split, or all of them.
        """
        free = [each for each in self.splits if each not in self.scored]
        if split is None and free:
            return free[0]
        if split is None or split in self.scored:
            what = f"split '{split}' of '{name}'" if split else f"'{name}'"
            rest = f"Train on another: {', '.join(f'{name}:{each}' for each in free)}." if free else "Train on another."
            raise DatoolError(f"benchmarks score {what}: a model trained on it could not be compared.", rest)
        return split


class Unlabelled(Protocol):
    """Makes the source of an unlabelled set from its title, its layout for messages, and the splits it is known by."""

    def __call__(self, title: str, layout: str = ..., splits: tuple[str, ...] = ...) -> Source: ...  # noqa: D102


def unlabelled(
    index: Callable[..., Iterator[Row]], read: Callable[[Row], Sample], layout: str, split: str
) -> Unlabelled:
    """Return what makes the sources of one kind of files.

    Args:
        index: (root, split, layout) -> rows.
        read: row -> sample.
        layout, split: of a set that names none of its own.
    """
    own = layout

    def source(title: str, layout: str = own, splits: tuple[str, ...] = (split,)) -> Source:
        return Source(partial(index, layout=layout), read, splits, layout, None, None, title)

    return source


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
