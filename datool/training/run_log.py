"""The log of a run: a line of JSON for whatever happens, and TensorBoard beside it where that is installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from datool.errors import MissingLibraryError, require
from datool.files import write_bytes

Line = dict[str, Any]
LOG = "log.jsonl"


class RunLog:
    """Lines of a run, in order.

    Args:
        folder: of the run; gets ``log.jsonl``, and ``tensorboard/`` if that is installed. None = nothing is written:
            of several processes one writes.
        step: where the run goes on: what an earlier process wrote beyond it is done again, so it is dropped.
        progress: also gets each line.
    """

    def __init__(self, folder: Path | None, step: int, progress: Callable[[Line], None] | None = None) -> None:
        self.progress = progress
        self._file: TextIO | None = None
        self._board: Any = None
        if folder is not None:
            path = folder / LOG
            if path.exists():
                write_bytes(path, _until(path.read_bytes(), step))
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
            self._board = _board(folder / "tensorboard", step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, line: Line) -> None:
        """Add a line; its ``step`` is that of every number in it."""
        if self._file is None:
            return
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._board is not None and "event" not in line:
            for name, value in line.items():
                if isinstance(value, (int, float)) and name != "step":
                    self._board.add_scalar(name, value, line["step"])
        if self.progress:
            self.progress(line)

    @property
    def draws(self) -> bool:
        """Whether pictures are shown anywhere."""
        return self._board is not None

    def draw(self, step: int, name: str, picture: np.ndarray) -> None:
        """Show a picture, (H, W, 3) uint8 RGB, in TensorBoard; nowhere without it."""
        if self._board is not None:
            self._board.add_image(name, picture, step, dataformats="HWC")


def _until(text: bytes, step: int) -> bytes:
    """Return the lines up to and with ``step``; a last line that a kill cut off is dropped."""
    whole = text[: text.rfind(b"\n") + 1].splitlines(keepends=True)
    return b"".join(line for line in whole if json.loads(line)["step"] <= step)


def _board(folder: Path, step: int) -> Any:
    try:
        tensorboard = require("torch.utils.tensorboard", "train", "drawing a run")
    except MissingLibraryError:
        return None  # the log has every number that TensorBoard would draw
    return tensorboard.SummaryWriter(str(folder), purge_step=step + 1)
