"""From a recipe and the places of its data to batches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datool.data.batches.datasets import open_set
from datool.data.batches.stored import GroupSpec, RenderedBatches, SampleBatches, SetSpec
from datool.data.manifest import MANIFEST
from datool.data.shards import INDEX
from datool.data.sources.table import SOURCES
from datool.errors import DatoolError, lookup
from datool.models.encoders import encoder_spec
from datool.models.specs import MODELS
from datool.parallel import num_cores
from datool.training.distributed import Ranks
from datool.training.recipe import RENDERED, Recipe

MAX_WORKERS = 16
Feed = SampleBatches | RenderedBatches


class MissingDataError(DatoolError):
    """A recipe trains on samples of the user's own, and none were named."""


@dataclass(frozen=True)
class Places:
    """Where a run's data are: what a recipe does not say, since it differs from machine to machine.

    Args:
        data: own manifests or packed folders: pseudo labels where the recipe takes any, else labelled, in place of the
            recipe's sets.
        labelled: own labelled ones, for a recipe that takes pseudo labels beside them.
        validation: a manifest or a packed folder with truth, to score on.
        roots: folder of a data set by its name.
        sky: folder of sky masks of a labelled set, by its name or by its path as given: V1's sky.
    """

    data: tuple[Path, ...] = ()
    labelled: tuple[Path, ...] = ()
    validation: Path | None = None
    roots: Mapping[str, Path] = field(default_factory=dict)
    sky: Mapping[str, Path] = field(default_factory=dict)

    def to_json(self, num_samples: Sequence[int] = ()) -> str:
        """Return text that `from_json` takes back; paths are absolute in it.

        Args:
            num_samples: of each group, for the record.
        """
        return json.dumps(
            {
                "num_samples": list(num_samples),
                "data": [str(path.absolute()) for path in self.data],
                "labelled": [str(path.absolute()) for path in self.labelled],
                "validation": None if self.validation is None else str(self.validation.absolute()),
                "roots": {name: str(path.absolute()) for name, path in self.roots.items()},
                "sky": {_full(name): str(path.absolute()) for name, path in self.sky.items()},
            },
            indent=2,
        )

    @classmethod
    def from_json(cls, text: str) -> Places:
        """Return what `to_json` wrote."""
        stored: dict[str, Any] = json.loads(text)
        return cls(
            tuple(map(Path, stored["data"])),
            tuple(map(Path, stored["labelled"])),
            None if stored["validation"] is None else Path(stored["validation"]),
            {name: Path(path) for name, path in stored["roots"].items()},
            {name: Path(path) for name, path in stored["sky"].items()},
        )


def groups_of(recipe: Recipe, places: Places) -> tuple[GroupSpec, ...]:
    """Return the labelled and the pseudo-labelled samples of a batch; nothing if the recipe trains on rendered scenes.

    Raises:
        MissingDataError: a group of which no data were named.
        DatoolError: data that are not there, or that no group takes.
    """
    files = [own_set(path) for path in places.data]
    labelled = [own_set(path) for path in places.labelled]
    if recipe.pseudo_batch == 0:
        labelled, files = labelled + files, []
    if labelled and not recipe.labelled_batch:
        raise DatoolError("this recipe takes pseudo labels alone.", "Give them by --data, and leave --labelled out.")
    if not labelled:
        if recipe.labelled == (RENDERED,) and not files:
            return ()
        labelled = [named_set(name, places.roots) for name in recipe.labelled if name != RENDERED]
    groups = []
    if recipe.labelled_batch:
        if not labelled:
            raise MissingDataError(
                f"{recipe.labelled_batch} of each {recipe.batch_size} samples are labelled ones, and there are none.",
                "Give them: --labelled FILE." if recipe.pseudo_batch else "Give them: --data FILE.",
            )
        weights = recipe.labelled_weights or (1.0,) * len(labelled)
        if len(weights) != len(labelled):
            raise DatoolError(
                f"{len(weights)} labelled_weights for {len(labelled)} labelled sets.", "Give one for each set, or none."
            )
        sets = tuple(replace(spec, weight=weight) for spec, weight in zip(labelled, weights, strict=True))
        groups.append(
            GroupSpec(
                _with_skies(sets, places.sky),
                recipe.labelled_batch,
                recipe.labelled_augment,
                flip=recipe.flip,
                zoom=recipe.crop_zoom,
                skip_broken=recipe.skip_broken,
            )
        )
    if recipe.pseudo_batch:
        if not files:
            raise MissingDataError(
                "this recipe trains on a teacher's labels, and there are none.",
                "Write them: datool pseudo-label photos/ --model TEACHER --out labels; give them: --data labels.",
            )
        groups.append(
            GroupSpec(
                tuple(files),
                recipe.pseudo_batch,
                recipe.augment,
                recipe.cutmix,
                recipe.cutmix_area,
                recipe.flip,
                recipe.crop_zoom,
                pseudo=True,
                skip_broken=recipe.skip_broken,
            )
        )
    return tuple(groups)


def _with_skies(sets: tuple[SetSpec, ...], skies: Mapping[str, Path]) -> tuple[SetSpec, ...]:
    """Return the sets, each with its sky masks.

    Raises:
        DatoolError: masks of a set that is not among them.
    """
    given = {_full(name): folder for name, folder in skies.items()}
    names = [_full(str(spec.root)) if spec.source in ("manifest", "shards") else spec.source for spec in sets]
    if unknown := given.keys() - set(names):
        raise DatoolError(f"sky masks of {min(unknown)}, which is not trained on.", f"Of these: {', '.join(names)}.")
    return tuple(replace(spec, sky=given.get(name)) for spec, name in zip(sets, names, strict=True))


def _full(name: str) -> str:
    """Return what names a set from any working folder: a data set's name, or a path made absolute."""
    return name if name in SOURCES else str(Path(name).absolute())


def named_set(name: str, roots: Mapping[str, Path]) -> SetSpec:
    """Return a data set to train on by its name, ``nyu``, or with a split, ``nyu:train``.

    Args:
        name: of `SOURCES`, and after a colon one of its splits or a list file.
        roots: folder of a data set by its name.
    Raises:
        DatoolError: unknown, or a split that benchmarks score.
    """
    name, _, split = name.partition(":")
    source = lookup(SOURCES, name, "data set")
    return SetSpec(name, roots.get(name), source.training_split(name, split or None))


def own_set(path: Path) -> SetSpec:
    """Return a user's file or folder as a set: what ``datool data pack`` or ``pseudo-label`` wrote, or a manifest.

    Of labels kept as shards, ``labels/manifest.jsonl`` means the folder, so that a command does not depend on the form.

    Raises:
        DatoolError: nothing there.
    """
    if path.name == MANIFEST and not path.exists() and (path.parent / INDEX).exists():
        path = path.parent
    if not path.exists():
        raise DatoolError(f"no data at {path}.", "Give a manifest (.jsonl), its folder, or a folder of packed shards.")
    return SetSpec("shards" if (path / INDEX).exists() else "manifest", path)


def input_sizes(recipe: Recipe, stored: bool) -> list[tuple[int, int]]:
    """Return the (height, width) of each input that the network gets, in their order.

    Args:
        recipe: says them.
        stored: whether it trains on stored samples, which are cropped to one size, or on rendered scenes.
    Raises:
        DatoolError: the encoder cannot cut one into patches.
    """
    sizes = [recipe.size_px] if stored else [(height, width) for _, height, width in recipe.sizes]
    patch = encoder_spec(lookup(MODELS, recipe.model, "model").encoder).patch_px
    for height, width in sizes:
        if height % patch or width % patch or min(height, width) < patch:
            field = "size_px" if stored else "sizes"
            near = [max(patch, round(side / patch) * patch) for side in (height, width)]
            raise DatoolError(
                f"{field} is {height}x{width}, and {recipe.model} takes multiples of {patch}.",
                f"Nearest: {near[0]}x{near[1]}.",
            )
    return sizes


def make_batches(recipe: Recipe, places: Places, ranks: Ranks, num_workers: int | None = None) -> Feed:
    """Return this rank's batches.

    Args:
        recipe: what and how.
        places: where.
        ranks: which part of how many, and where to.
        num_workers: processes that read; None = the cores that there are for each rank here.
    Raises:
        DatoolError: a set is missing, a group's share of a batch cannot be split evenly, or crops are no whole patches.
    """
    groups = groups_of(recipe, places)
    input_sizes(recipe, bool(groups))
    if not groups and recipe.target == "disparity":
        raise DatoolError("rendered scenes have no target 'disparity'.", "Take disparity-minmax or depth.")
    if not groups:
        return RenderedBatches(
            recipe.seed,
            recipe.num_scenes,
            recipe.scene_px,
            recipe.sizes,
            recipe.zoom,
            recipe.colour,
            recipe.batch_size,
            recipe.steps,
            ranks.rank,
            ranks.world,
            ranks.device,
            recipe.accumulation,
            recipe.target,
            MODELS[recipe.model].max_depth_m or float("inf"),
        )
    return SampleBatches(
        groups,
        recipe.seed,
        recipe.size_px,
        recipe.target,
        spare_cores(ranks) if num_workers is None else num_workers,
        ranks.rank,
        ranks.world,
        ranks.device,
        recipe.accumulation,
        MODELS[recipe.model].max_depth_m or float("inf"),
    )


def count_steps(recipe: Recipe, num_samples: int) -> int:
    """Return the steps of a run: the recipe's, or what its epochs come to.

    Args:
        recipe: says which.
        num_samples: of what an epoch goes through, the last group; 0 = rendered scenes, which have no end.
    """
    if not (recipe.epochs and num_samples):
        return recipe.steps
    return max(1, int(recipe.epochs * num_samples // (recipe.pseudo_batch or recipe.batch_size)))


def count_samples(group: GroupSpec) -> dict[str, int | str]:
    """Return the samples of each set, or why they cannot be counted."""
    found: dict[str, int | str] = {}
    for spec in group.sets:
        name = f"{spec.source} {spec.root or ''}".strip()
        try:
            found[name] = sum(open_set(spec).counts)
        except DatoolError as error:
            found[name] = error.problem
    return found


def spare_cores(ranks: Ranks) -> int:
    """Return how many processes may read for this rank beside it; none where one core is all there is."""
    return max(0, min(MAX_WORKERS, num_cores() // ranks.local_world - 1))
