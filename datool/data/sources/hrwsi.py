"""HRWSI: about 20,000 stereo photos from the web, with disparity known up to scale and shift.

``gts`` are 8-bit grey PNG of disparity, larger = nearer. They are not depth: V1's 1 / t must not be applied. Pixels
outside ``valid_masks`` (PNG, above 0 = valid; from the agreement of optical flow in both directions, with wrong sky
taken out) are unknown. Value 0 inside the mask is the far end, as it stands. An item that lacks one of its three
files is left out. No camera. Instance masks are not read.

Splits: the set's own, ``train`` and ``val`` (about 20,400 and 400, UNVERIFIED).

Source: Xian et al. 2020 (Structure-Guided Ranking Loss); github.com/KexianHust/Structure-Guided-Ranking-Loss (README,
issues 5 and 10); github.com/anhtu293/nndepth datasets/hrwsi.py. Others ignore the masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datool.data.sample import Sample
from datool.data.sources.base import Row, Source, expect
from datool.data.sources.decode import read_png8, unreadable
from datool.data.sources.trees import check_split, find_root, keys
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.files.images import read_image

TITLE = "HRWSI (Xian et al. 2020, github.com/KexianHust/Structure-Guided-Ranking-Loss)"
SPLITS = ("train", "val")
LAYOUT = """\
HR-WSI/train/imgs/NAME.jpg
HR-WSI/train/gts/NAME.png
HR-WSI/train/valid_masks/NAME.png
HR-WSI/val/..."""


def index(root: Path, split: str) -> Iterator[Row]:
    """Return the rows of ``split``, sorted by id.

    Args:
        root: the folder of ``train`` and ``val``, or the one that holds ``HR-WSI``.
        split: a name of ``SPLITS``.
    Raises:
        DatoolError: the tree or the split is not there, or no picture has all its files.
    """
    check_split(split, SPLITS, "HRWSI")
    root = find_root(root, ("HR-WSI", "HRWSI"), lambda place: (place / split / "imgs").is_dir())
    images, truth, masks = (root / split / name for name in ("imgs", "gts", "valid_masks"))
    whole = set(keys(images, "", ".jpg")) & set(keys(truth, "", ".png")) & set(keys(masks, "", ".png"))
    expect(root, bool(whole), f"picture {split}/imgs/*.jpg with its files in gts and valid_masks", LAYOUT)
    # Sorted with the end, as ids are.
    return (
        Row(f"{split}/imgs/{key}.jpg", images / f"{key}.jpg", truth / f"{key}.png", mask=masks / f"{key}.png")
        for key in sorted(whole, key=lambda key: f"{key}.jpg")
    )


def read(row: Row) -> Sample:
    """Return the sample with disparity known up to scale and shift.

    Raises:
        DatoolError: a file is unreadable, or the mask is of another size than the disparity.
    """
    assert row.depth is not None and row.mask is not None, "index names disparity and mask"
    image = read_image(row.image)
    disparity = read_png8(row.depth, "disparity (HRWSI)")
    mask = read_png8(row.mask, "valid mask (HRWSI)")
    if mask.shape != disparity.shape:
        raise unreadable(row.mask, f"a mask {mask.shape}", f"the size of the disparity, {disparity.shape}")
    values = np.where(mask > 0, disparity, np.nan).astype(np.float32)
    return Sample(row.id, image, DepthMap(values, Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT))


HRWSI = Source(index, read, SPLITS, LAYOUT, Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT, TITLE)
