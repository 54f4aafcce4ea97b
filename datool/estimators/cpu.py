"""What PyTorch leaves on the table on a CPU: linear layers repack their weights at each call, and glibc gives big
buffers back to the kernel after each layer, which then clears them again. Both together are a tenth of a forward."""

from __future__ import annotations

import copy
import ctypes
import platform

import torch
from torch import Tensor, nn

# mallopt's numbers and what they are set to: one pool for all threads, that keeps up to 1 GiB, and no mmap below it.
_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1
_KEPT_BYTES = 1 << 30


class PackedLinear(nn.Module):
    """A linear layer whose weight lies the way oneDNN's kernels read it; for inference in float32.

    Args:
        linear: what to pack; not needed afterwards.
        gelu: apply GELU in the same pass.
    """

    def __init__(self, linear: nn.Linear, gelu: bool = False) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.post: tuple[str, list[float], str] = ("gelu", [], "none") if gelu else ("none", [], "")

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) for (..., in)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, *self.post)


def packed(net: nn.Module) -> nn.Module:
    """Return ``net`` with every linear layer packed; ``net`` itself where oneDNN is not built in.

    A copy that shares all other tensors: ``net`` stays as it was. Results differ from its own by rounding.

    Args:
        net: on the CPU, float32.
    """
    if not (torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")):
        return net
    shared = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
    net = copy.deepcopy(net, shared)
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                # timm's MLP: the activation stands beside its linear layer.
                act = getattr(module, "act", None) if name == "fc1" else None
                gelu = isinstance(act, nn.GELU) and act.approximate == "none"
                setattr(module, name, PackedLinear(child, gelu))
                if gelu:
                    module.act = nn.Identity()
    return net


def keep_buffers() -> None:
    """Have the C library keep freed memory for the next layer, where it is glibc: for the whole process."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for parameter, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _KEPT_BYTES), (_TRIM_THRESHOLD, _KEPT_BYTES)):
        libc.mallopt(parameter, value)
