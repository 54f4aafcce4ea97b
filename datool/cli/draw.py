"""What commands write: tables on stdout, messages and progress on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datool.progress import Progress

if TYPE_CHECKING:
    from tqdm import tqdm

# Failures that are listed one by one; the manifest has them all.
LISTED = 20
# Between lines of progress where stderr is no terminal.
LINE_EVERY_S = 10.0


def draw_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print names and their numbers; nothing without rows."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, title in enumerate(titles):
        table.add_column(Text(title), justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)


def draw_rows(rows: Mapping[str, str]) -> None:
    """Print a summary: a name and a value a line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    Console(highlight=False).print(table)


def list_failed(failed: Mapping[str, str], out: Path | None) -> None:
    """Name the first failures on stderr, and where the others are listed, if anywhere."""
    where = "by --json" if out is None else f"in {out / 'manifest.jsonl'}"
    for path, reason in list(failed.items())[:LISTED]:
        say("failed", reason if path in reason else f"{path}: {reason}", "red")
    if len(failed) > LISTED:
        say("failed", f"{len(failed) - LISTED} more, listed {where}", "red")


def say(label: str, text: str, style: str) -> None:
    """Write one labelled line to stderr; ``text`` may hold anything, file names with newlines and brackets too."""
    from rich.console import Console
    from rich.text import Text

    printable = text.encode("utf-8", "backslashreplace").decode()
    Console(stderr=True, soft_wrap=True, highlight=False).print(Text.assemble((f"{label}: ", style), printable))


class Bar:
    """Progress on stderr: a bar on a terminal, else a line now and then."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.bar: tqdm[Any] | None = None
        self.started = self.said = time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def update(self, progress: Progress) -> None:
        """Draw what a job reports."""
        if progress.message:
            say("note", progress.message, "yellow")
        elif not self.quiet and (progress.todo or progress.done or progress.failed):
            if sys.stderr.isatty():
                self._draw(progress)
            else:
                self._write(progress)

    def step(self, line: Mapping[str, float], steps: int) -> None:
        """Draw a line of a training log: ``step`` of ``steps``, and the figures beside it."""
        if self.quiet:
            return
        figures = ", ".join(f"{name} {value:.4g}" for name, value in line.items() if name != "step")
        if not sys.stderr.isatty():
            say("step", f"{line['step']} of {steps}: {figures}", "dim")
            return
        if self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(total=steps, initial=int(line["step"]), unit="step", dynamic_ncols=True)
        self.bar.update(line["step"] - self.bar.n)
        self.bar.set_postfix_str(figures)

    def _draw(self, progress: Progress) -> None:
        if self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(total=progress.todo or None, unit="img", dynamic_ncols=True)
        if self.bar.total != (progress.todo or None):  # the next of several sets
            self.bar.reset(total=progress.todo)
        self.bar.update(progress.done + progress.failed - self.bar.n)
        if progress.failed:
            self.bar.set_postfix_str(f"{progress.failed} failed", refresh=False)

    def _write(self, progress: Progress) -> None:
        now, count = time.monotonic(), progress.done + progress.failed
        if count == 0:
            self.started = self.said = now
        elif now - self.said >= LINE_EVERY_S:
            self.said, rate = now, count / (now - self.started)
            if progress.todo:
                words = f"{count} of {progress.todo}, {rate:.1f} images/s, {(progress.todo - count) / rate:.0f} s left"
            else:
                words = f"{count} done, {progress.skipped} before, {rate:.1f} images/s"
            say("progress", words, "dim")
