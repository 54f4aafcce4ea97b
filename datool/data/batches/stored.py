"""Batches of training, step by step: the same whatever the number of workers and ranks, and from any step on.

A step takes the next positions of each group's order (`datool.data.batches.sampler`). What a sample becomes (its crop,
its flip, its CutMix partner and box, its colours) is a function of (seed, group, epoch, sample) alone: one row of
draws, made from a hash of these. Decoding and cutting happen in workers on uint8 and NumPy; colour and mixing on the
device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datool.data.batches.augment import NUM_AUGMENT_DRAWS, Augmentation, augment, inside
from datool.data.batches.crops import NUM_BOX_DRAWS, NUM_CROP_DRAWS, Box, Crop, cutmix_box, random_crop
from datool.data.batches.datasets import OpenSet, SetSpec, open_set
from datool.data.batches.rendered import RenderedBatches
from datool.data.batches.sampler import Place, SampleOrder, check_parts, sample_loader, uniform
from datool.data.batches.transforms import TARGETS
from datool.data.sample import Batch, Sample
from datool.depth import DepthMap
from datool.errors import DatoolError, lookup

__all__ = ["GroupSpec", "RenderedBatches", "SampleBatches", "SetSpec"]

# How many further samples are tried in place of one that cannot be read.
SPARES = 3
# What the draws of a sample are for, in their order: whether it is mixed and with whom, the crops of both, the box, and
# the colours of both.
_PARTS = (2, NUM_CROP_DRAWS, NUM_CROP_DRAWS, NUM_BOX_DRAWS, NUM_AUGMENT_DRAWS, NUM_AUGMENT_DRAWS)
_SPLITS = tuple(accumulate(_PARTS))


@dataclass(frozen=True)
class GroupSpec:
    """Samples that training treats alike: all labelled ones, or all with pseudo labels.

    Args:
        sets: what it is made of. With equal weights they are gone through as one set, as if concatenated; else each has
            epochs of its own, and is drawn as often as its size times its weight.
        batch_size: of all ranks together.
        augment: changes of colour; None = none.
        cutmix: probability that a box of another picture is set into one.
        cutmix_area: smallest and largest share of the box; V1 does not say, CutMix itself has (0, 1).
        flip: probability that a sample is mirrored.
        zoom: smallest share of a picture's sides that a crop shows, as `random_crop`.
        pseudo: whether all labels are a model's, whatever their rows say.
        labelled: whether a sample must have a label; without, the target is known nowhere.
        skip_broken: take the next sample of the order in place of one that cannot be read. Which one depends on the
            files alone, so that a run stays the same.
    """

    sets: tuple[SetSpec, ...]
    batch_size: int
    augment: Augmentation | None = None
    cutmix: float = 0.0
    cutmix_area: tuple[float, float] = (0.0, 1.0)
    flip: float = 0.5
    zoom: float = 1.0
    pseudo: bool = False
    labelled: bool = True
    skip_broken: bool = False


class SampleBatches:
    """Batches of stored samples, one rank's part of each step.

    A CutMix partner is another sample of those that the order shuffles together: of the same few shards where a set is
    packed, so that reading stays in turn, and of the whole set where it is not; with equal weights, of all sets of the
    group. Its crop is its own. Colours change before the two are mixed, each picture by its own draws, as in V1.

    Args:
        groups: whose samples a batch holds, one group after the other.
        seed: of the order and of all draws.
        size_px: (height, width) of the network's input.
        target: key of `TARGETS`. Min-max is of the crop, before it is mixed.
        num_workers: processes that read; 0 = this one.
        rank, world: which of how many.
        device: where batches go.
        micro: batches that a rank's part of a step is given in; each holds the same share of every group.
        max_depth_m: what is farther is unknown; of the target ``depth`` only.
    Raises:
        DatoolError: a set is not there or empty, or a batch size that world x micro does not divide.
    """

    def __init__(
        self,
        groups: Sequence[GroupSpec],
        seed: int,
        size_px: tuple[int, int] = (518, 518),
        target: str = "disparity-minmax",
        num_workers: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        micro: int = 1,
        max_depth_m: float = float("inf"),
    ) -> None:
        lookup(TARGETS, target, "target")
        for group in groups:
            check_parts(group.batch_size, world, micro)
        self.groups, self.device = tuple(groups), torch.device(device)
        self.rank, self.world, self.micro, self.num_workers = rank, world, micro, num_workers
        sets = [[open_set(spec) for spec in group.sets] for group in groups]
        self._reader = _Reader(self.groups, sets, size_px, target, max_depth_m)
        self._steps = _Steps(self.groups, sets, seed, world * micro)
        self.skipped: dict[str, str] = {}

    @property
    def num_samples(self) -> tuple[int, ...]:
        """How many samples each group has; that many are one pass where weights are equal."""
        return tuple(self._steps.num_samples)

    def batches(self, step: int) -> Iterator[Batch]:
        """Yield this rank's batches from ``step`` on, without end, ``micro`` a step; closing it stops the workers.

        What was skipped is added to ``skipped``: id -> reason.

        Raises:
            DatoolError: a sample cannot be read, and is not skipped.
        """
        size = self._steps.batch_size // self.micro
        loader = sample_loader(
            self._reader,
            self._steps,
            size,
            position=step * self._steps.batch_size,
            rank=self.rank,
            world=self.world,
            num_workers=self.num_workers,
            collate=_collate,
            pin_memory=self.device.type == "cuda",
        )
        for raw in loader:
            yield self._finish(_Raw(*raw))

    def _finish(self, raw: _Raw) -> Batch:
        """Return the batch on the device: coloured, then mixed."""
        for id, problem, hint, skipped in raw.broken:
            if not skipped:
                raise DatoolError(problem, hint)
            self.skipped[id] = problem
        own, partners = _pixels(raw.own, self.device), _pixels(raw.partners, self.device)
        target, mixed = raw.target.to(self.device, non_blocking=True), raw.mixed.tolist()
        valid = ~target.isnan()
        region = torch.ones_like(valid)
        if mixed:
            boxes = raw.boxes.to(self.device, non_blocking=True)
            region[mixed] = ~inside(boxes, (target.shape[1], target.shape[2]))
        clean = _mix(own, partners, mixed, region)
        image = clean
        if any(group.augment for group in self.groups):
            image = _mix(*self._augmented(own, partners, mixed, raw), mixed, region)
        return Batch(
            image=image,
            clean=clean,
            target=torch.where(valid, target, 0),
            valid=valid,
            region=region,
            pseudo=raw.pseudo.to(self.device, non_blocking=True),
            ids=tuple(raw.ids),
        )

    def _augmented(self, own: Tensor, partners: Tensor, mixed: list[int], raw: _Raw) -> tuple[Tensor, Tensor]:
        """Return own pictures and partners with their group's changes of colour."""
        images, others = [], []
        for group, rows in zip(self.groups, self._steps.rows, strict=True):
            first, last = (int(np.searchsorted(mixed, row)) for row in (rows.start, rows.stop))
            part, other = own[rows.start : rows.stop], partners[first:last]
            if group.augment:
                part = augment(part, group.augment, raw.own_draws[rows.start : rows.stop])
                other = augment(other, group.augment, raw.partner_draws[first:last])
            images.append(part)
            others.append(other)
        return torch.cat(images), torch.cat(others)


def _pixels(image: Tensor, device: torch.device) -> Tensor:
    """Return (B, H, W, 3) uint8 as (B, 3, H, W) float32 in [0, 1], channels last in memory."""
    return image.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255


def _mix(own: Tensor, partners: Tensor, mixed: list[int], region: Tensor) -> Tensor:
    """Return the pictures with those of partners outside of ``region``; ``mixed`` are the rows that have one."""
    if not mixed:
        return own
    image = own.clone()
    image[mixed] = torch.where(region[mixed][:, None], own[mixed], partners)
    return image


# Which samples: decided in the process that trains


class _Pick(NamedTuple):
    """A sample and all that is drawn for it."""

    group: int
    place: Place
    partner: Place | None
    draws: np.ndarray


class _Steps:
    """The positions of all groups as one sequence, each part of a step holding the same share of every group."""

    def __init__(
        self, groups: Sequence[GroupSpec], sets: Sequence[Sequence[OpenSet]], seed: int, num_parts: int
    ) -> None:
        self.groups, self.seed, self.num_parts = groups, seed, num_parts
        self.batch_size = sum(group.batch_size for group in groups)
        counts = [[found.counts for found in opened] for opened in sets]
        self.num_samples = [sum(map(sum, each)) for each in counts]
        self.orders = [
            SampleOrder(each, _hashed(seed, number), _weights(group, each))
            for number, (group, each) in enumerate(zip(groups, counts, strict=True))
        ]
        ends = list(accumulate(group.batch_size // num_parts for group in groups))
        # Of each part, the rows of each group.
        self.rows = [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def sample_at(self, position: int) -> tuple[_Pick, ...]:
        """Return the sample at ``position``, and those that may take its place."""
        part, row = divmod(position, self.rows[-1].stop)
        number = next(number for number, rows in enumerate(self.rows) if row in rows)
        group, rows = self.groups[number], self.rows[number]
        own = part * len(rows) + row - rows.start
        return tuple(self._pick(number, own + spare) for spare in range(1 + SPARES * group.skip_broken))

    def _pick(self, number: int, position: int) -> _Pick:
        group, order = self.groups[number], self.orders[number]
        place = order.sample_at(position)
        draws = uniform((self.seed, number, place.epoch, place.set, place.shard, place.number), _SPLITS[-1])
        partner = order.partner_at(position, draws[1]) if draws[0] < group.cutmix else None
        return _Pick(number, place, partner, draws)


def _weights(group: GroupSpec, counts: Sequence[Sequence[int]]) -> list[float] | None:
    if len({spec.weight for spec in group.sets}) == 1:
        return None
    return [spec.weight * sum(each) for spec, each in zip(group.sets, counts, strict=True)]


def _hashed(seed: int, number: int) -> int:
    """Return a seed of a group's own, so that two groups of one set do not go through it in step."""
    return int(uniform((seed, number), 1)[0] * 2**53)


# What they are: read and cut in workers


class _Item(NamedTuple):
    """A sample as a worker gives it; a part of a `_Raw`."""

    own: np.ndarray
    target: np.ndarray
    box: Box
    partner: np.ndarray | None
    own_draws: np.ndarray
    partner_draws: np.ndarray
    pseudo: bool
    id: str


class _Broken(NamedTuple):
    """A sample that could not be read, and whether another took its place."""

    id: str
    problem: str
    hint: str
    skipped: bool


class _Raw(NamedTuple):
    """A batch as it leaves a worker.

    Args:
        own: (B, H, W, 3) uint8.
        partners: (P, H, W, 3) uint8, the whole crop of each.
        mixed: (P,) which rows they are for, rising.
        boxes: (P, 4) what partners fill.
        target: (B, H, W) float32, mixed, NaN = unknown.
        own_draws, partner_draws: (B, N) and (P, N) for `augment`.
        pseudo: (B,) bool.
        ids: of the samples.
        broken: what was not read; one of them not skipped, and there is nothing else.
    """

    own: Tensor
    partners: Tensor
    mixed: Tensor
    boxes: Tensor
    target: Tensor
    own_draws: Tensor
    partner_draws: Tensor
    pseudo: Tensor
    ids: list[str]
    broken: list[_Broken]


@dataclass(frozen=True)
class _Reader:
    """Reads and cuts what was picked: a function of the pick and of files."""

    groups: tuple[GroupSpec, ...]
    sets: list[list[OpenSet]]
    size: tuple[int, int]
    target: str
    max_depth_m: float

    def __call__(self, picks: tuple[_Pick, ...]) -> tuple[_Item | None, list[_Broken]]:
        """Return the first of them that can be read, and those before it."""
        broken: list[_Broken] = []
        for pick in picks:
            try:
                return self._item(pick), [each._replace(skipped=True) for each in broken]
            except DatoolError as error:
                group, place = self.groups[pick.group], pick.place
                id = f"{group.sets[place.set].source}, shard {place.shard}, sample {place.number}"
                broken.append(_Broken(id, error.problem, error.hint, False))
        return None, broken

    def _item(self, pick: _Pick) -> _Item:
        group = self.groups[pick.group]
        _, own, other, box_draws, own_draws, partner_draws, _ = np.split(pick.draws, _SPLITS)
        image, target, sample = self._cut(pick.group, pick.place, own)
        box, partner = (0, 0, 0, 0), None
        if pick.partner:
            box = cutmix_box(self.size, group.cutmix_area, box_draws)
            partner, its_target, _ = self._cut(pick.group, pick.partner, other)
            inside = slice(*box[:2]), slice(*box[2:])
            target[inside] = its_target[inside]
        # The group decides, so that every batch of every rank has the same losses.
        return _Item(image, target, box, partner, own_draws, partner_draws, group.pseudo, sample.id)

    def _cut(self, number: int, place: Place, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, Sample]:
        """Return image (H, W, 3) uint8 and target (H, W) float32, NaN = unknown, of a crop; and what it is of."""
        group = self.groups[number]
        sample = self.sets[number][place.set].read(place.shard, place.number)
        crop = random_crop(sample.image.shape, self.size, group.flip, draws, group.zoom)
        return crop.image(sample.image), self._target(sample, crop, group.labelled), sample

    def _target(self, sample: Sample, crop: Crop, labelled: bool) -> np.ndarray:
        depth = sample.depth
        if depth is None:
            if labelled:
                raise DatoolError(f"sample {sample.id} has no label.", "Label it first: datool pseudo-label.")
            return np.full(self.size, np.nan, np.float32)
        part = DepthMap(crop.nearest(depth.values), depth.quantity, depth.ambiguity)
        try:
            return TARGETS[self.target](part, self.max_depth_m)
        except DatoolError as error:
            raise error.reworded(f"the label of sample {sample.id}: {error.problem}") from error


def _collate(read: list[tuple[_Item | None, list[_Broken]]]) -> _Raw:
    items = [item for item, _ in read if item is not None]
    broken = [each for _, found in read for each in found]
    if len(items) < len(read):
        items = []  # the step fails, whatever else was read
    partners = [item.partner for item in items if item.partner is not None]
    mixed = [row for row, item in enumerate(items) if item.partner is not None]
    own = _stack([item.own for item in items])
    return _Raw(
        own=own,
        partners=_stack(partners) if partners else own[:0],
        mixed=torch.tensor(mixed, dtype=torch.int64),
        boxes=torch.tensor([items[row].box for row in mixed], dtype=torch.int64),
        target=_stack([item.target for item in items]),
        own_draws=_stack([item.own_draws for item in items]),
        partner_draws=_stack([item.partner_draws for item in items])[mixed],
        pseudo=torch.tensor([item.pseudo for item in items], dtype=torch.bool),
        ids=[item.id for item in items],
        broken=broken,
    )


def _stack(arrays: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays)) if arrays else torch.empty(0)
