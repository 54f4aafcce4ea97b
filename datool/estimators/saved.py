"""Maps that anyone saved earlier, in place of a model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from datool.data.manifest import MANIFEST, ManifestRow, read_manifest
from datool.depth import DepthMap
from datool.errors import DatoolError
from datool.files import IMAGE_SUFFIXES
from datool.files.maps import EXACT_FIRST
from datool.files.stored_map import UNSAID, MapMeaning, read_stored_map

# Looked for in this order, the most exact first; a 16-bit PNG loses most.
SUFFIXES = (".exr", ".npz", ".npy", ".tiff", ".tif", ".pfm", ".half.exr", ".png")


@dataclass(frozen=True)
class SavedMap:
    """Where the map of one image is, and what it means.

    Args:
        path: the file.
        meaning: what the user says of it.
        says: what datool's manifest says of it: its quantity and ambiguity.
        shared_with: another image that the same file is named as.
    """

    path: Path
    meaning: MapMeaning = UNSAID
    says: Mapping[str, str] = field(default_factory=dict)
    shared_with: str = ""

    def read(self) -> DepthMap:
        """Return the map.

        Raises:
            WrongValuesError: a value that the quantity does not allow.
            DatoolError: missing, broken, a picture, of several images, or its meaning unknown or contradicted.
        """
        if self.shared_with:
            raise DatoolError(
                f"map {self.path} has the name of several images, {self.shared_with} among them: whose it is, nobody "
                "can tell.",
                "Put the maps into sub-folders like the images', or give a pattern with {id}.",
            )
        return read_stored_map(self.path, self.meaning, self.says)


class SavedMaps:
    """A folder of maps, one an image.

    A map is found by, in this order: the folder's ``manifest.jsonl`` (of ``datool predict``), by the image's path; the
    pattern, if ``place`` has ``{id}`` (the sample's id without its suffix) or ``{stem}`` (its last part); a file named
    as the id or as its last part, with any suffix of ``SUFFIXES``.

    A file that bears the names of several images of `among` is nobody's.

    Args:
        place: a folder, or a pattern such as ``maps/{id}_depth.npy``.
        meaning: of files that do not say what they hold.
    Raises:
        DatoolError: no such folder, or its manifest is broken.
    """

    def __init__(self, place: str | Path, meaning: MapMeaning = UNSAID) -> None:
        self.place = str(place)
        self.meaning = meaning
        # Path of an image without its suffix, or the last part of that -> the images so named.
        self._ids: dict[str, list[str]] = {}
        self._names: dict[str, list[str]] = {}
        self.is_pattern = "{id}" in self.place or "{stem}" in self.place
        self._rows: dict[str, ManifestRow] = {}
        if not self.is_pattern:
            folder = Path(place)
            if not folder.is_dir():
                raise DatoolError(
                    f"no folder of predictions {folder}.",
                    "Give --predictions DIR, or a pattern such as 'maps/{id}.npy'.",
                )
            if (folder / MANIFEST).is_file():
                self._rows = read_manifest(folder)

    def among(self, ids: Iterable[str]) -> SavedMaps:
        """Return the same maps for images of these ids, so that none is taken for two of them."""
        maps = copy(self)
        maps._ids, maps._names = {}, {}
        for id in ids:
            stem = _stem(id)
            maps._ids.setdefault(str(stem), []).append(id)
            maps._names.setdefault(stem.name, []).append(id)
        return maps

    def find(self, id: str, image: Path) -> SavedMap | None:
        """Return where the map of a sample is, or None.

        Args:
            id: of the sample, a relative path with forward slashes.
            image: its file.
        """
        row = self._rows.get(os.path.abspath(image))
        if row is not None:
            path = self._written(row)
            said = {"quantity": row.quantity, "ambiguity": row.ambiguity}
            says = {name: value for name, value in said.items() if value is not None}
            return None if path is None else SavedMap(path, self.meaning, says)
        stem = _stem(id)
        by_id, by_name = self._ids.get(str(stem), []), self._names.get(stem.name, [])
        if self.is_pattern:
            place = Path(self.place.replace("{id}", str(stem)).replace("{stem}", stem.name))
            places = {place: by_id if "{id}" in self.place else by_name}
        else:
            places = {Path(self.place) / f"{stem.name}{end}": by_name for end in SUFFIXES}
            # A name in full is told from one that is another's last part, and it is looked for first.
            places = {Path(self.place) / f"{stem}{end}": by_id for end in SUFFIXES} | (
                {} if stem.name == str(stem) else places
            )
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            return None
        others = [other for other in places[found] if other != id]
        return SavedMap(found, self.meaning, shared_with=others[0] if others else "")

    def _written(self, row: ManifestRow) -> Path | None:
        """Return the most exact map that the manifest's row names; None if there is none."""
        names = [name for name in EXACT_FIRST if name in row.outputs] if row.status == "done" else []
        path = Path(self.place) / row.outputs[names[0]] if names else None
        return path if path is not None and path.is_file() else None


def _stem(id: str) -> PurePosixPath:
    path = PurePosixPath(id)
    return path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path
