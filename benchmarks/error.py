"""How far each engine's maps are from PyTorch's in float32, and what that does to the scores of real photos.

    python benchmarks/error.py --photos DIR                          # tiny, 20 photos, all engines
    python benchmarks/error.py --photos DIR --real DIR               # and AbsRel on photos with truth
    python benchmarks/error.py --photos DIR --model depth-anything-v2-large --num 3

``tiny`` is trained; the others have random weights with LayerScale near 1, so that every block counts. The error is
|d - d_fp32| / |d_fp32 - mean(d_fp32)| of each photo: mean, worst. Int8 is calibrated on other photos of the folder than
those compared. DIR of --real holds ``manifest.jsonl``: image, truth (16-bit PNG), divisor, invalid and infinite values.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from datool.depth import Ambiguity, DepthMap, Quantity
from datool.engines import exported
from datool.engines.base import TorchEngine
from datool.engines.export import FORMATS
from datool.estimators.load import error_of
from datool.estimators.predictor import Predictor
from datool.evaluation.protocols import PROTOCOLS, score
from datool.files import list_images, read_image
from datool.jobs.export import CALIBRATION, ExportOptions, export
from datool.models.depth_anything import DepthAnything, build_model
from datool.models.weights import LoadedModel, load, save

ENGINES = {
    "torch": ("fp32", "bf16"),
    "onnx": ("fp32",),
    "openvino": ("fp32", "bf16", "int8"),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--photos", type=Path, required=True)
    arguments.add_argument("--num", type=int, default=20, help="photos to compare")
    arguments.add_argument("--model", default="tiny")
    arguments.add_argument("--real", type=Path, help="folder of photos with truth")
    arguments.add_argument("--calibrate", type=int, default=CALIBRATION, metavar="N", help="photos that int8 sees")
    arguments.add_argument("--only", nargs="*", default=list(ENGINES))
    options = arguments.parse_args()
    files = [file.path for file in list_images([str(options.photos)])]
    random.Random(0).shuffle(files)
    photos, others = [read_image(file) for file in files[: options.num]], files[options.num :][: options.calibrate]
    with tempfile.TemporaryDirectory() as folder:
        model = load("tiny") if options.model == "tiny" else LoadedModel(alive(options.model), options.model, "", "")
        weights = Path(folder) / "weights.safetensors"
        save(weights, model.model, options.model)
        exact = Predictor(TorchEngine(model.model, "cpu", "fp32"))
        truth = [depth.values for depth in exact.predict(photos)]
        print(f"{options.model}, {options.num} photos" + f"{'mean':>12}{'worst':>9}{'AbsRel':>9}")
        for runtime, precisions in ENGINES.items():
            for precision in precisions if runtime in options.only else ():
                near = predictor(model, weights, runtime, precision, others)
                errors = [error_of(depth.values, one) for depth, one in zip(near.predict(photos), truth, strict=True)]
                scored = f"{abs_rel(near, options.real):9.4f}" if options.real else ""
                print(f"{runtime:10} {precision:10}{np.mean(errors):12.1e}{max(errors):9.1e}{scored}", flush=True)


def alive(name: str) -> DepthAnything:
    """Return a model of random weights in which every block and the head count."""
    torch.manual_seed(0)
    net = build_model(name).eval()
    for key, parameter in net.named_parameters():
        if key.endswith("gamma"):
            torch.nn.init.normal_(parameter, 1.0, 0.1)
    torch.nn.init.constant_(net.head.output2[2].bias, 1.0)  # else half of the map is the ReLU's zero
    return net


def predictor(model: LoadedModel, weights: Path, runtime: str, precision: str, others: list[Path]) -> Predictor:
    """Return the model on an engine; where it has to be exported, to the folder of the weights."""
    if runtime == "torch":
        return Predictor(TorchEngine(model.model, "cpu", precision))
    suffix = FORMATS[runtime].suffix
    calibration = None
    if precision == "int8":
        calibration = weights.with_name("calibration.txt")
        calibration.write_text("\n".join(str(path.resolve()) for path in others))
    path = weights.with_name(precision + suffix)
    export(
        ExportOptions(
            model=str(weights), out=path, format=runtime, precision=precision, calibrate=calibration, tolerance=math.inf
        )
    )
    return Predictor(exported.engine(exported.read(path)))


def abs_rel(estimator: Predictor, folder: Path) -> float:
    """Return the mean of the photos' AbsRel, aligned by least squares in disparity."""
    protocol = PROTOCOLS["lsq-disparity"]
    scores = [score(estimator.predict(image), truth, protocol) for image, truth in real(folder)]
    return float(np.mean([each.values["abs_rel"] for each in scores]))


def real(folder: Path) -> Iterator[tuple[np.ndarray, DepthMap]]:
    """Yield photos and their depth in metres."""
    for row in map(json.loads, (folder / "manifest.jsonl").read_text().splitlines()):
        raw = cv2.imread(str(folder / row["truth"]), cv2.IMREAD_UNCHANGED).astype(np.float32)
        values = raw / row["divisor"]
        values[raw == row["invalid"]] = np.nan
        values[raw == row["infinite"]] = np.inf
        kind = Quantity(row["quantity"])
        yield read_image(folder / row["image"]), DepthMap(values, kind, Ambiguity.NONE)


if __name__ == "__main__":
    main()
