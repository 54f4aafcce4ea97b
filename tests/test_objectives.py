"""What each stage adds up, and over which samples."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from datool.data.batches.rendered import Scenes
from datool.data.batches.transforms import disparity_target
from datool.data.sample import Batch
from datool.errors import DatoolError
from datool.models.encoders import build_encoder
from datool.training.init_weights import init_model
from datool.training.losses import drop_largest, feature_alignment, gradient_matching, silog, ssi_mae, ssi_mse
from datool.training.objectives import Relative, make_objective
from datool.training.recipes import RECIPES


def batch(seed=0, size=4, side=28):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(size, 3, side, side, generator=generator)
    target = torch.rand(size, side, side, generator=generator)
    valid = torch.rand(size, side, side, generator=generator) > 0.1
    pred = torch.rand(size, side, side, generator=generator)
    return pred, Batch.of(image, target, valid)


def test_a_teacher_is_ssi_plus_weighted_gradients():
    pred, truth = batch()
    losses = make_objective(RECIPES["teacher-v2-published"], None, 0)(pred, None, truth)
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
    row = frozen.spec
    mean, std = (torch.tensor(values)[:, None, None] for values in (row.mean, row.std))
    with torch.no_grad():
        (theirs,) = frozen((truth.image[mask] - mean) / std, (3,))
    by_hand.append(feature_alignment(tokens[mask], theirs, 0.85).mean())
    torch.testing.assert_close(losses["loss"], torch.stack(by_hand).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sees", ["clean", "augmented"])
def test_the_frozen_encoder_sees_the_picture_that_the_recipe_says(sees):
    pred, truth = batch()
    pseudo = replace(truth, pseudo=torch.ones(4, dtype=torch.bool), clean=truth.image.flip(-1))
    recipe = replace(RECIPES["nano-student-v2"], align_weight=1.0, align_sees=sees)
    frozen = build_encoder("nano").eval()
    mean, std = (torch.tensor(values)[:, None, None] for values in (frozen.spec.mean, frozen.spec.std))
    shown = truth.image.flip(-1) if sees == "clean" else truth.image
    (tokens,) = frozen((shown - mean) / std, (3,))
    losses = make_objective(recipe, frozen, 3)(pred, tokens, pseudo)
    assert losses["alignment"] < 1e-6


@pytest.mark.parametrize("drop_gradient", [True, False])
def test_a_student_pays_for_the_pixels_that_are_kept(drop_gradient):
    pred, truth = batch()
    pseudo = replace(truth, pseudo=torch.ones(4, dtype=torch.bool))
    recipe = replace(RECIPES["student-v2-published"], align_weight=0.0, cutmix=0.0, drop_gradient=drop_gradient)
    losses = make_objective(recipe, None, 0)(pred, None, pseudo)
    _, residual = ssi_mse(pred, truth.target, truth.valid)
    kept = drop_largest(residual.abs(), truth.valid, 0.1)
    ssi = torch.stack([each[mask].square().mean() / 2 for each, mask in zip(residual, kept, strict=True)])
    gradient = gradient_matching(residual, kept if drop_gradient else truth.valid)
    torch.testing.assert_close(losses["loss"], (ssi + 2 * gradient).mean())


def test_labelled_samples_drop_nothing():
    pred, truth = batch()
    recipe = replace(RECIPES["student-v1"], align_weight=0.0)
    half = replace(truth, pseudo=torch.tensor([False, False, True, True]))
    plain = make_objective(recipe, None, 0)(pred, None, half)
    dropping = make_objective(replace(recipe, drop_share=0.5), None, 0)(pred, None, half)
    assert dropping["labelled_ssi"] == plain["labelled_ssi"] and dropping["ssi"] < plain["ssi"]


EVERY_KIND = ("teacher-v1", "teacher-v2-published", "student-v1", "student-v2-stable", "nano-metric")


@pytest.mark.parametrize("name", EVERY_KIND)
def test_a_sample_of_which_nothing_is_known_has_no_part_in_the_mean(name):
    pred, truth = batch()
    valid = truth.valid.clone()
    valid[[0, 2]] = False
    region = torch.ones_like(valid)
    region[:, :14, :7] = False
    pseudo = torch.full((4,), RECIPES[name].pseudo_batch > 0)
    whole = replace(truth, target=truth.target + 0.1, valid=valid, region=region, pseudo=pseudo)
    known = torch.tensor([1, 3])
    objective = make_objective(replace(RECIPES[name], align_weight=0.0), None, 0)
    pred.requires_grad_()
    here = objective(pred, None, whole)
    there = objective(pred[known], None, whole.part(known))
    assert here.keys() == there.keys()
    for part in here:
        torch.testing.assert_close(here[part], there[part], msg=part)
    (slope,) = torch.autograd.grad(here["loss"], pred)
    torch.testing.assert_close(slope, torch.autograd.grad(there["loss"], pred)[0])
    # In parts, of which one knows nothing: the mean of the parts is that of the whole.
    counts = objective.counts(whole) / 2
    halves = [objective(pred[part], None, whole.part(part), counts) for part in (known, torch.tensor([0, 2]))]
    torch.testing.assert_close((halves[0]["loss"] + halves[1]["loss"]) / 2, here["loss"])


def test_a_part_of_a_mixed_picture_of_which_nothing_is_known_has_no_say():
    pred, truth = batch()
    region = torch.ones_like(truth.valid)
    region[:, :14] = False
    recipe = replace(RECIPES["student-v1"], align_weight=0.0)
    objective = make_objective(recipe, None, 0)
    half = replace(truth, region=region, valid=truth.valid & region, pseudo=torch.ones(4, dtype=torch.bool))
    ssi, residual = ssi_mae(pred, truth.target, half.valid)
    expected = (ssi + 0.5 * gradient_matching(residual, half.valid)).mean()
    torch.testing.assert_close(objective(pred, None, half)["loss"], expected)


@pytest.mark.parametrize("name", EVERY_KIND)
def test_empty_and_constant_maps_cost_something_finite(name):
    pred, truth = batch()
    valid = truth.valid.clone()
    valid[0] = False  # nothing known
    valid[1, 1:] = False  # all of it in the sample's own part
    region = torch.ones_like(valid)
    region[1:, 14:] = False
    pred = pred.clone()
    pred[2] = 0.0
    target = truth.target.clone()
    target[3] = 0.5
    pred.requires_grad_()
    mixed = replace(truth, target=target, valid=valid, region=region, pseudo=torch.tensor([True, True, True, True]))
    losses = make_objective(replace(RECIPES[name], align_weight=0.0), None, 0)(pred, None, mixed)
    losses["loss"].backward()
    assert all(value.isfinite() for value in losses.values()) and pred.grad.isfinite().all()
    assert (pred.grad[0] == 0).all()


def test_metric_models_take_either_silog():
    pred, truth = batch()
    truth = replace(truth, target=truth.target + 0.1)
    for root in (True, False):
        recipe = replace(RECIPES["metric-indoor"], silog_root=root)
        loss = make_objective(recipe, None, 0)(pred, None, truth)["loss"]
        torch.testing.assert_close(loss, silog(pred, truth.target, truth.valid, 0.5, root).mean())


@pytest.fixture(scope="module")
def correlated():
    """Give (pred, batch) for a correlation: targets of rendered scenes, mixed with those of other scenes."""
    _, depth = Scenes(3, 16, (56, 70), torch.device("cpu")).get(torch.arange(16))
    target, _ = disparity_target(depth)
    target = target.double()

    def standardised(maps):
        maps = maps - maps.mean((1, 2), keepdim=True)
        return maps / maps.square().mean((1, 2), keepdim=True).sqrt()

    own, other = standardised(target), standardised(target.roll(1, 0))
    other = standardised(other - (own * other).mean((1, 2), keepdim=True) * own)
    batch = Batch.of(torch.zeros(16, 3, 56, 70), target, torch.ones_like(target).bool())
    return lambda share: (share * own + (1 - share**2) ** 0.5 * other, batch)


@pytest.mark.parametrize("name", ["teacher-v1", "teacher-v2", "student-v2", "nano-student-v2", "tiny-teacher"])
def test_the_better_a_prediction_correlates_the_less_it_costs(name, correlated):
    """So there is a way from anywhere, and it leads away from near and far exchanged, dearer than a constant map."""
    recipe = RECIPES[name]
    relative = Relative(recipe.ssi, recipe.gradient_weight, recipe.drop_share)

    def cost(share):
        return relative(*correlated(share), mixed=False)["loss"].mean().item()

    pred, batch = correlated(1.0)
    constant = relative(torch.zeros_like(pred), batch, mixed=False)["loss"].mean().item()
    costs = {share: cost(share) for share in (-0.7, -0.3, 0.0, 0.3, 0.5, 0.8, 0.9, 1.0)}
    assert all(one > two for one, two in pairwise(costs.values())), costs
    assert costs[-0.3] > costs[0.0] > constant > costs[0.8]


def test_the_texts_loss_has_a_valley_where_nothing_correlates(correlated):
    """What `Relative` says of least squares: to predict next to nothing is cheaper than to be half right."""
    relative = Relative("least-squares", 2.0)
    costs = {share: relative(*correlated(share), mixed=False)["loss"].mean() for share in (-0.7, 0.01, 0.4, 0.95)}
    assert costs[0.4] > 1.05 * costs[0.01] and costs[-0.7] > 1.05 * costs[0.01] and costs[0.95] < costs[0.01]


def test_wrong_choices_are_refused():
    with pytest.raises(DatoolError, match="ssi"):
        make_objective(replace(RECIPES["student-v2"], ssi="trimmed"), None, 0)
    with pytest.raises(DatoolError, match="objective"):
        make_objective(replace(RECIPES["student-v2"], objective="student-v3"), None, 0)


@pytest.mark.parametrize("name", [name for name in sorted(RECIPES) if RECIPES[name].head_bias])
def test_a_head_from_random_weights_starts_alive(name):
    # The published sizes begin alike; the smallest stands for all.
    big = RECIPES[name].model.startswith("depth-anything")
    model = "depth-anything-v2-small" if big else RECIPES[name].model
    for seed in (4, 7) if big else range(3):  # 4 and 7 are dead with PyTorch's own bias
        recipe = replace(RECIPES[name], model=model, init="", align_weight=0.0, seed=seed)
        image = torch.randn(1, 3, 56, 70, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            prediction = init_model(recipe).eval()(image)
        assert (prediction > 0).all()


def test_every_relative_recipe_lifts_its_random_head():
    untouched = {"tiny"}  # which is what it was when it was published
    for name, recipe in RECIPES.items():
        assert (recipe.head_bias > 0) == (recipe.target != "depth" and name not in untouched), name


def test_init_takes_the_encoder_and_if_told_the_head_but_its_last_layer(tmp_path):
    from datool.models.weights import save

    teacher = init_model(replace(RECIPES["nano-teacher"], seed=5))
    save(tmp_path / "best.safetensors", teacher, "nano")
    for head in (False, True):
        recipe = replace(RECIPES["nano-metric"], init=str(tmp_path / "best.safetensors"), init_head=head)
        model = init_model(recipe)
        for (key, ours), theirs in zip(model.state_dict().items(), teacher.state_dict().values(), strict=True):
            copied = key.startswith("encoder.") or (head and "output2.2" not in key)
            if not copied and ours.unique().numel() == 1:
                continue  # norms and biases begin alike everywhere
            assert torch.equal(ours, theirs) is copied, key
    with pytest.raises(DatoolError, match="init_head needs"):
        init_model(replace(RECIPES["nano-metric"], init_head=True))


def test_a_projector_only_where_widths_differ_and_in_no_file(tmp_path):
    from datool.models.weights import load, save

    recipe = replace(RECIPES["nano-student-v2"], align_weight=1.0)
    assert isinstance(init_model(recipe).project, torch.nn.Identity)
    wide = init_model(replace(recipe, align_encoder="dinov2-small"))
    tokens = wide(torch.randn(1, 3, 28, 28), features=True)[1]
    assert tokens.shape == (1, 384, 2, 2)
    save(tmp_path / "model.safetensors", wide, "nano")
    assert load(tmp_path / "model.safetensors").name == "nano"
