"""Options that mean the same in every command, and how texts become values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="DIR", help="Output folder; made if it is not there.", show_default=False)
]
Model = Annotated[
    str,
    typer.Option(
        metavar="NAME|FILE|FOLDER",
        help="A name (v2-small, tiny, ...), a weight file, the folder of a training run or of transformers, NAME=FILE, "
        "or auto: what OUT holds, else Depth Anything V2 Small if cached or to be fetched, else the bundled tiny.",
    ),
]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto (cuda, else mps, else cpu), cuda, cuda:1, mps or cpu.")]
Precision = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="fp32, bf16, fp16, fp8 (recent NVIDIA GPUs), or auto: bf16 where computed, else fp32."
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile the network for the GPU first (NVIDIA; a minute, then kept): pays for thousands of photos.",
    ),
]
BatchSize = Annotated[
    str, typer.Option(metavar="N", help="Photos a forward: a number, or auto (1 on a CPU, what fits on a GPU).")
]
Size = Annotated[
    int | None,
    typer.Option(
        metavar="PX",
        help="Short side of the network's input in pixels; default: the model's (518 for the published ones).",
        min=1,
        show_default=False,
    ),
]
Roots = Annotated[
    list[str] | None,
    typer.Option(
        "--root",
        metavar="NAME=DIR",
        help="Where a data set is; else $DATOOL_DATA/NAME or data/NAME. Repeatable.",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a field of the recipe; repeatable.", show_default=False),
]
Split = Annotated[
    str | None, typer.Option(metavar="NAME", help="Part of the data set; default: its first.", show_default=False)
]
RowsPerShard = Annotated[int, typer.Option(metavar="N", help="Rows of each tar.", min=1)]
Workers = Annotated[int, typer.Option(metavar="N", help="Processes (threads for pack); 0 = one a CPU core.", min=0)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Do finished images again and replace files in the way.")]
MaxPixels = Annotated[int, typer.Option(metavar="N", help="Photos with more pixels fail.", min=1)]
MaxAspect = Annotated[float, typer.Option(metavar="RATIO", help="Photos more elongated than this to 1 fail.", min=1.0)]
Calibration = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        metavar="FILE",
        help="What datool calibrate wrote: makes relative disparity metric depth.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary; warnings and errors stay.")]


def pairs(given: list[str] | None, option: str, form: str) -> dict[str, str]:
    """Return the names and values of a repeatable option."""
    pairs = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"got '{text}', expected {form}.", param_hint=option)
        pairs[name] = value
    return pairs


def number_or_text(text: str) -> int | str:
    """Return a whole number as such, and anything else (auto) as it is."""
    return int(text) if text.isdecimal() else text
