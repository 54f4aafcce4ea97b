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
from datool.data.sources.decode import read_png8, read_png16
from datool.data.sources.manifest import Entry, entries, read_entry
from datool.depth import Ambiguity, Camera, DepthMap, Quantity, same_aspect
from datool.errors import DatoolError
from datool.files import IMAGE_SUFFIXES, ImageFile, list_images, read_image, read_map, read_meta
from datool.files.images import explained
from datool.files.maps import READERS
from datool.geometry.poses import to_pose

# What is never a photo; a PNG, TIFF or EXR is a map if it says so itself.
MAP_SUFFIXES = frozenset({".npy", ".npz", ".pfm"})
# What a reader's words ask the user for.
HINTS = {
    "does not say": "Say what the numbers are: --quantity depth for metres; --quantity disparity --ambiguity "
    "scale-and-shift.",
    "above 0, got 0.": "If 0 means unknown, give --divisor 1.",
    "expected (H, W) floats": "Whole numbers, and (H, W, 1), need --divisor: 1 for metres, 1000 for millimetres.",
}


@dataclass(frozen=True)
class Meaning:
    """What maps hold that do not say it themselves.

    Args:
        quantity, ambiguity: of the values; None = the files say. Depth without ambiguity is in metres.
        divisor: value = stored / divisor, above 0, for files of other programs, in which 0 is unknown.
        photos: folder with the maps' photos, of the same relative names; None = beside them, if there are any.
    Raises:
        DatoolError: a divisor that is none.
    """

    quantity: Quantity | None = None
    ambiguity: Ambiguity | None = None
    divisor: float | None = None
    photos: Path | None = None

    def __post_init__(self) -> None:
        if self.divisor is not None and not self.divisor > 0:
            raise DatoolError(f"--divisor is {self.divisor:g}, expected a number above 0.")

    def __bool__(self) -> bool:
        return any(value is not None for value in (self.quantity, self.divisor, self.photos))

    def read(self, path: Path) -> DepthMap:
        """Return the map in a file.

        Raises:
            DatoolError: unreadable, or nothing says what it holds.
        """
        ambiguity = self.ambiguity or (Ambiguity.NONE if self.quantity is Quantity.DEPTH else None)
        try:
            stored = None if self.divisor is None else self._stored(path)
            if stored is None:
                return read_map(path, self.quantity, ambiguity)
            if self.quantity is Quantity.DISPARITY and ambiguity is None:
                raise DatoolError(f"cannot read map {path}: the file does not say its ambiguity.")
            values = np.where(stored != 0, stored / np.float32(self.divisor or 1), np.nan).astype(np.float32)
            return DepthMap(values, self.quantity or Quantity.DEPTH, ambiguity or Ambiguity.NONE)
        except DatoolError as error:
            hint = next((hint for words, hint in HINTS.items() if words in error.problem), error.hint)
            raise DatoolError(error.problem, hint) from error

    def _stored(self, path: Path) -> np.ndarray | None:
        """Return the (H, W) numbers of another program's file; None if it is datool's, which needs no divisor."""
        if path.suffix.lower() == ".png":
            return read_png16(path, f"values x {self.divisor:g}")
        with explained(f"map {path}"):
            stored, meta = READERS[path.suffix.lower()](path)
        if "quantity" in meta:
            return None
        if stored.ndim == 3 and 1 in (stored.shape[0], stored.shape[2]):
            stored = stored[0] if stored.shape[0] == 1 else stored[:, :, 0]
        if stored.ndim != 2 or stored.dtype.kind not in "fiu":
            raise DatoolError(f"cannot read map {path}: got {stored.dtype} {stored.shape}, expected (H, W) numbers.")
        return stored


UNSAID = Meaning()


@dataclass(frozen=True)
class View:
    """One picture, and where its depth comes from.

    Args:
        file: what it is named by, and where its outputs go.
        photo: None = there is none.
        map: a file that is a map, read as ``meaning`` says.
        entry: a manifest's row.
    """

    file: ImageFile
    photo: Path | None
    map: Path | None = None
    entry: Entry | None = None
    meaning: Meaning = UNSAID

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
        depth = None if self.map is None else self.meaning.read(self.map)
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
        if path.suffix.lower() not in READERS:
            raise DatoolError(f"confidence {path} is '{path.suffix}', expected {', '.join(READERS)}.")
        with explained(f"confidence {path}"):
            if path.suffix.lower() == ".png":
                values = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
                if values is None or values.ndim != 2:
                    raise ValueError("no grey PNG")
                values = values / np.float32(255 if values.dtype == np.uint8 else 65535)
            else:
                values = READERS[path.suffix.lower()](path)[0].astype(np.float32)
        if values.ndim != 2:
            raise DatoolError(f"confidence {path} is {values.shape}, expected (H, W).")
        return cv2.resize(values, shape[::-1], interpolation=cv2.INTER_NEAREST)


def list_views(inputs: Sequence[str], meaning: Meaning = UNSAID, exclude: Path | None = None) -> list[View]:
    """Return what ``inputs`` name, in their order and sorted inside each folder.

    A ``.jsonl``, or a folder with ``manifest.jsonl``, is a manifest: its rows have a depth, or wait for one. With a
    ``meaning`` all else is maps. Without one, .npy, .npz and .pfm are maps, and so are a PNG, TIFF and EXR of datool's;
    a folder that holds any such is a folder of maps, and its photos are theirs; all else are photos, as
    `datool.files.list_images` lists them. A picture of a map that is named itself fails as one.

    Args:
        inputs: what the user named.
        meaning: of maps that do not say what they are.
        exclude: a folder to leave out: the output folder, when it lies inside an input.
    Raises:
        DatoolError: an input names nothing, or is unreadable.
    """
    groups: list[tuple[str, list[View]]] = []
    photos: list[str] = []
    for given in inputs:
        path = Path(given)
        if path.suffix.lower() == ".jsonl" or (path.is_dir() and (path / MANIFEST).is_file()):
            manifest = path / MANIFEST if path.is_dir() else path
            groups.append((manifest.parent.name or "manifest", [_of_entry(entry) for _, entry in entries(manifest)]))
            continue
        maps = _maps(path, meaning, exclude)
        if maps:
            groups.append((path.stem, maps))
        elif meaning:
            raise DatoolError(f"no map in {given}.", f"Looked for {', '.join(READERS)}.")
        else:
            photos.append(given)
    if photos:
        files = list_images(photos, exclude=exclude)
        groups.append(("photos", [_of_file(file, meaning) for file in files]))
    views = _apart(groups)
    if not views:
        raise DatoolError(f"{', '.join(inputs[:3])}: no row with an image.", "Check the manifest.")
    return views


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


def _maps(given: Path, meaning: Meaning, exclude: Path | None) -> list[View]:
    """Return the maps that a file or a folder is or holds; none if it is, or holds, photos alone."""
    if given.is_file():
        return [_of_map(given, Path(given.name), meaning)] if _is_map(given, meaning, named=True) else []
    if not given.is_dir():
        return []
    found = sorted(path for path in given.rglob("*") if path.suffix.lower() in READERS and path.is_file())
    if exclude is not None:
        found = [path for path in found if exclude.resolve() not in path.resolve().parents]
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(given).parts)]
    return [_of_map(path, path.relative_to(given), meaning) for path in found if _is_map(path, meaning)]


def _is_map(path: Path, meaning: Meaning, named: bool = False) -> bool:
    """Tell a map from a photo, by its suffix or by what it says of itself.

    A picture of a map is none; but one that is named counts, so that it is refused and not taken for a photo.
    """
    suffix = path.suffix.lower()
    if suffix in MAP_SUFFIXES or suffix not in READERS:
        return suffix in MAP_SUFFIXES
    try:
        meta = read_meta(path)
    except DatoolError:
        return bool(meaning)
    return named if "picture" in meta else "quantity" in meta or bool(meaning)


def _of_file(file: ImageFile, meaning: Meaning) -> View:
    """Return a file that a list or a glob named: a map if it says so, else a photo."""
    is_map = _is_map(file.path, meaning, named=True)
    return _of_map(file.path, file.relative, meaning) if is_map else View(file, file.path)


def _of_map(path: Path, relative: Path, meaning: Meaning) -> View:
    bare = relative.with_name(relative.stem.removesuffix(".half"))
    folder, suffixes = (path.parent, IMAGE_SUFFIXES - READERS.keys())
    places = [folder / bare.name]
    if meaning.photos is not None:
        places, suffixes = [meaning.photos / bare, meaning.photos / bare.name], IMAGE_SUFFIXES
    endings = [end for suffix in sorted(suffixes) for end in (suffix, suffix.upper())]
    names = (Path(f"{place}{end}") for place in places for end in endings)
    photo = next((name for name in names if name.is_file() and not name.samefile(path)), None)
    if photo is None and meaning.photos is not None:
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
