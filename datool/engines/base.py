"""What turns prepared photos into numbers: one protocol, and PyTorch's way. Exported files are in `runtimes`."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from datool.depth import Ambiguity, Quantity
from datool.engines.cpu import keep_buffers, packed, takes_bf16
from datool.engines.gpu import CudaNet, check_fp8, try_fp8
from datool.engines.gpu_net import fits
from datool.errors import DatoolError, lookup
from datool.models.depth_anything import DepthAnything


@dataclass(frozen=True)
class Card:
    """What one must know of a model to feed it and to read what it gives.

    Args:
        row: its name in `datool.models.specs.MODELS`; empty for a bare module that nobody named.
        patch_px: height and width of one token.
        size_px: default short side of the input.
        mean, std: of the input, for values in [0, 1].
        quantity, ambiguity: of the maps.
        align_corners: how a map is brought back to the photo's size.
    """

    row: str
    patch_px: int
    size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    quantity: Quantity
    ambiguity: Ambiguity
    align_corners: bool

    @classmethod
    def of(cls, net: DepthAnything, row: str = "") -> Card:
        """Return the card of a network."""
        encoder, made = net.encoder.spec, net.spec
        return cls(
            row,
            encoder.patch_px,
            made.size_px,
            encoder.mean,
            encoder.std,
            made.quantity,
            made.ambiguity,
            made.align_corners,
        )


class Engine(Protocol):
    """A model made ready on one device.

    Args:
        card: what it is. runtime: what computes, a key of `datool.engines.exported.RUNTIMES`.
        precision: what it computes in. device: where its maps come to lie.
    """

    card: Card
    runtime: str
    precision: str
    device: torch.device

    def run(self, image_bhw3: Tensor) -> Tensor:
        """Return (B, h, w) float32 on ``device``, one value a pixel of the network's input.

        Called from several threads at once; each call takes ``torch.get_num_threads()`` CPU cores of its thread.

        Args:
            image_bhw3: (B, h, w, 3) float32, normalised; h and w are multiples of the patch. On ``device``.
        """
        ...


class TorchEngine:
    """A network in PyTorch.

    Args:
        net: moved to the device; on an NVIDIA GPU it is copied there instead, where `datool.engines.gpu_net.fits`.
        device, precision: as for `datool.estimators.predictor.Predictor`.
        row: the network's name.
    Raises:
        DatoolError: unknown or absent device, or unknown precision.
    """

    runtime = "torch"

    def __init__(self, net: DepthAnything, device: str = "auto", precision: str = "auto", row: str = "") -> None:
        self.card = Card.of(net, row)
        self.device = choose_device(device)
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())  # which a new thread would not know
        self.precision = choose_precision(precision, self.device)
        self._dtype = PRECISIONS[self.precision]
        if self.precision == "fp8":
            check_fp8(net, self.device)
            try_fp8(self.device)
        self._on_cuda = CudaNet(net, self.device, self.precision) if self.device.type == "cuda" and fits(net) else None
        if self._on_cuda is not None:
            return
        # Two batches at once would need the memory of two, and gain nothing on a GPU.
        self._turn = nullcontext() if self.device.type == "cpu" else threading.Lock()
        self._net: nn.Module = net.to(self.device).to(memory_format=torch.channels_last).eval()
        if self.device.type == "cpu":
            keep_buffers()
            if self.precision == "fp32" or (self.precision == "bf16" and _cpu_computes_bf16() and takes_bf16(net)):
                self._net = packed(self._net, self._dtype)
                self._dtype = torch.float32  # for autocast: what is bf16 is so already

    @torch.inference_mode()
    def run(self, image_bhw3: Tensor) -> Tensor:
        """Return (B, h, w) float32, as `Engine.run`."""
        # (B, h, w, 3) seen as (B, 3, h, w) is channels-last: 1.4 times faster on a CPU.
        image_b3hw = image_bhw3.to(self.device).permute(0, 3, 1, 2)
        if self._on_cuda is not None:
            return self._on_cuda(image_b3hw)
        with self._turn, torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not torch.float32):
            return self._net(image_b3hw).float()

    def compile(self, replay: bool = False) -> None:
        """Compile the network, once for all sizes; pays for thousands of photos.

        Args:
            replay: as for `datool.engines.gpu.CudaNet`.
        Raises:
            DatoolError: not on an NVIDIA GPU, or an encoder other than a ViT of plain attention.
        """
        if self._on_cuda is None:
            raise DatoolError(
                f"this network cannot be compiled on {self.device}: only a ViT of plain attention on an NVIDIA GPU.",
                "Drop --compile.",
            )
        self._on_cuda.replay = replay
        self._on_cuda.compile()


def choose_device(name: str) -> torch.device:
    """Return the device of that name, checked to be there; ``auto`` is cuda, else mps, else cpu.

    Raises:
        DatoolError: unknown or absent.
    """
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in has.items() if there))
    there = ", ".join(kind for kind in has if has[kind])
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DatoolError(f"unknown device '{name}'.", f"Here: {there}.") from error
    missing = not has.get(device.type, False)
    if missing or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise DatoolError(f"device '{name}' is not available to PyTorch {torch.__version__}.", f"Here: {there}.")
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """Return the name of a row of PRECISIONS; ``auto`` is bf16 where the device computes it itself, else fp32.

    Raises:
        DatoolError: unknown.
    """
    if name != "auto":
        lookup(PRECISIONS, name, "precision")
        return name
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        native = device.type == "cpu" and _cpu_computes_bf16()
    return "bf16" if native else "fp32"


def _cpu_computes_bf16() -> bool:
    """Tell whether the CPU multiplies bf16 in hardware; one that Linux does not list the abilities of counts as not."""
    try:
        abilities = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in abilities or "amx_bf16" in abilities


PRECISIONS: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.float8_e4m3fn,
}
