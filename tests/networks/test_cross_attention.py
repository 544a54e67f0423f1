"""Attention against its formula."""

import torch

from metabook.networks.cross_attention import attend


def test_attention_is_the_weighted_mean():
    q, k, v = (torch.randn(2, n, 6, dtype=torch.float64) for n in (3, 5, 5))
    expected = (q @ k.mT / 6**0.5).softmax(-1) @ v
    torch.testing.assert_close(attend(q, k, v, 1), expected, rtol=1e-9, atol=1e-9)
    halves = [attend(*(t[..., part] for t in (q, k, v)), 1) for part in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(attend(q, k, v, 2), torch.cat(halves, -1), rtol=1e-9, atol=1e-9)
