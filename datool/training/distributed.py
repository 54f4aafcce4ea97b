"""The processes that train together. The only place that reads RANK and calls collectives.

One process needs none of this: without RANK in the environment every function here is the plain thing. ``torchrun``
sets RANK, WORLD_SIZE, LOCAL_RANK and the address of the first process. When one process fails, ``torchrun`` ends the
others; what a user can mend (a photo that cannot be read) is told to all first, so that each stops with that error.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from datool.errors import DatoolError
from datool.files.atomic import whole

Result = TypeVar("Result")

# How long a process waits for another before it gives up.
TIMEOUT = timedelta(minutes=30)
META = "meta.json"


@dataclass(frozen=True)
class Ranks:
    """All processes of a run, seen from one of them.

    Args:
        device: of this one.
        rank, world: which of how many.
        local_world: how many of them are on this machine.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    local_world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of ``values`` over all ranks."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.world
        return values

    def gather(self, value: Result) -> list[Result]:
        """Return every rank's value (anything that pickles), by rank."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def together(self, work: Callable[[], Result]) -> Result:
        """Return ``work()``; what one rank raises as a DatoolError, all raise.

        Raises:
            DatoolError: of the lowest rank that failed.
        """
        if self.world == 1:
            return work()
        failure: DatoolError | None = None
        try:
            result = work()
        except DatoolError as error:
            failure = error
        failed = torch.tensor(int(failure is not None))
        dist.all_reduce(failed)  # an object is gathered only when there is one to tell: this is each step's cost
        if failed:
            errors = self.gather(None if failure is None else (failure.problem, failure.hint))
            rank, (problem, hint) = next((rank, text) for rank, text in enumerate(errors) if text is not None)
            raise DatoolError(f"rank {rank} of {self.world}: {problem}", hint) from failure
        return result

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.mean(torch.zeros(()))


@contextmanager
def process_group(device: torch.device, group: bool = False) -> Iterator[Ranks]:
    """Be one of the processes that ``torchrun`` started, or the only one.

    Args:
        device: ``cuda`` without a number is this process's own GPU.
        group: make a process group for a single process too, as sharding needs.
    Raises:
        DatoolError: the others cannot be reached, or fewer GPUs than processes here.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= torch.cuda.device_count():
            have = torch.cuda.device_count()
            raise DatoolError(f"process {device.index} has no GPU: {have} here.", f"torchrun --nproc-per-node {have}")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world == 1 and not group:
        yield Ranks(device)
        return
    # Small things go between CPUs, beside the GPUs' own traffic.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store = dist.HashStore() if world == 1 else None
    try:
        dist.init_process_group(backend, rank=rank, world_size=world, store=store, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise DatoolError(f"rank {rank} of {world} reaches no other: {error}", "Start all through torchrun.") from error
    clean = False
    try:
        yield Ranks(device, rank, world, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        clean = True
    finally:
        if clean or device.type == "cpu":  # nccl would wait for those that go on
            dist.destroy_process_group()


def replicate(model: nn.Module, ranks: Ranks) -> nn.Module:
    """Return the model as one whose gradients are the mean over all ranks; each holds all of it."""
    if ranks.world == 1:
        return model
    # Of class tokens and positions, whose gradients are views of wider ones: they are copied.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    devices = [ranks.device] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


def shard(model: nn.Module, blocks: Iterable[nn.Module]) -> None:
    """Spread the model over all ranks, in place: each holds a part and gathers a block while it is computed.

    Parameters stay float32, also on their way; autocast decides what is computed in.

    Args:
        model: the same weights on every rank.
        blocks: the parts of it that are gathered one at a time.
    """
    for block in blocks:
        fully_shard(block)
    fully_shard(model)


def without_sync(model: nn.Module, skip: bool) -> AbstractContextManager[None]:
    """Return a context in which gradients add up on this rank, not yet over all; ``skip`` False = nothing changes."""
    if isinstance(model, DistributedDataParallel):
        return model.no_sync() if skip else nullcontext()
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(not skip)
    return nullcontext()


def full_tensor(value: Tensor) -> Tensor:
    """Return a tensor that may be spread over ranks as one that each holds; all ranks must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def full_state(model: nn.Module) -> dict[str, Any]:
    """Return the weights of a sharded model on the CPU; filled on rank 0 only. All ranks must ask."""
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def save_sharded(
    folder: Path, models: dict[str, nn.Module], optimizer: torch.optim.Optimizer, meta: str, ranks: Ranks
) -> None:
    """Write models and optimizer, each rank its part; the folder appears whole or not at all. All ranks must ask.

    Args:
        folder: what to write; its parent is there.
        models: by name; the first is the optimizer's.
        meta: text to keep beside them, in ``META``.
    Raises:
        DatoolError: it cannot be written.
    """
    temporary = folder.with_name(f".datool-{folder.name}.tmp")
    with whole(folder, temporary) if ranks.first else nullcontext():
        ranks.barrier()
        try:
            dcp.save(_sharded(models, optimizer), checkpoint_id=temporary)
        except (OSError, dcp.api.CheckpointException) as error:
            raise DatoolError(f"cannot write {folder}: {error}", "Is the disk full?") from error
        if ranks.first:
            (temporary / META).write_text(meta, encoding="utf-8")
    ranks.barrier()


def load_sharded(folder: Path, models: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
    """Fill models and optimizer from what any number of ranks wrote. All ranks must ask.

    Raises:
        DatoolError: it cannot be read, or is of another model.
    """
    state = _sharded(models, optimizer)
    try:
        dcp.load(state, checkpoint_id=folder)
    except (OSError, dcp.api.CheckpointException) as error:
        raise DatoolError(f"cannot resume from {folder}: {error}", "The checkpoint is damaged.") from error
    for name, model in models.items():
        set_model_state_dict(model, state[name])
    set_optimizer_state_dict(next(iter(models.values())), optimizer, state["optimizer"])


def _sharded(models: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state by parameter name, each tensor a rank's part. The first model is the optimizer's."""
    state = {name: get_model_state_dict(model) for name, model in models.items()}
    return state | {"optimizer": get_optimizer_state_dict(next(iter(models.values())), optimizer)}
