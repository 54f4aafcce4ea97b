"""Sky masks for a labelled set, as Depth Anything V1 made them: a segmentation model's, a PNG an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from datool.data.batches.datasets import sky_mask_name
from datool.data.sources.table import SOURCES, find_root
from datool.engines.base import choose_device
from datool.errors import DatoolError, MissingLibraryError, lookup
from datool.files import write_bytes
from datool.jobs.data.sky_segmenter import SkySegmenter
from datool.progress import Progress


@dataclass(frozen=True, kw_only=True)
class SkyOptions:
    """Whose sky, found by what, and where masks go.

    Args:
        source: key of `SOURCES`.
        out: folder of the masks; training takes it with ``--sky``.
        model: of `SkySegmenter`.
        roots: folder of a data set by its name.
        split: of the source; empty = its first.
        device: of `choose_device`.
    """

    source: str
    out: Path
    model: str
    roots: Mapping[str, Path] = field(default_factory=dict)
    split: str = ""
    device: str = "auto"


@dataclass(frozen=True)
class SkySummary:
    """What a run did.

    Args:
        out: folder of the masks.
        done, skipped: masks written now, and by earlier runs.
        failed: id and reason of each image without one.
        share: mean share of sky over those written now.
    """

    out: Path
    done: int
    skipped: int
    failed: tuple[tuple[str, str], ...]
    share: float


def sky_masks(options: SkyOptions, progress: Callable[[Progress], None] = lambda _: None) -> SkySummary:
    """Write a mask an image, 255 where the sky is, of the image's size; a rerun does what is left.

    Args:
        options: whose, by what, where to.
        progress: called after each image.
    Raises:
        DatoolError: no such set or model, or the disk is full.
    """
    source = lookup(SOURCES, options.source, "data set")
    root = find_root(options.source, options.roots)
    rows = list(source.index(root, options.split or source.splits[0]))
    if not rows:
        raise DatoolError(f"{root} has no images.", f"Expected layout:\n{source.layout}")
    todo = [row for row in rows if not (options.out / sky_mask_name(row.id)).exists()]
    skipped = len(rows) - len(todo)
    segmenter = SkySegmenter(options.model, str(choose_device(options.device)))
    failed: list[tuple[str, str]] = []
    shares: list[float] = []
    for row in todo:
        try:
            mask = segmenter.mask(source.read(row).image)
        except MissingLibraryError:
            raise  # the same for every row
        except DatoolError as error:
            failed.append((row.id, str(error)))
        else:
            shares.append(float(mask.mean()))
            encoded = cv2.imencode(".png", mask.astype(np.uint8) * 255)[1]
            write_bytes(options.out / sky_mask_name(row.id), encoded.tobytes())
        progress(Progress(len(todo), len(shares), len(failed), skipped))
    share = sum(shares) / len(shares) if shares else 0.0
    return SkySummary(options.out, len(shares), skipped, tuple(failed), share)
