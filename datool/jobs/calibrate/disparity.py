"""Disparity of unknown scale and shift for photos, and whose it is: by a model as it goes, or of maps saved earlier."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datool.data.manifest import MANIFEST, read_manifest
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.estimators.saved import SavedMaps
from datool.files import ImageFile, read_meta
from datool.files.stored_map import MapMeaning

if TYPE_CHECKING:
    from datool.estimators.load import OpenedModel

RELATIVE = (Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)
Read = Callable[[ImageFile], np.ndarray]


@dataclass(frozen=True)
class Origin:
    """Whose maps they are.

    Args:
        model, model_sha256: the model; empty where the maps do not say.
        size_px: short side of its input; None where they do not say.
    """

    model: str
    model_sha256: str
    size_px: int | None


@dataclass(frozen=True, eq=False)
class Found:
    """What became of one photo.

    Args:
        photo: as given.
        result: its map, or why there is none.
        size: (height, width) of the photo, if there is a map.
    """

    photo: ImageFile
    result: DepthMap | DatoolError
    size: tuple[int, int] = (0, 0)


class ModelDisparity:
    """Disparity by a model.

    Args:
        opened: the model, ready.
    Raises:
        DatoolError: it predicts something else.
    """

    def __init__(self, opened: OpenedModel) -> None:
        self.predictor, model = opened.predictor, opened.model
        _check(f"model {model.name} predicts", self.predictor.card.quantity, self.predictor.card.ambiguity)
        self.origin = Origin(model.name, model.sha256, self.predictor.size_px)

    def predict(self, photos: Sequence[ImageFile], read: Read) -> Iterator[Found]:
        """Yield what becomes of each photo, in the predictor's order.

        Args:
            photos: which.
            read: photo -> (H, W, 3) uint8 RGB; called in threads.
        """
        with closing(self.predictor.stream(photos, read)) as predictions:
            for prediction in predictions:
                yield Found(prediction.item, prediction.result, prediction.image_size or (0, 0))


class SavedDisparity:
    """Disparity that was saved by datool, which says whose it is, or by others.

    Args:
        place: a folder or a pattern, as for `SavedMaps`.
    Raises:
        DatoolError: no such folder, or its manifest is broken.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.maps = SavedMaps(place, MapMeaning(quantity=RELATIVE[0], ambiguity=RELATIVE[1], said_by="calibrate"))
        self.rows = read_manifest(Path(place)) if (Path(place) / MANIFEST).is_file() else {}
        self._origins: dict[Origin, Path] = {}

    @property
    def origin(self) -> Origin:
        """Whose the maps are that were read so far.

        Raises:
            DatoolError: of several models, or sizes of their input.
        """
        if len(self._origins) > 1:
            (one, first), (other, second) = list(self._origins.items())[:2]
            raise DatoolError(
                f"{self.place} holds maps of several models: {first} is of {one.model or 'an unknown one'} at "
                f"{one.size_px}, {second} of {other.model or 'an unknown one'} at {other.size_px}.",
                "Give those of one model at one size.",
            )
        return next(iter(self._origins))

    def predict(self, photos: Sequence[ImageFile], read: Read) -> Iterator[Found]:
        """Yield what becomes of each photo, in order; arguments as for `ModelDisparity.predict`."""
        maps = self.maps.among(photo.relative.as_posix() for photo in photos)
        for photo in photos:
            try:
                image, map = read(photo), self._map(photo, maps)
            except DatoolError as error:
                yield Found(photo, error)
            else:
                yield Found(photo, map, (image.shape[0], image.shape[1]))

    def _map(self, photo: ImageFile, maps: SavedMaps) -> DepthMap:
        found = maps.find(photo.relative.as_posix(), photo.path)
        if found is None:
            raise DatoolError(f"{self.place} has no map of {photo.path}.", "Predict it too.")
        map = found.read()
        _check(f"map {found.path} holds", map.quantity, map.ambiguity)
        row = self.rows.get(os.path.abspath(photo.path))
        if row is not None:
            origin = Origin(row.model, row.model_sha256, row.size_px)
        else:
            fields = read_meta(found.path)
            size_px = fields.get("size_px", "")
            origin = Origin(
                fields.get("model", ""), fields.get("model_sha256", ""), int(size_px) if size_px.isdecimal() else None
            )
        self._origins.setdefault(origin, found.path)
        return map


def _check(what: str, quantity: Quantity, ambiguity: Ambiguity) -> None:
    if (quantity, ambiguity) != RELATIVE:
        raise DatoolError(
            f"{what} {quantity.value} with ambiguity '{ambiguity.value}', expected disparity up to scale and shift.",
            "What is metric needs no calibration." if ambiguity is Ambiguity.NONE else "Take a relative model.",
        )
