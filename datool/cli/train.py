"""``datool train-teacher``, ``train-student`` and ``train-metric``: one command with three defaults."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datool.cli.draw import Bar, draw_rows, say
from datool.cli.help import DATA, MODEL, TRAINING, WORKERS
from datool.cli.options import Device, Json, Out, Quiet, Roots, Settings, folders, settings

if TYPE_CHECKING:
    from datool.jobs.train import Plan, TrainSummary
    from datool.training.recipe import Recipe

# Samples that a note names; the log has them all.
_LISTED_IDS = 8
_RECIPE = typer.Option(
    "--recipe",
    metavar="NAME|FILE",
    help="A named recipe or a recipe.json. --dry-run prints it in full.",
    rich_help_panel=TRAINING,
)
Data = Annotated[
    list[Path] | None,
    typer.Option(
        "--data",
        metavar="FILE",
        help="Your own samples instead of the recipe's data sets: a manifest (.jsonl), its folder, or packed shards; "
        "for recipes with pseudo labels, what `datool pseudo-label` wrote. Repeatable.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Labelled = Annotated[
    list[Path] | None,
    typer.Option(
        "--labelled",
        metavar="FILE",
        help="Your own samples with true depth, in addition to pseudo labels (student-v1); forms as for --data. "
        "Repeatable.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Skies = Annotated[
    list[str] | None,
    typer.Option(
        "--sky",
        metavar="SET=DIR",
        help="Sky masks (from `datool data sky`) of a labelled set, given by name or path. Masked pixels without a "
        "label count as infinitely far, as in V1. Repeatable.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Row = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Model to train: v2-small, v2-base, ... Default: the recipe's.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
Init = Annotated[
    str | None,
    typer.Option(
        "--init",
        metavar="NAME|FILE",
        help="Initial weights of the encoder: dinov2, a model name, a file or the folder of a run. Default: the "
        "recipe's.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
InitHead = Annotated[
    bool,
    typer.Option(
        "--init-head", help="Also start from the head of --init, except its last layer.", rich_help_panel=MODEL
    ),
]
Validation = Annotated[
    Path | None,
    typer.Option(
        "--validation",
        metavar="FILE",
        help="Samples with depth to validate on; forms as for --data.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        metavar="N",
        help="Number of training steps. Default: the recipe's.",
        show_default=False,
        min=1,
        rich_help_panel=TRAINING,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        help="Samples per step, over all GPUs. Default: the recipe's.",
        show_default=False,
        min=1,
        rich_help_panel=TRAINING,
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        "--size",
        metavar="PX",
        help="Side of the training crops, in pixels. Default: the recipe's.",
        show_default=False,
        min=1,
        rich_help_panel=TRAINING,
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="NAME",
        help="bf16 or fp32. Default: the recipe's.",
        show_default=False,
        rich_help_panel=TRAINING,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Processes per GPU that read samples. Default: by the number of CPU cores.",
        show_default=False,
        min=0,
        rich_help_panel=WORKERS,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue the run in OUT with its own recipe. --set may change some fields.",
        rich_help_panel=TRAINING,
    ),
]
AllowCollapse = Annotated[
    bool,
    typer.Option(
        "--allow-collapse",
        help="Continue even if predictions stay uncorrelated with their targets.",
        rich_help_panel=TRAINING,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print the recipe, the number of samples, and the expected memory and time; do not train.",
        rich_help_panel=TRAINING,
    ),
]


def train_command(default: str, about: str, recipes: str) -> Callable[..., None]:
    """Return a command that trains by a recipe.

    Args:
        default: recipe.
        about: what it does, a sentence.
        recipes: which there are, a sentence.
    """

    def train(
        out: Out,
        recipe: Annotated[str, _RECIPE] = default,
        data: Data = None,
        labelled: Labelled = None,
        validation: Validation = None,
        roots: Roots = None,
        sky: Skies = None,
        model: Row = None,
        init: Init = None,
        init_head: InitHead = False,
        steps: Steps = None,
        batch_size: BatchSize = None,
        size: Size = None,
        precision: Precision = None,
        set_: Settings = None,
        allow_collapse: AllowCollapse = False,
        resume: Resume = False,
        dry_run: DryRun = False,
        device: Device = "auto",
        workers: Workers = None,
        as_json: Json = False,
        quiet: Quiet = False,
    ) -> None:
        changed = {
            "--recipe": recipe != default,
            "--model": model,
            "--init": init,
            "--init-head": init_head,
            "--steps": steps,
            "--batch-size": batch_size,
            "--size": size,
            "--precision": precision,
            "--dry-run": dry_run,
        }
        if resume and any(changed.values()):
            option = next(name for name, given in changed.items() if given)
            raise typer.BadParameter("a run goes on by its own recipe; --set may change fields.", param_hint=option)
        from datool.jobs.train import TrainOptions, plan, train
        from datool.training.dataloading import Places
        from datool.training.recipes import override, read_recipe

        skies = folders(sky, "--sky", "SET=DIR")
        places = Places(tuple(data or ()), tuple(labelled or ()), validation, folders(roots), skies)
        options = TrainOptions(
            out=out,
            places=places,
            resume=resume,
            settings=settings([*(set_ or []), *(["allow_collapse=true"] if allow_collapse else [])]),
            device=device,
            num_workers=workers,
        )
        chosen = read_recipe(str(out / "recipe.json") if resume else recipe)
        if not resume:
            chosen = _changed(chosen, model, init, init_head, steps, batch_size, size, precision)
            chosen = override(chosen, options.settings)
        if dry_run:
            _draw_plan(plan(chosen, options), as_json)
            return
        with Bar(quiet) as bar:
            summary = train(chosen, options, _progress(bar, quiet))
        if summary.rank == 0:
            _draw(summary, as_json, quiet)

    train.__doc__ = f"{about}\n\n{recipes}\n\n{_OUT}"
    return train


_OUT = """OUT then works as a --model: the best weights on the validation data, or the last ones without. It also gets
recipe.json, log.jsonl, TensorBoard files (if TensorBoard is installed) and checkpoints, from which --resume continues
after a kill. On several GPUs: torchrun --nproc-per-node N -m datool ..."""


def _changed(
    recipe: Recipe,
    model: str | None,
    init: str | None,
    init_head: bool,
    steps: int | None,
    batch_size: int | None,
    size: int | None,
    precision: str | None,
) -> Recipe:
    """Return the recipe with what the options say."""
    from datool.models import hub

    if model:
        recipe = replace(recipe, model=hub.resolve(model) or hub.known(model))
    if init:
        recipe = replace(recipe, init=str(Path(init).absolute()) if Path(init).exists() else init)
    if init_head:
        recipe = replace(recipe, init_head=True)
    if steps:
        recipe = replace(recipe, steps=steps, epochs=0.0)
    if batch_size:
        pseudo, rest = divmod(recipe.pseudo_batch * batch_size, recipe.batch_size)
        if rest:
            of = f"{recipe.pseudo_batch} of {recipe.batch_size} samples have pseudo labels"
            raise typer.BadParameter(f"{of}; {batch_size} cannot be split like that.", param_hint="--batch-size")
        recipe = replace(recipe, batch_size=batch_size, pseudo_batch=pseudo)
    if size:
        height, width = recipe.scene_px  # rendered scenes keep their shape, so that crops of them have room
        scene = size, round(size * width / height)
        recipe = replace(recipe, size_px=(size, size), sizes=((0.0, size, size),), scene_px=scene)
    if precision:
        recipe = replace(recipe, precision=precision)
    return recipe


def _progress(bar: Bar, quiet: bool) -> Callable[[Mapping[str, Any]], None]:
    """Return what draws the lines of a run's log."""
    steps = 0

    def draw(line: Mapping[str, Any]) -> None:
        nonlocal steps
        if "steps" in line:
            steps = line["steps"]
        elif "message" in line:
            say("note", line["message"], "yellow")
        elif "event" in line:
            say("note", _told(line), "yellow")
        else:
            bar.step(line, steps)

    return draw


def _told(line: Mapping[str, Any]) -> str:
    """Return an event of the log in words."""
    loss = f", loss {line['loss']:.4g}" if "loss" in line else ""
    if "correlation" in line:
        rest = f" (a constant map: {line['constant_loss']:.4g}); correlation with the targets {line['correlation']:.2f}"
        return f"step {line['step']}: {line['event']}{loss}{rest} over the last {line['over_steps']} steps"
    return f"step {line['step']}: {line['event']}{loss}; samples {', '.join(line['ids'][:_LISTED_IDS])}"


def _draw(summary: TrainSummary, as_json: bool, quiet: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(summary), default=str))
    elif not quiet:
        scores = ", ".join(f"{name} {value:.3f}" for name, value in summary.scores.items())
        draw_rows(
            {
                "weights": str(summary.weights),
                "steps": f"{summary.steps}, {summary.seconds:.0f} s",
                "held-out": scores or "nothing was: give --validation FILE, or --set num_validation=N",
            }
        )


def _draw_plan(plan: Plan, as_json: bool) -> None:
    from datool.training.recipes import write_recipe

    if as_json:
        typer.echo(json.dumps(asdict(plan)))
        return
    typer.echo(write_recipe(plan.recipe))
    rows = {
        f"samples of {name}": f"{count:,}" if isinstance(count, int) else count for name, count in plan.samples.items()
    }
    if plan.missing:
        rows["data"] = plan.missing
    rows["steps"] = "unknown: they depend on the samples" if plan.steps is None else f"{plan.steps:,}"
    if plan.budget is not None:
        budget = plan.budget
        rows["parameters"] = f"{budget.parameters / 1e6:.1f} M"
        rows["memory"] = (
            f"about {budget.memory_bytes / 2**30:.1f} GiB on each of {plan.world}: {budget.state_bytes / 2**30:.1f} of "
            f"weights and optimizer, {budget.activation_bytes / 2**30:.1f} of activations"
        )
        hours = f"{budget.hours:,.0f}" if budget.hours >= 100 else f"{budget.hours:.3g}"
        rows["time"] = (
            f"about {hours} hours, if steps reach {budget.utilisation:.0%} of the {budget.rate / 1e12:.3g} "
            "TFLOP/s that a matrix product reaches here, and reading keeps up"
        )
    draw_rows(rows)
