"""datool against the pipeline of transformers: same weights, photos, sizes and machine, in one run.

    python benchmarks/predict.py --num 16                           # CPU: all rows
    python benchmarks/predict.py --num 4000 --device cuda --precision bf16 --batch-sizes 1 8 32
    python benchmarks/predict.py --work /tmp/w --prepare            # writes weights and exports, then the same --work

Weights are random (speed does not depend on them; LayerScale is near 1, so that errors count all blocks), in the layout
of transformers, which both read; photos are rendered JPEGs of 640x480, or those of --photos. Each contender runs in a
process of its own, in turn over --rounds, and is given the files' paths. Start-up (imports, loading, first maps) and
the steady rate after it are told apart. The error is |d - d_fp32| / |d_fp32 - mean(d_fp32)|, mean over the first
photos, against datool in float32. Contenders:

- ``datool fp32``, ``datool bf16``: `Predictor.stream`, maps at the photos' size in memory, as the pipeline leaves them;
- ``onnx``, ``openvino fp32``, ``openvino bf16``, ``openvino int8``: the same over files of `datool export`;
- ``datool predict``: the job, which also writes a 16-bit PNG and a colour picture a photo;
- ``pipeline x1``: ``for path in photos: pipe(path)``, in float32, as people write it;
- ``pipeline xN``: ``pipe(photos, batch_size=N)``, with the precision of --precision;
- ``transformers bf16``: processor and model by hand, in bf16, a photo at a time;
- ``transformers compiled``: the same, by `torch.compile`, whose time lies in the start-up.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

STARTED = time.perf_counter()
SIZES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
WARM_UP = 2
# Photos whose maps are compared.
COMPARED = 4
ENGINES = {
    "datool fp32": ("torch", "fp32"),
    "datool bf16": ("torch", "bf16"),
    "onnx": ("onnx", "fp32"),
    "openvino fp32": ("openvino", "fp32"),
    "openvino bf16": ("openvino", "bf16"),
    "openvino int8": ("openvino", "int8"),
}

BY_HAND = ["transformers bf16", "transformers compiled"]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--num", type=int, default=16, help="photos")
    arguments.add_argument("--photos", type=Path, help="folder of photos; default: rendered ones")
    arguments.add_argument("--size", default="small", choices=SIZES)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument(
        "--precision", default="bf16", choices=("fp32", "bf16"), help="of datool predict, pipeline xN"
    )
    arguments.add_argument("--batch-sizes", type=int, nargs="*", default=[1], help="of the pipeline; 1 is its loop")
    arguments.add_argument("--rounds", type=int, default=1)
    arguments.add_argument("--only", nargs="*", help="contenders, by the names of the table")
    arguments.add_argument("--work", type=Path, help="folder to keep weights and exports in")
    arguments.add_argument("--prepare", action="store_true", help="only write weights and exports to --work")
    arguments.add_argument("--child", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.child:
        print(json.dumps(child(**json.loads(options.child))))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(exist_ok=True)
        engines = [name for name in ENGINES if options.device == "cpu" or ENGINES[name][0] == "torch"]
        contenders = [*engines, "datool predict", *(f"pipeline x{size}" for size in options.batch_sizes)]
        contenders += BY_HAND
        contenders = [name for name in contenders if name in (options.only or contenders)]
        prepare(work, options, contenders)
        if options.prepare:
            return
        photos = (work / "photos.txt").read_text().splitlines()
        results: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
        for turn in range(options.rounds):
            for name in contenders if turn % 2 == 0 else reversed(contenders):
                results[name].append(run(name, work, options))
        report(results, len(photos), options, errors(work, contenders))


def prepare(work: Path, options: argparse.Namespace, contenders: list[str]) -> None:
    """Write photos, weights and what is exported of them, unless they are there."""
    from datool.errors import DatoolError
    from datool.jobs.export import ExportOptions, export

    weights = work / f"depth-anything-v2-{options.size}"
    if not weights.exists():
        make_weights(weights, options.size)
    given = sorted(options.photos.iterdir())[: options.num] if options.photos else None
    photos = given or render(work / "photos", options.num, 0)
    check_sizes(photos, weights)
    (work / "photos.txt").write_text("\n".join(str(photo.resolve()) for photo in photos))
    for name in contenders:
        runtime, precision = ENGINES.get(name, ("torch", ""))
        path = exported(work, name)
        if runtime == "torch" or path.exists():
            continue
        photos = None
        if precision == "int8":
            photos = work / "calibration"
            render(photos, 12, 1000)
        row = f"{weights.name}={weights / 'model.safetensors'}"
        try:
            export(
                ExportOptions(model=row, out=path, format=runtime, precision=precision, calibrate=photos, tolerance=1.0)
            )
        except DatoolError as error:
            sys.exit(str(error))


def exported(work: Path, name: str) -> Path:
    """Return the file of a contender."""
    return work / f"{name.replace(' ', '-')}{'.onnx' if name == 'onnx' else '.xml'}"


def render(folder: Path, num: int, seed: int) -> list[Path]:
    """Write ``num`` JPEGs of 640x480: 16 rendered scenes, each again and again under other names."""
    import cv2

    from datool.render import render as render_scenes

    scenes = render_scenes(seed, range(min(16, num)), 480, 640).image_b3hw.permute(0, 2, 3, 1).numpy()
    encoded = [cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes() for image in scenes]
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{index:06}.jpg" for index in range(num)]
    for index, path in enumerate(paths):
        path.write_bytes(encoded[index % len(encoded)])
    return paths


def make_weights(folder: Path, size: str) -> None:
    """Write a model with random weights and its image processor, as on the hub."""
    import torch
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

    from datool.models.specs import MODELS

    row = MODELS[f"depth-anything-v2-{size}"]
    width, blocks, heads = SIZES[size]
    backbone = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        image_size=518,
        patch_size=14,
        out_indices=[tap + 1 for tap in row.taps],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=width,
        neck_hidden_sizes=list(row.channels),
        fusion_hidden_size=row.features,
    )
    torch.manual_seed(0)
    model = DepthAnythingForDepthEstimation(config)
    for name, parameter in model.named_parameters():
        if name.endswith("lambda1"):
            torch.nn.init.normal_(parameter, 1.0, 0.1)
    torch.nn.init.constant_(model.head.conv3.bias, 1.0)  # else half of the map is the ReLU's zero
    model.save_pretrained(folder)
    DPTImageProcessor(
        size={"height": 518, "width": 518},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)


def check_sizes(photos: list[Path], folder: Path) -> None:
    """Stop unless both come to the same network size: transformers scales small photos to less than 518 pixels."""
    from PIL import Image
    from transformers import DPTImageProcessor

    from datool.estimators.preprocess import network_size

    processor = DPTImageProcessor.from_pretrained(folder)
    for width, height in sorted({Image.open(photo).size for photo in photos}):
        theirs = tuple(processor(Image.new("RGB", (width, height)), return_tensors="pt").pixel_values.shape[-2:])
        if theirs != (ours := network_size(height, width, 518, 14)):
            sys.exit(f"{width}x{height}: datool's network sees {ours}, transformers' {theirs}: take other photos.")


def run(name: str, work: Path, options: argparse.Namespace) -> dict[str, float]:
    """Run one contender in a process of its own; return what it measured, and its wall time from outside."""
    job = {"name": name, "work": str(work), "device": options.device, "precision": options.precision}
    job["row"] = f"depth-anything-v2-{options.size}"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    command = [sys.executable, __file__, "--child", json.dumps(job)]
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1]) | {"wall_s": time.perf_counter() - started}


def child(name: str, work: str, device: str, precision: str, row: str) -> dict[str, float]:
    """Predict all photos with one contender; return seconds to the first maps, photos/s after them, and peak memory."""
    photos = (Path(work) / "photos.txt").read_text().splitlines()
    times: list[float] = []
    maps: dict[str, object] = {}

    def done(photo: str | None = None, values: object = None) -> None:
        times.append(time.perf_counter())
        if values is not None and photo in photos[:COMPARED]:
            maps[photo] = values

    kinds = {"datool predict": job} | dict.fromkeys(ENGINES, stream) | dict.fromkeys(BY_HAND, by_hand)
    contender = kinds.get(name, pipe)
    used = time.process_time()
    contender(
        name=name,
        photos=photos,
        folder=Path(work) / row,
        row=row,
        device=device,
        precision=ENGINES[name][1] if name in ENGINES else precision,
        file=exported(Path(work), name) if ENGINES.get(name, ("torch",))[0] != "torch" else None,
        batch_size=int(name.rpartition("x")[2]) if name.startswith("pipeline") else 1,
        done=done,
    )
    assert len(times) == len(photos), f"{name} gave {len(times)} maps of {len(photos)}"
    if maps:
        import numpy as np

        np.savez(Path(work) / f"{name}.npz", **{Path(photo).name: values for photo, values in maps.items()})
    measured = {
        "start_s": times[WARM_UP - 1] - STARTED,
        "rate": (len(times) - WARM_UP) / (times[-1] - times[WARM_UP - 1]),
        "cpu_s": (time.process_time() - used) / len(photos),
        "peak_mb": peak_mb(),
        "gpu_mb": 0.0,
    }
    if device != "cpu":
        import torch

        measured["gpu_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return measured


def peak_mb() -> float:
    """Return the most memory that this process has had; getrusage would count its parent's too."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def stream(name, photos, folder, row, device, precision, file, batch_size, done) -> None:
    from datool.engines import exported
    from datool.estimators.predictor import Predictor
    from datool.files import read_image
    from datool.models.weights import load

    if file is None:
        predictor = Predictor(load(folder, row=row), device=device, precision=precision)
    else:
        predictor = Predictor(exported.engine(exported.read(file)))
    for prediction in predictor.stream(photos, read_image):
        assert prediction.result.values.shape == prediction.image_size
        done(prediction.item, prediction.result.values)


def job(name, photos, folder, row, device, precision, file, batch_size, done) -> None:
    from datool.jobs.predict.predict import PredictOptions, predict

    def progress(state) -> None:
        for _ in range(state.done - seen[0]):
            done()
        seen[0] = state.done

    seen = [0]
    with tempfile.TemporaryDirectory() as out:
        predict(
            PredictOptions(inputs=photos, out=Path(out), model=f"{row}={folder}", device=device, precision=precision),
            progress,
        )


def pipe(name, photos, folder, row, device, precision, file, batch_size, done) -> None:
    import torch
    from transformers import pipeline

    # The default loop is what people write: float32 whatever the chip. Batches get datool's precision.
    dtype = torch.bfloat16 if precision == "bf16" and batch_size > 1 else torch.float32
    pipe = pipeline("depth-estimation", model=str(folder), device=device, dtype=dtype)
    if batch_size == 1:
        for photo in photos:
            pipe(photo)
            done()
    else:
        for _ in pipe((photo for photo in photos), batch_size=batch_size):
            done()


def by_hand(name, photos, folder, row, device, precision, file, batch_size, done) -> None:
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, DepthAnythingForDepthEstimation

    processor = AutoImageProcessor.from_pretrained(folder)
    model = DepthAnythingForDepthEstimation.from_pretrained(folder, dtype=torch.bfloat16).to(device).eval()
    if name == "transformers compiled":
        model = torch.compile(model)
    with torch.inference_mode():
        for photo in photos:
            image = Image.open(photo)
            pixels = processor(image, return_tensors="pt").pixel_values.to(device, torch.bfloat16)
            depth = model(pixels).predicted_depth[:, None].float()
            size = image.size[::-1]
            torch.nn.functional.interpolate(depth, size, mode="bilinear", align_corners=True).cpu()
            done()


def errors(work: Path, names: list[str]) -> dict[str, float]:
    """Return how far each contender's maps are from those in float32, where both are there."""
    import numpy as np

    from datool.estimators.load import error_of

    exact = work / "datool fp32.npz"
    found = {}
    for name in names:
        file = work / f"{name}.npz"
        if exact.exists() and file.exists():
            truth, maps = np.load(exact), np.load(file)
            found[name] = float(np.mean([error_of(maps[photo], truth[photo]) for photo in truth.files]))
    return found


def report(results, num, options, error) -> None:
    """Print a table: medians over the rounds, and each time a photo as a ratio to the pipeline's loop."""
    base = median(run["rate"] for run in results["pipeline x1"]) if "pipeline x1" in results else None
    print(f"{num} photos, {options.size}, {options.device}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")
    titles = f"{'start s':>8} {'photos/s':>9} {'time':>6} {'CPU s':>6} {'error':>8} {'peak MB':>8} {'GPU MB':>7}"
    print(f"{'':18} {titles}")
    for name, runs in results.items():
        rate, start = median(run["rate"] for run in runs), median(run["start_s"] for run in runs)
        ratio = f"{base / rate:.2f}" if base else "-"
        told = f"{error[name]:.1e}" if name in error else "-"
        peak, gpu = max(run["peak_mb"] for run in runs), max(run["gpu_mb"] for run in runs)
        used = median(run["cpu_s"] for run in runs)
        print(f"{name:18} {start:8.1f} {rate:9.2f} {ratio:>6} {used:6.2f} {told:>8} {peak:8.0f} {gpu:7.0f}")


if __name__ == "__main__":
    main()
