"""How a network is run on an NVIDIA GPU: attention by the fastest kernel, small batches replayed from a CUDA graph."""

from __future__ import annotations

import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from datool.engines.gpu_net import Fp8Linear, GpuNet, takes_fp8
from datool.errors import DatoolError
from datool.files.cache import cache_folder
from datool.models.depth_anything import DepthAnything

# Attention, the fastest first. Measured alone on an H200: cuDNN 330-370 TFLOP/s, flash 220-260.
ATTENTION = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
# Batches up to so many pixels are replayed: where launching kernels takes longer than running them.
GRAPH_PIXELS = 4 * 518 * 686
# A size is recorded when it comes for this time, so that one photo never waits for it.
RECORD_AT = 3
MAX_GRAPHS = 16
FP8_CAPABILITY = (8, 9)
# Where PyTorch itself prefers cuDNN's attention; elsewhere it may find no plan, and then raises.
CUDNN_MAJORS, CUDNN_VERSION = (9, 10), 91501
# Photos that a network is compiled by, more than one and one alone, in patches: sizes that differ in all numbers, since
# equal ones would make a variant of their own.
COMPILED_BY = ((2, 37, 49), (1, 37, 49))

# What chooses attention is a setting of the process, and only one graph may be recorded at a time.
_LOCK = threading.Lock()


@dataclass
class _Graph:
    """A recorded forward: fill ``image``, replay, read ``values``; it also reads what is ``kept`` for it."""

    graph: torch.cuda.CUDAGraph
    image: Tensor
    values: Tensor
    kept: tuple[Tensor, ...]


class CudaNet:
    """A `GpuNet` on a GPU, called as it is; several threads may.

    Calls are only enqueued, on the current stream of the thread, and all must use the same one.

    Args:
        net: what to run; its copy lies on the device.
        device: a CUDA device.
        precision: as for `GpuNet`.
        replay: record small batches and replay them: their last bits may then depend on what came before.
    """

    def __init__(self, net: DepthAnything, device: torch.device, precision: str, replay: bool = False) -> None:
        self.net = GpuNet(net, precision, device)
        self.device, self.replay = device, replay
        self._attention = attention_order(device)
        # All graphs are recorded on one stream, or they could not share their memory.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._graphs: OrderedDict[tuple[int, ...], _Graph] = OrderedDict()
        self._seen: Counter[tuple[int, ...]] = Counter()

    def __call__(self, image_b3hw: Tensor) -> Tensor:
        """Return (B, H, W) float32 for (B, 3, H, W) float32, channels last, both on the device."""
        size = tuple(image_b3hw.shape)
        with _LOCK, sdpa_kernel(self._attention, set_priority=True):
            if not self.replay or size[0] * size[2] * size[3] > GRAPH_PIXELS:
                return self.net(image_b3hw)
            if size not in self._graphs:
                self._seen[size] += 1
                if self._seen[size] < RECORD_AT:
                    return self.net(image_b3hw)
                self._record(size, image_b3hw)
            self._graphs.move_to_end(size)
            found = self._graphs[size]
            found.image.copy_(image_b3hw)
            found.graph.replay()
            return found.values.clone()

    def compile(self) -> None:
        """Compile the network, for all sizes; what was recorded is recorded anew.

        By pictures of two fixed sizes, so that no process compiles by what it happens to see first.
        """
        from torch._inductor import config  # seconds to import

        keep_compiled()
        # Else kernels are chosen by their times, and with them the last bits of maps. Older releases cannot.
        options = {"deterministic": True} if hasattr(config, "deterministic") else None
        with _LOCK:
            self._graphs.clear()
            self._seen.clear()
            self.net.compile(options=options)
        for batch, rows, columns in COMPILED_BY:
            image = torch.zeros(batch, rows * self.net.patch_px, columns * self.net.patch_px, 3, device=self.device)
            self(image.permute(0, 3, 1, 2))

    def _record(self, size: tuple[int, ...], image: Tensor) -> None:
        """Record the forward of a size, which has run before: nothing is compiled or chosen any more."""
        if len(self._graphs) == MAX_GRAPHS:
            self._graphs.popitem(last=False)
        pool = next(iter(self._graphs.values())).graph.pool() if self._graphs else None
        held, graph = image.clone(), torch.cuda.CUDAGraph()
        stream = self._stream
        assert stream is not None, "graphs are CUDA's"
        stream.wait_stream(torch.cuda.current_stream(image.device))
        with torch.cuda.stream(stream):
            self.net(held)  # what libraries set up for a stream
        torch.cuda.current_stream(image.device).wait_stream(stream)
        # Other threads decode, copy and allocate meanwhile: that is no fault of this one's.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            values = self.net(held)
        self._graphs[size] = _Graph(graph, held, values, tuple(self.net.positions.values()))


def attention_order(device: torch.device) -> list[SDPBackend]:
    """Return which kernels for attention to take on a device, the first that can."""
    if device.type == "cuda":
        version = torch.backends.cudnn.version() or 0
        if torch.cuda.get_device_capability(device)[0] in CUDNN_MAJORS and version >= CUDNN_VERSION:
            return ATTENTION
    return ATTENTION[1:]


def check_fp8(
    net: DepthAnything, device: torch.device, capability: Callable[..., tuple[int, int]] | None = None
) -> None:
    """Raise unless the device multiplies 8-bit floats and the network's sizes suit.

    Args:
        net: what shall run.
        device: where.
        capability: tells what a device can, as `torch.cuda.get_device_capability`.
    Raises:
        DatoolError: it does not.
    """
    if device.type != "cuda":
        raise DatoolError(f"precision fp8 needs an NVIDIA GPU, not {device.type}.", "Use --precision bf16.")
    found = (capability or torch.cuda.get_device_capability)(device)
    if found < FP8_CAPABILITY:
        got, wanted = (".".join(map(str, version)) for version in (found, FP8_CAPABILITY))
        raise DatoolError(
            f"precision fp8 needs a GPU of compute capability {wanted} (Ada, Hopper) or above, got {got}.",
            "Use --precision bf16.",
        )
    if not takes_fp8(net):
        raise DatoolError(
            "precision fp8 needs a ViT of plain attention whose layers are multiples of 16 wide; this encoder is not.",
            "Use --precision bf16.",
        )


def try_fp8(device: torch.device) -> None:
    """Raise unless this PyTorch multiplies 8-bit floats on this GPU, which no version number tells.

    Raises:
        DatoolError: it does not.
    """
    layer = Fp8Linear(nn.Linear(64, 32), torch.bfloat16).to(device)
    try:
        layer(torch.ones(32, 64, dtype=torch.bfloat16, device=device)).sum().item()
    except RuntimeError as error:
        name = torch.cuda.get_device_name(device)
        raise DatoolError(
            f"PyTorch {torch.__version__} does not multiply 8-bit floats on {name}: {error}", "Use --precision bf16."
        ) from error


def keep_compiled() -> None:
    """Have torch keep what it compiles below ``~/.cache/datool``, for the next process, unless a place is set."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder("compiled")))
