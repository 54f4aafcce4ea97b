"""How near labelling comes to the bare forward of its model, and whether its cost and memory stay flat.

    python benchmarks/pseudo_label.py --model tiny --num 100 400                          # CPU
    python benchmarks/pseudo_label.py --random depth-anything-v2-large --num 2000 10000 --device cuda

Photos are JPEGs of 640x480, quality 90, in tars of --rows: those of --photos, else rendered. Labelling is the whole
job: tar to decoded photo to label shard, photos not kept. Bare is the network alone, on batches of the same size that
are ready on the device, in as many lanes; both in one run, one after the other, twice.

Rates are told by the clock, and on a CPU also by CPU time, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import tarfile
import tempfile
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HEIGHT, WIDTH = 480, 640
ROUNDS = 2


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = arguments.add_mutually_exclusive_group()
    which.add_argument("--model", default="tiny")
    which.add_argument("--random", metavar="ROW", help="a row of MODELS with random weights")
    arguments.add_argument("--num", type=int, nargs="+", default=[100, 400])
    arguments.add_argument("--rows", type=int, default=100, help="photos of a tar")
    arguments.add_argument("--size", type=int)
    arguments.add_argument("--photos", type=Path)
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--precision", default="auto")
    arguments.add_argument("--batch-size", type=int)
    arguments.add_argument("--depth", default="exr-half")
    arguments.add_argument("--units", type=int, default=62_000, help="shards of the index whose memory is told")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options)


def measure(work: Path, options: argparse.Namespace) -> None:
    import torch

    from datool.labelling.labeller import Labeller, LabelOptions
    from datool.models.depth_anything import build_model
    from datool.models.weights import load, save

    model = options.model
    if options.random:
        model = str(work / "random.safetensors")
        torch.manual_seed(0)
        save(Path(model), build_model(options.random), options.random)
    labels = LabelOptions(
        size_px=options.size,
        precision=options.precision,
        batch_size=options.batch_size or "auto",
        depth=options.depth,
    )
    jpegs = photos(options.photos)
    labeller = Labeller(load(model), options.device, labels)
    print(json.dumps(labeller.settings))
    print(f"{'':12}{'images':>8}{'images/s':>10}{'CPU ms':>8}{'peak MB':>9}{'of bare':>9}{'by CPU':>8}")
    for _ in range(ROUNDS):
        wall_s, cpu_s = bare(labeller, jpegs[0])
        print(f"{'bare':12}{'':8}{1 / wall_s:10.2f}{1000 * cpu_s:8.1f}")
        for count in options.num:
            told = label(work, jpegs, count, model, labels, options)
            by_cpu = f"{cpu_s / told[1]:8.2f}" if labeller.lanes else ""
            print(
                f"{'labelling':12}{count:8}{1 / told[0]:10.2f}{1000 * told[1]:8.1f}"
                f"{told[2]:9.0f}{wall_s / told[0]:9.2f}{by_cpu}",
                flush=True,
            )
    print(f"index of {options.units} shards: {index_memory(work, options.units) / 1e6:.1f} MB")


def photos(folder: Path | None) -> list[bytes]:
    """Return some JPEGs of 640x480."""
    import cv2

    if folder:
        pictures = [cv2.imread(str(path)) for path in sorted(folder.glob("*.jpg"))[:64]]
        pictures = [cv2.resize(picture, (WIDTH, HEIGHT)) for picture in pictures]
    else:
        from datool.render import render

        images = render(0, list(range(16)), HEIGHT, WIDTH).image_b3hw
        pictures = list(images.permute(0, 2, 3, 1).cpu().numpy()[..., ::-1])
    return [cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes() for picture in pictures]


def bare(labeller, jpeg: bytes) -> tuple[float, float]:
    """Return seconds and CPU seconds a photo of the network alone."""
    import torch

    from datool.files import decode_image

    predictor, lanes = labeller.predictor, labeller.lanes or 1
    pixels = torch.as_tensor(predictor.prepare(decode_image(jpeg, "photo")))
    image = torch.stack([pixels] * labeller.batch_size)

    def forward(_: int) -> None:
        predictor.engine.run(image).cpu()

    with ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(forward, range(2 * lanes)))
        rounds = lanes * 8
        started, cpu = time.perf_counter(), time.process_time()
        list(pool.map(forward, range(rounds)))
        num = rounds * labeller.batch_size
        return (time.perf_counter() - started) / num, (time.process_time() - cpu) / num


def label(work: Path, jpegs: list[bytes], count: int, model: str, labels, options) -> tuple[float, float, float]:
    """Label so many photos; return seconds and CPU seconds a photo, without loading the model, and peak MB."""
    from datool.labelling.label_set import begin
    from datool.labelling.leases import Leases
    from datool.labelling.shard_plan import find_inputs
    from datool.labelling.worker import LabelJob, LabelWorker, run_units

    root = work / f"in-{count}"
    if not root.exists():
        root.mkdir()
        for shard in range(0, count, options.rows):
            with tarfile.open(root / f"{shard // options.rows:05d}.tar", "w") as tar:
                for number in range(shard, min(shard + options.rows, count)):
                    info = tarfile.TarInfo(f"{number:09d}.jpg")
                    info.size = len(jpegs[number % len(jpegs)])
                    tar.addfile(info, io.BytesIO(jpegs[number % len(jpegs)]))
    out = Path(tempfile.mkdtemp(dir=work)) / "out"
    inputs = find_inputs([str(root)], {}, out)
    identity = begin(out, inputs, options.rows, print)
    worker = LabelWorker(LabelJob(out, inputs, identity, model, labels, "shards", options.device, None))
    started, cpu = time.perf_counter(), time.process_time()
    with Leases(out) as leases:
        run_units(worker, leases, (0, 1))
    worker.finish()
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return wall_s / count, cpu_s / count, peak


def index_memory(work: Path, units: int) -> int:
    """Return the bytes that a worker holds of a list of so many shards."""
    from datool.labelling.label_set import UNITS, LabelSet

    folder = work / "index"
    folder.mkdir()
    with open(folder / UNITS, "w") as file:
        for number in range(units):
            file.write(json.dumps({"bytes": 31457280, "input": 0, "tar": f"{number:05d}.tar"}) + "\n")
    tracemalloc.start()
    held = LabelSet(folder)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(held) == units
    return size


if __name__ == "__main__":
    main()
