"""Models of other projects behind the same door: transformers, Marigold through diffusers, any Python function."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datool.depth import Ambiguity, DepthMap, Quantity
from datool.engines.base import PRECISIONS, choose_device, choose_precision
from datool.errors import DatoolError, require
from datool.estimators.predictor import Item, Prediction

Meaning = tuple[Quantity, Ambiguity]
RELATIVE = (Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)
METRES = (Quantity.DEPTH, Ambiguity.NONE)


@dataclass(frozen=True)
class Asked:
    """How a rival is wanted.

    Args:
        device, precision: as of `datool.estimators.predictor.Predictor`, but ``auto`` precision is fp32, in which they
            were published.
        quantity, ambiguity: of what does not say; what a model's type says holds, since one pair serves several in a
            comparison.
    """

    device: str = "auto"
    precision: str = "auto"
    quantity: Quantity | None = None
    ambiguity: Ambiguity | None = None

    def meaning(self, said: Meaning | None, what: str) -> Meaning:
        """Return what the values of ``what`` mean, of which it said ``said``.

        Raises:
            DatoolError: neither it nor the user says.
        """
        if said is not None:
            return said
        quantity, ambiguity = self.quantity, self.ambiguity
        if quantity is None or ambiguity is None:
            raise DatoolError(
                f"{what} does not say what its values mean.",
                "Give --quantity depth or disparity, and --ambiguity none (metres), scale or scale-and-shift.",
            )
        return quantity, ambiguity

    def place(self) -> tuple[torch.device, torch.dtype, str]:
        """Return device, number type and its name."""
        device = choose_device(self.device)
        precision = "fp32" if self.precision == "auto" else choose_precision(self.precision, device)
        if precision == "fp8":
            raise DatoolError("precision fp8 is for datool's own models.", "Use --precision bf16.")
        return device, PRECISIONS[precision], precision


class Rival:
    """An estimator that takes one photo at a time.

    Args:
        identity: what it is, with a hash of what decides its maps.
    """

    def __init__(self, identity: str) -> None:
        self.identity = identity

    def estimate(self, image: np.ndarray) -> DepthMap:
        """Return the map of a photo (H, W, 3) uint8 RGB, of its size."""
        raise NotImplementedError

    def predict(self, images: Sequence[np.ndarray]) -> list[DepthMap]:
        """Return one map an image, of the image's size; as of `datool.estimators.Estimator`."""
        return [self.estimate(image) for image in images]

    def stream(self, items: Iterable[Item], read: Callable[[Item], np.ndarray]) -> Generator[Prediction[Item]]:
        """Yield one prediction an item, in order; what cannot be read or estimated is told in its place."""
        for item in items:
            size = None
            try:
                image = read(item)
                size = image.shape[:2]
                yield Prediction(item, self.estimate(image), None, size, size)
            except DatoolError as error:
                yield Prediction(item, error, None, size, size)


class Transformer(Rival):
    """A depth model of transformers with its own image processor.

    Args:
        place: a repository of the hub, or a folder.
        asked: how.
    Raises:
        DatoolError: transformers or the model is not there, or its values' meaning is not known.
    """

    def __init__(self, place: str, asked: Asked) -> None:
        transformers = require("transformers", "rivals", f"the model hf:{place}")
        transformers.logging.disable_progress_bar()
        device, dtype, precision = asked.place()
        with _found("depth model of transformers", place):
            self._model = transformers.AutoModelForDepthEstimation.from_pretrained(place, dtype=dtype)
            self._processor = transformers.AutoImageProcessor.from_pretrained(place)
        self._model = self._model.to(device).eval()
        config = self._model.config
        says = MEANINGS.get(config.model_type, lambda _: None)
        self._meaning = asked.meaning(says(config), f"hf:{place} ({config.model_type})")
        super().__init__(f"hf:{place} {_hash(self._model)} {precision}")

    @torch.inference_mode()
    def estimate(self, image: np.ndarray) -> DepthMap:
        """Return the map of a photo, as the model's processor brings it to the photo's size."""
        inputs = self._processor(images=image, return_tensors="pt", input_data_format="channels_last")
        pixels = inputs["pixel_values"].to(self._model.device, self._model.dtype)
        outputs = self._model(pixel_values=pixels)
        outputs = type(outputs)(**{name: _float(value) for name, value in outputs.items()})
        sizes: dict[str, Any] = {"target_sizes": [image.shape[:2]]}
        if self._model.config.model_type == "zoedepth":
            sizes["source_sizes"] = [image.shape[:2]]  # it undoes the padding of its processor
        found = self._processor.post_process_depth_estimation(outputs, **sizes)
        return _map(found[0]["predicted_depth"].cpu().numpy(), self._meaning, image, self.identity)


class Marigold(Rival):
    """Marigold, a diffusion model: affine depth in [0, 1], of one fixed seed.

    Args:
        place: a repository of the hub, or a folder, of diffusers' MarigoldDepthPipeline.
        asked: how.
    Raises:
        DatoolError: diffusers or the model is not there.

    Source: Ke et al. 2024, arXiv:2312.02145.
    """

    def __init__(self, place: str, asked: Asked) -> None:
        diffusers = require("diffusers", "rivals", f"the model marigold:{place}")
        device, dtype, precision = asked.place()
        with _found("Marigold", place):
            self._pipe = diffusers.MarigoldDepthPipeline.from_pretrained(place, torch_dtype=dtype)
        self._pipe = self._pipe.to(device)
        self._pipe.set_progress_bar_config(disable=True)
        self._meaning = asked.meaning(_marigold(self._pipe.config), f"marigold:{place}")
        super().__init__(f"marigold:{place} {_hash(self._pipe.unet)} {precision} seed 0")

    def estimate(self, image: np.ndarray) -> DepthMap:
        """Return the map of a photo, with the pipeline's own number of steps and size."""
        from PIL import Image

        generator = torch.Generator().manual_seed(0)
        found = self._pipe(Image.fromarray(image), generator=generator, output_type="np").prediction
        return _map(np.asarray(found), self._meaning, image, self.identity)


class Function(Rival):
    """Any function of Python: photo (H, W, 3) uint8 RGB in, (H, W) numbers or a `DepthMap` out.

    Args:
        place: ``package.module:function``.
        asked: how; quantity and ambiguity are needed unless it returns a `DepthMap`.
    Raises:
        DatoolError: no such module or function.
    """

    def __init__(self, place: str, asked: Asked) -> None:
        module, colon, name = place.partition(":")
        try:
            found = importlib.import_module(module) if colon and module else None
        except ModuleNotFoundError as error:
            raise DatoolError(f"no module '{error.name}' for python:{place}.", "Is it on PYTHONPATH?") from error
        self._function = getattr(found, name, None)
        if not callable(self._function):
            raise DatoolError(f"python:{place} is no function.", "Write python:package.module:function.")
        self._asked = asked
        file = getattr(found, "__file__", None)
        digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12] if file else "no-file"
        super().__init__(f"python:{place} {digest}")

    def estimate(self, image: np.ndarray) -> DepthMap:
        """Return what the function gives."""
        assert callable(self._function), "checked above"
        found = self._function(image)
        if isinstance(found, DepthMap):
            return found
        return _map(np.asarray(found), self._asked.meaning(None, self.identity), image, self.identity)


def is_rival(spec: str) -> bool:
    """Tell whether a model's name is one of another project's: ``hf:``, ``marigold:`` or ``python:``."""
    return spec.partition(":")[0] in RIVALS and ":" in spec


def load_rival(spec: str, asked: Asked) -> Rival:
    """Return the estimator that ``spec`` names.

    Args:
        spec: ``hf:<repository or folder>``, ``marigold:<the same>`` or ``python:package.module:function``.
        asked: how.
    Raises:
        DatoolError: it cannot be had.
    """
    kind, _, place = spec.partition(":")
    return RIVALS[kind](place, asked)


@contextmanager
def _found(what: str, place: str) -> Iterator[None]:
    """Turn what these libraries raise for a place that holds no model into a message."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        first = "".join(str(error).strip().splitlines()[:1])
        raise DatoolError(f"no {what} at '{place}': {first}", "Give a repository of the hub or a folder.") from error


def _map(values: np.ndarray, meaning: Meaning, image: np.ndarray, what: str) -> DepthMap:
    if values.size == image.shape[0] * image.shape[1]:
        values = values.reshape(image.shape[:2])
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise DatoolError(f"{what} gave {values.dtype} {values.shape}, expected (H, W) numbers.")
    if not np.isfinite(values).all():
        raise DatoolError(f"{what} gave infinite or undefined values.", "Use --precision fp32.")
    return DepthMap(np.ascontiguousarray(values, np.float32), *meaning)


def _float(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) else value


def _hash(net: torch.nn.Module) -> str:
    """Return the first 12 digits of the hash of a network's numbers."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def _depth_anything(config: Any) -> Meaning:
    return METRES if config.depth_estimation_type == "metric" else RELATIVE


def _dpt(config: Any) -> Meaning:
    """MiDaS's DPT is relative; those on DINOv2 (facebook/dpt-dinov2-*-nyu and -kitti) were trained on metres."""
    backbone = getattr(config, "backbone_config", None)
    return METRES if getattr(backbone, "model_type", "") == "dinov2" else RELATIVE


def _marigold(config: Mapping[str, Any]) -> Meaning:
    scale, shift = config.get("scale_invariant", True), config.get("shift_invariant", True)
    ambiguity = Ambiguity.SCALE_AND_SHIFT if shift else Ambiguity.SCALE if scale else Ambiguity.NONE
    disparity = config.get("prediction_type") == "disparity"
    return (Quantity.DISPARITY if disparity else Quantity.DEPTH), ambiguity


# What a model type of transformers gives. Source: its documentation, and configs of the published repositories.
MEANINGS: dict[str, Callable[[Any], Meaning | None]] = {
    "depth_anything": _depth_anything,
    "dpt": _dpt,
    "zoedepth": lambda _: METRES,
    "depth_pro": lambda _: METRES,
    "glpn": lambda _: METRES,
}
RIVALS: dict[str, Callable[[str, Asked], Rival]] = {"hf": Transformer, "marigold": Marigold, "python": Function}
