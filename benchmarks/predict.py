"""datool against the depth-estimation pipeline of transformers: same weights, photos, sizes and machine, in one run.

    python benchmarks/predict.py --num 200                          # CPU, fp32
    python benchmarks/predict.py --num 4000 --device cuda --precision bf16 --batch-sizes 1 8 32

Weights are random (speed does not depend on them) in transformers' layout, which both read; photos are rendered JPEGs
of 640x480, or those of --photos. Each contender runs in a process of its own, in turn over --rounds, and is given the
files' paths. Start-up (imports, loading, first maps) and the steady rate after it are told apart. Contenders:

- ``datool``: `Predictor.stream`, maps at the photos' size in memory, as the pipeline leaves them;
- ``datool predict``: the job, which also writes a 16-bit PNG and a colour picture a photo;
- ``pipeline``: ``for path in photos: pipe(path)``;
- ``pipeline xN``: ``pipe(photos, batch_size=N)``, with the same precision as datool.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

STARTED = time.perf_counter()
SIZES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
WARM_UP = 2


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--num", type=int, default=200, help="photos")
    arguments.add_argument("--photos", type=Path, help="folder of photos; default: rendered ones")
    arguments.add_argument("--size", default="small", choices=SIZES)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    arguments.add_argument("--batch-sizes", type=int, nargs="*", default=[1], help="of the pipeline; 1 is its loop")
    arguments.add_argument("--rounds", type=int, default=1)
    arguments.add_argument("--only", nargs="*", help="contenders, by the names of the table")
    arguments.add_argument("--child", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.child:
        print(json.dumps(child(**json.loads(options.child))))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        photos = sorted(options.photos.iterdir())[: options.num] if options.photos else render(work, options.num)
        (work / "photos.txt").write_text("\n".join(str(photo.resolve()) for photo in photos))
        make_weights(work / "depth-anything-v2-small", options.size)
        contenders = ["datool", "datool predict", *(f"pipeline x{size}" for size in options.batch_sizes)]
        contenders = [name for name in contenders if name in (options.only or contenders)]
        check_sizes(photos, work / "depth-anything-v2-small")
        results: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
        for turn in range(options.rounds):
            for name in contenders if turn % 2 == 0 else reversed(contenders):
                results[name].append(run(name, work, options))
    report(results, len(photos), options)


def render(work: Path, num: int) -> list[Path]:
    """Write ``num`` JPEGs of 640x480: 16 rendered scenes, each again and again under other names."""
    import cv2

    from datool.data.synthetic import render as render_scenes

    scenes = render_scenes(0, range(min(16, num)), 480, 640).image_b3hw.permute(0, 2, 3, 1).numpy()
    encoded = [cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes() for image in scenes]
    (work / "photos").mkdir()
    paths = [work / "photos" / f"{index:06}.jpg" for index in range(num)]
    for index, path in enumerate(paths):
        path.write_bytes(encoded[index % len(encoded)])
    return paths


def make_weights(folder: Path, size: str) -> None:
    """Write a model with random weights and its image processor, as on the hub."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

    from datool.models.rows import MODELS

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
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
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
    contender = {"datool": stream, "datool predict": job}.get(name, pipe)
    contender(
        photos=photos,
        folder=Path(work) / "depth-anything-v2-small",
        row=row,
        device=device,
        precision=precision,
        batch_size=int(name.rpartition("x")[2]) if "x" in name else 1,
        done=lambda: times.append(time.perf_counter()),
    )
    assert len(times) == len(photos), f"{name} gave {len(times)} maps of {len(photos)}"
    measured = {
        "start_s": times[WARM_UP - 1] - STARTED,
        "rate": (len(times) - WARM_UP) / (times[-1] - times[WARM_UP - 1]),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "gpu_mb": 0.0,
    }
    if device != "cpu":
        import torch

        measured["gpu_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return measured


def stream(photos, folder, row, device, precision, batch_size, done) -> None:
    from datool.estimators.predictor import Predictor
    from datool.files import read_image
    from datool.models.weights import load

    predictor = Predictor(load(folder, row=row), device=device, precision=precision)
    for prediction in predictor.stream(photos, read_image):
        assert prediction.result.values.shape == prediction.image_size
        done()


def job(photos, folder, row, device, precision, batch_size, done) -> None:
    from datool.jobs.predict import PredictOptions, predict

    def progress(state) -> None:
        for _ in range(state.done - seen[0]):
            done()
        seen[0] = state.done

    seen = [0]
    with tempfile.TemporaryDirectory() as out:
        predict(PredictOptions(photos, Path(out), f"{row}={folder}", device=device, precision=precision), progress)


def pipe(photos, folder, row, device, precision, batch_size, done) -> None:
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


def report(results, num, options) -> None:
    """Print a table: medians over the rounds, and each rate as a ratio to the pipeline's loop."""
    base = median(run["rate"] for run in results["pipeline x1"]) if "pipeline x1" in results else None
    print(f"{num} photos, {options.size}, {options.device}, {options.precision}, {os.cpu_count()} cores")
    print(f"{'':16} {'start s':>8} {'photos/s':>9} {'ratio':>6} {'peak MB':>8} {'GPU MB':>7}")
    for name, runs in results.items():
        rate, start = median(run["rate"] for run in runs), median(run["start_s"] for run in runs)
        ratio = f"{rate / base:.2f}" if base else "-"
        peak, gpu = max(run["peak_mb"] for run in runs), max(run["gpu_mb"] for run in runs)
        print(f"{name:16} {start:8.1f} {rate:9.2f} {ratio:>6} {peak:8.0f} {gpu:7.0f}")


if __name__ == "__main__":
    main()
