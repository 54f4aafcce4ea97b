"""What a model needs of a GPU's memory, computed without one: every tensor of a forward, as it comes and goes."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from datool.engines.gpu_net import GpuNet
from datool.models.depth_anything import build_model


@dataclass(frozen=True)
class Memory:
    """What a forward holds at once, in bytes; what libraries take for themselves is not in it.

    Args:
        weights: of the network.
        batch: the pictures.
        forward: between them and the maps, at the worst moment, without torch.compile.
    """

    weights: int
    batch: int
    forward: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.batch + self.forward


def needed_memory(model: str, batch_size: int, size: tuple[int, int], precision: str = "bf16") -> Memory:
    """Return what a model needs on a GPU; takes a second or two and no memory.

    Args:
        model: a row of `datool.models.specs.MODELS`.
        batch_size: photos a forward.
        size: (height, width) of the network's input.
        precision: as for `GpuNet`.
    Raises:
        DatoolError: no such model.
    """
    with torch.device("meta"):
        net = GpuNet(build_model(model), precision, "meta")
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():  # tensors that know their sizes only
        net.to_empty(device="cpu")
        image = torch.empty(batch_size, *size, 3).permute(0, 3, 1, 2)
        with _Alive() as alive:
            net(image)
    weights = sum(each.untyped_storage().nbytes() for each in (*net.parameters(), *net.buffers()))
    return Memory(weights, image.untyped_storage().nbytes(), alive.peak)


class _Alive(TorchDispatchMode):
    """Adds up the tensors that are made inside, until they are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {
            tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)
        }
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._seen | given:
                self._note(tensor.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        self._seen.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())

    def _drop(self, key: int, num_bytes: int) -> None:
        self._seen.discard(key)
        self.now -= num_bytes
