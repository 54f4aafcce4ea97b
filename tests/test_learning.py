"""Every small recipe learns: from random weights, with any seed, it beats what needs no model."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from ranks import lines, options

from datool.data.batches.datasets import SetSpec, open_set
from datool.data.batches.rendered import Scenes
from datool.depth import Quantity
from datool.estimators.predictor import Predictor
from datool.jobs.train import train
from datool.models.specs import MODELS
from datool.models.weights import load
from datool.training.dataloading import Places
from datool.training.recipes import RECIPES
from datool.training.validation import mean_scores

SIZE, CROP = (56, 70), (42, 42)
NUM_SCENES, NUM_HELD_OUT = 96, 32


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Folder with ``train`` and ``held-out``: manifests of rendered scenes."""
    root = tmp_path_factory.mktemp("scenes")
    for seed, (name, number) in enumerate((("train", NUM_SCENES), ("held-out", NUM_HELD_OUT))):
        images, depths = Scenes(100 + seed, number, SIZE, torch.device("cpu")).get(torch.arange(number))
        write(root / name, (images.permute(0, 2, 3, 1) * 255).byte().numpy(), depths.numpy(), "depth")
    return root


@pytest.fixture(scope="module")
def labels(scenes, tmp_path_factory):
    """Manifest of a nano teacher's labels of the scenes."""
    out = tmp_path_factory.mktemp("teacher")
    train(short("nano-teacher", 100), options(out / "run", places=Places((scenes / "train",))))
    predictor = Predictor(load(out / "run").model, "cpu", "fp32", SIZE[0])
    images = [sample.image for sample in samples(scenes / "train")]
    write(out / "labels", images, [predictor.predict(image).values for image in images], "disparity")
    return out / "labels"


def write(folder, images, maps, quantity):
    folder.mkdir()
    meaning = {"quantity": "disparity", "ambiguity": "scale-and-shift"} if quantity == "disparity" else {}
    with open(folder / "manifest.jsonl", "w") as manifest:
        for number, (image, values) in enumerate(zip(images, maps, strict=True)):
            cv2.imwrite(str(folder / f"{number}.png"), np.ascontiguousarray(image[:, :, ::-1]))
            np.save(folder / f"{number}.npy", values)
            manifest.write(json.dumps({"image": f"{number}.png", "depth": f"{number}.npy", **meaning}) + "\n")


def samples(folder):
    found = open_set(SetSpec("manifest", folder))
    return [found.read(0, number) for number in range(found.counts[0])]


def short(name, seed, steps=60):
    """Return the recipe at a size that takes seconds."""
    recipe = RECIPES[name]
    batch = recipe.batch_size // 2 if recipe.batch_size > 8 else 8
    return replace(
        recipe, seed=seed, steps=steps, warmup=5, batch_size=batch, pseudo_batch=recipe.pseudo_batch // 2,
        size_px=CROP, ema=0.9, num_validation=0, validate_every=steps, log_every=10, collapse_steps=40,
    )  # fmt: skip


def scores(predict, held_out):
    """Return AbsRel of disparities as training scores relative models: of metres, too, only their shape counts."""
    return mean_scores(((predict(sample.image), sample.depth) for sample in held_out), MODELS["nano"])["abs_rel"]


def constant(image):
    return np.ones(image.shape[:2], np.float32)


def lower_is_nearer(image):
    return np.repeat(np.arange(1, len(image) + 1, dtype=np.float32)[:, None], image.shape[1], 1)


def check_it_learns(recipe, scenes, labels, out):
    data = (labels,) if recipe.pseudo_batch else (scenes / "train",)
    labelled = (scenes / "train",) if recipe.pseudo_batch and recipe.labelled_batch else ()
    train(recipe, options(out, places=Places(data, labelled)))
    assert not [line for line in lines(out) if line.get("event") in ("uncorrelated", "collapsed")]
    predictor = Predictor(load(out).model, "cpu", "fp32", SIZE[0])
    held_out = samples(scenes / "held-out")
    got = scores(lambda image: predictor.predict(image).to(Quantity.DISPARITY).values, held_out)
    assert got < scores(constant, held_out) and got < scores(lower_is_nearer, held_out)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["nano", "nano-teacher", "nano-student-v1", "nano-student-v2", "nano-metric"])
def test_it_beats_a_constant_map_and_lower_is_nearer(name, seed, scenes, labels, tmp_path):
    check_it_learns(short(name, seed), scenes, labels, tmp_path)
