"""Maps that anyone saved earlier, in place of a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from datool.data.manifest import MANIFEST, ManifestRow, read_manifest
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.files import IMAGE_SUFFIXES
from datool.files.images import explained
from datool.files.maps import READERS

# Looked for in this order, the most exact first; a 16-bit PNG loses most.
SUFFIXES = (".exr", ".npz", ".npy", ".tiff", ".tif", ".pfm", ".half.exr", ".png")
OUTPUTS = ("exr", "npz", "npy", "tiff", "pfm", "png16", "exr-half")


class WrongValuesError(DatoolError):
    """A map whose numbers its quantity does not allow: depth not above 0, negative metric disparity."""


@dataclass(frozen=True)
class SavedMap:
    """Where the map of one image is, and what it means.

    Args:
        path: the file.
        quantity, ambiguity: of its values; None = the file says.
        divisor: value = stored / divisor, for 16-bit PNG of other programs; pixel 0 of a depth is then unknown.
    """

    path: Path
    quantity: Quantity | None = None
    ambiguity: Ambiguity | None = None
    divisor: float | None = None

    def read(self) -> DepthMap:
        """Return the map; (1, H, W) and (H, W, 1) count as (H, W).

        Raises:
            WrongValuesError: a value that the quantity does not allow.
            DatoolError: missing, broken, a picture, or its meaning unknown or contradicted.
        """
        values, fields = self._stored()
        meaning = {}
        for name, given in (("quantity", self.quantity), ("ambiguity", self.ambiguity)):
            found = fields.get(name)
            if found is None and given is None:
                raise DatoolError(f"map {self.path} does not say its {name}.", f"Give --{name}.")
            if found is not None and given is not None and found != given.value:
                raise DatoolError(f"map {self.path}: its {name} is '{found}', given was '{given.value}'.")
            meaning[name] = given.value if given is not None else found
        if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
            values = values[0] if values.shape[0] == 1 else values[:, :, 0]
        if values.ndim != 2 or values.dtype.kind not in "fiu":
            raise DatoolError(f"map {self.path} is {values.dtype} {values.shape}, expected (H, W) numbers.")
        quantity = Quantity(meaning["quantity"])
        values = values.astype(np.float32)
        if self.divisor is not None:
            values = values / np.float32(self.divisor)
            if quantity is Quantity.DEPTH:
                values[values == 0] = np.nan
        try:
            return DepthMap(np.ascontiguousarray(values), quantity, Ambiguity(meaning["ambiguity"]))
        except DatoolError as error:
            raise WrongValuesError(f"map {self.path}: {error.problem}", error.hint) from error

    def _stored(self) -> tuple[np.ndarray, Mapping[str, str]]:
        suffix = self.path.suffix.lower()
        if suffix not in READERS:
            raise DatoolError(f"map {self.path} is '{self.path.suffix}', expected {', '.join(READERS)}.")
        with explained(f"map {self.path}"):
            if suffix == ".png" and self.divisor is not None:
                import cv2

                pixels = cv2.imdecode(np.frombuffer(self.path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
                if pixels is None or pixels.dtype != np.uint16:
                    got = "bytes that do not decode" if pixels is None else f"{pixels.dtype} {pixels.shape}"
                    raise ValueError(f"{got}, expected 16-bit grey")
                return pixels, {}
            return READERS[suffix](self.path)


class SavedMaps:
    """A folder of maps, one an image.

    A map is found by, in this order: the folder's ``manifest.jsonl`` (of ``datool predict``), by the image's path; the
    pattern, if ``place`` has ``{id}`` (the sample's id without its suffix) or ``{stem}`` (its last part); a file named
    as the id or as its last part, with any suffix of ``SUFFIXES``.

    Args:
        place: a folder, or a pattern such as ``maps/{id}_depth.npy``.
        quantity, ambiguity: of files that do not say; None = they must.
        divisor: of 16-bit PNG that are not datool's.
    Raises:
        DatoolError: no such folder, or its manifest is broken.
    """

    def __init__(
        self,
        place: str | Path,
        quantity: Quantity | None = None,
        ambiguity: Ambiguity | None = None,
        divisor: float | None = None,
    ) -> None:
        self.place = str(place)
        self.quantity, self.ambiguity, self.divisor = quantity, ambiguity, divisor
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

    def find(self, id: str, image: Path) -> SavedMap | None:
        """Return where the map of a sample is, or None.

        Args:
            id: of the sample, a relative path with forward slashes.
            image: its file.
        """
        row = self._rows.get(os.path.abspath(image))
        if row is not None:
            path = self._written(row)
            return None if path is None else SavedMap(path, Quantity(row.quantity), Ambiguity(row.ambiguity))
        whole = PurePosixPath(id)
        stem = whole.with_suffix("") if whole.suffix.lower() in IMAGE_SUFFIXES else whole
        if self.is_pattern:
            places = [Path(self.place.replace("{id}", str(stem)).replace("{stem}", stem.name))]
        else:
            places = [Path(self.place) / f"{base}{end}" for base in (stem, stem.name) for end in SUFFIXES]
        found = next((place for place in places if place.is_file()), None)
        return None if found is None else SavedMap(found, self.quantity, self.ambiguity, self.divisor)

    def _written(self, row: ManifestRow) -> Path | None:
        """Return the most exact map that the manifest's row names; None if there is none."""
        names = [name for name in OUTPUTS if name in row.outputs] if row.status == "done" else []
        path = Path(self.place) / row.outputs[names[0]] if names else None
        return path if path is not None and path.is_file() else None
