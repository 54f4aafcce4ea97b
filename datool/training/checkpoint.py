"""What a run needs to go on as if it had never stopped, written whole or not at all; the last few are kept.

Weights, averaged weights, optimizer, and as text the recipe, the step and what the log remembers. The step is also the
position of the loader, and random generators are seeded anew each step by (seed, step, rank), so that neither has a
state of its own. One file; a folder of a file a rank where the model is spread over ranks.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datool.errors import DatoolError
from datool.files import write_bytes
from datool.training.distributed import META, Ranks, load_sharded, save_sharded

_NAME = re.compile(r"step-(\d{8})(\.ckpt)?")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: of these alone.
        keep: how many are left after one was written.
        ranks: all of which call each method at once.
    """

    folder: Path
    keep: int
    ranks: Ranks

    def save(
        self,
        step: int,
        models: dict[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        meta: dict[str, Any],
        split: bool,
    ) -> None:
        """Write one, then remove the oldest beyond ``keep``.

        Args:
            step: steps done.
            models: by name; the first is the optimizer's.
            optimizer: of the first.
            meta: anything else, as JSON.
            split: whether models are spread over ranks.
        Raises:
            DatoolError: it cannot be written.
        """
        text = json.dumps(meta)
        path = self.folder / f"step-{step:08d}{'' if split else '.ckpt'}"
        if self.ranks.first:
            self.folder.mkdir(parents=True, exist_ok=True)
        if split:
            save_sharded(path, models, optimizer, text, self.ranks)
        elif self.ranks.first:
            state = {name: model.state_dict() for name, model in models.items()}
            buffer = io.BytesIO()
            torch.save(state | {"optimizer": optimizer.state_dict(), "meta": text}, buffer)
            write_bytes(path, buffer.getvalue())
        if self.ranks.first:
            for old in written(self.folder)[: -self.keep]:
                shutil.rmtree(old) if old.is_dir() else old.unlink()

    def restore(self, models: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Fill models and optimizer from the newest one, and return its ``meta``; from nothing without one.

        Any number of ranks may take up what another number wrote.

        Returns:
            What was given to `save`; empty if the run was killed before its first checkpoint.
        Raises:
            DatoolError: it is damaged, or of another model.
        """
        found = written(self.folder)
        if not found:
            return {}
        if found[-1].is_dir():
            text = (found[-1] / META).read_text(encoding="utf-8")
            load_sharded(found[-1], models, optimizer)
            return json.loads(text)
        state = _read(found[-1])
        for name, model in models.items():
            model.load_state_dict(state[name])
        optimizer.load_state_dict(state["optimizer"])
        return json.loads(state["meta"])


def written(folder: Path) -> list[Path]:
    """Return all checkpoints in a folder that were written whole, the newest last."""
    paths = folder.iterdir() if folder.is_dir() else []
    return sorted(path for path in paths if _NAME.fullmatch(path.name))


def _read(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise DatoolError(
            f"cannot resume from {path}: {error}", "The file is damaged: remove it, and the one before it is taken."
        ) from error
