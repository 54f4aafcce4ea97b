"""From what a user names (photos, maps, manifests, folders of them) to the pictures that can become clouds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datool.data.manifest import MANIFEST
from datool.data.sources.decode import read_png8
from datool.data.sources.manifest import Entry, entries, read_entry
from datool.depth import Camera, DepthMap, same_aspect
from datool.errors import DatoolError
from datool.files import IMAGE_SUFFIXES, ImageFile, list_images, read_image, read_meta
from datool.files.maps import READERS
from datool.files.stored_map import UNSAID, MapMeaning, one_channel, read_stored, read_stored_map
from datool.geometry.poses import to_pose

# What is never a photo; a PNG, TIFF or EXR is a map if it says so itself.
MAP_SUFFIXES = frozenset({".npy", ".npz", ".pfm"})


@dataclass(frozen=True)
class View:
    """One picture, and where its depth comes from.

    Args:
        file: what it is named by, and where its outputs go.
        photo: None = there is none.
        map: a file that is a map.
        entry: a manifest's row.
        meaning: of the map.
    """

    file: ImageFile
    photo: Path | None
    map: Path | None = None
    entry: Entry | None = None
    meaning: MapMeaning = UNSAID

    @property
    def key(self) -> str:
        """The absolute path of what names it."""
        return os.path.abspath(self.file.path)

    @property
    def is_predicted(self) -> bool:
        """Whether its depth is still to be predicted."""
        return self.map is None and (self.entry is None or self.entry.depth is None)

    @property
    def has_confidence(self) -> bool:
        """Whether its row names a confidence map."""
        return self.entry is not None and isinstance(self.entry.fields.get("confidence"), str)

    def camera(self, height_px: int, width_px: int) -> Camera | None:
        """Return the row's camera of a photo of that size, if it has one."""
        numbers = None if self.entry is None else self.entry.camera_px
        return None if numbers is None else Camera(*numbers, height_px, width_px)

    def read(self) -> tuple[np.ndarray | None, DepthMap | None]:
        """Return the photo, (H, W, 3) uint8 RGB, and its depth, as far as there are files of them.

        Raises:
            DatoolError: a file is unreadable.
        """
        if self.entry is not None:
            sample = read_entry(self.entry)
            return sample.image, sample.depth
        depth = None if self.map is None else read_stored_map(self.map, self.meaning)
        return None if self.photo is None else read_image(self.photo), depth

    def predicted_by(self) -> tuple[str, str, int | None] | None:
        """Return the model, its hash and its input's short side that the row or the map tells; None if it does not."""
        meta: Mapping[str, Any] = {} if self.map is None else read_meta(self.map)
        if self.entry is not None:
            meta = self.entry.fields
        if not meta.get("model_sha256"):
            return None
        size = meta.get("size_px")
        return str(meta.get("model", "")), str(meta["model_sha256"]), None if size is None else int(size)

    def pose(self) -> np.ndarray | None:
        """Return the row's ``pose``, (4, 4) camera to world, if it has one.

        Raises:
            DatoolError: it is none.
        """
        given = None if self.entry is None else self.entry.fields.get("pose")
        return None if given is None else to_pose(given)

    def usable(self, shape: tuple[int, int], min_confidence: float | None) -> np.ndarray | None:
        """Return (H, W) bool, false where a row's mask or low confidence speaks against a pixel; None if nothing does.

        Args:
            shape: of the result; the mask of a row's depth is applied to that depth already.
            min_confidence: None = any will do.
        Raises:
            DatoolError: a mask or confidence is unreadable.
        """
        confidence = None if min_confidence is None else self._confidence(shape)
        usable = None if confidence is None else confidence >= min_confidence
        if self.entry is None or self.entry.mask is None or not self.is_predicted:
            return usable
        mask = read_png8(self.entry.mask, "a mask")
        if not same_aspect(mask.shape, shape):
            raise DatoolError(f"mask {self.entry.mask} is {mask.shape[1]}x{mask.shape[0]}, of another aspect.")
        counts = cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
        return counts if usable is None else usable & counts

    def _confidence(self, shape: tuple[int, int]) -> np.ndarray | None:
        """Return the row's ``confidence`` map from 0 to 1, (H, W) float32 of that shape, if it has one.

        A PNG counts from 0 to the most that its pixels hold; other files are taken as they are.

        Raises:
            DatoolError: unreadable, or not (H, W).
        """
        if self.entry is None or not self.has_confidence:
            return None
        path = _folder(self.entry) / self.entry.fields["confidence"]
        stored, _ = read_stored(path)
        values = one_channel(stored)
        if values.ndim != 2:
            raise DatoolError(f"confidence {path} is {stored.shape}, expected (H, W).")
        if path.suffix.lower() == ".png" and values.dtype.kind == "u":
            values = values / np.float32(np.iinfo(values.dtype).max)
        values = values.astype(np.float32)
        return cv2.resize(values, shape[::-1], interpolation=cv2.INTER_NEAREST)


def list_views(
    inputs: Sequence[str], meaning: MapMeaning = UNSAID, photos: Path | None = None, exclude: Path | None = None
) -> list[View]:
    """Return what ``inputs`` name, in their order and sorted inside each folder.

    A ``.jsonl``, or a folder with ``manifest.jsonl``, is a manifest: its rows have a depth, or wait for one. With a
    ``meaning``, or ``photos``, all else is maps. Without, .npy, .npz and .pfm are maps, and so are a PNG, TIFF and EXR
    of datool's; a folder that holds any such is a folder of maps, and its photos are theirs; all else are photos.
    Globs, ``.txt`` lists and ``-`` are taken as by `datool.files.list_images`. A picture of a map that is named itself
    fails as one.

    Args:
        inputs: what the user named.
        meaning: of maps that do not say what they are.
        photos: folder with the maps' photos, of the same relative names; None = beside them, if there are any.
        exclude: a folder to leave out: the output folder, when it lies inside an input.
    Raises:
        DatoolError: an input names nothing, or is unreadable.
    """
    maps_only = meaning.is_said or photos is not None
    groups: list[tuple[str, list[View]]] = []
    rest: list[str] = []
    for given in inputs:
        path = Path(given)
        if path.suffix.lower() == ".jsonl" or (path.is_dir() and (path / MANIFEST).is_file()):
            manifest = path / MANIFEST if path.is_dir() else path
            groups.append((manifest.parent.name or "manifest", [_of_entry(entry) for _, entry in entries(manifest)]))
            continue
        maps = [_of_map(*found, meaning, photos) for found in _maps(path, maps_only, exclude)]
        if maps:
            groups.append((path.stem, maps))
        elif maps_only and (path.is_dir() or (path.is_file() and path.suffix.lower() != ".txt")):
            raise DatoolError(f"no map in {given}.", f"Looked for {', '.join(READERS)}.")
        else:
            rest.append(given)
    if rest:
        suffixes = frozenset(READERS) if maps_only else IMAGE_SUFFIXES | MAP_SUFFIXES
        files = list_images(rest, exclude=exclude, suffixes=suffixes)
        are_maps = [maps_only or _is_map(file.path, False, named=True) for file in files]
        listed = [
            _of_map(file.path, file.relative, meaning, photos) if is_map else View(file, file.path)
            for file, is_map in zip(files, are_maps, strict=True)
        ]
        groups.append(("photos", _without_photos_of_maps(listed)))
    views = _apart(groups)
    if not views:
        raise DatoolError(f"{', '.join(inputs[:3])}: no row with an image.", "Check the manifest.")
    return views


def _without_photos_of_maps(views: Sequence[View]) -> list[View]:
    """Return the views but for photos whose map was listed with them: a glob meets both."""
    taken = {os.path.abspath(view.photo) for view in views if view.map is not None and view.photo is not None}
    return [view for view in views if view.map is not None or view.key not in taken]


def _of_entry(entry: Entry) -> View:
    """Return a row, its outputs named by its id if that is a relative path, else by its map's place or its name."""
    relative = Path(entry.id)
    if relative.is_absolute() or ".." in relative.parts:
        folder = _folder(entry)
        inside = entry.depth is not None and folder in entry.depth.parents
        relative = entry.depth.relative_to(folder) if inside and entry.depth else Path(relative.name)
    if relative.suffix.lower() not in IMAGE_SUFFIXES:
        relative = relative.with_name(relative.name + entry.image.suffix)
    return View(ImageFile(entry.image, relative), entry.image, entry=entry)


def _folder(entry: Entry) -> Path:
    """Return the folder of a row's manifest, which its place begins with."""
    return Path(entry.where.rpartition(":")[0]).parent


def _maps(given: Path, maps_only: bool, exclude: Path | None) -> list[tuple[Path, Path]]:
    """Return the maps that a file or folder is or holds, and where each goes; none if it is, or holds, photos alone."""
    if given.is_file():
        return [(given, Path(given.name))] if _is_map(given, maps_only, named=True) else []
    if not given.is_dir():
        return []
    found = sorted(path for path in given.rglob("*") if path.suffix.lower() in READERS and path.is_file())
    if exclude is not None:
        found = [path for path in found if exclude.resolve() not in path.resolve().parents]
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(given).parts)]
    return [(path, path.relative_to(given)) for path in found if _is_map(path, maps_only)]


def _is_map(path: Path, maps_only: bool, named: bool = False) -> bool:
    """Tell a map from a photo, by its suffix or by what it says of itself.

    A picture of a map is none; but one that is named counts, so that it is refused and not taken for a photo.
    """
    suffix = path.suffix.lower()
    if suffix in MAP_SUFFIXES or suffix not in READERS:
        return suffix in MAP_SUFFIXES
    try:
        meta = read_meta(path)
    except DatoolError:
        return maps_only
    return named if "picture" in meta else "quantity" in meta or maps_only


def _of_map(path: Path, relative: Path, meaning: MapMeaning, photos: Path | None) -> View:
    bare = relative.with_name(relative.stem.removesuffix(".half"))
    folder, suffixes = (path.parent, IMAGE_SUFFIXES - READERS.keys())
    places = [folder / bare.name]
    if photos is not None:
        places, suffixes = [photos / bare, photos / bare.name], IMAGE_SUFFIXES
    endings = [end for suffix in sorted(suffixes) for end in (suffix, suffix.upper())]
    names = (Path(f"{place}{end}") for place in places for end in endings)
    photo = next((name for name in names if name.is_file() and not name.samefile(path)), None)
    if photo is None and photos is not None:
        photo = Path(f"{places[0]}.jpg")  # reading it fails and says that it is not there
    return View(ImageFile(path, relative), photo, map=path, meaning=meaning)


def _apart(groups: Sequence[tuple[str, Sequence[View]]]) -> list[View]:
    """Return all views, with the outputs of groups that would meet below folders named after each."""
    times = Counter(view.file.relative.with_suffix("") for _, views in groups for view in views)
    seen: set[str] = set()
    placed: list[View] = []
    for label, views in groups:
        meets = len(groups) > 1 and any(times[view.file.relative.with_suffix("")] > 1 for view in views)
        if meets:
            label = next(name for number in count(1) if (name := label + f"-{number}" * (number > 1)) not in seen)
            seen.add(label)
            views = [replace(view, file=replace(view.file, relative=label / view.file.relative)) for view in views]
        placed += views
    return placed
