"""Sky masks by any segmentation model of transformers."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from datool.errors import DatoolError

transformers = pytest.importorskip("transformers")


def save_model(folder, names):
    """Write a tiny SegFormer with random weights whose last class wins wherever the picture is bright."""
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[16, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 1],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    transformers.SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return str(folder)


def test_the_mask_is_what_the_model_calls_sky(tmp_path):
    from datool.jobs.data.sky_segmenter import SkySegmenter

    folder = save_model(tmp_path / "model", ["wall", "sky", "skyscraper"])
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    mask = SkySegmenter(folder).mask(image)
    pipe = transformers.pipeline("image-segmentation", model=folder)
    network = pipe.model(**pipe.image_processor(image, return_tensors="pt")).logits
    upscaled = torch.nn.functional.interpolate(network, (50, 70), mode="bilinear", align_corners=False)
    assert mask.dtype == bool and mask.shape == (50, 70)
    assert 0 < mask.mean() < 1
    assert (mask == (upscaled[0].argmax(0) == 1).numpy()).mean() > 0.99


def test_a_model_without_sky_is_refused(tmp_path):
    from datool.jobs.data.sky_segmenter import SkySegmenter

    with pytest.raises(DatoolError, match="no class named sky, only wall, skyscraper"):
        SkySegmenter(save_model(tmp_path / "model", ["wall", "skyscraper"]))
    with pytest.raises(DatoolError, match="cannot load"):
        SkySegmenter(str(tmp_path / "nothing"))


def test_masks_of_a_set_are_found_again_by_training(tmp_path):
    from datool.data.batches.datasets import SetSpec, open_set
    from datool.jobs.data.sky import SkyOptions, sky_masks

    depth = np.full((20, 30), 5, np.float32)
    depth[:10] = np.nan
    rows = []
    for name in ("a", "sub/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.random.default_rng(1).integers(0, 255, (20, 30, 3), np.uint8))
        np.save(tmp_path / f"{name}.npy", depth)
        rows.append(f'{{"image": "{name}.png", "depth": "{name}.npy", "quantity": "depth", "ambiguity": "none"}}\n')
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text("".join(rows))
    options = SkyOptions(
        source="manifest", out=tmp_path / "masks", model=save_model(tmp_path / "model", ["wall", "sky"])
    )
    options.roots["manifest"] = manifest
    first, second = sky_masks(options), sky_masks(options)
    assert (first.done, second.done, second.skipped) == (2, 0, 2) and not first.failed
    found = open_set(SetSpec("manifest", manifest, sky=options.out))
    for number in range(2):
        values = found.read(0, number).depth.values
        mask = cv2.imread(str(options.out / f"{rows[number].split(chr(34))[3]}"), cv2.IMREAD_GRAYSCALE) > 0
        assert (np.isposinf(values) == (mask & np.isnan(depth))).all()
        assert (values[10:] == 5).all()
