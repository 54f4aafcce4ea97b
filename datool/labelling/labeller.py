"""What a teacher writes of the photos of one unit: a function of them, the model and the settings alone.

Batches are made within a unit, in its order, so that no photo's neighbours depend on who labels what. On a CPU each
batch is computed by one thread, several at a time, since the number of threads changes the last bits.
"""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from datool import __version__
from datool.data.shards import Failed, Members, encode_label
from datool.depth import Ambiguity, DepthMap, Quantity, same_aspect
from datool.engines.exported import Exported
from datool.errors import DatoolError, MissingLibraryError, lookup
from datool.estimators.device_input import jpeg_decoder
from datool.estimators.load import choose, compile_engine
from datool.estimators.predictor import GPU_BATCH_PIXELS, Prediction, Predictor
from datool.estimators.preprocess import MAX_ASPECT
from datool.files import MAP_FORMATS
from datool.labelling.shard_plan import Photo
from datool.models.weights import LoadedModel
from datool.parallel import map_threads, num_io_threads

LABEL_SIZES = ("network", "native")
CONFIDENCES = ("none", "image", "map")
DECODERS = ("auto", "opencv", "torchvision")
# Labels that wait for one before them, which waits for others of its size to fill a batch.
MAX_ENCODED = 512
# A photo's own fault; whatever else the system says is the disk's, the mount's or the machine's.
OWN_ERRORS = (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
LIBRARIES = ("torch", "timm", "numpy", "opencv-python", "pillow", "openexr")


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """How labels are made; all of it decides their bytes.

    Args:
        size_px: short side of the network's input; None takes the model's.
        precision: as for `Predictor`.
        batch_size: photos a forward; ``auto``: 1 on a CPU, on a GPU as many 4:3 photos as `Predictor` takes.
        compile: as `datool.engines.base.TorchEngine.compile`.
        flip: the label is the mean of the photo's and its mirror image's.
        confidence: ``image``: a number a photo, how much the two differ; ``map``: a picture of it as well.
        label_size: ``network``, or ``native``, the photo's.
        depth: a name of `datool.files.MAP_FORMATS` that can be read back.
        keep_images: whether labels hold their photos' bytes.
        max_aspect: more elongated photos fail.
        decoder: of JPEGs: ``opencv``, on the CPU; ``torchvision``, on the device, which on CUDA is nvJPEG; ``auto``:
            torchvision on CUDA. The two differ by a level or so. Other pictures are read as ever.
    """

    size_px: int | None = None
    precision: str = "auto"
    batch_size: int | str = "auto"
    compile: bool = False
    flip: bool = False
    confidence: str = "none"
    label_size: str = "network"
    depth: str = "exr-half"
    keep_images: bool = False
    max_aspect: float = MAX_ASPECT
    decoder: str = "auto"


@dataclass(eq=False)
class _Item:
    """A photo on its way through the network, as it is or mirrored."""

    row: int
    photo: Photo
    mirrored: bool


class _Exact(Predictor):
    """Stops where a photo does not fit in memory: what else uses the memory is no property of the photo."""

    def _too_large(self, size: tuple[int, int]) -> DatoolError:
        raise super()._too_large(size)


class Labeller:
    """One model on one device, and how it labels.

    Args:
        model: the teacher: weights, or a file of `datool export`.
        device: as for `Predictor`.
        options: how.
        lanes: batches in the network at once on a CPU; of no influence on the labels. None = one a CPU core.
    Raises:
        DatoolError: no such device, precision, format or size; or a library that the format needs is not installed.
    """

    def __init__(
        self,
        model: LoadedModel | Exported,
        device: str = "auto",
        options: LabelOptions | None = None,
        lanes: int | None = None,
    ) -> None:
        self.options = options = options or LabelOptions()
        lookup(dict.fromkeys(LABEL_SIZES), options.label_size, "label size")
        lookup(dict.fromkeys(CONFIDENCES), options.confidence, "confidence")
        lookup(MAP_FORMATS, options.depth, "format")
        lookup(dict.fromkeys(DECODERS), options.decoder, "decoder")
        probe = DepthMap(np.ones((1, 1), np.float32), Quantity.DEPTH, Ambiguity.NONE)
        encode_label("", probe, options.depth, {}, {})  # fails now, not for each photo, where a library is missing
        self.model = model

        engine, _ = choose(model, None, device, options.precision)
        chosen = engine.device
        self.batch_size = options.batch_size
        if not isinstance(self.batch_size, int):
            side = options.size_px or engine.card.size_px
            self.batch_size = max(1, GPU_BATCH_PIXELS // (side * side * 4 // 3)) if chosen.type == "cuda" else 1
        self.predictor = _Exact(
            engine,
            size_px=options.size_px,
            batch_size=self.batch_size,
            max_aspect=options.max_aspect,
            at_network_size=options.label_size == "network",
        )
        if options.compile:
            compile_engine(engine)
        on_device = options.decoder == "torchvision" or (options.decoder == "auto" and chosen.type == "cuda")
        self._decode_jpeg = jpeg_decoder(self.predictor.device) if on_device else None
        self.lanes = (lanes or torch.get_num_threads()) if chosen.type == "cpu" else None

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the bytes of labels, but the photos; as JSON has it."""
        options = self.options
        return {
            "model": self.model.name,
            "model_sha256": self.model.sha256,
            "size_px": self.predictor.size_px,
            "precision": self.predictor.precision,
            "batch_size": self.batch_size,
            "flip": options.flip,
            "confidence": options.confidence,
            "label_size": options.label_size,
            "depth": options.depth,
            "keep_images": options.keep_images,
            "max_aspect": options.max_aspect,
            "decoder": "torchvision, opencv, pillow" if self._decode_jpeg else "opencv, pillow",
            "hardware": _hardware(self.predictor.device),
            "threads": 1 if self.lanes else "any",
            "datool": __version__,
            **({"compile": True} if options.compile else {}),
            **({} if self.predictor.engine.runtime == "torch" else {"runtime": self.predictor.engine.runtime}),
            **{name: _version(name) for name in (*LIBRARIES, *(["torchvision"] if self._decode_jpeg else []))},
        }

    def entries(self, photos: Iterable[Photo], check: Callable[[], None] = lambda: None) -> Iterator[Members | Failed]:
        """Yield what a shard holds of each photo, in order: a label, or why there is none.

        Args:
            photos: of one unit.
            check: called for each; raises to stop.
        Raises:
            DatoolError: a photo cannot be reached (mount, network, disk) rather than read; memory ends, with the
            largest batch that fits; or a library is missing.
        """
        results = map_threads(
            self._entry,
            self._checked(photos, check),
            num_io_threads(),
            ahead=MAX_ENCODED,
            eager=True,
            name="datool-encode",
        )
        early: dict[int, Members | Failed] = {}
        row = 0
        with closing(results):
            for number, entry in results:
                early[number] = entry
                while row in early:
                    yield early.pop(row)
                    row += 1

    def _checked(
        self, photos: Iterable[Photo], check: Callable[[], None]
    ) -> Generator[tuple[Photo, int, list[Prediction[_Item]]]]:
        """Yield what `_results` does; raise where a failure is not the photo's."""
        gone: list[Photo] = []
        seen: Photo | None = None
        for photo, number, results in self._results(photos):
            check()
            error = _failure(results)
            if error is None:
                seen = photo
            elif isinstance(error.__cause__, (FileNotFoundError, PermissionError)):
                gone.append(photo)
            elif not _is_the_photos(error):
                raise error
            yield photo, number, results
        if gone:
            _check_gone(gone, seen)

    def _results(self, photos: Iterable[Photo]) -> Iterator[tuple[Photo, int, list[Prediction[_Item]]]]:
        """Yield each photo with its number and its predictions, itself first, as they come."""
        sides = (False, True) if self.options.flip or self.options.confidence != "none" else (False,)
        items = (_Item(row, photo, mirrored) for row, photo in enumerate(photos) for mirrored in sides)
        halves: dict[int, list[Prediction[_Item]]] = {}
        if self.lanes:
            torch.set_num_threads(self.lanes)  # the lanes share them: one each
        with closing(self.predictor.stream(items, self._read, lanes=self.lanes)) as predictions:
            for prediction in predictions:
                self._check_memory(prediction)
                item = prediction.item
                found = halves.setdefault(item.row, [])
                found.append(prediction)
                if len(found) == len(sides):
                    found.sort(key=lambda each: each.item.mirrored)
                    yield item.photo, item.row, halves.pop(item.row)

    def _read(self, item: _Item) -> np.ndarray | Tensor:
        image = item.photo.read(self.options.keep_images and not item.mirrored, self._decode_jpeg)
        if not item.mirrored:
            return image
        return image.flip(1) if isinstance(image, Tensor) else np.ascontiguousarray(image[:, ::-1])

    def _check_memory(self, prediction: Prediction[_Item]) -> None:
        """Stop where the predictor made batches smaller: other batches are other labels."""
        size = prediction.network_size
        if size is None or (fits := self.predictor.batch_size(size)) == self.batch_size:
            return
        raise DatoolError(
            f"not enough memory on {self.predictor.device} for batches of {self.batch_size} at {size[1]}x{size[0]}.",
            f"{fits} fit: --batch-size {fits}, in another --out if labels were written.",
        )

    def _entry(self, found: tuple[Photo, int, list[Prediction[_Item]]]) -> tuple[int, Members | Failed]:
        photo, number, results = found
        error = _failure(results)
        return number, self._encode(photo, results) if error is None else Failed(photo.id, str(error))

    def _encode(self, photo: Photo, results: list[Prediction[_Item]]) -> Members:
        options, first = self.options, results[0]
        label = first.result
        assert isinstance(label, DepthMap) and first.image_size and first.network_size
        meta: dict[str, Any] = {"image_size": first.image_size, "network_size": first.network_size}
        extra: dict[str, bytes] = {}
        if len(results) == 2:
            mirrored = results[1].result
            assert isinstance(mirrored, DepthMap)
            other = mirrored.values[:, ::-1]
            differ = disagreement(label.values, other)
            if options.flip:
                label = DepthMap((label.values + other) / 2, label.quantity, label.ambiguity)
            if options.confidence != "none":
                meta["disagreement"] = round(float(differ.mean()), 6)
            if options.confidence == "map":
                grey = np.rint(np.minimum(differ, 1) * 255).astype(np.uint8)
                extra["disagreement.png"] = cv2.imencode(".png", grey)[1].tobytes()
        if not same_aspect(label.shape, first.image_size):
            label = _with_aspect(label, first.image_size)
        members = encode_label(photo.id, label, options.depth, meta, photo.kept or photo.place)
        return {**members, **extra}


def disagreement(values: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return how much two predictions of one photo differ, in units of how much the map varies: (H, W) float32.

    |a - b| over the mean absolute deviation of (a + b) / 2 from its median, which no scale and shift of the teacher
    changes; 0 where the map does not vary.

    Args:
        values, other: (H, W) of the photo, and of its mirror image mirrored back.
    """
    mean = (values + other) / 2
    varies = np.abs(mean - np.median(mean)).mean()
    return np.abs(values - other) / varies if varies > 0 else np.zeros_like(values)


def _with_aspect(label: DepthMap, size: tuple[int, int]) -> DepthMap:
    """Return the map with the photo's aspect, which rounding to patches missed by too much: at small sizes."""
    scale = min(label.shape) / min(size)
    height, width = (max(1, round(side * scale)) for side in size)
    values = cv2.resize(label.values, (width, height), interpolation=cv2.INTER_LINEAR)
    return DepthMap(values, label.quantity, label.ambiguity)


def _is_the_photos(error: DatoolError) -> bool:
    """Tell whether an error is of the photo and will be there next time; else no row may say that it failed."""
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno is not None:
        return cause.errno in OWN_ERRORS
    return not isinstance(error, MissingLibraryError) and not isinstance(cause, MemoryError)


def _check_gone(gone: list[Photo], seen: Photo | None) -> None:
    """Refuse to write down as missing or closed what only cannot be reached now.

    Another photo of the unit must be within reach still, and so must the folders of those that are not.

    Raises:
        DatoolError: none is, a folder is not there, or one of the photos is back.
    """
    back = next((photo for photo in gone if _is_readable(photo)), None)
    lost = next((photo for photo in gone if photo.path and not photo.path.parent.is_dir()), None)
    if back is None and lost is None and seen is not None and _is_readable(seen):
        return
    first = back or lost or gone[0]
    why = "now can be" if back else "its folder is not there" if lost else "nor can any other of its shard"
    raise DatoolError(
        f"{first.path} could not be read, and {why}.",
        "Is the folder mounted and open to you? Then run the same command; if it is gone for good, give another --out.",
    )


def _is_readable(photo: Photo) -> bool:
    return photo.path is not None and os.access(photo.path, os.R_OK)


def _failure(results: Iterable[Prediction[_Item]]) -> DatoolError | None:
    return next((result.result for result in results if isinstance(result.result, DatoolError)), None)


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"
