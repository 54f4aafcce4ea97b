"""Laws of augmentation: each sample changes by its own draws, and by nothing else."""

import sys
from dataclasses import replace

import pytest
import torch

from datool.data.batches.augment import NUM_AUGMENT_DRAWS, Augmentation, augment, inside
from datool.errors import DatoolError

NOTHING = Augmentation(jitter=0.0, blur=0.0)
ALWAYS = replace(NOTHING, jitter=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
EVERYTHING = Augmentation(jitter=0.8, grey=0.3, blur=0.5, occlusion=0.5)


def pictures(count=6, size=(20, 28), seed=0):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def drawn(count=6, seed=1):
    return torch.rand(count, NUM_AUGMENT_DRAWS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_nothing_changes_nothing():
    image = pictures()
    for strength in (NOTHING, ALWAYS):
        assert torch.equal(augment(image, strength, drawn()), image)


def test_occlusion_alone_needs_no_library_and_colour_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia", None)
    image, draws = pictures(), drawn()
    assert not torch.equal(augment(image, replace(NOTHING, occlusion=1.0), draws), image)
    assert torch.equal(augment(image, ALWAYS, draws), image)
    for strength in (replace(NOTHING, jitter=1.0), replace(NOTHING, blur=1.0), replace(NOTHING, grey=1.0)):
        with pytest.raises(DatoolError, match=r"datool\[train\]"):
            augment(image, strength, draws)


@pytest.fixture
def kornia():
    return pytest.importorskip("kornia")


@pytest.mark.usefixtures("kornia")
class TestColours:
    def test_a_sample_depends_on_its_own_draws_alone(self):
        image, draws = pictures(), drawn()
        kept = image.clone()
        together = augment(image, EVERYTHING, draws)
        alone = torch.cat([augment(image[i : i + 1], EVERYTHING, draws[i : i + 1]) for i in range(6)])
        assert torch.equal(together, alone) and torch.equal(image, kept)
        order = [3, 1, 5, 0, 2, 4]
        assert torch.equal(augment(image[order], EVERYTHING, draws[order]), together[order])
        assert not torch.equal(together, augment(image, EVERYTHING, drawn(seed=2)))

    def test_pictures_stay_between_0_and_1(self):
        for seed in range(10):
            changed = augment(pictures(seed=seed), replace(EVERYTHING, jitter=1.0), drawn(seed=seed))
            assert changed.isfinite().all() and changed.min() >= 0 and changed.max() <= 1

    def test_equal_pictures_with_unlike_draws_become_unlike(self):
        image = pictures(1).expand(6, -1, -1, -1)
        changed = augment(image, replace(NOTHING, jitter=1.0), drawn())
        assert len({round(float(each.mean()), 5) for each in changed}) == 6

    def test_probabilities_choose_rows(self):
        image, draws = pictures(), drawn()
        changed = augment(image, replace(NOTHING, jitter=0.6), draws)
        same = [torch.equal(a, b) for a, b in zip(image, changed, strict=True)]
        assert same == (draws[:, 0] >= 0.6).tolist() and len(set(same)) == 2

    def test_brightness_is_a_factor(self):
        image, draws = pictures() / 2, drawn()
        changed = augment(image, replace(ALWAYS, brightness=0.5), draws)
        factor = 1 + 0.5 * (2 * draws[:, 1] - 1)
        torch.testing.assert_close(changed, image * factor.float()[:, None, None, None])

    def test_contrast_turns_about_the_mean_luminance_and_saturation_about_each(self):
        image, draws = 0.4 + 0.2 * pictures(), drawn()
        luma = (image * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        for name, column, centre in (("contrast", 2, luma.mean((2, 3), keepdim=True)), ("saturation", 3, luma)):
            factor = (1 + 0.5 * (2 * draws[:, column] - 1)).float()[:, None, None, None]
            changed = augment(image, replace(ALWAYS, **{name: 0.5}), draws)
            torch.testing.assert_close(changed, centre + (image - centre) * factor, atol=1e-5, rtol=0)

    def test_hue_turns_the_colour_circle(self):
        draws = drawn(1)
        draws[:, 4] = 5 / 6  # of a strength of 1/2 a third of the circle: red becomes green
        red = torch.tensor([0.8, 0.2, 0.2])[None, :, None, None].expand(1, 3, 4, 4)
        changed = augment(red, replace(ALWAYS, hue=0.5), draws)
        torch.testing.assert_close(changed, red[:, [1, 0, 2]], atol=1e-5, rtol=0)

    def test_grey_has_one_channel(self):
        changed = augment(pictures(), replace(NOTHING, grey=1.0), drawn())
        assert torch.equal(changed[:, 0], changed[:, 1]) and torch.equal(changed[:, 1], changed[:, 2])

    def test_blur_is_a_mean_of_the_drawn_width(self):
        draws = drawn(2)
        draws[:, 7] = torch.tensor([0.2, 0.9])
        flat, dot = torch.full((2, 3, 25, 25), 0.3), torch.zeros(2, 3, 25, 25)
        dot[:, :, 12, 12] = 1
        strength = replace(NOTHING, blur=1.0)
        torch.testing.assert_close(augment(flat, strength, draws), flat)
        spread = augment(dot, strength, draws)
        torch.testing.assert_close(spread.sum((2, 3)), torch.ones(2, 3), atol=1e-4, rtol=0)
        offset = torch.arange(25.0) - 12
        variance = (spread[:, 0].sum(2) * offset**2).sum(1)
        torch.testing.assert_close(variance.sqrt(), torch.tensor([0.48, 1.81]), atol=0.06, rtol=0)

    def test_a_tiny_picture_can_be_blurred(self):
        assert augment(pictures(2, (3, 2)), replace(NOTHING, blur=1.0), drawn(2)).shape == (2, 3, 3, 2)


def test_an_occluder_is_one_colour_of_the_drawn_area():
    image, draws = pictures(20, (100, 120)), drawn(20)
    strength = replace(NOTHING, occlusion=1.0, occlusion_area=(0.1, 0.2), occlusion_aspect=(0.5, 2.0))
    changed = augment(image, strength, draws)
    for before, after, row in zip(image, changed, draws, strict=True):
        hidden = (before != after).any(0)
        assert hidden.float().mean() == pytest.approx(0.1 + 0.1 * float(row[9]), rel=0.03)
        rows, columns = hidden.any(1).sum(), hidden.any(0).sum()
        assert hidden.sum() == rows * columns, "a rectangle"
        assert rows / columns == pytest.approx(0.5 * 4 ** float(row[10]), rel=0.05)
        assert len(after[:, hidden].unique(dim=1).T) == 1


def test_inside_is_the_box():
    found = inside(torch.tensor([[1, 3, 0, 2], [0, 0, 0, 0], [0, 4, 0, 5]]), (4, 5))
    assert found.shape == (3, 4, 5) and found.sum((1, 2)).tolist() == [4, 0, 20]
    assert found[0, 1:3, 0:2].all()
