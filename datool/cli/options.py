"""Options that mean the same in every command, typed once, and how texts become values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datool.cli.help import ADVANCED, CAMERA, DATA, GENERAL, IN_OUT, LARGE, MAPS, MODEL, WORKERS
from datool.errors import DatoolError, lookup

if TYPE_CHECKING:
    from datool.files.stored_map import MapMeaning

# Input and output

Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        help="Output folder. It is created if needed.",
        show_default=False,
        rich_help_panel=IN_OUT,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Redo what is already finished and replace existing files.", rich_help_panel=IN_OUT
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Reject photos with more pixels than this. Default: 200 million.",
        min=1,
        show_default=False,
        rich_help_panel=ADVANCED,
    ),
]
MaxAspect = Annotated[
    float,
    typer.Option(
        metavar="RATIO",
        help="Reject photos whose long side is more than this many times the short side.",
        min=1.0,
        rich_help_panel=ADVANCED,
    ),
]

# The model, and how it is run

Model = Annotated[
    str,
    typer.Option(
        metavar="NAME|FILE|DIR",
        help="A model name (v2-small, tiny, ...; `datool models` lists them), a weight file, a training run or "
        "transformers folder, or NAME=FILE. auto: the model that OUT was made with, else Depth Anything V2 Small, "
        "else (offline) the bundled tiny.",
        rich_help_panel=MODEL,
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        metavar="PX",
        help="Short side of the network input, in pixels. Default: the model's own (518 for the published models).",
        min=1,
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="fp32, bf16, fp16, fp8 (recent NVIDIA GPUs), or auto: bf16 if the hardware supports it, else fp32.",
        rich_help_panel=MODEL,
    ),
]
Device = Annotated[
    str,
    typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps, or auto: a GPU if there is one.", rich_help_panel=MODEL),
]
BatchSize = Annotated[
    str,
    typer.Option(
        metavar="N",
        help="Photos per batch, or auto: 1 on a CPU, as many as fit on a GPU.",
        rich_help_panel=MODEL,
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile the network first (NVIDIA GPUs). Takes a minute, then is cached; worth it for thousands of "
        "photos.",
        rich_help_panel=MODEL,
    ),
]
Runtime = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="torch, onnx, openvino (converted once and cached), or auto: the fastest on the first photos whose error "
        "is within --tolerance. Default: torch, or the runtime of an exported file.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
Tolerance = Annotated[
    float,
    typer.Option(
        metavar="ERROR",
        help="With --runtime auto: largest accepted error against fp32, relative to the spread of the map.",
        min=0.0,
        rich_help_panel=MODEL,
    ),
]
Tile = Annotated[
    int | None,
    typer.Option(
        metavar="PX",
        help="Process photos larger than this in overlapping square tiles of this size, made consistent with a view "
        "of the whole photo.",
        show_default=False,
        rich_help_panel=LARGE,
    ),
]
Overlap = Annotated[
    int | None,
    typer.Option(
        metavar="PX",
        help="Overlap of neighbouring tiles. Default: a quarter of --tile.",
        show_default=False,
        rich_help_panel=LARGE,
    ),
]
Calibration = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        metavar="FILE",
        help="Calibration from `datool calibrate`: turns relative disparity into depth in metres.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]

# What maps mean that do not say so themselves

MapQuantity = Annotated[
    str | None,
    typer.Option(
        "--quantity",
        metavar="NAME",
        help="What the maps hold, if the files do not say: depth or disparity.",
        show_default=False,
        rich_help_panel=MAPS,
    ),
]
MapAmbiguity = Annotated[
    str | None,
    typer.Option(
        "--ambiguity",
        metavar="NAME",
        help="What is unknown about the values, if the files do not say: none (metres), scale, or scale-and-shift.",
        show_default=False,
        rich_help_panel=MAPS,
    ),
]
Divisor = Annotated[
    float | None,
    typer.Option(
        metavar="N",
        help="Divide the stored numbers by this: 1000 for millimetres, 256 for KITTI.",
        show_default=False,
        rich_help_panel=MAPS,
    ),
]

Invalid = Annotated[
    str | None,
    typer.Option(
        "--invalid",
        metavar="LIST",
        help="Stored numbers that mean unknown, comma-separated, or none. Default: 0 in whole numbers, and in "
        "depth with --divisor.",
        show_default=False,
        rich_help_panel=MAPS,
    ),
]
AsPhoto = Annotated[
    bool,
    typer.Option(
        "--as-photo",
        help="Take 16-bit grey PNG and TIFF files for photos. Otherwise they are refused as depth maps.",
        rich_help_panel=ADVANCED,
    ),
]

# The camera

FocalPx = Annotated[
    float | None,
    typer.Option(
        metavar="PX",
        help="Focal length in pixels, at the photos' own size.",
        show_default=False,
        rich_help_panel=CAMERA,
    ),
]
FovDeg = Annotated[
    float | None,
    typer.Option(
        metavar="DEG", help="Horizontal field of view in degrees.", show_default=False, rich_help_panel=CAMERA
    ),
]
Intrinsics = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="fx fy cx cy or a 3x3 matrix, as text or JSON, with the image width and height if it is to be rescaled; "
        "or JSON lines, one per image. Default: the manifest or EXIF.",
        show_default=False,
        rich_help_panel=CAMERA,
    ),
]
AssumeFov = Annotated[
    float | None,
    typer.Option(
        metavar="DEG",
        help="Horizontal field of view to assume where the camera is unknown.",
        show_default=False,
        rich_help_panel=CAMERA,
    ),
]

# Data sets, and who works

Roots = Annotated[
    list[str] | None,
    typer.Option(
        "--root",
        metavar="NAME=DIR",
        help="Folder of a data set. Default: $DATOOL_DATA/NAME, else data/NAME. Repeatable.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Split of the data set. Default: its first.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one field of the recipe or protocol: far=10, betas=0.9,0.99, or any JSON value. Repeatable.",
        show_default=False,
        rich_help_panel=ADVANCED,
    ),
]
RowsPerShard = Annotated[
    int, typer.Option(metavar="N", help="Samples per shard (tar file).", min=1, rich_help_panel=ADVANCED)
]
Workers = Annotated[
    int,
    typer.Option(
        metavar="N", help="Parallel workers on this machine. 0: one per CPU core.", min=0, rich_help_panel=WORKERS
    ),
]

# What is printed

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object to stdout instead of a table.", rich_help_panel=GENERAL)
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="No progress and no summary, only warnings and errors.", rich_help_panel=GENERAL
    ),
]


def pairs(given: list[str] | None, option: str, form: str) -> dict[str, str]:
    """Return the names and values of a repeatable option."""
    pairs = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"got '{text}', expected {form}.", param_hint=option)
        pairs[name] = value
    return pairs


def settings(given: list[str] | None) -> tuple[str, ...]:
    """Return what ``--set`` was given, each of which is KEY=VALUE; the recipe or protocol reads the values."""
    for text in given or []:
        key, equals, _ = text.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"got '{text}', expected KEY=VALUE.", param_hint="--set")
    return tuple(given or ())


def folders(roots: list[str] | None, option: str = "--root", form: str = "NAME=DIR") -> dict[str, Path]:
    """Return the folder of each name that a repeatable option gives."""
    return {name: Path(folder) for name, folder in pairs(roots, option, form).items()}


def listed(text: str) -> list[str]:
    """Return the words of a list that commas part, each once."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def meaning(quantity: str | None, ambiguity: str | None, divisor: float | None, invalid: str | None) -> MapMeaning:
    """Return what maps hold, by the names of its parts."""
    from datool.depth import Ambiguity, Quantity
    from datool.files.stored_map import MapMeaning

    quantities = {item.value: item for item in Quantity}
    ambiguities = {item.value: item for item in Ambiguity}
    try:
        numbers = None if invalid is None else tuple(float(text) for text in listed(invalid) if text != "none")
    except ValueError as error:
        raise typer.BadParameter(f"got '{invalid}', expected numbers, or none.", param_hint="--invalid") from error
    return MapMeaning(
        quantity=None if quantity is None else lookup(quantities, quantity, "quantity"),
        ambiguity=None if ambiguity is None else lookup(ambiguities, ambiguity, "ambiguity"),
        divisor=divisor,
        invalid=numbers,
    )


def part(text: str, option: str) -> tuple[int, int]:
    """Return (i, n) of ``I/N``, i from 0."""
    from datool.settings import check_part

    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal()):
        raise typer.BadParameter(f"got '{text}', expected I/N, such as 0/8.", param_hint=option)
    try:
        check_part((int(number), int(count)), option)
    except DatoolError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
    return int(number), int(count)


def number_or_text(text: str) -> int | str:
    """Return a whole number as such, and anything else (auto) as it is."""
    return int(text) if text.isdecimal() else text
