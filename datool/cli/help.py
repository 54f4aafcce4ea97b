"""How ``--help`` looks: options in groups, at the terminal's width, names and examples whole.

Plain text, not boxes drawn by rich: that would take 80 ms to import, and leave 31 columns of 80 for the texts.
"""

from __future__ import annotations

import inspect
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

# Groups, by what an option is about, in the order in which help has them.
IN_OUT = "Input and output"
MODEL = "Model"
TRAINING = "Training"
DATA = "Data"
KNOWN = "Known distances"
CAMERA = "Camera"
MAPS = "Maps of other programs"
SURFACES = "Points and surfaces"
LABELS = "Labels"
FORMATS = "Formats"
VIDEOS = "Videos"
LARGE = "Large photos"
SCORING = "Scoring"
REPORTS = "Reports"
LIMITS = "Limits"
WORKERS = "Machines and processes"
ADVANCED = "Advanced"
GENERAL = "General"
ORDER = (
    *(IN_OUT, MODEL, TRAINING, DATA, KNOWN, CAMERA, MAPS, SURFACES, LABELS, FORMATS, VIDEOS, LARGE, SCORING, REPORTS),
    *(LIMITS, WORKERS, ADVANCED, GENERAL),
)

# No line is longer, so that a wide window stays readable; the names' column is at most so wide.
MAX_COLUMNS, NAME_COLUMNS = 120, 28

# What is known of a number's range, as typer writes it: [x>=1].
LIMIT = re.compile(r"( *\[|; )x[<>]=?[^]]*]|( *\[|; )[-\d.]+<=?x[^]]*]")

_Context: Any = TyperCommand.context_class


class _Formatter(_Context.formatter_class):
    """Wraps between words alone: ``side-by-side`` and ``--batch-size`` stay whole."""

    def write_text(self, text: str) -> None:
        """Write paragraphs, which empty lines part."""
        indent = " " * self.current_indent
        paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
        self.write("\n\n".join(_wrapped(part, self.width, indent, indent) for part in paragraphs) + "\n")

    def write_dl(self, rows: Sequence[tuple[str, str]], col_max: int = NAME_COLUMNS, col_spacing: int = 2) -> None:
        """Write names and their texts in two columns; a longer name has a line to itself."""
        fitting = max((len(name) for name, _ in rows if len(name) <= col_max), default=0)
        indent, column = " " * self.current_indent, self.current_indent + fitting + col_spacing
        for name, text in rows:
            head = f"{indent}{name}".ljust(column)
            if len(name) > fitting:
                self.write(f"{indent}{name}\n")
                head = " " * column
            self.write(_wrapped(text, self.width, head, " " * column).rstrip() + "\n")


class _HelpContext(_Context):
    formatter_class = _Formatter


class Command(TyperCommand):
    """A command whose help is grouped."""

    context_class = _HelpContext

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what the usage line has after the command's name."""
        return _usage(self, ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and options."""
        _write_groups(formatter, _options(self, ctx))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the example."""
        _write_example(formatter, self.epilog)


class Commands(TyperGroup):
    """A group of commands whose help is grouped."""

    context_class = _HelpContext

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what the usage line has after the group's name."""
        return [*_usage(self, ctx), self.subcommand_metavar]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands and the options."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(getattr(each, "rich_help_panel", None) or "Commands", _summary(name, each)) for name, each in found]
        _write_groups(formatter, [*rows, *_options(self, ctx)])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the example."""
        _write_example(formatter, self.epilog)


class Typer(typer.Typer):
    """A set of commands with such help."""

    def __init__(self, cls: type[Commands] = Commands, **options: Any) -> None:
        super().__init__(
            cls=cls,
            no_args_is_help=options.pop("no_args_is_help", True),
            add_completion=False,
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": MAX_COLUMNS},
            **options,
        )

    def command(self, name: str | None = None, **options: Any) -> Any:
        """Return what makes a function a command; ``--offline`` is an option of each."""
        register = super().command(name, cls=Command, **options)
        return lambda function: register(_with_offline(function))


Offline = Annotated[
    bool,
    typer.Option(
        "--offline",
        help="Use only what is on this machine: nothing is fetched, and what is missing is named.",
        rich_help_panel=GENERAL,
    ),
]


def _with_offline(function: Callable[..., None]) -> Callable[..., None]:
    """Return the function with one more option, which `datool.models.hub` and the libraries around the hub heed."""

    @wraps(function)
    def run(*args: Any, offline: bool, **options: Any) -> None:
        if offline:
            os.environ["HF_HUB_OFFLINE"] = "1"
        function(*args, **options)

    signature = inspect.signature(function, eval_str=True)
    extra = inspect.Parameter("offline", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Offline)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), extra])  # type: ignore[attr-defined]
    run.__annotations__ = {**function.__annotations__, "offline": Offline}
    return run


def _write_groups(formatter: Any, rows: Iterable[tuple[str, tuple[str, str]]]) -> None:
    groups: dict[str, list[tuple[str, str]]] = {}
    for group, row in rows:
        groups.setdefault(group, []).append(row)
    for name in sorted(groups, key=lambda name: ORDER.index(name) if name in ORDER else -1):
        with formatter.section(name):
            formatter.write_dl(groups[name])


def _write_example(formatter: Any, example: str | None) -> None:
    """Write an example as it is, to be copied."""
    if example:
        formatter.write(f"\n{example}\n")


def _usage(command: Any, ctx: Any) -> list[str]:
    arguments = [item for item in command.get_params(ctx) if item.param_type_name == "argument"]
    return ["[OPTIONS]", *(_argument(item) if item.required else f"[{_argument(item)}]" for item in arguments)]


def _argument(param: Any) -> str:
    return f"{param.metavar}{'...' * (param.nargs == -1)}"


def _options(command: Any, ctx: Any) -> list[tuple[str, tuple[str, str]]]:
    """Return each argument and option with its group; ``--help`` and ``--version`` name none."""
    params = command.get_params(ctx)
    return [(getattr(item, "rich_help_panel", None) or GENERAL, _record(item, ctx)) for item in params]


def _record(param: Any, ctx: Any) -> tuple[str, str]:
    """Return the name and the text of an argument or option."""
    name, text = param.get_help_record(ctx)
    text = LIMIT.sub(lambda found: "]" if found[1] == "; " else "", text).replace("  [", " [")
    return _argument(param) if param.param_type_name == "argument" else name, text


def _summary(name: str, command: Any) -> tuple[str, str]:
    """Return a command's name and the first sentence of its help."""
    first, _, _ = (command.help or "").split("\n\n")[0].replace("\n", " ").partition(". ")
    return name, first.strip().rstrip(".") + "."


def _wrapped(text: str, width: int, first: str, later: str) -> str:
    return textwrap.fill(
        text,
        max(width, len(later) + 20),
        initial_indent=first,
        subsequent_indent=later,
        break_on_hyphens=False,
        break_long_words=False,
    )
