"""DIML/CVL RGB-D: photos of indoor (depth sensor) and outdoor (stereo) places, depth in millimetres.

Depth is a 16-bit grey PNG, 1 unit = 1 mm (UNVERIFIED: that it is planar); 0 is unknown. Sky is not marked. Outdoor
depth of the full release comes with an 8-bit confidence; what is not above ``MIN_CONFIDENCE`` is unknown. Sources
differ on that limit: nndepth takes 0.6, as here, and cites 0.9 from the technical report. The sample release has no
confidence.

Four layouts are known by the folder of the pictures, anywhere below the root (the archives unpack to no one tree):
``col`` and ``color`` indoors, ``left`` and ``outleft`` outdoors. In ``up_png`` the end of the names differs between
archives and is taken from the first file. Of a sample with both HR and LR only HR is read. Pictures without depth (or
confidence) are left out.

Splits: ``all``, ``indoor``, ``outdoor``; ``val`` is what others hold out (``16. Billiard Hall``, ``170721_C0``, and
the sample's ``test`` folders), ``train`` the rest. There is no official split of the full release. No camera: no
calibration is published in a form that could be read here.

Source: Cho, Min, Kim, Sohn 2021, arXiv:2110.11590 and dimlrgbd.github.io; layouts and limits from
github.com/anhtu293/nndepth (datasets/diml.py and README) and the DIML readers of ZoeDepth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datool.data.sample import Sample
from datool.data.sources.base import Row, Source, expect
from datool.data.sources.decode import depth_map, read_png8, read_png16, unreadable
from datool.data.sources.trees import check_split, folders, keys
from datool.depth import Ambiguity, Quantity
from datool.files.images import read_image

TITLE = "DIML/CVL RGB-D (Cho et al. 2021, dimlrgbd.github.io)"
SPLITS = ("all", "indoor", "outdoor", "train", "val")
LAYOUT = """\
indoor, full:    1/16.02.02/1/col/NAME_c.png         and up_png/NAME_*.png
indoor, sample:  HR/SCENE/color/NAME_c.png           and depth_filled/NAME_depth_filled.png
outdoor, full:   160408_C0/A/left/NAME_left.png      and depth/NAME_depth.png, conf/NAME_conf.png
outdoor, sample: outleft/NAME.png                    and depthmap/NAME.png"""

MILLIMETRES_PER_METRE = 1000
MIN_CONFIDENCE = 0.6
HELD_OUT = frozenset({"16. Billiard Hall", "170721_C0", "test"})
# A wrong root must not be searched for ever.
FOLDERS = 6


@dataclass(frozen=True)
class _Kind:
    """One layout: the folders beside each other, and how their files' names end; None = as the first file's."""

    place: str
    image_end: str
    depths: str
    depth_end: str | None
    confidences: str | None = None
    confidence_end: str = ""


# By the name of the folder of pictures.
KINDS = {
    "col": _Kind("indoor", "_c.png", "up_png", None),
    "color": _Kind("indoor", "_c.png", "depth_filled", "_depth_filled.png"),
    "left": _Kind("outdoor", "_left.png", "depth", "_depth.png", "conf", "_conf.png"),
    "outleft": _Kind("outdoor", ".png", "depthmap", ".png"),
}


def index(root: Path, split: str) -> Iterator[Row]:
    """Return the rows of ``split``, sorted by id.

    Args:
        root: a folder above any of the layouts.
        split: a name of ``SPLITS``.
    Raises:
        DatoolError: the tree or the split is not there, or pictures lack the folder of their depth.
    """
    check_split(split, SPLITS, "DIML")
    found = sorted(_picture_folders(root, FOLDERS), key=lambda images: f"{images.relative_to(root).as_posix()}/")
    expect(root, bool(found), f"folder of pictures {', '.join(KINDS)}", LAYOUT)
    wanted = [images for images in found if _is_in(images, root, split)]
    expect(root, bool(wanted), f"folder of split {split}", LAYOUT)
    return _rows(root, wanted)


def read(row: Row) -> Sample:
    """Return the sample with depth in metres.

    Raises:
        DatoolError: a file is unreadable.
    """
    assert row.depth is not None, "index names the depth"
    image = read_image(row.image)
    values = read_png16(row.depth, "millimetres (DIML)")
    valid = None
    if row.confidence is not None:
        confidence = read_png8(row.confidence, "confidence (DIML)")
        if confidence.shape != values.shape:
            raise unreadable(row.confidence, f"confidence {confidence.shape}", f"the depth's size, {values.shape}")
        valid = confidence / 255 > MIN_CONFIDENCE
    return Sample(row.id, image, depth_map(values / MILLIMETRES_PER_METRE, Ambiguity.NONE, valid))


def _picture_folders(folder: Path, levels: int) -> Iterator[Path]:
    names = folders(folder)
    for name in names:
        if name in KINDS:
            yield folder / name
        elif levels > 1 and not (name == "LR" and "HR" in names):
            yield from _picture_folders(folder / name, levels - 1)


def _is_in(images: Path, root: Path, split: str) -> bool:
    held_out = not HELD_OUT.isdisjoint(images.relative_to(root).parts)
    return split in ("all", KINDS[images.name].place, "val" if held_out else "train")


def _rows(root: Path, found: list[Path]) -> Iterator[Row]:
    for images in found:
        kind, folder = KINDS[images.name], images.parent
        depths = folder / kind.depths
        depth_end = kind.depth_end or _end(depths)
        whole = set(keys(images, "", kind.image_end)) & set(keys(depths, "", depth_end))
        confidences = folder / kind.confidences if kind.confidences is not None else None
        if confidences is not None:
            whole &= set(keys(confidences, "", kind.confidence_end))
        beside = f"{kind.depths} and {kind.confidences}" if kind.confidences else kind.depths
        expect(root, bool(whole), f"picture in {images} with its file in {beside} beside it", LAYOUT)
        # Sorted with the end, as ids are.
        for key in sorted(whole, key=lambda key: key + kind.image_end):
            image = images / f"{key}{kind.image_end}"
            yield Row(
                image.relative_to(root).as_posix(),
                image,
                depths / f"{key}{depth_end}",
                confidence=confidences / f"{key}{kind.confidence_end}" if confidences is not None else None,
            )


def _end(folder: Path) -> str:
    """Return how the names of the folder's files end after the last underscore, by the first."""
    return "_" + next(iter(keys(folder, "", ".png")), "").rpartition("_")[2] + ".png"


DIML = Source(index, read, SPLITS, LAYOUT, Quantity.DEPTH, Ambiguity.NONE, TITLE)
