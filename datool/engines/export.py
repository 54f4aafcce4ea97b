"""A model written for other runtimes: one graph for every size of photo, with all that is needed to use it inside."""

from __future__ import annotations

import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datool import __version__
from datool.engines.arithmetic import cubic
from datool.engines.base import Card
from datool.engines.exported import META
from datool.errors import DatoolError, lookup, require
from datool.files.atomic import take_place, writable
from datool.models.depth_anything import DepthAnything
from datool.models.encoders import ViTEncoder
from datool.models.weights import LoadedModel

OPSET = 20
# Patches a side that a graph takes at most; at least three, for the head's coarsest level.
MOST_PATCHES = 600


@dataclass(frozen=True)
class Format:
    """One way to write a model.

    Args:
        suffix: of the file.
        precisions: that it can be written in.
        write: (program, path, entry for the file's metadata, precision, opset, calibration pictures) -> None.
    """

    suffix: str
    precisions: tuple[str, ...]
    write: Callable[[Any, Path, str, str, int, Iterable[np.ndarray]], None]


def export(
    model: LoadedModel,
    path: Path,
    format: str,
    precision: str,
    opset: int = OPSET,
    calibration: Iterable[np.ndarray] = (),
) -> dict[str, Any]:
    """Write a model to ``path``; return what is written into its metadata.

    Args:
        model: on the CPU.
        path: of the new file; OpenVINO's weights go beside it.
        format: a row of FORMATS.
        precision: one of the row's.
        opset: of ONNX.
        calibration: (1, 3, h, w) float32 normalised pictures, for int8.
    Raises:
        DatoolError: unknown format or precision, a model that cannot be exported, or a missing library.
    """
    row = lookup(FORMATS, format, "format")
    if precision not in row.precisions:
        raise DatoolError(
            f"--format {format} is written in {', '.join(row.precisions)}, not in {precision}.",
            "--format openvino has fp32, bf16 and int8.",
        )
    weights_bytes = 4 * sum(parameter.numel() for parameter in model.model.parameters())
    if format == "onnx" and weights_bytes >= 1 << 31:
        raise DatoolError(f"{model.name} does not fit in an ONNX file: these end at 2 GiB.", "Take --format openvino.")
    entry = metadata(model, format, precision, opset if format == "onnx" else None)
    row.write(to_program(model.model), path, json.dumps(entry), precision, opset, calibration)
    return entry


def metadata(model: LoadedModel, format: str, precision: str, opset: int | None) -> dict[str, Any]:
    """Return all that a file must say of itself, as JSON's types."""
    card = asdict(Card.of(model.model, model.name))
    card |= {"quantity": model.model.spec.quantity.value, "ambiguity": model.model.spec.ambiguity.value}
    # What is not in int8: convolutional encoders lose as much again by bfloat16.
    floats = ("bf16" if isinstance(model.model.encoder, ViTEncoder) else "fp32") if precision == "int8" else precision
    made = {"format": format, "precision": precision, "opset": opset, "datool": __version__, "torch": torch.__version__}
    made |= {"floats": floats}
    return card | made | {"weights": model.source, "weights_sha256": model.sha256, "licence": model.licence}


def to_program(net: DepthAnything) -> torch.export.ExportedProgram:
    """Return the network as a graph of any batch, height and width: (B, 3, h, w) to (B, h, w).

    Raises:
        DatoolError: an encoder that takes one size only, or one that resizes its positions in another way.
    """
    encoder = net.encoder.spec
    if not (encoder.pyramid or (encoder.any_size and encoder.dinov2_rule)):
        raise DatoolError(
            f"cannot export {encoder.timm_name}: its positions are not resized by DINOv2's rule.",
            "Models with DINOv2 or convolutional encoders, and nano, can be exported.",
        )
    shared = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
    net = copy.deepcopy(net, shared).float().eval()
    if isinstance(net.encoder, ViTEncoder):
        net.encoder.vit._pos_embed = MethodType(_embed_positions, net.encoder.vit)
    dim = torch.export.Dim
    height, width = (dim(name, min=3, max=MOST_PATCHES) for name in ("rows", "columns"))
    sizes = {0: dim("batch", min=1, max=64), 2: encoder.patch_px * height, 3: encoder.patch_px * width}
    example = torch.zeros(2, 3, 9 * encoder.patch_px, 13 * encoder.patch_px)
    with torch.no_grad(), _quiet():
        return torch.export.export(_Graph(net), (example,), dynamic_shapes={"image": sizes}, strict=False)


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a path to write to; if the block ends well, what was written takes the place of ``path``, else it goes.

    Raises:
        DatoolError: the folder cannot be written to.
    """
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".datool-", suffix=".tmp", dir=path.parent) as folder:
            yield Path(folder) / path.name
            files = sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name)
            if len(files) > 1:  # OpenVINO's graph goes first and comes last: never beside the weights of another
                path.unlink(missing_ok=True)
            for file in files:
                take_place(file, path.with_name(file.name))


class _Graph(nn.Module):
    """The network with the one input and the one output that a file has."""

    def __init__(self, net: DepthAnything) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image)


def _embed_positions(vit: Any, patches_bhwc: Tensor) -> Tensor:
    """Take the place of `datool.models.encoders._embed_positions` in a graph whose height and width are open."""
    batch, height, width, _ = patches_bhwc.shape
    prefix, patches = vit.pos_embed[:, : vit.num_prefix_tokens], vit.pos_embed[0, vit.num_prefix_tokens :]
    side = round(patches.shape[0] ** 0.5)
    sizes = [torch.full((), count, dtype=torch.float32) for count in (height, width)]
    stored = (sizes[0] == side) & (sizes[1] == side)
    rows, columns = (
        resize_weights(count, size, side, stored) for count, size in zip((height, width), sizes, strict=True)
    )
    grid = torch.einsum("hi,ijc->hjc", rows, patches.reshape(side, side, -1))
    grid = torch.einsum("wj,hjc->hwc", columns, grid)
    tokens = patches_bhwc.flatten(1, 2)
    if vit.cls_token is not None:
        tokens = torch.cat([vit.cls_token.expand(batch, -1, -1), tokens], dim=1)
    return tokens + torch.cat([prefix, grid.flatten(0, 1)[None]], dim=1)


def resize_weights(count: int, size: Tensor, side: int, stored: Tensor) -> Tensor:
    """Return (count, side): what DINOv2's rule takes of each stored position for each token of one direction.

    The rule of `datool.models.encoders.dinov2_position` (bicubic, edges repeated, by the scale
    (n + 0.1) / side) as a matrix, since a graph's resize knows only scales that are fixed.

    Args:
        count: tokens; may be a symbol of a graph. size: the same as a number of the graph.
        side: of the stored grid.
        stored: whether the wanted grid is the stored one: then the identity.
    """
    scale = torch.where(stored, torch.ones(()), (size + 0.1) / side)
    place = (torch.arange(count, dtype=torch.float32) + 0.5) / scale - 0.5
    first = place.floor()
    rest = (place - first)[:, None]
    weights = torch.cat(cubic(rest), dim=1)
    sources = (first[:, None] + torch.arange(-1.0, 3.0)).clamp(0, side - 1)
    return ((sources[:, :, None] == torch.arange(float(side))) * weights[:, :, None]).sum(1)


def _write_onnx(program: Any, path: Path, entry: str, precision: str, opset: int, _: object) -> None:
    onnx = require("onnx", "onnx", "writing ONNX")
    require("onnxscript", "onnx", "writing ONNX")  # torch imports it
    with _quiet():
        exported = torch.onnx.export(
            program, (), input_names=["image"], output_names=["depth"], opset_version=opset, dynamo=True, verbose=False
        )
    assert exported is not None
    model = exported.model_proto
    got = next(item.version for item in model.opset_import if not item.domain)
    if got != opset:
        raise DatoolError(f"PyTorch wrote opset {got}, not {opset}.", f"Give --opset {got}.")
    onnx.helper.set_model_props(model, {META: entry})
    model.producer_name, model.producer_version = "datool", __version__
    onnx.save(model, str(path))


def _write_program(program: Any, path: Path, entry: str, precision: str, opset: int, _: object) -> None:
    torch.export.save(program, path, extra_files={META: entry})


def _write_openvino(
    program: Any, path: Path, entry: str, precision: str, opset: int, calibration: Iterable[np.ndarray]
) -> None:
    openvino = require("openvino", "openvino", "writing OpenVINO's format")
    with _quiet():
        model = openvino.convert_model(program)
    model.inputs[0].set_names({"image"})
    model.outputs[0].set_names({"depth"})
    if precision == "int8":
        model = _quantised(model, calibration)
    model.set_rt_info(entry, [META])
    openvino.save_model(model, str(path), compress_to_fp16=False)


def _quantised(model: Any, calibration: Iterable[np.ndarray]) -> Any:
    """Return the graph with most of its multiplications in int8."""
    nncf = require("nncf", "openvino", "int8")
    advanced = require("nncf.quantization.advanced_parameters", "openvino", "int8")
    ranges = require("nncf.quantization.range_estimator", "openvino", "int8")
    pictures = list(calibration)
    if not pictures:
        raise DatoolError("int8 needs pictures to calibrate on.", "Give a folder of your photos: --calibrate DIR.")
    kept, transformer = _kept(model)
    with _quiet():
        return nncf.quantize(
            model,
            nncf.Dataset(pictures),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            subset_size=len(pictures),
            # The default leaves out what is rare, by which the worst of 40 photos was 4.6e-2 off instead of 2.5e-2.
            advanced_parameters=advanced.AdvancedQuantizationParameters(
                activations_range_estimator_params=ranges.RangeEstimatorParametersSet.MINMAX
            ),
            ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
        )


def _kept(model: Any) -> tuple[list[str], bool]:
    """Return the names of the operations that int8 leaves alone, and whether the graph is a transformer's.

    Of a transformer all but linear layers and attention, so the head too: see NOTES.md. Of a network of convolutions
    alone the first, the depthwise ones and the last three: a trained one was 2.0e-2 off, with them in int8 4.0e-2.
    """
    kinds = ("MatMul", "Convolution", "GroupConvolution", "ConvolutionBackpropData")
    nodes = [node for node in model.get_ordered_ops() if node.get_type_name() in kinds]
    transformer = any(map(_is_linear, nodes))
    if transformer:
        left = [node for node in nodes if not _is_linear(node)]
    else:
        depthwise = [node for node in nodes if node.get_type_name() == "GroupConvolution"]
        left = [nodes[0], *depthwise, *nodes[-3:]]
    return [node.get_friendly_name() for node in left], transformer


def _is_linear(node: Any) -> bool:
    """Tell a linear layer from other products, of which that of positions has a constant too, with three sides."""
    sources = [source.get_source_output().get_node() for source in node.inputs()]
    weights = [node for node in sources if node.get_type_name() == "Constant" and len(node.get_output_shape(0)) == 2]
    return node.get_type_name() == "MatMul" and bool(weights)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the converters tell about their own work off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "nncf", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


FORMATS: Mapping[str, Format] = {
    "onnx": Format(".onnx", ("fp32",), _write_onnx),
    "torch-export": Format(".pt2", ("fp32",), _write_program),
    "openvino": Format(".xml", ("fp32", "bf16", "int8"), _write_openvino),
}
