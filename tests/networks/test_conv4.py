"""Shapes of the few-shot network, and its output against torch's own layers."""

import pytest
import torch
import torch.nn.functional as F

from metabook.networks import conv4, mlp


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_equals_the_textbook_order_of_layers(norm, device):
    """Convolution, normalisation, ReLU, then pooling: the same function, although here the pooling comes first."""
    network = conv4(channels=8, outputs=5, norm=norm).double().to(device)
    for block in list(network)[:4]:
        torch.nn.init.normal_(block.norm.weight)  # negative scales as well
        torch.nn.init.normal_(block.norm.bias)
    x = torch.rand(6, 1, 28, 28, device=device, dtype=torch.float64)
    y = x
    for block in list(network)[:4]:
        y = F.conv2d(y, block.weight, padding=1)
        w, b = block.norm.weight, block.norm.bias
        y = F.batch_norm(y, None, None, w, b, training=True) if norm == "batch" else F.group_norm(y, 8, w, b)
        y = F.max_pool2d(y.relu(), 2)
    expected = network[5](y.flatten(1))
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize(("size", "features"), [(16, 8), (28, 8), (32, 32), (105, 288)])
def test_encoder_features(size, features):
    assert conv4(channels=8, image_size=size)(torch.rand(2, 1, size, size)).shape == (2, features)
    assert conv4(channels=8, image_size=size, outputs=3)(torch.rand(2, 1, size, size)).shape == (2, 3)


def test_each_block_may_have_its_own_width():
    network = conv4(channels=[8, 16, 32, 64], norm="group")
    assert [len(block.weight) for block in list(network)[:4]] == [8, 16, 32, 64]
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, 64)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"one width or four, got \[8, 16\]"):
        conv4(channels=[8, 16])
    with pytest.raises(ValueError, match='"batch" or "group", got \'layer\''):
        conv4(norm="layer")
    with pytest.raises(ValueError, match="at least 16 pixels, got 8"):
        conv4(image_size=8)
    with pytest.raises(ValueError, match=r"all positive, got \[3\]"):
        mlp([3])


def test_mlp_layers():
    assert [type(layer).__name__ for layer in mlp([1, 40, 40, 1])] == [
        "Linear",
        "ReLU",
        "Linear",
        "ReLU",
        "Linear",
    ]
    assert sum(p.numel() for p in mlp([1, 40, 40, 1]).parameters()) == 80 + 1640 + 41
