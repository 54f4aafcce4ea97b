"""What a run needs to go on as if it had never stopped, written whole or not at all."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from datool.errors import DatoolError
from datool.files import write_bytes


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers and nested dicts of them; the file appears whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote.

    Raises:
        DatoolError: no such file, or not a checkpoint.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise DatoolError(f"cannot resume: {path} does not exist.", "Leave --resume out to start anew.") from error
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise DatoolError(
            f"cannot resume from {path}: {error}", "The file is damaged; start anew elsewhere."
        ) from error
