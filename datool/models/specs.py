"""What each published (or bundled) model is: one table of rows, without the networks, so that it reads at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datool.depth import Ambiguity, Quantity

# Weights in a folder of the hub's layout.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# Of a folder that a training run wrote; the best need not be there.
RUN_FILES = BEST, LAST = ("best.safetensors", "last.safetensors")
# Of files of `datool export`, by what runs them.
EXPORTED_SUFFIXES = {"torch": ".pt2", "onnx": ".onnx", "openvino": ".xml"}


def find_exported(spec: str | Path) -> Path | None:
    """Return the exported file that a text names: the file, or a folder with exactly one; None if it names none."""
    path, suffixes = Path(spec).expanduser(), tuple(EXPORTED_SUFFIXES.values())
    if path.suffix in suffixes:
        return path
    if not path.is_dir() or any((path / name).is_file() for name in (*WEIGHT_FILES, *RUN_FILES)):
        return None
    inside = [file for suffix in suffixes for file in sorted(path.glob(f"*{suffix}"))]
    return inside[0] if len(inside) == 1 else None


@dataclass(frozen=True)
class ModelSpec:
    """What one published (or bundled) model is.

    Args:
        encoder: row of `datool.models.encoders.ENCODERS`.
        features: channels of the DPT fusion.
        channels: channels of the four DPT levels; empty where a convolutional encoder decides them.
        taps: 0-based encoder blocks that feed the head, or the four maps of a convolutional encoder.
        max_depth_m: None for relative models (ReLU, disparity); else the sigmoid's ceiling in metres.
        size_px: default short side of the network's input.
        align_corners: how a prediction is brought back to the photo's size, bilinearly.
    """

    encoder: str
    features: int
    channels: tuple[int, ...]
    taps: tuple[int, int, int, int]
    max_depth_m: float | None = None
    size_px: int = 518
    align_corners: bool = True

    @property
    def quantity(self) -> Quantity:
        """Relative models predict disparity, metric ones depth."""
        return Quantity.DISPARITY if self.max_depth_m is None else Quantity.DEPTH

    @property
    def ambiguity(self) -> Ambiguity:
        """Relative disparity lacks scale and shift; metric depth lacks nothing."""
        return Ambiguity.SCALE_AND_SHIFT if self.max_depth_m is None else Ambiguity.NONE


_SIZES: dict[str, tuple[int, tuple[int, int, int, int]]] = {
    "small": (64, (48, 96, 192, 384)),
    "base": (128, (96, 192, 384, 768)),
    "large": (256, (256, 512, 1024, 1024)),
    "giant": (384, (1536, 1536, 1536, 1536)),
}
# V1 taps the last four blocks: unintended upstream (LiheYoung/Depth-Anything issue 81), but its weights expect it.
_V1_TAPS = {"small": (8, 9, 10, 11), "base": (8, 9, 10, 11), "large": (20, 21, 22, 23)}
_V2_TAPS = {"small": (2, 5, 8, 11), "base": (2, 5, 8, 11), "large": (4, 11, 17, 23), "giant": (9, 19, 29, 39)}


def _v1(size: str, max_depth_m: float | None = None) -> ModelSpec:
    # V1's script resizes the result without aligned corners, unlike V2's.
    features, channels = _SIZES[size]
    return ModelSpec(f"dinov2-{size}", features, channels, _V1_TAPS[size], max_depth_m, align_corners=False)


def _v2(size: str, max_depth_m: float | None = None) -> ModelSpec:
    features, channels = _SIZES[size]
    return ModelSpec(f"dinov2-{size}", features, channels, _V2_TAPS[size], max_depth_m)


MODELS: dict[str, ModelSpec] = {
    "depth-anything-v1-small": _v1("small"),
    "depth-anything-v1-base": _v1("base"),
    "depth-anything-v1-large": _v1("large"),
    "depth-anything-v2-small": _v2("small"),
    "depth-anything-v2-base": _v2("base"),
    "depth-anything-v2-large": _v2("large"),
    "depth-anything-v2-giant": _v2("giant"),
    "depth-anything-v2-metric-indoor-small": _v2("small", 20.0),
    "depth-anything-v2-metric-indoor-base": _v2("base", 20.0),
    "depth-anything-v2-metric-indoor-large": _v2("large", 20.0),
    "depth-anything-v2-metric-outdoor-small": _v2("small", 80.0),
    "depth-anything-v2-metric-outdoor-base": _v2("base", 80.0),
    "depth-anything-v2-metric-outdoor-large": _v2("large", 80.0),
    # For V1's metric fine-tunes, `metric-nyu` and `metric-kitti`; nobody published weights of this form.
    "metric-nyu-large": _v1("large", 10.0),
    "metric-kitti-large": _v1("large", 80.0),
    "nano": ModelSpec("nano", 16, (16, 16, 32, 32), (0, 1, 2, 3), size_px=112),
    "nano-metric": ModelSpec("nano", 16, (16, 16, 32, 32), (0, 1, 2, 3), max_depth_m=80.0, size_px=112),
    "nano-conv": ModelSpec("nano-conv", 16, (), (0, 1, 2, 3), size_px=96),
    "tiny-teacher": ModelSpec("efficientnet-lite2", 96, (), (0, 1, 2, 3), size_px=224),
    "tiny-student": ModelSpec("efficientnet-lite2", 64, (), (0, 1, 2, 3), size_px=192),
    "tiny": ModelSpec("tiny", 48, (48, 64, 96, 128), (1, 3, 5, 7), size_px=96),
}
