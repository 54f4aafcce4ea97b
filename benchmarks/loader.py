"""How fast training data come: photos and labels decoded, cut to 518x518 and made a target, with no model behind.

    python benchmarks/loader.py --num 256 --workers 0 2             # CPU
    python benchmarks/loader.py --num 4096 --workers 8 16 --device cuda --augment

The set is the same twice: files named by a manifest, and packed shards. Photos are rendered JPEGs of 640x480, or those
of --photos, each with a disparity map of 640x480. A batch is `SampleBatches`' of one group with CutMix (half of the
samples read a second photo; --cutmix 0 reads one each). Batches arrive on --device; with --augment their colours are
changed there too, which costs the training process and not the workers.

Two rates are told: of the clock, which other work on the machine lowers, and of CPU time spent, in this process and in
workers, which it hardly does: 1 / (CPU seconds an image) is what one free core gives.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--num", type=int, default=256, help="images that are timed")
    arguments.add_argument("--photos", type=Path, help="folder of photos; default: rendered ones")
    arguments.add_argument("--label", default="png16", choices=("png16", "npz", "exr", "exr-half", "tiff"))
    arguments.add_argument("--batch-size", type=int, default=16)
    arguments.add_argument("--workers", type=int, nargs="*", default=[0, 2])
    arguments.add_argument("--cutmix", type=float, default=0.5)
    arguments.add_argument("--augment", action="store_true", help="change colours on the device (needs kornia)")
    arguments.add_argument("--device", default="cpu")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        num_stored = prepare(work, options.photos, options.label)
        print(f"{options.num} images of {num_stored} stored, labels {options.label}, cutmix {options.cutmix:g}")
        print(f"{'set':10}{'workers':>8}{'images/s':>10}{'CPU ms/image':>14}{'of them here':>14}{'images/s/core':>15}")
        for kind in ("manifest", "shards"):
            for workers in options.workers:
                wall_s, own_s, workers_s = measure(work, kind, workers, options)
                each_ms, own_ms = (1000 * seconds / options.num for seconds in (own_s + workers_s, own_s))
                rates = f"{options.num / wall_s:10.1f}{each_ms:14.1f}{own_ms:14.1f}{1000 / each_ms:15.1f}"
                print(f"{kind:10}{workers:8}{rates}", flush=True)


def prepare(work: Path, photos: Path | None, label: str) -> int:
    """Write photos with labels as a manifest and as shards; return how many."""
    import cv2
    import numpy as np

    from datool.data.sample import Sample
    from datool.data.shards import ShardWriter, encode_sample
    from datool.depth import Ambiguity, DepthMap, Quantity
    from datool.files import MAP_FORMATS, read_image, write_map
    from datool.render import render

    num = 64
    scenes = render(0, range(16), 480, 640)
    disparity = (1 / scenes.depth_bhw).numpy()
    if photos is None:
        pictures = scenes.image_b3hw.permute(0, 2, 3, 1).numpy()
        jpegs = [cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1] for image in pictures]
        stored = [jpegs[number % 16].tobytes() for number in range(num)]
    else:
        stored = [path.read_bytes() for path in sorted(photos.glob("*.jp*g"))[:num]]
        num = len(stored)
    entries = []
    with open(work / "manifest.jsonl", "w") as manifest:
        for number, data in enumerate(stored):
            (work / f"{number:06}.jpg").write_bytes(data)
            image = read_image(work / f"{number:06}.jpg")
            values = cv2.resize(disparity[number % 16], image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
            depth = DepthMap(values.astype(np.float32), Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)
            name = f"{number:06}-depth{MAP_FORMATS[label].suffix}"
            write_map(work / name, depth, label)
            row = {"image": f"{number:06}.jpg", "depth": name, "pseudo": True}
            row |= {"quantity": "disparity", "ambiguity": "scale-and-shift"}
            manifest.write(json.dumps(row) + "\n")
            entries.append(encode_sample(Sample(str(number), image, depth, pseudo=True), depth=label, stored=data))
    with ShardWriter(work / "shards", {}, 16) as writer:
        for first in range(0, num, 16):
            writer.write(first // 16, "", entries[first : first + 16])
        writer.finish(-(-num // 16))
    return num


def measure(work: Path, kind: str, workers: int, options: argparse.Namespace) -> tuple[float, float, float]:
    """Return seconds of the clock, of this process's CPU and of the workers' CPU for ``options.num`` images.

    The clock starts when the first batch is there; the CPU time of workers is theirs from start to end, so it holds the
    batches that were prefetched and never taken: they are counted by taking as many fewer into account.
    """
    from datool.data.batches.augment import Augmentation
    from datool.data.batches.stored import GroupSpec, SampleBatches, SetSpec

    spec = SetSpec("manifest", work) if kind == "manifest" else SetSpec("shards", work / "shards")
    strength = Augmentation() if options.augment else None
    group = GroupSpec((spec,), options.batch_size, strength, options.cutmix)
    stream = SampleBatches([group], 0, num_workers=workers, device=options.device)
    batches = stream.batches(0)
    next(batches)
    steps = max(1, options.num // options.batch_size)
    children, started, cpu = _children_s(), time.perf_counter(), time.process_time()
    for _ in range(steps):
        next(batches)
    wall_s, own_s = time.perf_counter() - started, time.process_time() - cpu
    batches.close()
    prefetched = 1 + 2 * workers  # before the clock, and what stood ready at the end
    workers_s = (_children_s() - children) * steps / (steps + prefetched)
    scale = options.num / (steps * options.batch_size)
    return wall_s * scale, own_s * scale, workers_s * scale


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
