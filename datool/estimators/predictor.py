"""From photos to maps with any engine: batches of equal sizes, reading ahead, memory that ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datool.depth import DepthMap
from datool.engines.base import Engine, TorchEngine
from datool.errors import DatoolError
from datool.estimators.device_input import resize_normalised
from datool.estimators.preprocess import MAX_ASPECT, network_size, to_input
from datool.estimators.transfers import Transfers
from datool.files import read_image
from datool.models.depth_anything import DepthAnything
from datool.models.weights import LoadedModel
from datool.parallel import map_threads, num_io_threads

Item = TypeVar("Item")
Photo = np.ndarray | str | Path
Size = tuple[int, int]

# Network pixels in a batch on a GPU: 32 photos of 518x686. What does not fit is halved until it does.
GPU_BATCH_PIXELS = 32 * 518 * 686
MAX_LANES = 4
# On a GPU one batch is in the network while the maps of the other are fetched and checked.
GPU_LANES = 2
# Photos that may wait for others of their size before a batch that is not full is run.
MAX_WAITING = 64
# How PyTorch, CUDA's libraries, ONNX Runtime and OpenVINO say that memory has ended, or that a batch makes a tensor of
# more elements than a kernel counts to (INT_MAX).
OUT_OF_MEMORY = (
    *("can't allocate memory", "Failed to allocate memory", "bad_alloc", "bad allocation"),
    *("CUDA error: out of memory", "[CUDA]: out of memory", "STATUS_ALLOC_FAILED", "INT_MAX"),
)
# A photo that finds no room on the device waits so long for a batch to leave it, and again.
WAITS_S = (0.1, 0.5, 2.0)


@dataclass(frozen=True)
class Prediction(Generic[Item]):
    """What became of one item of `Predictor.stream`: a map, or the error that stands in its place.

    Args:
        item: as given.
        result: the map, or why there is none.
        image: (H, W, 3) uint8 RGB if it was asked for.
        image_size, network_size: (height, width) of the photo and of the network's input; None where reading failed.
    """

    item: Item
    result: DepthMap | DatoolError
    image: np.ndarray | None = None
    image_size: Size | None = None
    network_size: Size | None = None


@dataclass(frozen=True)
class _Ready(Generic[Item]):
    """A photo that was read and prepared: ``pixels`` is what the network takes, (h, w, 3) float32, once ``sent``."""

    item: Item
    pixels: np.ndarray | Tensor
    image_size: Size
    image: np.ndarray | None
    sent: torch.cuda.Event | None

    @property
    def network_size(self) -> Size:
        return self.pixels.shape[0], self.pixels.shape[1]


class Predictor:
    """Estimates depth with one model on one device.

    Args:
        model: what `datool.models.weights.load` returns, or a bare model, for PyTorch to compute; it is moved to the
            device. Or an engine that is ready, which brings its own device and precision.
        device: ``auto`` (cuda, else mps, else cpu) or a name that torch knows, such as ``cuda:1``.
        precision: ``fp32``, ``bf16``, ``fp16``, ``fp8`` (NVIDIA GPUs since Ada), or ``auto``: bf16 where the device
            computes it itself, else fp32.
        size_px: short side of the network's input; None takes the model's own.
        batch_size: photos a forward, or ``auto``: many on a GPU, as memory allows; 1 elsewhere, since a larger batch
            gains little there and lets a photo's neighbours change the last bits of its map.
        max_aspect: photos more elongated than this are refused.
        at_network_size: return maps of the network's size instead of the photo's.
    Raises:
        DatoolError: unknown or absent device, unknown precision, or a size or batch that cannot be.
    """

    def __init__(
        self,
        model: LoadedModel | DepthAnything | Engine,
        device: str = "auto",
        precision: str = "auto",
        size_px: int | None = None,
        batch_size: int | str = "auto",
        max_aspect: float = MAX_ASPECT,
        at_network_size: bool = False,
    ) -> None:
        name, net = (model.name, model.model) if isinstance(model, LoadedModel) else ("", model)
        self.engine: Engine = TorchEngine(net, device, precision, name) if isinstance(net, DepthAnything) else net
        self._transfers = Transfers(self.engine.device)
        # A GPU's lanes stay, since cuDNN keeps by thread what it planned; each starts when it is first used.
        self._lanes = ThreadPoolExecutor(GPU_LANES, "datool-lane")
        self.card = self.engine.card
        self.size_px = self.card.size_px if size_px is None else size_px
        self.max_aspect = max_aspect
        self.at_network_size = at_network_size
        network_size(self.size_px, self.size_px, self.size_px, self.card.patch_px)  # refuses a bad size early
        self._batch_size = None if batch_size == "auto" else _positive(batch_size, "--batch-size")
        self._fits: dict[Size, int] = {}

    @property
    def device(self) -> torch.device:
        """Where the maps come to lie."""
        return self.engine.device

    @property
    def precision(self) -> str:
        """What the model computes in."""
        return self.engine.precision

    @overload
    def predict(self, images: Photo) -> DepthMap: ...  # type: ignore[overload-overlap]  # a path is no sequence here

    @overload
    def predict(self, images: Sequence[Photo]) -> list[DepthMap]: ...

    def predict(self, images: Photo | Sequence[Photo]) -> DepthMap | list[DepthMap]:
        """Return the map of a photo, or of each of several of any sizes.

        Args:
            images: (H, W, 3) uint8 RGB or a path; or a list of them.
        Returns:
            Maps of the photos' sizes, with the model's quantity and ambiguity.
        Raises:
            DatoolError: a photo cannot be read, is too elongated, or does not fit in memory.
        """
        if isinstance(images, (np.ndarray, str, Path)):
            return self.predict([images])[0]
        maps: dict[int, DepthMap] = {}
        lanes = 1 if len(images) == 1 else None
        for prediction in self.stream(range(len(images)), lambda index: _pixels(images[index]), lanes=lanes):
            if isinstance(prediction.result, DatoolError):
                raise prediction.result
            maps[prediction.item] = prediction.result
        return [maps[index] for index in range(len(images))]

    def stream(
        self,
        items: Iterable[Item],
        read: Callable[[Item], np.ndarray | Tensor],
        keep_images: bool = False,
        lanes: int | None = None,
    ) -> Generator[Prediction[Item]]:
        """Yield one prediction an item, reading and preparing the next ones in threads while the network runs.

        Photos that come to the same network size share a batch; nothing is squashed or padded. So the order is not
        quite that of the items, but it is the same in every run. Memory is bounded, however many items there are.

        Args:
            items: what to read, in order; taken only as fast as needed.
            read: item -> (H, W, 3) uint8 RGB, called in threads; a DatoolError becomes the item's result. An array, or
                a tensor on the device or the CPU.
            keep_images: hand each photo out beside its map.
            lanes: batches in the network at once, which share the CPU cores; None is 2 on CUDA, up to 4 on a CPU.
        """

        def prepare(item: Item, waits_s: Sequence[float] = WAITS_S) -> _Ready[Item] | Prediction[Item]:
            try:
                with self._transfers.inward():
                    image = read(item)
                    kept = np.asarray(image) if keep_images else None
                    pixels, size = self.prepare(image), (image.shape[0], image.shape[1])
                    return _Ready(item, pixels, size, kept, self._transfers.sent())
            except DatoolError as error:
                return Prediction(item, error)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                if not waits_s:
                    return Prediction(item, self._no_room(error))
            time.sleep(waits_s[0])
            return prepare(item, waits_s[1:])

        on_gpu = self.device.type == "cuda"
        num_threads = torch.get_num_threads()
        # Several batches on a thread each keep CPU cores busier than one batch on all of them, whose threads wait for
        # the slowest at the end of every layer: badly so where reading, writing or another program takes a core.
        lanes = lanes or {"cpu": min(num_threads, MAX_LANES), "cuda": GPU_LANES}.get(self.device.type, 1)
        photos = map_threads(prepare, items, num_io_threads(), ahead=128 if on_gpu else 2 * lanes, name="datool-read")
        predictions = map_threads(
            self._predict_batch,
            self._batches(photos),
            lanes,
            ahead=lanes,
            name="datool-lane",
            start=partial(torch.set_num_threads, max(1, num_threads // lanes)),
            pool=self._lanes if on_gpu else None,
        )
        try:
            with closing(photos), closing(predictions):
                for batch in predictions:
                    yield from batch
        finally:
            torch.set_num_threads(num_threads)  # what a lane sets reaches beyond its thread

    def _batches(
        self, photos: Iterable[_Ready[Item] | Prediction[Item]]
    ) -> Generator[list[_Ready[Item]] | Prediction[Item]]:
        """Yield photos of one network size together, and what failed as it comes."""
        waiting: dict[Size, list[_Ready[Item]]] = {}
        for photo in photos:
            if isinstance(photo, Prediction):
                yield photo
                continue
            size = photo.network_size
            waiting.setdefault(size, []).append(photo)
            if len(waiting[size]) >= self.batch_size(size):
                yield waiting.pop(size)
            elif sum(map(len, waiting.values())) >= MAX_WAITING:
                yield waiting.pop(next(iter(waiting)))
        yield from waiting.values()

    def prepare(self, image: np.ndarray | Tensor) -> np.ndarray | Tensor:
        """Return the network's input for a photo: (h, w, 3) float32, normalised, sides multiples of the patch.

        On CUDA it is made there, and stays there.

        Args:
            image: (H, W, 3) uint8 RGB.
        Raises:
            DatoolError: not such an array, or too elongated.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype not in (np.uint8, torch.uint8) or 0 in image.shape:
            shape = tuple(image.shape)
            raise DatoolError(f"an image is a non-empty (H, W, 3) uint8 RGB array, got {image.dtype} {shape}.")
        height, width = image.shape[:2]
        size = network_size(height, width, self.size_px, self.card.patch_px, self.max_aspect)
        if self.device.type == "cuda":
            if not isinstance(image, Tensor):
                image = torch.from_numpy(image).pin_memory().to(self.device, non_blocking=True)
            return resize_normalised(image, size, self.card.mean, self.card.std)
        return to_input(np.asarray(image), size, self.card.mean, self.card.std)

    def batch_size(self, size: Size) -> int:
        """Return how many photos of this network size go through at once."""
        if size in self._fits:
            return self._fits[size]
        if self._batch_size is not None:
            return self._batch_size
        return max(1, GPU_BATCH_PIXELS // (size[0] * size[1])) if self.device.type == "cuda" else 1

    def _predict_batch(self, batch: Sequence[_Ready[Item]] | Prediction[Item]) -> list[Prediction[Item]]:
        """Return the predictions of photos of one network size; halve the batch while it does not fit in memory."""
        if isinstance(batch, Prediction):  # it could not be read
            return [batch]
        predictions: list[Prediction[Item]] = []
        size = batch[0].network_size
        while rest := batch[len(predictions) :]:
            part = rest[: self.batch_size(size)]
            self._transfers.receive([ready.pixels for ready in part], [ready.sent for ready in part])
            try:
                maps = self._forward([ready.pixels for ready in part], [ready.image_size for ready in part])
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                self._fits[size] = max(1, len(part) // 2)
                if len(part) > 1:
                    continue
                maps = [self._too_large(size)]
            for ready, result in zip(part, maps, strict=True):
                predictions.append(Prediction(ready.item, result, ready.image, ready.image_size, size))
        return predictions

    @torch.inference_mode()
    def _forward(self, batch: Sequence[np.ndarray | Tensor], sizes: Sequence[Size]) -> list[DepthMap | DatoolError]:
        values_bhw = self.engine.run(torch.stack([torch.as_tensor(pixels) for pixels in batch]))
        finite = values_bhw.isfinite().flatten(1).all(1)
        resized = [self._resize(values, size) for values, size in zip(values_bhw, sizes, strict=True)]
        *maps, sound = self._transfers.fetch([*resized, finite])
        return [self._map(values) if good else self._no_numbers() for values, good in zip(maps, sound, strict=True)]

    def _resize(self, values_hw: Tensor, size: Size) -> Tensor:
        if self.at_network_size:
            return values_hw
        resized = F.interpolate(values_hw[None, None], size, mode="bilinear", align_corners=self.card.align_corners)
        return resized[0, 0]

    def _map(self, values: np.ndarray) -> DepthMap:
        return DepthMap(values, self.card.quantity, self.card.ambiguity)

    def _no_numbers(self) -> DatoolError:
        return DatoolError(f"the model gave infinite or undefined values in {self.precision}.", "Use --precision fp32.")

    def _no_room(self, error: RuntimeError) -> DatoolError:
        failure = DatoolError(f"not enough memory on {self.device} to prepare it.", "Lower --batch-size.")
        failure.__cause__ = MemoryError(str(error))  # the machine's fault, not the photo's
        return failure

    def _too_large(self, size: Size) -> DatoolError:
        return DatoolError(
            f"not enough memory on {self.device} for a network input of {size[1]}x{size[0]}.",
            "Lower --size, or use another --device.",
        )


def _pixels(photo: Photo) -> np.ndarray:
    return photo if isinstance(photo, np.ndarray) else read_image(photo)


def _positive(number: int | str, option: str) -> int:
    if not isinstance(number, int) or number < 1:
        raise DatoolError(f"{option} is {number!r}, expected 'auto' or a number above 0.")
    return number


def _out_of_memory(error: RuntimeError) -> bool:
    # On a CPU a bare RuntimeError is raised that only its text tells apart.
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)
