"""Which loss learns, from what: `python benchmarks/losses.py --scenes M --held-out NAME=M ... --photos DIR --work DIR`.

A `nano` model is trained with each form of the scale-and-shift-invariant loss and each weight of gradient matching,
from three beginnings, with several seeds:

    random      a random encoder, on the true depth of rendered scenes (recipe nano-teacher)
    pretrained  the same, the encoder being that of a trained nano
    labels      a random encoder, on a trained nano's labels of photos (recipe nano-student-v2)

All pictures are shrunk first, so that a run takes seconds. Scored are the last weights on each held-out manifest, as
training scores them (least squares in disparity, scale at least 0), beside a constant map and "lower in the picture is
nearer". Each run adds a line to WORK/runs.jsonl, with its seed, steps and inputs; a run whose line is there is not run
again, so a killed benchmark goes on. `--table` prints what is there.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import cv2
import numpy as np
import torch
from torch import Tensor

from datool.data.batches.datasets import ManifestSet, OpenSet, SetSpec, open_set
from datool.data.sample import Sample
from datool.depth import DepthMap, Quantity
from datool.errors import DatoolError
from datool.estimators.predictor import Predictor
from datool.evaluation.protocols import score
from datool.files import list_images, read_image
from datool.jobs.train import TrainOptions, train
from datool.models.specs import MODELS
from datool.models.weights import load
from datool.training.dataloading import Places
from datool.training.losses import masked_mean
from datool.training.objectives import PIXEL, SSI
from datool.training.recipe import Recipe
from datool.training.recipes import RECIPES
from datool.training.validation import protocol_of

# Name -> form and weight of gradient matching. "signed" is least squares as published: its scale may be negative.
CANDIDATES = {
    "median x 0.5": ("median", 0.5),
    "least-squares x 2": ("least-squares", 2.0),
    "least-squares x 0.5": ("least-squares", 0.5),
    "trimmed x 0.5": ("trimmed", 0.5),
    "median x 2": ("median", 2.0),
    "signed x 2": ("signed", 2.0),
}
STARTS = ("labels", "random", "pretrained")
# Pixels: the network's input, and the short side that pictures are shrunk to, so that crops have room.
SIDE_PX, SHRUNK_PX = 56, 84
TEACHER_STEPS, MAX_SCENES, MAX_PHOTOS, MAX_HELD_OUT = 900, 1000, 800, 50
FOLDERS = ("scenes", "photos", "teacher", "labels")


def signed(pred: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return `ssi_mse` with the least-squares scale as it comes, negative too."""
    centred = torch.where(valid, pred - masked_mean(pred, valid)[:, None, None], 0)
    about = torch.where(valid, target - masked_mean(target, valid)[:, None, None], 0)
    scale = masked_mean(centred * about, valid) / masked_mean(centred.square(), valid).clamp(min=1e-12)
    residual = torch.where(valid, scale[:, None, None] * centred - about, 0)
    return masked_mean(residual.square(), valid) / 2, residual


def remember() -> None:
    """Keep samples of manifests in memory, so that all runs together read each once."""
    read, kept = ManifestSet.read, {}

    def once(self: ManifestSet, shard: int, number: int) -> Sample:
        key = self.manifest.path, number
        if key not in kept:
            kept[key] = read(self, shard, number)
        return replace(kept[key], image=kept[key].image.copy())

    ManifestSet.read = once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=Path, required=True, help="manifest of rendered scenes to train on")
    parser.add_argument("--held-out", nargs="+", required=True, metavar="NAME=MANIFEST", help="to score on")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos to label")
    parser.add_argument("--work", type=Path, required=True, help="folder for all that is written")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(CANDIDATES), choices=CANDIDATES)
    parser.add_argument("--table", action="store_true", help="only print what was measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    SSI["signed"], PIXEL["signed"] = signed, PIXEL["least-squares"]
    remember()
    options.work.mkdir(parents=True, exist_ok=True)
    held_out = {}
    for text in options.held_out:
        name, _, path = text.partition("=")
        held_out[name] = load_pairs(Path(path))
    measured = options.work / "runs.jsonl"
    if not options.table:
        prepare(options.scenes, options.photos, options.work)
        for seed in range(options.seeds):
            for start in STARTS:
                for name in options.only:
                    run(start, name, seed, options.steps, options.work, held_out, measured)
    show(measured, options.steps, held_out)


def prepare(scenes: Path, photos: Path, work: Path) -> None:
    """Shrink scenes and photos, train the teacher, and let it label the photos; what is there is kept."""
    for folder, make in zip(FOLDERS, (shrink_scenes, shrink_photos, train_teacher, label), strict=True):
        if (work / folder).exists():
            continue
        made = work / f"{folder}.part"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        make(made, scenes, photos, work)
        made.rename(work / folder)


def shrink_scenes(out: Path, scenes: Path, photos: Path, work: Path) -> None:
    found = open_set(SetSpec("manifest", scenes))
    with open(out / "manifest.jsonl", "w") as manifest:
        for number, sample in enumerate(samples(found, MAX_SCENES)):
            small = shrunk(sample.image)
            cv2.imwrite(str(out / f"{number}.png"), small[:, :, ::-1])
            depth = sample.depth.to(Quantity.DEPTH).values
            np.save(out / f"{number}.npy", cv2.resize(depth, small.shape[1::-1], interpolation=cv2.INTER_NEAREST))
            manifest.write(json.dumps({"image": f"{number}.png", "depth": f"{number}.npy"}) + "\n")


def shrink_photos(out: Path, scenes: Path, photos: Path, work: Path) -> None:
    files = sorted(file.path for file in list_images([str(photos)]))
    for number, file in enumerate(random.Random(0).sample(files, min(MAX_PHOTOS, len(files)))):
        cv2.imwrite(str(out / f"{number}.png"), shrunk(read_image(file))[:, :, ::-1])


def train_teacher(out: Path, scenes: Path, photos: Path, work: Path) -> None:
    recipe = replace(small(RECIPES["nano-teacher"], TEACHER_STEPS), seed=1000, ssi="median", gradient_weight=0.5)
    train(recipe, TrainOptions(out, Places((work / "scenes",)), device="cpu", num_workers=0))


def label(out: Path, scenes: Path, photos: Path, work: Path) -> None:
    model = str(work / "teacher" / "last.safetensors")
    command = ["predict", str(work / "photos"), "--out", str(out), "--model", model, "--size", str(SHRUNK_PX)]
    subprocess.run([sys.executable, "-m", "datool", *command, "--format", "npz", "--quiet"], check=True)


def small(recipe: Recipe, steps: int) -> Recipe:
    """Return the recipe at this benchmark's size."""
    pseudo = 8 if recipe.pseudo_batch else 0
    return replace(
        recipe, steps=steps, size_px=(SIDE_PX, SIDE_PX), batch_size=8, pseudo_batch=pseudo, warmup=steps // 12,
        num_validation=0, validate_every=steps, log_every=10, allow_collapse=True,
    )  # fmt: skip


def run(start: str, name: str, seed: int, steps: int, work: Path, held_out: dict, measured: Path) -> None:
    """Train and score one model, unless it was."""
    key = {"start": start, "loss": name, "seed": seed, "steps": steps}
    if any(key.items() <= row.items() for row in rows(measured)):
        return
    ssi, weight = CANDIDATES[name]
    recipe = replace(
        small(RECIPES["nano-student-v2" if start == "labels" else "nano-teacher"], steps),
        seed=seed, ssi=ssi, gradient_weight=weight,
    )  # fmt: skip
    if ssi == "trimmed":  # which leaves pixels out itself
        recipe = replace(recipe, drop_share=0.0)
    if start == "pretrained":
        recipe = replace(recipe, init=str(work / "teacher" / "last.safetensors"))
    out = work / "run"
    shutil.rmtree(out, ignore_errors=True)
    data = work / ("labels" if start == "labels" else "scenes") / "manifest.jsonl"
    done = train(recipe, TrainOptions(out, Places((data,)), device="cpu", num_workers=0))
    log = rows(out / "log.jsonl")
    found = {
        "seconds": round(done.seconds, 1),
        "correlations": [round(line["correlation"], 3) for line in log if "loss" in line and "event" not in line],
        "loss_at_end": log[-1].get("loss"),
    }
    predictor = Predictor(load(out / "last.safetensors").model, "cpu", "fp32", SHRUNK_PX)
    for place, pairs in held_out.items():
        found[place] = scored(lambda image: predictor.predict(image).values, pairs)
    with open(measured, "a") as file:
        file.write(json.dumps(key | found) + "\n")
    print(key, found["correlations"][-1], {place: found[place]["abs_rel"] for place in held_out}, flush=True)


def scored(predict: Callable[[np.ndarray], np.ndarray], pairs: list) -> dict[str, float]:
    """Return mean AbsRel and delta1, how many maps had near and far exchanged, and how many could not be scored."""
    row = MODELS["nano"]
    protocol = protocol_of(row)
    values, exchanged, unscored = [], 0, 0
    for image, truth in pairs:
        try:
            one = score(DepthMap(predict(image), row.quantity, row.ambiguity), truth, protocol)
        except DatoolError:
            unscored += 1
            continue
        values.append(one.values)
        exchanged += one.scale <= 0
    means = {metric: round(fmean(each[metric] for each in values), 4) for metric in ("abs_rel", "delta1")}
    return means | {"images": len(values), "exchanged": exchanged, "unscored": unscored}


def load_pairs(manifest: Path) -> list[tuple[np.ndarray, DepthMap]]:
    """Return shrunk pictures, and their truth as it is."""
    return [(shrunk(each.image), each.depth) for each in samples(open_set(SetSpec("manifest", manifest)), MAX_HELD_OUT)]


def samples(found: OpenSet, most: int) -> Iterator:
    """Yield samples with depth, spread evenly over a set."""
    names = [(shard, number) for shard, count in enumerate(found.counts) for number in range(count)]
    return (found.read(*name) for name in names[:: -(-len(names) // most)])


def shrunk(image: np.ndarray) -> np.ndarray:
    """Return a picture (H, W, 3) with its short side at `SHRUNK_PX`."""
    height, width = image.shape[:2]
    ratio = SHRUNK_PX / min(height, width)
    return cv2.resize(image, (round(width * ratio), round(height * ratio)), interpolation=cv2.INTER_AREA)


def rows(path: Path) -> list[dict]:
    """Return the objects of a file of JSON lines; none if it is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def show(measured: Path, steps: int, held_out: dict) -> None:
    """Print a line for each beginning and loss, and what needs no model beside them."""
    priors = {
        "constant map": lambda image: np.ones(image.shape[:2], np.float32),
        "lower is nearer": lambda image: np.repeat(np.arange(len(image), dtype=np.float32)[:, None], image.shape[1], 1),
    }
    prior = {name: {place: scored(each, pairs) for place, pairs in held_out.items()} for name, each in priors.items()}
    images = ", ".join(f"{place}: {len(pairs)} images" for place, pairs in held_out.items())
    print(f"{steps} steps of 8 at {SIDE_PX} px. AbsRel / delta1 on {images}")
    for name, found in prior.items():
        values = (f"  {place} {found[place]['abs_rel']:.3f} / {found[place]['delta1']:.3f}" for place in held_out)
        print(f"{'':11}{name:22}" + "".join(values))
    for start in STARTS:
        for name in CANDIDATES:
            runs = [row for row in rows(measured) if (row["start"], row["loss"], row["steps"]) == (start, name, steps)]
            if runs:
                print(f"{start:11}{name:22}" + line(runs, prior))


def line(runs: list[dict], prior: dict) -> str:
    """Return what runs that differ in their seed have come to."""
    text, places = "", list(next(iter(prior.values())))
    for place in places:
        for metric, before in (("abs_rel", f"  {place}"), ("delta1", " /")):
            values = [row[place][metric] for row in runs]
            text += f"{before} {fmean(values):.3f}" + (f" +- {stdev(values):.3f}" if len(values) > 1 else "")
    better = sum(all(row[p]["abs_rel"] < each[p]["abs_rel"] for p in places for each in prior.values()) for row in runs)
    exchanged = sum(row[place]["exchanged"] for row in runs for place in places)
    ends = [fmean(row["correlations"][-3:]) for row in runs]
    seeds = " ".join(str(seed) for seed in sorted(row["seed"] for row in runs))
    text += f"  correlation in training {min(ends):.2f} to {max(ends):.2f}, maps exchanged {exchanged}"
    return text + f", better than both {better} of {len(runs)} (seeds {seeds})"


if __name__ == "__main__":
    main()
