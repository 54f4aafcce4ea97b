"""What each stage adds up, and over which samples."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from datool.data.sample import Batch
from datool.errors import DatoolError
from datool.models.encoders import build_encoder
from datool.training.losses import feature_alignment, gradient_matching, ssi_mae, ssi_mse
from datool.training.objectives import make_objective
from datool.training.recipes import RECIPES
from datool.training.start import start_model


def batch(seed=0, size=4, side=28):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(size, 3, side, side, generator=generator)
    target = torch.rand(size, side, side, generator=generator)
    valid = torch.rand(size, side, side, generator=generator) > 0.1
    pred = torch.rand(size, side, side, generator=generator)
    return pred, Batch.of(image, target, valid)


def test_a_teacher_is_ssi_plus_weighted_gradients():
    pred, truth = batch()
    losses = make_objective(RECIPES["teacher-v2"], None, 0)(pred, None, truth)
    ssi, residual = ssi_mse(pred, truth.target, truth.valid)
    gradient = gradient_matching(residual, truth.valid)
    torch.testing.assert_close(losses["loss"], (ssi + 2 * gradient).mean())


def test_parts_of_a_mixed_picture_count_by_their_area():
    pred, truth = batch()
    region = torch.ones_like(truth.valid)
    region[:, :14, :7] = False
    mixed = replace(truth, region=region, pseudo=torch.ones(4, dtype=torch.bool))
    recipe = replace(RECIPES["student-v1"], align_weight=0.0, gradient_weight=0.0)
    loss = make_objective(recipe, None, 0)(pred, None, mixed)["loss"]
    share = 14 * 7 / 28**2
    own, _ = ssi_mae(pred, truth.target, truth.valid & region)
    other, _ = ssi_mae(pred, truth.target, truth.valid & ~region)
    torch.testing.assert_close(loss, ((1 - share) * own + share * other).mean())
    # Each part has a scale and shift of its own.
    moved = torch.where(region, pred, 5 * pred + 2)
    torch.testing.assert_close(make_objective(recipe, None, 0)(moved, None, mixed)["loss"], loss, rtol=1e-4, atol=1e-5)


def test_a_whole_region_is_no_mixing():
    pred, truth = batch()
    pseudo = replace(truth, pseudo=torch.ones(4, dtype=torch.bool))
    recipe = replace(RECIPES["student-v2"], align_weight=0.0)
    mixing = make_objective(recipe, None, 0)(pred, None, pseudo)
    plain = make_objective(replace(recipe, cutmix=0.0), None, 0)(pred, None, pseudo)
    assert mixing["loss"] == plain["loss"]


def test_v1_averages_three_losses_each_over_its_own_samples():
    pred, truth = batch()
    mask = torch.tensor([False, True, False, True])
    half = replace(truth, pseudo=mask)
    frozen = build_encoder("nano")
    recipe = replace(RECIPES["nano-student-v1"], align_weight=1.0)
    objective = make_objective(recipe, frozen, 3)
    assert objective.wants_tokens and not any(p.requires_grad for p in frozen.parameters())
    tokens = torch.randn(4, 64, 2, 2, generator=torch.Generator().manual_seed(1))
    losses = objective(pred, tokens, half)
    by_hand = []
    for part in (~mask, mask):
        ssi, residual = ssi_mae(pred[part], truth.target[part], truth.valid[part])
        by_hand.append((ssi + 0.5 * gradient_matching(residual, truth.valid[part])).mean())
    row = frozen.row
    mean, std = (torch.tensor(values)[:, None, None] for values in (row.mean, row.std))
    with torch.no_grad():
        (theirs,) = frozen((truth.image[mask] - mean) / std, (3,))
    by_hand.append(feature_alignment(tokens[mask], theirs, 0.85).mean())
    torch.testing.assert_close(losses["loss"], torch.stack(by_hand).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sees", ["clean", "perturbed"])
def test_the_frozen_encoder_sees_the_picture_that_the_recipe_says(sees):
    pred, truth = batch()
    pseudo = replace(truth, pseudo=torch.ones(4, dtype=torch.bool), clean=truth.image.flip(-1))
    recipe = replace(RECIPES["nano-student-v2"], align_weight=1.0, align_sees=sees)
    frozen = build_encoder("nano").eval()
    mean, std = (torch.tensor(values)[:, None, None] for values in (frozen.row.mean, frozen.row.std))
    shown = truth.image.flip(-1) if sees == "clean" else truth.image
    (tokens,) = frozen((shown - mean) / std, (3,))
    losses = make_objective(recipe, frozen, 3)(pred, tokens, pseudo)
    assert losses["alignment"] < 1e-6


def test_dropped_pixels_get_no_gradient():
    pred, truth = batch()
    pred.requires_grad_()
    pseudo = replace(truth, pseudo=torch.ones(4, dtype=torch.bool))
    recipe = replace(RECIPES["student-v2"], align_weight=0.0, gradient_weight=0.0, cutmix=0.0, drop_share=0.5)
    with_drop = make_objective(recipe, None, 0)(pred, None, pseudo)["loss"]
    without = make_objective(replace(recipe, drop_share=0.0), None, 0)(pred, None, pseudo)["loss"]
    assert with_drop < 0.5 * without


def test_wrong_choices_are_refused():
    with pytest.raises(DatoolError, match="ssi"):
        make_objective(replace(RECIPES["student-v2"], ssi="trimmed"), None, 0)
    with pytest.raises(DatoolError, match="objective"):
        make_objective(replace(RECIPES["student-v2"], objective="student-v3"), None, 0)


def test_a_model_from_random_weights_starts_alive():
    for name in ("nano-teacher", "nano-student-v2"):
        model = start_model(RECIPES[name]).eval()
        with torch.inference_mode():
            prediction = model(torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0)))
        assert (prediction > 0).float().mean() > 0.9


def test_init_takes_the_encoder_and_if_told_the_head_but_its_last_layer(tmp_path):
    from datool.models.weights import save

    teacher = start_model(replace(RECIPES["nano-teacher"], seed=5))
    save(tmp_path / "best.safetensors", teacher, "nano")
    for head in (False, True):
        recipe = replace(RECIPES["nano-metric"], init=str(tmp_path / "best.safetensors"), init_head=head)
        model = start_model(recipe)
        for (key, ours), theirs in zip(model.state_dict().items(), teacher.state_dict().values(), strict=True):
            copied = key.startswith("encoder.") or (head and "output2.2" not in key)
            if not copied and ours.unique().numel() == 1:
                continue  # norms and biases begin alike everywhere
            assert torch.equal(ours, theirs) is copied, key
    with pytest.raises(DatoolError, match="init_head needs"):
        start_model(replace(RECIPES["nano-metric"], init_head=True))


def test_a_projector_only_where_widths_differ_and_in_no_file(tmp_path):
    from datool.models.weights import load, save

    recipe = replace(RECIPES["nano-student-v2"], align_weight=1.0)
    assert isinstance(start_model(recipe).project, torch.nn.Identity)
    wide = start_model(replace(recipe, align_encoder="dinov2-small"))
    tokens = wide(torch.randn(1, 3, 28, 28), features=True)[1]
    assert tokens.shape == (1, 384, 2, 2)
    save(tmp_path / "model.safetensors", wide, "nano")
    assert load(tmp_path / "model.safetensors").name == "nano"
