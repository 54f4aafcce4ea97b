"""Laws of the losses: what they do not see, what they do not touch, and what they are by hand."""

import pytest
import torch

from datool.training.losses import (
    align_least_squares,
    gradient_matching,
    masked_mean,
    normalise_median,
    ssi_mae,
    ssi_mse,
)


def maps(
    seed: int = 0, batch: int = 3, height: int = 13, width: int = 17
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pred, target = torch.rand(2, batch, height, width, generator=generator)
    return pred, target, torch.rand(batch, height, width, generator=generator) > 0.3


@pytest.mark.parametrize("ssi", [ssi_mae, ssi_mse])
@pytest.mark.parametrize("scale, shift", [(2.5, -7.0), (1e-3, 4.0), (300.0, 0.0)])
def test_scale_and_shift_of_the_prediction_do_not_matter(ssi, scale, shift):
    pred, target, valid = maps()
    expected, residual = ssi(pred, target, valid)
    loss, moved = ssi(scale * pred + shift, target, valid)
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-5)
    matched = gradient_matching(residual, valid)
    torch.testing.assert_close(gradient_matching(moved, valid), matched, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("ssi", [ssi_mae, ssi_mse])
def test_a_prediction_right_up_to_scale_and_shift_costs_nothing(ssi):
    _, target, valid = maps()
    loss, residual = ssi(3 * target + 1, target, valid)
    assert loss.max() < 1e-5
    assert gradient_matching(residual, valid).max() < 1e-4


@pytest.mark.parametrize("ssi", [ssi_mae, ssi_mse])
def test_masked_pixels_carry_no_gradient_and_no_influence(ssi):
    pred, target, valid = maps()
    pred.requires_grad_()
    loss, residual = ssi(pred, target, valid)
    (loss + gradient_matching(residual, valid)).sum().backward()
    assert (pred.grad[~valid] == 0).all()
    assert (pred.grad[valid] != 0).any()
    wild = torch.where(valid, target, torch.nan)
    torch.testing.assert_close(ssi(torch.where(valid, pred, 1e9), wild, valid)[0], loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ssi", [ssi_mae, ssi_mse])
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


def test_gradients_are_those_of_the_formula():
    pred, target, valid = maps(batch=2, height=4, width=5)
    # The losses work in float32 by contract, so finite differences are taken with a wide step and tolerance.
    for ssi in (ssi_mae, ssi_mse):
        pred = pred.detach().requires_grad_()
        ssi(pred, target, valid)[0].sum().backward()
        step = 1e-3
        for place in [(0, 0, 0), (1, 2, 3), (0, 3, 4)]:
            moved = pred.detach().clone()
            moved[place] += step
            high = ssi(moved, target, valid)[0].double().sum()
            moved[place] -= 2 * step
            low = ssi(moved, target, valid)[0].double().sum()
            assert pred.grad[place].item() == pytest.approx(((high - low) / (2 * step)).item(), abs=5e-3)
