"""Photos to a GPU and maps from it, while the network computes: streams of their own, and memory the GPU can reach."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor

# Page-locked memory for maps on their way; what is locked the system cannot use for anything else.
LENT_BYTES = 1 << 28


class Transfers:
    """The ways to and from one device; elsewhere than on CUDA nothing runs beside anything.

    PyTorch keeps page-locked buffers for the next transfer of their size, so that two or three of each come to be used
    in turn.

    Args:
        device: where the network is.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        on_cuda = device.type == "cuda"
        # Small kernels, which would wait long behind the network's.
        self._inward = torch.cuda.Stream(device, priority=-1) if on_cuda else None
        self._outward = torch.cuda.Stream(device, priority=-1) if on_cuda else None

    @contextmanager
    def inward(self) -> Iterator[None]:
        """Have what is decoded, sent and resized inside run beside the network."""
        with nullcontext() if self._inward is None else torch.cuda.stream(self._inward):
            yield

    def sent(self) -> torch.cuda.Event | None:
        """Return when all that was enqueued `inward` will be there."""
        return None if self._inward is None else self._inward.record_event()

    def receive(self, tensors: Iterable[np.ndarray | Tensor], sent: Iterable[torch.cuda.Event | None]) -> None:
        """Have the stream of this thread wait for what was sent, and keep it until that stream has used it."""
        if self._inward is None:
            return
        stream = torch.cuda.current_stream(self.device)
        for event in sent:
            if event is not None:
                stream.wait_event(event)
        for tensor in tensors:
            if isinstance(tensor, Tensor) and tensor.is_cuda:
                tensor.record_stream(stream)

    def fetch(self, tensors: Sequence[Tensor]) -> list[np.ndarray]:
        """Return arrays of tensors on the device; what this thread enqueues later need not wait for it."""
        if self._outward is None:
            return [tensor.cpu().numpy() for tensor in tensors]
        computed = torch.cuda.current_stream(self.device).record_event()
        arrays: list[np.ndarray] = []
        for part in _parts(tensors):
            with torch.cuda.stream(self._outward):
                self._outward.wait_event(computed)
                held = [torch.empty(each.shape, dtype=each.dtype, pin_memory=True) for each in part]
                for array, tensor in zip(held, part, strict=True):
                    array.copy_(tensor, non_blocking=True)
                done = self._outward.record_event()
            done.synchronize()
            arrays += [array.numpy().copy() for array in held]  # page-locked memory is scarce: only ever lent
        return arrays


def _parts(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the tensors in their order, as many at a time as LENT_BYTES hold, or one that is larger."""
    part: list[Tensor] = []
    for tensor in tensors:
        if part and sum(each.nbytes for each in (*part, tensor)) > LENT_BYTES:
            yield part
            part = []
        part.append(tensor)
    if part:
        yield part
