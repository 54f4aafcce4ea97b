"""The rules of the layout that no other test sees: who imports whom, what a command offers, what is documented."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from datool.cli import app

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "datool"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A package imports only packages below its own number; packages of one number do not know each other.
LEVELS = {
    "cli": 8,
    "jobs": 7,
    "labelling": 6,
    "estimators": 5,
    "training": 5,
    "engines": 4,
    "evaluation": 3,
    "models": 3,
    "data": 3,
    "render": 2,
    "files": 1,
    "geometry": 1,
    "calibration": 1,
    "colour": 0,
    "depth": 0,
    "parallel": 0,
    "progress": 0,
    "settings": 0,
    "errors": 0,
}
# Inside the lowest packages the order is this one, each may import what stands after it.
FOUNDATION = ["geometry", "calibration", "files", "colour", "depth", "parallel", "progress", "settings", "errors"]

# library -> the modules that may import it
OWNERS = {
    "typer": {"cli"},
    "rich": {"cli"},
    "tqdm": {"cli"},
    "timm": {"models.encoders", "models.convolutions"},
    "open3d": {"geometry"},
    "trimesh": {"geometry.mesh"},
    "laspy": {"geometry.formats"},
    "lensfunpy": {"geometry.exif"},
    "onnx": {"engines.export"},
    "onnxscript": {"engines.export"},
    "onnxruntime": {"engines.exported"},
    "openvino": {"engines.export", "engines.exported"},
    "nncf": {"engines.export"},
    "imageio": {"files"},
    "av": {"files.video", "data.sources.video_frames"},
    "OpenEXR": {"files"},
    "pillow_heif": {"files"},
    "ray": {"jobs.pseudo_label"},
    "transformers": {"estimators.rivals", "jobs.data.sky_segmenter"},
    "diffusers": {"estimators.rivals"},
    "plotly": {"evaluation.figures"},
    "huggingface_hub": {"models.hub", "models.weights"},
    "safetensors": {"models.weights", "training.checkpoint", "models.backbone"},
    "torch.distributed": {"training.distributed"},
    "torch.utils.tensorboard": {"training.run_log"},
    "kornia": {"data.batches.augment"},
}
# Optional, or slow and rarely needed: never at the top of a module.
ONLY_INSIDE_FUNCTIONS = {
    "open3d",
    "trimesh",
    "laspy",
    "lensfunpy",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "nncf",
    "av",
    "OpenEXR",
    "pillow_heif",
    "huggingface_hub",
    "ray",
    "transformers",
    "tqdm",
    "kornia",
}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path):
    """Yield (imported module, line, whether at the top, whether for types) for every import, ``require(...)`` too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    inside = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "require":
            names = [node.args[0].value]
        else:
            continue
        for name in names:
            yield name, node.lineno, node not in inside, node in for_types


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path):
    here, _, job = name_of(path).partition(".")
    if here in ("", "__main__"):  # the public `load`, and the command
        return
    for name, line, _, _ in imports(path):
        if not name.startswith("datool."):
            continue
        there = name.split(".")[1]
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        if there in ("__version__", here):
            if here == there == "jobs":
                assert name.split(".")[2] == job.split(".")[0], f"{where}: jobs do not know each other"
            continue
        assert there in LEVELS, f"{where}: an unknown package"
        if here in FOUNDATION and there in FOUNDATION:
            assert FOUNDATION.index(here) < FOUNDATION.index(there), f"{where}: upwards"
        else:
            assert LEVELS[there] < LEVELS[here], f"{where}: not downwards"


def test_no_modules_import_each_other():
    names = {f"datool.{name_of(path)}".rstrip("."): path for path in MODULES}
    below: dict[str, set[str]] = {}
    for name, path in names.items():
        found = {module for module, _, _, for_types in imports(path) if not for_types}
        below[name] = {module if module in names else module.rpartition(".")[0] for module in found} & names.keys()
    below["datool"].clear()  # the public `load`, found by its name when it is asked for
    while free := [name for name, imported in below.items() if not imported & below.keys()]:
        for name in free:
            del below[name]
    assert not below, f"in a cycle, or above one: {', '.join(sorted(below))}"


def test_the_readme_shows_the_tree_as_it_is():
    text = (ROOT / "README.md").read_text("utf-8").partition("## The tree")[2].partition("```\n")[2].partition("```")[0]
    folders, shown = [], set()
    for line in text.splitlines():
        name, _, words = line.strip().partition(" ")
        place = Path(*folders[: (len(line) - len(line.lstrip())) // 2], name)
        assert (ROOT / place).exists(), f"README's tree shows {place}"
        shown.add(ROOT / place)
        if name.endswith("/"):
            folders[len(place.parts) - 1 :] = [name]
        listed = [part for part in re.split(r"\s{2,}", words.strip()) if re.fullmatch(r"\w+", part)]
        found = {path.stem for path in (ROOT / place).glob("*.py")} - {"__init__"}
        assert set(listed) <= found, f"README's tree shows what is not in {place}: {set(listed) - found}"
        assert not listed or words.endswith("...") or set(listed) == found, f"{place}: {found - set(listed)}"
    hidden = {path for path in PACKAGE.iterdir() if not path.name.startswith("_") and path.name != "py.typed"}
    hidden |= {path.parent for path in PACKAGE.rglob("__init__.py")}
    assert hidden <= shown, f"README's tree lacks {hidden - shown}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_libraries_stay_with_their_owner(path):
    here = name_of(path)
    for name, line, at_top, for_types in imports(path):
        for library, owners in OWNERS.items():
            if name != library and not name.startswith(f"{library}."):
                continue
            where = f"{path.relative_to(ROOT)}:{line} imports {name}"
            assert any(here == owner or here.startswith(f"{owner}.") for owner in owners), f"{where}: {owners} may"
            assert for_types or not (at_top and library in ONLY_INSIDE_FUNCTIONS), f"{where} at its top"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_command_line_prints_and_exits(path):
    if name_of(path).split(".")[0] == "cli":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "exit", "quit", "sys.exit", "eval", "exec"), (
                f"{path}:{node.lineno}: {called}"
            )


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_is_caught_without_a_name(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else ""
            assert caught not in ("", "Exception"), f"{path}:{node.lineno}: catches everything"
            if caught == "BaseException":
                assert any(isinstance(inner, ast.Raise) for inner in ast.walk(node)), f"{path}:{node.lineno}: swallows"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_optional_libraries_are_required_in_one_way(path):
    if name_of(path) == "errors":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            caught = ast.unparse(node.type)
            users_own = name_of(path) == "estimators.rivals" and caught == "ModuleNotFoundError"
            is_import = "ImportError" in caught or "ModuleNotFoundError" in caught
            assert users_own or not is_import, f"{path}:{node.lineno}: catches {caught}; errors.require does"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_hangs_on_the_words_of_an_error(path):
    asks = ("startswith", "endswith", "find", "index", "count", "match", "search", "fullmatch")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in asks:
            parts = [node.func.value, *node.args]
        else:
            continue
        words = [part for part in parts if isinstance(part, ast.Attribute) and part.attr in ("problem", "hint")]
        assert not words, f"{path}:{node.lineno}: {ast.unparse(node)}; ask for a type"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_an_error_that_is_worded_anew_keeps_its_kind(path):
    """A missing library, told with the file's name before it, must still be known as one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "DatoolError" and len(node.args) == 2:
            passed_on = re.fullmatch(r"\w+\.hint", ast.unparse(node.args[1]))
            assert not passed_on, f"{path}:{node.lineno}: use error.reworded"


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "import datool\n"
        "from datool.cli import app\n"
        "for arguments in (['--help'], ['predict', '--help'], ['--version']):\n"
        "    assert CliRunner().invoke(app, arguments).exit_code == 0\n"
        "heavy = {'torch', 'timm', 'cv2', 'numpy', 'open3d', 'tqdm', 'huggingface_hub', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_package_and_its_types_load_without_torch():
    code = "import sys, datool; datool.DepthMap; datool.Camera; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# The options of every command, frozen: whoever changes one changes it here too, and in the README and CHANGELOG.
OPTIONS = {
    "predict": (
        "inputs --out/-o --model --format --size --precision --device --batch-size --compile --overwrite --max-pixels "
        "--max-aspect --as-photo --no-fallback --tile --overlap --range --flow --sequence --calibration --runtime "
        "--tolerance --json --quiet/-q"
    ),
    "export": (
        "model --out/-o --format --precision --opset --size --check --calibrate --tolerance --encoder --overwrite "
        "--json --quiet/-q"
    ),
    "calibrate": (
        "inputs --out/-o --points --point --sparse --divisor --camera-height-m --pitch-deg --horizon-row --ground-mask "
        "--focal-px --fov-deg --intrinsics --assume-fov --labelled --shared --model --maps --size --precision --device "
        "--batch-size --overwrite --json --quiet/-q"
    ),
    **dict.fromkeys(
        ("train-teacher", "train-student", "train-metric"),
        "--out/-o --recipe --data --labelled --validation --root --sky --model --init --init-head --steps --batch-size "
        "--size --precision --set --allow-collapse --resume --dry-run --device --workers --json --quiet/-q",
    ),
    "eval": (
        "names --bench --root --model --predictions --compare --manifest --protocol --set --quantity --ambiguity "
        "--divisor --invalid --csv --rows --shard --html --priors --speed --resample --size --precision --device "
        "--batch-size --workers --json --quiet/-q"
    ),
    "pseudo-label": (
        "inputs --out/-o --model --format --depth --keep-images --label-size --size --flip --confidence "
        "--rows-per-shard --root --engine --worker --workers --precision --device --batch-size --compile --max-aspect "
        "--decoder --max-failures --status --json --quiet/-q"
    ),
    "pointcloud": (
        "inputs --out/-o --format --model --size --device --photos --quantity --ambiguity --divisor --invalid "
        "--as-photo --focal-px --fov-deg --intrinsics --assume-fov --calibration --relative --edge --grazing-deg "
        "--max-depth-m --min-confidence --voxel-m --max-points --seed --axes --fuse --poses --view --png --overwrite "
        "--json --quiet/-q"
    ),
    "data": "",
    "data check": "sources --root --split --num --sheet --workers --json --quiet/-q",
    "data pack": (
        "source --out/-o --root --split --only --rows-per-shard --image --depth --workers --retry-failed --json "
        "--quiet/-q"
    ),
    "data synth": (
        "--out/-o --num --size --seed --format --image --depth --family --textures --rows-per-shard --device --workers "
        "--json --quiet/-q"
    ),
    "data filter": (
        "sources --out/-o --rejected --root --min-side --max-aspect --max-blur --max-border --max-text --min-contrast "
        "--alike-bits --workers --json --quiet/-q"
    ),
    "data sky": "source --out/-o --model --root --split --device --json --quiet/-q",
    "data get": "name --out/-o --quiet/-q",
    "models": "--json",
    "models get": "name --quiet/-q",
}


# What each option is where it is not given, those that are then off or nothing left out; ! = it must be given.
DEFAULTS = {
    "predict": (
        "inputs! out! model=auto format=png16,color precision=auto device=auto batch_size=auto max_pixels=200000000 "
        "max_aspect=8.0 range=clip tolerance=0.01"
    ),
    "export": "model! out! format=onnx precision=fp32 opset=20",
    "calibrate": "out=calibration.json model=auto precision=auto device=auto batch_size=auto",
    "train-teacher": "out! recipe=teacher-v2 device=auto",
    "train-student": "out! recipe=student-v2 device=auto",
    "train-metric": "out! recipe=metric-indoor device=auto",
    "eval": "shard=0/1 resample=image precision=auto device=auto batch_size=auto workers=0",
    "pseudo-label": (
        "format=shards depth=exr-half label_size=network confidence=none rows_per_shard=1000 engine=local workers=0 "
        "precision=auto device=auto batch_size=auto max_aspect=8.0 decoder=auto"
    ),
    "pointcloud": "inputs! out! format=ply model=auto device=auto edge=0.04 grazing_deg=3.0 seed=0 axes=y-down",
    "data": "",
    "data check": "sources! workers=0",
    "data pack": "source! out! rows_per_shard=1000 image=original depth=exr workers=0",
    "data synth": (
        "out! num! size=480x640 seed=0 format=manifest image=jpeg depth=png16 rows_per_shard=1000 device=cpu workers=0"
    ),
    "data filter": (
        "sources! out! min_side=256 max_aspect=3.0 max_blur=0.5 max_border=0.04 max_text=0.3 min_contrast=10.0 "
        "alike_bits=4 workers=0"
    ),
    "data sky": "source! out! model! device=auto",
    "data get": "name!",
    "models": "",
    "models get": "name!",
}


def commands():
    """Return every command by its full name, those of groups too."""
    found = dict(get_command(app).commands)
    for name, command in list(found.items()):
        found |= {f"{name} {inner}": sub for inner, sub in getattr(command, "commands", {}).items()}
    return found


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_the_options_are_frozen(name):
    command = commands()[name]
    found = ["/".join(item.opts) if item.param_type_name == "option" else item.name for item in command.params]
    every = [] if hasattr(command, "commands") else ["--offline"]
    assert " ".join(found) == " ".join([*OPTIONS[name].split(" "), *every]).strip()


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_the_defaults_are_frozen(name):
    found = [
        f"{item.name}!" if item.required else f"{item.name}={item.default}"
        for item in commands()[name].params
        if item.required or (item.default not in (None, "") and item.default is not False)
    ]
    assert " ".join(found) == DEFAULTS[name]


def test_every_command_is_frozen_and_shows_an_example():
    assert set(commands()) == set(OPTIONS)
    for name, command in commands().items():
        assert command.help and f"Example: datool {name} " in (command.epilog or ""), name
        assert all(item.help for item in command.params), name


class Asked(Exception):  # noqa: N818  # it ends a command, nothing is wrong
    """A job was asked to run."""


# What a command must be given, the job that it calls, and the same for the job.
LEAST = {
    "predict": ("photos --out out", "predict.predict.predict", {"inputs": ["photos"], "out": "out"}),
    "export": ("tiny --out out", "export.export", {"model": "tiny", "out": "out"}),
    "calibrate": ("photos", "calibrate.calibrate.calibrate", {"inputs": ["photos"], "out": "calibration.json"}),
    "eval": ("", "evaluate.evaluate.evaluate", {}),
    "pseudo-label": (
        "photos --out out --model tiny",
        "pseudo_label.pseudo_label",
        {"inputs": ("photos",), "out": "out", "model": "tiny"},
    ),
    "pointcloud": ("photos --out out", "pointcloud.pointcloud.pointcloud", {"inputs": ["photos"], "out": "out"}),
    "data check": ("images", "data.check.check", {"sources": ["images"]}),
    "data synth": ("--out out --num 3 --size 480x640", "data.synth.synth", {"out": "out", "num": 3}),
    "data filter": ("images --out out", "data.filter.filter_images", {"inputs": ["images"], "out": "out"}),
    **dict.fromkeys(("train-teacher", "train-student", "train-metric"), ("--out out", "train.train", {"out": "out"})),
}


@pytest.mark.parametrize("name", sorted(LEAST))
def test_a_bare_command_asks_for_what_the_job_does_by_itself(name, monkeypatch):
    arguments, place, given = LEAST[name]
    module, _, function = place.rpartition(".")
    job = import_module(f"datool.jobs.{module}")
    asked = []

    def catch(*values, **_):
        asked.extend(values)
        raise Asked

    monkeypatch.setattr(job, function, catch)
    done = CliRunner().invoke(app, [*name.split(), *arguments.split()])
    assert isinstance(done.exception, Asked), done.output
    (options,) = [value for value in asked if type(value).__name__.endswith("Options")]
    paths = {key: Path(value) if key == "out" else value for key, value in given.items()}
    alone = type(options)(**paths)
    for field in fields(options):
        offered, own = getattr(options, field.name), getattr(alone, field.name)
        if field.name == "labels":  # of pseudo-label, whose job makes them itself
            own = type(offered)()
        alike = list(offered) == list(own) if isinstance(own, (list, tuple)) else offered == own
        assert alike, f"{name}: {field.name} is {offered!r}, the job's own is {own!r}"


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path).split(".")[0] == "jobs"], ids=name_of)
def test_options_of_jobs_are_given_by_name(path):
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Options"):
            assert "kw_only=True" in ast.unparse(node.decorator_list[0]), f"{path}: {node.name}"


def test_defaults_of_the_command_are_those_of_the_job():
    from datool.jobs.predict.predict import PredictOptions

    offered = {item.name: item.default for item in commands()["predict"].params}
    job = PredictOptions(inputs=[], out=Path())
    assert offered["format"] == ",".join(job.formats)
    for name in ("model", "precision", "device", "batch_size", "overwrite", "max_pixels", "max_aspect"):
        assert offered[name] == getattr(job, name), name
    assert (offered["range"], offered["flow"]) == (job.range, job.flow)


def test_help_names_every_row_of_what_it_offers():
    from datool.engines.base import PRECISIONS
    from datool.estimators.video import RANGES
    from datool.files import MAP_FORMATS
    from datool.files.clips import CLIP_FORMATS

    helps = {item.name: item.help for item in commands()["predict"].params}
    for name in (*MAP_FORMATS, *CLIP_FORMATS):
        assert re.search(rf"(?<![\w-]){name}(?![\w-])", helps["format"]), name
    assert all(name in helps["precision"] for name in PRECISIONS)
    assert all(name in helps["range"] for name in RANGES)


# Where every table of rows stands, and what each row must resolve to.
TABLES = {
    "datool.models.encoders.ENCODERS": "timm_name",
    "datool.models.specs.MODELS": "encoder",
    "datool.models.hub.PUBLISHED": "licence",
    "datool.files.MAP_FORMATS": "suffix",
    "datool.files.clips.CLIP_FORMATS": "suffix",
    "datool.colour.COLOUR_MAPS": "__call__",
    "datool.geometry.CLOUD_FORMATS": "suffix",
    "datool.engines.base.PRECISIONS": "itemsize",
    "datool.engines.exported.RUNTIMES": "suffix",
    "datool.engines.export.FORMATS": "suffix",
    "datool.data.batches.transforms.TARGETS": "__call__",
    "datool.training.optimizers.OPTIMIZERS": "__call__",
    "datool.training.optimizers.SCHEDULES": "__call__",
    "datool.training.trainer.PRECISIONS": "itemsize",
    "datool.evaluation.alignment.ALIGNMENTS": "title",
    "datool.evaluation.benchmarks.BENCHMARKS": "protocols",
    "datool.evaluation.metrics.METRICS": "title",
    "datool.evaluation.selection.CROPS": "title",
    "datool.evaluation.protocols.PROTOCOLS": "sha256",
}


@pytest.mark.parametrize("table", sorted(TABLES))
def test_every_row_of_a_table_resolves(table):
    module, _, name = table.rpartition(".")
    rows = getattr(import_module(module), name)
    assert rows
    for key, row in rows.items():
        assert re.fullmatch(r"[A-Za-z0-9_]+(-[A-Za-z0-9]+)*", key), f"{table}: '{key}' is not in kebab-case"
        assert getattr(row, TABLES[table]), f"{table}['{key}']"


def test_rows_name_rows_that_are_there():
    from datool.models.encoders import ENCODERS
    from datool.models.hub import PUBLISHED
    from datool.models.specs import MODELS

    assert {row.encoder for row in MODELS.values()} <= set(ENCODERS)
    assert set(PUBLISHED) <= set(MODELS)
    for row in MODELS.values():
        assert max(row.taps) < ENCODERS[row.encoder].num_blocks and list(row.taps) == sorted(set(row.taps))


def test_every_public_name_has_a_docstring():
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
        for node in tree.body:
            is_overload = any(ast.unparse(each) == "overload" for each in getattr(node, "decorator_list", ()))
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_") and not is_overload:
                assert ast.get_docstring(node), f"{path}:{node.lineno}: {node.name}"


def test_every_imported_library_is_declared():
    declared = re.findall(r'"([A-Za-z0-9_.-]+)(?:\[[^"]*\])?>=[^"]*"', (ROOT / "pyproject.toml").read_text("utf-8"))
    names = {name.lower().replace("_", "-") for name in declared}
    distributions = {"cv2": "opencv-python", "PIL": "pillow", "OpenEXR": "openexr"}
    for path in MODULES:
        for name, line, _, _ in imports(path):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top in ("datool", "__future__"):
                continue
            library = distributions.get(top, top).replace("_", "-").lower()
            assert library in names, f"{path.relative_to(ROOT)}:{line}: {top} is not in pyproject.toml"
