"""Tasks become channels and come back; the layout is the one the kernels want."""

import pytest
import torch

from metabook.networks.folding import channels_last, fold, placeholder, unfold


@pytest.mark.parametrize("dim", [0, 1, 3])
def test_unfold_is_the_inverse_of_fold(dim):
    x = torch.randn(3, 2, 4, 5, 6)  # (tasks, n, c, h, w)
    folded = fold(x.movedim(0, dim), dim, 3)
    assert folded.shape == (2, 12, 5, 6)
    assert torch.equal(folded[:, 4:8], x[1])
    assert torch.equal(unfold(folded, 3), x)


def test_statistics_fold_too():
    mean = torch.randn(3, 4)
    assert torch.equal(fold(mean, 0, 3), mean.flatten())
    assert torch.equal(unfold(mean.flatten(), 3), mean)


def test_what_is_the_same_for_all_tasks_is_repeated():
    x = torch.randn(2, 4, 5, 6)
    assert torch.equal(fold(x, None, 3), x.repeat(1, 3, 1, 1))


def test_folding_back_and_forth_moves_no_data():
    x = channels_last(torch.randn(2, 12, 5, 6))
    assert fold(unfold(x, 3), 0, 3).data_ptr() == x.data_ptr()


@pytest.mark.parametrize("channels", [1, 2])
def test_kernels_answer_with_channels_last(channels):
    """With a single channel torch's own `.contiguous(memory_format=...)` changes nothing, and the answer is NCHW."""
    x, weight = torch.randn(3, channels, 8, 8), torch.randn(4, channels, 3, 3)
    assert torch.equal(channels_last(x), x)
    y = torch.conv2d(channels_last(x), weight)
    assert y.is_contiguous(memory_format=torch.channels_last) and not y.is_contiguous()
    assert placeholder(y, 2, 3, 4, 5).is_contiguous(memory_format=torch.channels_last)
