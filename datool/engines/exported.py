"""Files that `datool export` wrote, made ready to estimate: ONNX Runtime, OpenVINO, and PyTorch's exported programs.

All of them are engines of `Predictor`: photos are prepared, read ahead and brought back to size in one place.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datool.depth import Ambiguity, Quantity
from datool.engines.base import Card, Engine, choose_device
from datool.errors import DatoolError, lookup, require
from datool.models.hub import sha256_of
from datool.models.specs import EXPORTED_SUFFIXES
from datool.models.weights import BROKEN

# The key under which each format holds datool's entry.
META = "datool"
AGAIN = "Write it again: datool export MODEL --out FILE."


@dataclass(frozen=True)
class Exported:
    """A file of `datool export`, and what it says of itself.

    Args:
        path: of the file.
        entry: the metadata that `datool.engines.export.metadata` wrote.
        card: of the model. name: its row. licence: of its weights.
        sha256: of the file's bytes, weights beside it included.
    """

    path: Path
    entry: Mapping[str, Any]
    card: Card
    sha256: str

    @property
    def name(self) -> str:
        """The model's row."""
        return self.card.row

    @property
    def source(self) -> str:
        """The file, for messages."""
        return str(self.path)

    @property
    def licence(self) -> str:
        """Of the weights; empty if unknown."""
        return str(self.entry.get("licence", ""))

    @property
    def precision(self) -> str:
        """What it was written in."""
        return str(self.entry["precision"])

    @property
    def floats(self) -> str:
        """What is computed in that is not in int8: fp32 or bf16."""
        return str(self.entry.get("floats", "fp32" if self.precision == "fp32" else "bf16"))

    @property
    def runtime(self) -> str:
        """What runs it."""
        return SUFFIXES[self.path.suffix]


def read(path: Path) -> Exported:
    """Return what a file of `datool export` says of itself.

    Raises:
        DatoolError: no such file, cut off or damaged, not written by datool, or a missing library.
    """
    if not path.is_file():
        raise DatoolError(f"no model file {path}.", "Check the path; `datool export` writes such files.")
    runtime = lookup(RUNTIMES, SUFFIXES[path.suffix], "runtime")
    text = runtime.entry(path)
    if not text:
        raise DatoolError(
            f"cannot use {path}: it was not written by datool: it has no '{META}' entry, which says how photos are "
            "prepared and what the numbers are.",
            AGAIN,
        )
    try:
        entry = json.loads(text)
        card = Card(**{field.name: entry[field.name] for field in fields(Card)} | _typed(entry))
    except (ValueError, LookupError, TypeError) as error:
        raise DatoolError(f"cannot use {path}: its '{META}' entry is damaged ({error}).", AGAIN) from error
    weights = path.with_suffix(".bin")
    if path.suffix == ".xml" and not weights.is_file():
        raise DatoolError(f"cannot use {path}: its weights {weights.name} are not beside it.", "Copy both files.")
    return Exported(path, entry, card, sha256_of(path, *([weights] if path.suffix == ".xml" else [])))


def _typed(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "mean": tuple(entry["mean"]),
        "std": tuple(entry["std"]),
        "quantity": Quantity(entry["quantity"]),
        "ambiguity": Ambiguity(entry["ambiguity"]),
    }


def engine(exported: Exported, device: str = "auto", precision: str = "auto") -> Engine:
    """Return an engine that runs a file.

    Args:
        exported: what `read` returned.
        device: ``auto`` or ``cpu``: exported files run on the CPU.
        precision: ``auto`` or that of the file.
    Raises:
        DatoolError: another device or precision, a damaged file, or a missing library.
    """
    if device != "auto" and choose_device(device).type != "cpu":
        raise DatoolError(f"{exported.path} runs on the CPU, not on '{device}'.", "Drop --device, or --model NAME.")
    if precision not in ("auto", exported.precision):
        raise DatoolError(
            f"{exported.path} was written in {exported.precision}, not in {precision}.",
            f"Drop --precision, or export it again with --precision {precision}.",
        )
    return RUNTIMES[exported.runtime].engine(exported)


class _OnCpu:
    """What engines of exported files share: one compiled form for each number of CPU cores that a call may take."""

    device = torch.device("cpu")

    def __init__(self, exported: Exported) -> None:
        self.card, self.precision, self.runtime = exported.card, exported.precision, exported.runtime
        self.path, self._floats = exported.path, exported.floats
        self._num_cores = torch.get_num_threads()
        self._lock = threading.Lock()
        self._ready: dict[int, Any] = {}  # made when needed: in lanes, that for all cores would only take memory

    def _of_threads(self, num_threads: int) -> Any:
        with self._lock:
            if num_threads not in self._ready:
                self._ready[num_threads] = self._compile(num_threads)
            return self._ready[num_threads]

    def _compile(self, num_threads: int) -> Any:
        raise NotImplementedError


class OnnxEngine(_OnCpu):
    """An ONNX file in ONNX Runtime."""

    def _compile(self, num_threads: int) -> Any:
        return _onnx_session(self.path, num_threads)

    def run(self, image_bhw3: Tensor) -> Tensor:
        """Return (B, h, w) float32, as `Engine.run`."""
        session = self._of_threads(torch.get_num_threads())
        return torch.from_numpy(session.run(["depth"], {"image": _channels_first(image_bhw3)})[0])


class OpenVinoEngine(_OnCpu):
    """An OpenVINO file, computed in the precision that it was written for and in no other."""

    def _compile(self, num_threads: int) -> Any:
        openvino = require("openvino", "openvino", f"running {self.path}")
        options = {
            # OpenVINO takes bf16 by itself wherever the CPU has it, whatever the file holds.
            "INFERENCE_PRECISION_HINT": "f32" if self._floats == "fp32" else "bf16",
            "INFERENCE_NUM_THREADS": self._num_cores,
            "NUM_STREAMS": max(1, self._num_cores // num_threads),
            "ENABLE_CPU_PINNING": False,  # photos are read and written beside it
        }
        core = openvino.Core()
        with damaged(self.path):
            model = core.read_model(self.path)
        # Its bindings prepare themselves when an array is first asked for, and hang for ever if two threads do so at
        # once (2026.4: one waits for the interpreter's lock, the other for the preparation).
        _ = openvino.Tensor(np.zeros(1, np.float32)).data
        return _PerSize(core, model, options, self.path.with_suffix(".bin").stat().st_size)

    def run(self, image_bhw3: Tensor) -> Tensor:
        """Return (B, h, w) float32, as `Engine.run`."""
        return torch.from_numpy(self._of_threads(torch.get_num_threads()).run(_channels_first(image_bhw3)))


class _PerSize:
    """An OpenVINO model compiled for each size of input, which is 5 % faster, and in bf16 nearer: positions are folded.

    The forms used last are kept, each with weights of its own. A new size takes half a second, in which a small model
    computes dozens of photos: it is compiled once, for all sizes.

    Args:
        weights_bytes: of the file, on which depends how many are kept.
    """

    KEPT, KEPT_BYTES, SMALL_BYTES = 12, 2 << 30, 32 << 20

    def __init__(self, core: Any, model: Any, options: Mapping[str, Any], weights_bytes: int) -> None:
        self._core, self._model, self._options = core, model, dict(options)
        self._kept = max(2, min(self.KEPT, self.KEPT_BYTES // max(1, weights_bytes)))
        self._small = weights_bytes < self.SMALL_BYTES
        self._compiled: dict[tuple[int, ...], tuple[Any, list[Any]]] = {}
        self._lock = threading.Lock()

    def run(self, image_b3hw: np.ndarray) -> np.ndarray:
        with self._lock:
            size = () if self._small else image_b3hw.shape
            if size not in self._compiled:
                self._compiled[size] = self._compile(size), []
            self._compiled[size] = compiled, requests = self._compiled.pop(size)  # the last used stands last
            if len(self._compiled) > self._kept:
                del self._compiled[next(iter(self._compiled))]
            # A request serves one call at a time, and is kept: of new ones every sixth waited for another's end.
            request = requests.pop() if requests else compiled.create_infer_request()
        values = request.infer({"image": image_b3hw})["depth"].copy()
        requests.append(request)
        return values

    def _compile(self, size: tuple[int, ...]) -> Any:
        model = self._model.clone()
        if size:
            model.reshape({"image": size})
        return self._core.compile_model(model, "CPU", self._options)


class ProgramEngine(_OnCpu):
    """A ``torch.export`` package in PyTorch."""

    def _compile(self, num_threads: int) -> Any:
        return _program(self.path, {}).module()

    @torch.inference_mode()
    def run(self, image_bhw3: Tensor) -> Tensor:
        """Return (B, h, w) float32, as `Engine.run`."""
        try:
            return self._of_threads(self._num_cores)(image_bhw3.permute(0, 3, 1, 2))
        except AssertionError as error:  # a guard of torch.export
            height, width = image_bhw3.shape[1:3]
            raise DatoolError(
                f"{self.path} cannot take an input of {width}x{height}: {error}", "Give another --size."
            ) from error


@contextmanager
def damaged(path: Path, kinds: tuple[type[Exception], ...] = (RuntimeError,)) -> Iterator[None]:
    """Turn what a runtime raises on a file that it cannot read into an error that names the file."""
    try:
        yield
    except kinds as error:
        words = " ".join(str(error).split())
        raise DatoolError(
            f"cannot read {path}: cut off, damaged or another kind of file ({words[:160]}).", AGAIN
        ) from error


def _channels_first(image_bhw3: Tensor) -> np.ndarray:
    return np.ascontiguousarray(image_bhw3.numpy().transpose(0, 3, 1, 2))


def _onnx_session(path: Path, num_threads: int) -> Any:
    onnxruntime = require("onnxruntime", "onnx", f"running {path}")
    state = require("onnxruntime.capi.onnxruntime_pybind11_state", "onnx", f"running {path}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # lanes share the cores
    options.log_severity_level = 3
    names = ("Fail", "InvalidGraph", "InvalidProtobuf", "InvalidArgument", "NotImplemented", "RuntimeException")
    with damaged(path, tuple(getattr(state, name) for name in names)):
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _onnx_entry(path: Path) -> str:
    return _onnx_session(path, 1).get_modelmeta().custom_metadata_map.get(META, "")


def _openvino_entry(path: Path) -> str:
    openvino = require("openvino", "openvino", f"running {path}")
    with damaged(path):
        model = openvino.Core().read_model(path)
        return str(model.get_rt_info([META]).value) if model.has_rt_info([META]) else ""


def _program(path: Path, extra: dict[str, str]) -> torch.export.ExportedProgram:
    with damaged(path, BROKEN):
        return torch.export.load(path, extra_files=extra)


def _program_entry(path: Path) -> str:
    extra = {META: ""}
    _program(path, extra)
    return extra[META]


@dataclass(frozen=True)
class Runtime:
    """One way to run exported files.

    Args:
        title: how to call it.
        suffix: of its files.
        entry: path -> datool's entry, empty if there is none.
        engine: makes it ready.
    """

    title: str
    suffix: str
    entry: Callable[[Path], str]
    engine: Callable[[Exported], Engine]


RUNTIMES: dict[str, Runtime] = {
    "torch": Runtime("PyTorch", EXPORTED_SUFFIXES["torch"], _program_entry, ProgramEngine),
    "onnx": Runtime("ONNX Runtime", EXPORTED_SUFFIXES["onnx"], _onnx_entry, OnnxEngine),
    "openvino": Runtime("OpenVINO", EXPORTED_SUFFIXES["openvino"], _openvino_entry, OpenVinoEngine),
}
SUFFIXES = {row.suffix: name for name, row in RUNTIMES.items()}
