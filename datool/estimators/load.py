"""A model opened by its name or file, and the runtime that computes it: as asked for, of the file, or the fastest."""

from __future__ import annotations

import hashlib
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from datool import __version__
from datool.engines import export, exported
from datool.engines.base import Engine, TorchEngine, choose_device, choose_precision
from datool.engines.export import FORMATS, staged
from datool.engines.exported import RUNTIMES, Exported
from datool.errors import DatoolError, lookup
from datool.estimators.predictor import Predictor
from datool.estimators.preprocess import MAX_ASPECT
from datool.files.cache import cache_folder
from datool.models import depth_anything, dpt, encoders
from datool.models.specs import find_exported
from datool.models.weights import BUNDLED, LoadedModel, choose_auto
from datool.models.weights import load as load_weights

AUTO = "auto"
TOLERANCE = 1e-2
# Photos that `auto` measures each way on.
PHOTOS = 2


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and how it is computed: what every command that predicts takes.

    Args:
        model: a name, file or folder as for `datool.models.weights.load`, or a file of `datool export` or a folder with
            one; ``auto`` is Depth Anything V2 Small if it is cached or can be fetched, else the bundled ``tiny``.
        device, precision, size_px, batch_size, max_aspect: as for `Predictor`.
        runtime, tolerance: as for `choose`.
        compile: as `datool.engines.base.TorchEngine.compile`.
        fallback: whether ``auto`` may take the bundled model.
    """

    model: str | Path = AUTO
    device: str = "auto"
    precision: str = "auto"
    size_px: int | None = None
    batch_size: int | str = "auto"
    max_aspect: float = MAX_ASPECT
    runtime: str | None = None
    tolerance: float = TOLERANCE
    compile: bool = False
    fallback: bool = True


@dataclass(frozen=True)
class OpenedModel:
    """A model that is ready to predict, and what it is.

    Args:
        predictor: ready. model: its name, source, hash and licence.
    """

    predictor: Predictor
    model: LoadedModel | Exported

    def spec(self, given: str) -> str:
        """Return what opens the same model again, from any working folder.

        Args:
            given: as it was asked for.
        """
        source = self.model.source
        if find_exported(source) is not None:
            return os.path.abspath(source)
        if os.path.exists(source):
            return f"{self.model.name}={os.path.abspath(source)}"
        return self.model.name if given == AUTO else given


def open_predictor(
    options: ModelOptions,
    progress: Callable[[str], None] = lambda _: None,
    recorded: str | None = None,
    photos: Callable[[], Sequence[np.ndarray]] = lambda: (),
) -> OpenedModel:
    """Return the predictor that options ask for: the one way in which a model is opened.

    Args:
        options: which, and how.
        progress: gets lines of text: what is fetched, why ``auto`` fell back, which runtime was chosen and why.
        recorded: the model that an output folder was begun with, which ``auto`` then means.
        photos: as for `choose`.
    Raises:
        DatoolError: the model cannot be had, or an option does not fit it.
    """
    model = _find_model(options, recorded, progress)
    engine, reason = choose(
        model, options.runtime, options.device, options.precision, options.tolerance, photos, options.size_px
    )
    if reason:
        progress(reason)
    if options.compile:
        compile_engine(engine, replay=True)
    predictor = Predictor(engine, size_px=options.size_px, batch_size=options.batch_size, max_aspect=options.max_aspect)
    return OpenedModel(predictor, model)


def _find_model(options: ModelOptions, recorded: str | None, progress: Callable[[str], None]) -> LoadedModel | Exported:
    given = recorded if options.model == AUTO else options.model
    if given is not None:
        return open_model(given, progress)
    model, reason = choose_auto(None, options.fallback, progress=progress)
    if reason:
        progress(reason)
    return model


def compile_engine(engine: Engine, replay: bool = False) -> None:
    """Compile a network, as `datool.engines.base.TorchEngine.compile`.

    Raises:
        DatoolError: another runtime computes it, or it cannot be compiled.
    """
    if not isinstance(engine, TorchEngine):
        raise DatoolError(f"--compile is for PyTorch, not for {engine.runtime}.", "Drop it, or --runtime.")
    engine.compile(replay)


def load(
    model: str | Path = AUTO,
    device: str = "auto",
    precision: str = "auto",
    size_px: int | None = None,
    batch_size: int | str = "auto",
) -> Predictor:
    """Return a predictor: ``datool.load("tiny").predict("photo.jpg")``; what must be told comes as a warning.

    Args:
        model, device, precision, size_px, batch_size: as for `ModelOptions`.
    Raises:
        DatoolError: the model cannot be had, or an option does not fit.
    """
    options = ModelOptions(model=model, device=device, precision=precision, size_px=size_px, batch_size=batch_size)
    lines: list[str] = []
    found = open_predictor(options, lines.append)
    if model == AUTO and lines and found.model.name == BUNDLED:
        warnings.warn(lines[-1], stacklevel=2)
    return found.predictor


def open_model(spec: str | Path, progress: Callable[[str], None] | None = None) -> LoadedModel | Exported:
    """Return what a text names: a file of `datool export`, else a model as of `datool.models.weights.load`.

    Raises:
        DatoolError: it cannot be had.
    """
    path = find_exported(spec)
    return load_weights(spec, progress) if path is None else exported.read(path)


def error_of(near: np.ndarray, exact: np.ndarray) -> float:
    """Return how far a map is from the exact one: ``|near - exact| / |exact - mean(exact)|``, Euclidean norms.

    From a flat map everything but the same map is infinitely far.

    Args:
        near, exact: (H, W) of one photo.
    """
    distance, spread = np.linalg.norm(near - exact), np.linalg.norm(exact - exact.mean(dtype=np.float64))
    return float(distance / spread) if spread > 0 else (0.0 if distance == 0 else math.inf)


def choose(
    model: LoadedModel | Exported,
    runtime: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    tolerance: float = TOLERANCE,
    photos: Callable[[], Sequence[np.ndarray]] = lambda: (),
    size_px: int | None = None,
) -> tuple[Engine, str]:
    """Return the engine that computes a model, and why it was chosen (empty where it was asked for).

    Args:
        model: what `open_model` returned.
        runtime: a row of RUNTIMES, ``auto``, or None: PyTorch for weights, and a file's own runtime.
        device, precision: as for `Predictor`.
        tolerance: for ``auto``: the largest `error_of` on the photos against PyTorch in float32.
        photos: gives (H, W, 3) uint8 RGB photos for ``auto`` to measure on; asked only then.
        size_px: short side of the network's input, for measuring.
    Raises:
        DatoolError: unknown runtime, one that cannot run this model here, or a missing library.
    """
    if runtime not in (None, AUTO):
        lookup(RUNTIMES, runtime, "runtime")
    if isinstance(model, Exported):
        if runtime not in (None, AUTO, model.runtime):
            raise DatoolError(
                f"{model.path} is a file for {model.runtime}, not for {runtime}.",
                "Drop --runtime, or give the weights as --model.",
            )
        return exported.engine(model, device, precision), ""
    if runtime in (None, "torch"):
        return TorchEngine(model.model, device, precision, model.name), ""
    if runtime != AUTO:
        return _converted(model, runtime, device, precision), ""
    if choose_device(device).type != "cpu":
        return TorchEngine(model.model, device, precision, model.name), "torch: other runtimes compute on the CPU."
    return _fastest(model, precision, tolerance, photos(), size_px)


def _fastest(
    model: LoadedModel, precision: str, tolerance: float, photos: Sequence[np.ndarray], size_px: int | None
) -> tuple[Engine, str]:
    """Return the engine that takes the least time of those that are near enough on the photos, and the figures."""
    if not photos:
        return TorchEngine(model.model, "cpu", precision, model.name), "torch: there is no photo to measure others on."

    def maps(engine: Engine) -> list[np.ndarray]:
        """As in the work itself: photos side by side on the cores."""
        return [depth.values for depth in Predictor(engine, size_px=size_px, max_aspect=math.inf).predict(photos)]

    truth = maps(TorchEngine(model.model, "cpu", "fp32", model.name))
    found: list[tuple[float, float, Engine]] = []
    for name in RUNTIMES:
        if not _installed(name):
            continue
        for kind in ("fp32", "bf16") if precision == "auto" else (precision,):
            if name != "torch" and kind not in FORMATS[name].precisions:
                continue
            engine = choose(model, name, "cpu", kind)[0]
            error = max(map(error_of, maps(engine), truth))
            started = time.perf_counter()
            maps(engine)
            found.append(((time.perf_counter() - started) / len(photos), error, engine))
    good = [one for one in found if one[1] <= tolerance]
    if not good:
        raise DatoolError(f"no runtime is within --tolerance {tolerance:g}: {_told(found)}.", "Raise --tolerance.")
    best = min(good, key=lambda one: one[0])
    return best[2], f"{best[2].runtime} in {best[2].precision}: the fastest within {tolerance:g} ({_told(found)})."


def _told(found: Sequence[tuple[float, float, Engine]]) -> str:
    return ", ".join(
        f"{one.runtime} {one.precision} {seconds:.2f} s, error {error:.1e}" for seconds, error, one in found
    )


def _installed(runtime: str) -> bool:
    wanted = {"torch": ("torch",), "onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}[runtime]
    return all(find_spec(name) is not None for name in wanted)


def _converted(model: LoadedModel, runtime: str, device: str, precision: str) -> Engine:
    """Return an engine for weights in another runtime: exported once, and kept in the cache for the next time."""
    if precision == "auto":
        chosen = choose_precision("auto", choose_device("cpu"))
        precision = chosen if chosen in FORMATS[runtime].precisions else "fp32"
    if precision == "int8":
        raise DatoolError(
            "int8 has to be calibrated on photos.",
            "datool export MODEL --format openvino --precision int8 --calibrate DIR --out FILE, then --model FILE.",
        )
    name = f"{model.name}-{model.sha256[:16]}-{precision}-{__version__}-{_code()}{FORMATS[runtime].suffix}"
    path = cache_folder("exports") / name  # of converted models
    try:
        converted = exported.read(path)
    except DatoolError:  # not there, or damaged
        with staged(path) as draft:
            export.export(model, draft, runtime, precision)
        converted = exported.read(path)
    return exported.engine(converted, device)


def _code() -> str:
    """Return a hash of the code that decides what is in a converted file."""
    sources = (Path(str(module.__file__)).read_bytes() for module in (export, depth_anything, dpt, encoders))
    return hashlib.sha256(b"".join(sources)).hexdigest()[:8]
