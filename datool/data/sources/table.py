"""Every data set by name, and where its files are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from datool.data.manifest import MANIFEST as MANIFEST_NAME
from datool.data.shards import INDEX as SHARDS_INDEX
from datool.data.sources.base import Source
from datool.data.sources.blendedmvs import BLENDEDMVS
from datool.data.sources.da2k import DA2K
from datool.data.sources.ddad import DDAD
from datool.data.sources.diml import DIML
from datool.data.sources.diode import DIODE
from datool.data.sources.eth3d import ETH3D
from datool.data.sources.hrwsi import HRWSI
from datool.data.sources.hypersim import HYPERSIM, HYPERSIM_EXACT
from datool.data.sources.ibims import IBIMS
from datool.data.sources.image_folders import image_folders
from datool.data.sources.image_lmdb import image_lmdb
from datool.data.sources.image_shards import image_shards
from datool.data.sources.image_tars import image_tars
from datool.data.sources.irs import IRS
from datool.data.sources.kitti import KITTI
from datool.data.sources.manifest import MANIFEST
from datool.data.sources.megadepth import MEGADEPTH
from datool.data.sources.moge import MOGE
from datool.data.sources.nyu import NYU
from datool.data.sources.packed import PACKED
from datool.data.sources.sintel import SINTEL
from datool.data.sources.tartanair import TARTANAIR
from datool.data.sources.video_frames import video_frames
from datool.data.sources.vkitti2 import VKITTI2
from datool.errors import DatoolError, lookup

VARIABLE = "DATOOL_DATA"
# What `datool data get` fetches.
FETCHED = ("da2k",)


def find_root(name: str, given: Mapping[str, Path]) -> Path:
    """Return where the files of data set ``name`` are: as given, else ``$DATOOL_DATA/NAME``, else ``data/NAME``.

    Args:
        name: of `SOURCES`.
        given: what ``--root NAME=DIR`` gave, by name; shards may be a pattern with braces, a manifest may be a file.
    Raises:
        DatoolError: unknown name, or nothing there.
    """
    source = lookup(SOURCES, name, "data set")
    if name in given:
        places = [given[name]]
    else:
        base = os.environ.get(VARIABLE)
        places = [*([Path(base) / name] if base else []), Path("data") / name]
    for place in places:
        if place.exists() or "{" in str(place):
            return place
    fetch = f", or fetch them: datool data get {name}" if name in FETCHED else ""
    tried = " and ".join(str(place) for place in places)
    raise DatoolError(
        f"no files of '{name}' ({source.title}): {tried} not there.",
        f"Give --root {name}=DIR, or put them in ${VARIABLE}/{name} or data/{name}{fetch}. "
        f"Expected layout:\n{source.layout}",
    )


def find_source(given: str, roots: Mapping[str, Path]) -> tuple[str, Path]:
    """Return the data set that a name or a path means, and where its files are.

    A folder is taken for what it holds: packed shards, a manifest, tars, or images. One here called ``shards`` or
    ``images`` is meant before the kind of data set of that name.

    Args:
        given: a name of `SOURCES`, a ``.jsonl`` file, a pattern of shards with braces, or a folder.
        roots: what ``--root NAME=DIR`` gave, by name.
    Raises:
        DatoolError: neither a name nor anything that is there.
    """
    path = Path(given)
    if given in SOURCES and not (given in KINDS and given not in roots and path.is_dir()):
        return given, find_root(given, roots)
    if path.suffix == ".jsonl" and path.is_file():
        return "manifest", path
    if "{" in given:
        return "shards", path
    if not path.is_dir():
        raise DatoolError(
            f"'{given}' is no folder, no .jsonl file and no data set.",
            f"Data sets: {', '.join(sorted(SOURCES))}.",
        )
    if (path / SHARDS_INDEX).is_file() and any(path.glob("*.tar")):
        return "packed", path
    if (path / MANIFEST_NAME).is_file():
        return "manifest", path
    return "tars" if any(path.glob("*.tar")) else "images", path


# Sources that are no data set but a way to store one, and words that folders are called by.
KINDS = ("images", "tars", "lmdb", "shards", "videos", "manifest", "packed")

SOURCES: dict[str, Source] = {
    # Labelled, for training
    "hypersim": HYPERSIM,
    "hypersim-exact": HYPERSIM_EXACT,
    "vkitti2": VKITTI2,
    "tartanair": TARTANAIR,
    "irs": IRS,
    "blendedmvs": BLENDEDMVS,
    "diml": DIML,
    "hrwsi": HRWSI,
    "megadepth": MEGADEPTH,
    # For evaluation
    "kitti": KITTI,
    "nyu": NYU,
    "sintel": SINTEL,
    "ddad": DDAD,
    "eth3d": ETH3D,
    "diode": DIODE,
    "da2k": DA2K,
    "ibims": IBIMS,
    "moge": MOGE,
    # Unlabelled, as Depth Anything V1 and V2 take them (section 3 of each paper; their lists were never published)
    "bdd100k": image_folders(
        "BDD100K, images (Yu et al. 2018)",
        "images/100k/{train,val,test}/<id>.jpg",
        ("all", "images/100k/train", "images/100k/val", "images/100k/test"),
    ),
    "bdd100k-videos": video_frames(
        "BDD100K, videos (Yu et al. 2018)",
        "videos/{train,val,test}/<id>.mov; the split is a rate: 1fps, 2fps, ...",
        ("1fps", "2fps"),
    ),
    "google-landmarks": image_tars(
        "Google Landmarks v2 (Weyand et al. 2020)",
        "images_000.tar ... images_499.tar, with a/b/c/<16-hex id>.jpg in each",
    ),
    "imagenet-21k": image_folders(
        "ImageNet-21K (Deng et al. 2009)", "n########/n########_<number>.JPEG   (one tar a synset, unpacked)"
    ),
    "lsun": image_lmdb("LSUN (Yu et al. 2015)"),
    "objects365": image_folders(
        "Objects365 (Shao et al. 2019)",
        "images/{train,val}/*.jpg, or {train,val}/patch<k>/objects365_v{1,2}_########.jpg",
    ),
    "open-images": image_tars(
        "Open Images V7 (Kuznetsova et al. 2020)",
        "train_0.tar.gz ... train_f.tar.gz, with train_0/<16-hex id>.jpg in each",
    ),
    "places365": image_folders(
        "Places365 (Zhou et al. 2017)",
        "data_large_standard/a/airfield/########.jpg   (or data_256_standard, val_large, test_large)",
        ("all", "data_large_standard", "data_256_standard", "val_large", "test_large"),
    ),
    "sa-1b": image_tars("SA-1B (Kirillov et al. 2023)", "sa_000000.tar ..., with sa_<id>.jpg and sa_<id>.json in each"),
    "laion": image_shards("LAION or another list of addresses, as img2dataset stores it (Schuhmann et al. 2022)"),
    # Any images, by how they are kept
    "images": image_folders("images in folders"),
    "tars": image_tars("images in tar files"),
    "lmdb": image_lmdb("images in LMDB databases"),
    "shards": image_shards("images in WebDataset shards"),
    "videos": video_frames("frames of videos"),
    "manifest": MANIFEST,
    "packed": PACKED,
}
