"""Laws of the losses: what they do not see, what they do not touch, and what they are by hand."""

import pytest
import torch

from datool.training.losses import (
    align_least_squares,
    correlation,
    drop_largest,
    feature_alignment,
    gradient_matching,
    masked_mean,
    normalise_median,
    scale_anchor,
    silog,
    ssi_mae,
    ssi_mse,
    ssi_trimmed,
)


def maps(
    seed: int = 0, batch: int = 3, height: int = 13, width: int = 17
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pred, target = torch.rand(2, batch, height, width, generator=generator)
    return pred, target, torch.rand(batch, height, width, generator=generator) > 0.3


EVERY_SSI = pytest.mark.parametrize("ssi", [ssi_mae, ssi_mse, ssi_trimmed])


@EVERY_SSI
@pytest.mark.parametrize("scale, shift", [(2.5, -7.0), (1e-3, 4.0), (300.0, 0.0)])
def test_scale_and_shift_of_the_prediction_do_not_matter(ssi, scale, shift):
    pred, target, valid = maps()
    expected, residual = ssi(pred, target, valid)
    loss, moved = ssi(scale * pred + shift, target, valid)
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-5)
    matched = gradient_matching(residual, valid)
    torch.testing.assert_close(gradient_matching(moved, valid), matched, rtol=2e-3, atol=1e-4)


@EVERY_SSI
@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e12])
def test_a_map_of_any_scale_is_a_map(ssi, scale):
    """So what counts as constant is relative to the map."""
    pred, target, valid = maps()
    expected, residual = ssi(pred, target, valid)
    loss, moved = ssi(scale * pred, target, valid)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(moved, residual, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(scale_anchor(1e-9 * pred, 1e-9 * target, valid), scale_anchor(pred, target, valid))


@EVERY_SSI
@pytest.mark.parametrize("value", [0.0, 1e-9, 0.3, 1e4])
def test_rounding_is_no_map(ssi, value):
    """A constant map, whatever its size and however it is rounded, costs what a constant map does."""
    _, target, valid = maps()
    flat = torch.full_like(target, value)
    expected, _ = ssi(torch.ones_like(flat), target, valid)
    rounded = torch.where(
        torch.rand(flat.shape, generator=torch.Generator().manual_seed(1)) > 0.5, flat, flat * (1 + 1e-7)
    )
    for each in (flat, rounded):
        torch.testing.assert_close(ssi(each, target, valid)[0], expected, rtol=0.1, atol=1e-3)
        assert correlation(each, target, valid).abs().max() == 0


@EVERY_SSI
def test_near_and_far_exchanged_costs_more_than_a_constant_and_turns_round(ssi):
    _, target, valid = maps()
    noise = torch.rand(target.shape, generator=torch.Generator().manual_seed(5)) - 0.5
    constant, _ = ssi(torch.zeros_like(target), target, valid)
    for share in (0.1, 0.5, 1.0):
        pred = ((1 - share) * noise - share * target).requires_grad_()
        assert (correlation(pred, target, valid) < 0).all()
        loss, _ = ssi(pred, target, valid)
        assert (loss >= constant).all(), share
        (slope,) = torch.autograd.grad(loss.sum(), pred)
        step = pred - 1e-3 * slope / slope.abs().amax((1, 2), keepdim=True)
        if share < 1:  # at the exact opposite there is no way that is better than another
            assert (correlation(step, target, valid) > correlation(pred, target, valid)).all(), share


def test_correlation_by_hand():
    target = torch.tensor([[[1.0, 2.0, 3.0, 99.0]]])
    valid = torch.tensor([[[True, True, True, False]]])
    for pred, expected in (([2, 4, 6, -50], 1.0), ([3, 2, 1, 7], -1.0), ([1, 0, 1, 7], 0.0), ([5, 5, 5, 7], 0.0)):
        found = correlation(torch.tensor([[pred]], dtype=torch.float32), target, valid)
        torch.testing.assert_close(found, torch.tensor([expected]), rtol=1e-5, atol=1e-6)
    assert correlation(target, torch.ones_like(target), valid).isnan().all()
    assert correlation(target, target, torch.zeros_like(valid)).isnan().all()


@EVERY_SSI
def test_a_prediction_right_up_to_scale_and_shift_costs_nothing(ssi):
    _, target, valid = maps()
    loss, residual = ssi(3 * target + 1, target, valid)
    assert loss.max() < 1e-5
    assert gradient_matching(residual, valid).max() < 1e-4


@EVERY_SSI
def test_masked_pixels_carry_no_gradient_and_no_influence(ssi):
    pred, target, valid = maps()
    pred.requires_grad_()
    loss, residual = ssi(pred, target, valid)
    (loss + gradient_matching(residual, valid)).sum().backward()
    assert (pred.grad[~valid] == 0).all()
    assert (pred.grad[valid] != 0).any()
    gradient, pred.grad = pred.grad, None
    for junk in (1e9, torch.nan, torch.inf):
        seen, missing = torch.where(valid, pred, junk), torch.where(valid, target, torch.nan)
        same, residual = ssi(seen, missing, valid)
        torch.testing.assert_close(same, loss, rtol=1e-5, atol=1e-6)
        (moved,) = torch.autograd.grad((same + gradient_matching(residual, valid)).sum(), pred)
        torch.testing.assert_close(moved, gradient, rtol=1e-4, atol=1e-5)


@EVERY_SSI
@pytest.mark.parametrize("num_valid", [0, 1, 2, 3])
def test_few_or_no_valid_pixels_and_constant_maps_stay_finite(ssi, num_valid):
    pred, target, valid = maps(batch=1)
    valid[:] = False
    valid.view(-1)[:num_valid] = True
    for value in (pred, torch.full_like(pred, 0.5), torch.zeros_like(pred)):
        value = value.clone().requires_grad_()
        loss, residual = ssi(value, target, valid)
        total = (loss + gradient_matching(residual, valid)).sum()
        total.backward()
        assert total.isfinite() and value.grad.isfinite().all()
        if num_valid == 0:
            assert total == 0 and (value.grad == 0).all()


def test_each_image_costs_the_same_alone_as_in_a_batch():
    pred, target, valid = maps()
    for ssi in (ssi_mae, ssi_mse):
        together, residual = ssi(pred, target, valid)
        gradients = gradient_matching(residual, valid)
        for i in range(len(pred)):
            alone, residual = ssi(pred[i : i + 1], target[i : i + 1], valid[i : i + 1])
            torch.testing.assert_close(alone[0], together[i])
            torch.testing.assert_close(gradient_matching(residual, valid[i : i + 1])[0], gradients[i])


def test_by_hand():
    values = torch.tensor([[[1.0, 2.0, 3.0, 99.0]]])
    valid = torch.tensor([[[True, True, True, False]]])
    torch.testing.assert_close(normalise_median(values, valid), torch.tensor([[[-1.5, 0.0, 1.5, 0.0]]]))
    assert masked_mean(values, valid).item() == 2.0
    target = torch.tensor([[[5.0, 7.0, 9.0, 0.0]]])
    torch.testing.assert_close(align_least_squares(values, target, valid)[..., :3], target[..., :3])
    # Residual 0 1 3 over four valid pixels in a row at level 0: |1| + |2| + |-3| = 6, of 4 pixels; then 0 3: 3 of 2.
    residual = torch.tensor([[[0.0, 1.0, 3.0, 0.0]]])
    assert gradient_matching(residual, torch.ones(1, 1, 4, dtype=torch.bool), scales=2).item() == 6 / 4 + 3 / 2


def test_trimmed_is_the_mean_over_what_is_kept():
    pred, target, valid = maps()
    loss, residual = ssi_trimmed(pred, target, valid)
    for image in range(len(pred)):
        sizes = residual[image][valid[image]].abs().sort().values
        count = len(sizes)
        expected = sizes[: count - int(count * 0.2)].sum() / (2 * count)
        torch.testing.assert_close(loss[image], expected)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 1.0])
def test_exactly_the_share_with_the_largest_values_is_dropped(share):
    values, _, valid = maps()
    kept = drop_largest(values, valid, share)
    assert (kept <= valid).all()
    for image in range(len(values)):
        count = int(valid[image].sum())
        dropped = valid[image] & ~kept[image]
        assert dropped.sum() == int(count * share)
        if dropped.any() and kept[image].any():
            assert values[image][dropped].min() >= values[image][kept[image]].max()


def test_silog_by_hand():
    pred, target = torch.tensor([[[1.0, 2.0, 4.0]]]), torch.tensor([[[2.0, 2.0, 0.0]]])
    valid = torch.tensor([[[True, True, False]]])
    log2 = torch.tensor(2.0).log()
    squares, mean = log2**2 / 2, log2 / 2
    torch.testing.assert_close(silog(pred, target, valid), (squares - 0.5 * mean**2).sqrt()[None])
    torch.testing.assert_close(silog(pred, target, valid, root=False), (squares - 0.5 * mean**2)[None])


def test_silog_with_all_variance_forgives_scale_and_never_breaks():
    pred, target, valid = maps()
    pred, target = pred + 0.1, target + 0.1
    for root in (False, True):
        here = silog(pred, target, valid, 1.0, root)
        torch.testing.assert_close(silog(7 * pred, target, valid, 1.0, root), here, rtol=1e-4, atol=1e-5)
        assert (silog(7 * pred, target, valid, 0.5, root) > here).all()
    for broken in (torch.zeros_like(pred), target.clone()):
        broken.requires_grad_()
        loss = silog(broken, torch.where(valid, target, torch.nan), valid)
        loss.sum().backward()
        assert loss.isfinite().all() and broken.grad.isfinite().all()
        assert (broken.grad[~valid] == 0).all()


def test_alignment_leaves_out_tokens_that_are_alike():
    generator = torch.Generator().manual_seed(0)
    tokens, frozen = torch.randn(2, 2, 8, 3, 4, generator=generator)
    tokens = tokens.clone()
    tokens[0, :, 0, 0] = 2 * frozen[0, :, 0, 0]
    tokens.requires_grad_()
    loss = feature_alignment(tokens, frozen, 0.85)
    cosine = torch.nn.functional.cosine_similarity(tokens, frozen, dim=1)
    for image in range(2):
        kept = cosine[image] <= 0.85
        torch.testing.assert_close(loss[image], (1 - cosine[image][kept]).mean())
    loss.sum().backward()
    assert (tokens.grad[0, :, 0, 0] == 0).all() and (tokens.grad[1, :, 0, 0] != 0).any()
    assert (feature_alignment(frozen, 3 * frozen) == 0).all()


def test_the_anchor_sees_the_scale_alone():
    pred, target, valid = maps()
    here = scale_anchor(target * 3 + 5, target, valid)
    torch.testing.assert_close(here, torch.full((3,), 3.0).log().square(), rtol=1e-4, atol=1e-5)
    assert scale_anchor(target - 2, target, valid).max() < 1e-6
    flat = torch.ones_like(pred).requires_grad_()
    loss = scale_anchor(flat, target, valid)
    loss.sum().backward()
    assert (loss == 0).all() and flat.grad.isfinite().all()


LOSSES = {
    "median": lambda pred, target, valid: ssi_mae(pred, target, valid)[0],
    "least-squares": lambda pred, target, valid: ssi_mse(pred, target, valid)[0],
    "trimmed": lambda pred, target, valid: ssi_trimmed(pred, target, valid)[0],
    "median-gradient": lambda pred, target, valid: gradient_matching(ssi_mae(pred, target, valid)[1], valid),
    "least-squares-gradient": lambda pred, target, valid: gradient_matching(ssi_mse(pred, target, valid)[1], valid),
    "silog": silog,
    "silog-eigen": lambda pred, target, valid: silog(pred, target, valid, root=False),
    "alignment": lambda pred, target, valid: feature_alignment(pred[:, :, None], target[:, :, None], 1.0),
    "anchor": scale_anchor,
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_the_formula(name):
    pred, target, valid = maps(batch=2, height=5, width=6)
    pred = (pred.double() + 0.5).requires_grad_()
    target = target.double() + 0.5
    assert torch.autograd.gradcheck(lambda pred: LOSSES[name](pred, target, valid), pred)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_of_full_precision_inside_autocast(name):
    pred, target, valid = maps()
    pred, target = pred.bfloat16() + 0.5, target + 0.5
    with torch.autocast("cpu", torch.bfloat16):
        inside = LOSSES[name](pred, target, valid)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(
        inside, LOSSES[name](pred.double(), target.double(), valid).float(), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("num_valid", [0, 1, 2])
def test_every_loss_is_finite_on_next_to_nothing(name, num_valid):
    pred, target, valid = maps(batch=1)
    valid[:] = False
    valid.view(-1)[:num_valid] = True
    for value in (pred, torch.full_like(pred, 0.5), torch.zeros_like(pred)):
        value = value.clone().requires_grad_()
        loss = LOSSES[name](value, target, valid)
        loss.sum().backward()
        assert loss.isfinite().all() and value.grad.isfinite().all()


@pytest.mark.parametrize(
    "name", [name for name in LOSSES if name not in ("silog", "silog-eigen", "alignment", "anchor")]
)
def test_slope_is_at_a_right_angle_to_scale_and_shift(name):
    # So nothing holds either: see `scale_anchor`.
    pred, target, valid = maps()
    pred = pred.double().requires_grad_()
    (slope,) = torch.autograd.grad(LOSSES[name](pred, target.double(), valid).sum(), pred)
    size = slope.flatten(1).norm(dim=1) * pred.flatten(1).norm(dim=1)
    assert ((slope * pred).flatten(1).sum(1).abs() < 1e-9 * size).all()
    assert (slope.flatten(1).sum(1).abs() < 1e-9 * size).all()
