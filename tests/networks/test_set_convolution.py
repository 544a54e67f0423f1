"""Set convolution against its sums written as loops."""

import pytest
import torch

from metabook.networks.set_convolution import FLOOR, from_lattice, lattice, to_lattice


def bump(d, length):
    return torch.exp(-0.5 * (d / length).square()).prod(-1)


def grid(axes):
    return torch.cartesian_prod(*axes).reshape(-1, len(axes))


@pytest.mark.parametrize("dims", [1, 2])
def test_to_the_lattice_and_back_equal_the_sums(dims):
    x, y = torch.randn(2, 6, dims, dtype=torch.float64), torch.randn(2, 6, 3, dtype=torch.float64)
    length = torch.tensor(0.4, dtype=torch.float64)
    axes = lattice(x, 0.25, 2)
    weights = bump(grid(axes)[None, :, None] - x[:, None], length)  # (tasks, lattice, points)
    density = weights.sum(-1, keepdim=True)
    expected = torch.cat([density, weights @ y / (density + FLOOR)], -1)
    channels = to_lattice(x, y, axes, length)
    torch.testing.assert_close(channels.flatten(2).mT, expected)
    targets = torch.randn(2, 4, dims, dtype=torch.float64)
    back = bump(targets[:, :, None] - grid(axes)[None, None], length) @ expected
    torch.testing.assert_close(from_lattice(channels, targets, axes, length), back)


def test_the_lattice_covers_the_inputs_and_lies_on_multiples():
    x = torch.tensor([[[-0.3, 0.0], [0.51, 1.0]]])
    first, second = lattice(x, 0.25, 1)
    torch.testing.assert_close(first, torch.arange(-3, 5) * 0.25)
    torch.testing.assert_close(second, torch.arange(-1, 6) * 0.25)


def test_no_points_give_zero():
    x, y = torch.zeros(2, 0, 1), torch.zeros(2, 0, 1)
    channels = to_lattice(x, y, [torch.arange(5.0)], torch.tensor(0.3))
    assert channels.shape == (2, 2, 5) and not channels.any()


def test_three_dimensions_are_refused():
    with pytest.raises(ValueError, match="1 or 2 dimensions and an axis for each, got 3 and 3"):
        to_lattice(torch.zeros(1, 2, 3), torch.zeros(1, 2, 1), [torch.arange(2.0)] * 3, torch.tensor(1.0))
