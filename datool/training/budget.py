"""What a run will cost, computed without running it: parameters, memory, operations, hours."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from datool.models.depth_anything import build_model
from datool.models.encoders import build_encoder
from datool.training.recipe import Recipe

# The share of a device's matrix rate that a step is taken to reach: an assumption, no measurement.
UTILISATION = 0.4


@dataclass(frozen=True)
class Budget:
    """The cost of a run, for one of its ranks.

    Args:
        parameters: that are trained.
        flops_per_image: of a training step, forward and backward, the frozen encoder included.
        state_bytes: weights, gradients, optimizer, average and frozen encoder.
        activation_bytes: kept between forward and backward, for the images computed at once.
        rate: matrix operations a second that the device reached just now.
        hours: of the whole run, if steps reach ``utilisation`` of the rate and data keep up.
        utilisation: the share of that rate.
    """

    parameters: int
    flops_per_image: float
    state_bytes: int
    activation_bytes: int
    rate: float
    hours: float
    utilisation: float = UTILISATION

    @property
    def memory_bytes(self) -> int:
        """What a rank needs in all, about."""
        return self.state_bytes + self.activation_bytes


def make_budget(recipe: Recipe, steps: int, size: tuple[int, int], device: torch.device, world: int = 1) -> Budget:
    """Return what a run costs; takes seconds, whatever the model, and no memory.

    The network runs on tensors without content, which know their sizes only. The losses are left out: their share is
    small, and their memory a few maps an image.

    Args:
        recipe: what runs.
        steps: of the whole run.
        size: (height, width) of the network's input.
        device: whose rate is measured.
        world: ranks that share the work.
    """
    at_once = max(1, recipe.batch_size // (world * recipe.accumulation))
    dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
    with torch.device("meta"):
        model = build_model(recipe.model)
        frozen = build_encoder(recipe.align_encoder or model.spec.encoder) if recipe.align_weight else None
    model.encoder.set_checkpointing(recipe.checkpointing)
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        model.to_empty(device="cpu")
        image = torch.empty(at_once, 3, *size)
        saved = _Saved(model)
        with saved, torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
            prediction = model(image)
        prediction.float().sum().backward()
        if frozen is not None:
            with torch.no_grad():
                frozen.to_empty(device="cpu")(image, [frozen.spec.num_blocks - 1])
    numbers = sum(parameter.numel() for parameter in model.parameters())
    copies = 4 + bool(recipe.ema)  # weights, gradients, two moments, average
    split = world if recipe.shard else 1
    fixed = sum(parameter.numel() for parameter in frozen.parameters()) if frozen is not None else 0
    rate = matrix_rate(device, dtype)
    flops = counter.get_total_flops() / at_once
    seconds = steps * recipe.batch_size * flops / (world * UTILISATION * rate)
    return Budget(numbers, flops, 4 * (numbers * copies // split + fixed), saved.num_bytes, rate, seconds / 3600)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating-point operations a second of a large matrix product, the best of a few."""
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(5):
        _wait(device)
        started = time.perf_counter()
        left @ right
        _wait(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Saved(torch.autograd.graph.saved_tensors_hooks):
    """Counts what autograd keeps, each storage once, weights not."""

    def __init__(self, model: nn.Module) -> None:
        self._seen = {parameter.untyped_storage()._cdata: None for parameter in model.parameters()}
        self._kept: list[torch.UntypedStorage] = []  # alive, so that no storage takes another's place
        self.num_bytes = 0
        super().__init__(self._note, lambda tensor: tensor)

    def _note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen[storage._cdata] = None
            self._kept.append(storage)
            self.num_bytes += storage.nbytes()
        return tensor
