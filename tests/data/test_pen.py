"""The pen: what a steady hand draws, and what each kind of unsteadiness does."""

import torch

from metabook.data.pen import Hand, draw, hands


def steady(n=1, radius=2.5):
    identity = torch.eye(2, 3).expand(n, 2, 3)
    return Hand(identity, torch.zeros(n, 2, 4, 4), torch.zeros(n, 2, 9, 9), torch.full((n, 1, 4, 4), radius))


def bar():
    """Distance to a vertical line in the middle of a sheet of 64."""
    return (torch.arange(64) - 31.5).abs().clamp(max=8).expand(1, 64, 64)


def test_a_steady_pen_draws_a_straight_line_of_its_width():
    for radius in (1.5, 2.5, 3.5):
        image = draw(bar(), steady(radius=radius), 64)[0, 0].float() / 255
        assert torch.allclose(image.sum(1), torch.full((64,), 2 * radius), atol=0.51)
        assert image[:, 32].min() == 1 and image[:, :26].max() == 0
        small = draw(bar(), steady(radius=radius), 32)[0, 0].float() / 255
        assert torch.allclose(small.sum(1), torch.full((32,), radius), atol=0.51)


def test_shift_turn_and_pressure():
    shifted = steady()._replace(affine=torch.tensor([[[1.0, 0, 0.25], [0, 1, 0]]]))
    image = draw(bar(), shifted, 64)[0, 0]
    assert image[:, 23].min() > 0 and image[:, 31].max() == 0  # a quarter of half a sheet is 8 pixels, to the left
    turned = steady()._replace(affine=torch.tensor([[[0.0, 1, 0], [-1, 0, 0]]]))
    assert torch.equal(draw(bar(), turned, 64)[0, 0], draw(bar(), steady(), 64)[0, 0].T)
    light = torch.linspace(1.5, 3.5, 4)[:, None].expand(1, 1, 4, 4)
    widths = draw(bar(), steady()._replace(radius=light), 64)[0, 0].float().sum(1) / 255
    assert widths[50] > widths[12] + 1


def test_an_unsteady_hand_bends_but_does_not_break():
    hand = hands(50, 20, torch.Generator().manual_seed(0))
    image = draw(bar().expand(1000, 64, 64), hand, 28)[:, 0].float() / 255
    middle = image[:, 9:19].sum(-1)  # ink in the rows that no size, shift or slant moves off the line
    assert middle.min() > 0.3
    centre = (image[:, 9:19] * torch.arange(28)).sum(-1) / middle
    assert centre.std(1).mean() > 0.3 and (centre.max() < 27 and centre.min() > 0)


def test_a_drawer_keeps_slant_proportions_and_pen():
    """Over many characters, what belongs to the drawer stays and what belongs to the drawing averages out."""
    hand = hands(400, 6, torch.Generator().manual_seed(0))
    radius = hand.radius.mean((1, 2, 3)).view(400, 6)
    assert radius.mean(0).std() > 5 * radius.std(0).mean() / 400**0.5
    slant = hand.affine[:, 0, 1].view(400, 6)
    assert slant.mean(0).std() > 5 * slant.std(0).mean() / 400**0.5
    assert hand.affine[:, :, 2].view(400, 6, 2).mean(0).abs().max() < 0.02


def test_hands_come_from_the_generator_alone():
    one, two = (hands(3, 4, torch.Generator().manual_seed(5)) for _ in range(2))
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    chosen = one.select(torch.tensor([7, 2]))
    assert torch.equal(chosen.bend[1], one.bend[2]) and len(chosen.affine) == 2
