"""Attention equals torch's with the same weights, and has the right derivatives to second order under vmap."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, vmap

from metabook.networks import KeysValues, LayerNorm, MultiHeadAttention, TransformerBlock, attention


def draw(*shape, device="cpu"):
    return torch.randn(*shape, dtype=torch.float64, device=device)


def copied(ours, theirs):
    """Give our multi-head attention the weights of torch's."""
    with torch.no_grad():
        query, key_value = theirs.in_proj_weight.tensor_split([ours.query.in_features])
        ours.query.weight.copy_(query)
        ours.key_value.weight.copy_(key_value)
        query, key_value = theirs.in_proj_bias.tensor_split([ours.query.in_features])
        ours.query.bias.copy_(query)
        ours.key_value.bias.copy_(key_value)
        ours.output.load_state_dict(theirs.out_proj.state_dict())
    return ours


def pair(width=12, heads=3, device="cpu"):
    """Our multi-head attention and torch's, with the same random weights and biases."""
    theirs = nn.MultiheadAttention(width, heads, batch_first=True, dtype=torch.float64, device=device)
    nn.init.normal_(theirs.in_proj_bias)
    nn.init.normal_(theirs.out_proj.bias)
    return copied(MultiHeadAttention(width, heads).double().to(device), theirs), theirs


def block_pair(width=12, heads=3, hidden=20, device="cpu"):
    """Our block and torch's pre-norm encoder layer, with the same random weights."""
    theirs = nn.TransformerEncoderLayer(
        width, heads, hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, dtype=torch.float64,
        device=device,
    )  # fmt: skip
    ours = TransformerBlock(width, heads, hidden).double().to(device)
    with torch.no_grad():
        for norm in (theirs.norm1, theirs.norm2):
            norm.weight.normal_()
            norm.bias.normal_()
    copied(ours.attention, theirs.self_attn)
    ours.norm_attention.load_state_dict(theirs.norm1.state_dict())
    ours.norm_mlp.load_state_dict(theirs.norm2.state_dict())
    ours.mlp[0].load_state_dict(theirs.linear1.state_dict())
    ours.mlp[2].load_state_dict(theirs.linear2.state_dict())
    return ours, theirs


def causal(n, device="cpu"):
    return torch.ones(n, n, dtype=torch.bool, device=device).tril()


# attention


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_that_of_torch(masked, device):
    q, k, v = (draw(2, 3, n, d, device=device) for n, d in ((5, 4), (5, 4), (5, 6)))
    mask = causal(5, device) if masked else None
    torch.testing.assert_close(attention(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, mask))


def test_attention_to_equal_keys_is_the_mean_and_to_a_far_longer_key_its_value():
    q, values = draw(1, 4), draw(6, 3)
    torch.testing.assert_close(attention(q, torch.ones(6, 4).double(), values)[0], values.mean(0))
    keys = torch.zeros(6, 4).double()
    keys[2] = 1e3 * q[0]
    torch.testing.assert_close(attention(q, keys, values)[0], values[2])


def test_attention_has_the_derivatives_of_finite_differences():
    inputs = draw(2, 3).requires_grad_(), draw(4, 3).requires_grad_(), draw(4, 2).requires_grad_()
    assert gradcheck(attention, inputs)
    assert gradgradcheck(attention, inputs)


# several heads


@pytest.mark.parametrize("masked", [False, True])
def test_several_heads_are_those_of_torch(masked, device):
    (ours, theirs), x = pair(device=device), draw(2, 5, 12, device=device)
    mask = causal(5, device) if masked else None
    expected, _ = theirs(x, x, x, attn_mask=None if mask is None else ~mask, need_weights=False)
    torch.testing.assert_close(ours(x, mask=mask), expected)


def test_reading_other_tokens_is_cross_attention_of_torch(device):
    (ours, theirs), x, context = pair(device=device), draw(2, 4, 12, device=device), draw(2, 7, 12, device=device)
    expected, _ = theirs(x, context, context, need_weights=False)
    memory = ours.remember(context)
    assert isinstance(memory, KeysValues) and memory.keys.shape == memory.values.shape == (2, 3, 7, 4)
    torch.testing.assert_close(ours(x, memory), expected)


def test_the_gradients_are_those_of_torch(device):
    (ours, theirs), x = pair(device=device), draw(2, 5, 12, device=device)
    ours(x).square().sum().backward()
    theirs(x, x, x, need_weights=False)[0].square().sum().backward()
    both = torch.cat([ours.query.weight.grad, ours.key_value.weight.grad])
    torch.testing.assert_close(both, theirs.in_proj_weight.grad)
    torch.testing.assert_close(ours.output.weight.grad, theirs.out_proj.weight.grad)


# the block


def test_layer_norm_is_that_of_torch(device):
    norm, x = LayerNorm(6).double().to(device), draw(3, 5, 6, device=device)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    torch.testing.assert_close(norm(x), F.layer_norm(x, (6,), norm.weight, norm.bias))


@pytest.mark.parametrize("masked", [False, True])
def test_the_block_is_the_pre_norm_encoder_layer_of_torch(masked, device):
    (ours, theirs), x = block_pair(device=device), draw(2, 5, 12, device=device)
    mask = causal(5, device) if masked else None
    expected = theirs(x, src_mask=None if mask is None else ~mask)
    torch.testing.assert_close(ours(x, mask=mask), expected)


def test_without_positions_the_block_is_equivariant_under_permutations():
    (ours, _), x, order = block_pair(), draw(2, 6, 12), torch.tensor([3, 5, 0, 1, 4, 2])
    torch.testing.assert_close(ours(x[:, order]), ours(x)[:, order])


def test_with_a_causal_mask_no_token_depends_on_a_later_one():
    (ours, _), x = block_pair(), draw(1, 6, 12)
    changed = torch.cat([x[:, :4], draw(1, 2, 12)], dim=1)
    before, after = ours(x, mask=causal(6)), ours(changed, mask=causal(6))
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert (after[:, 4:] - before[:, 4:]).abs().min() > 0


def test_tokens_that_read_a_memory_do_not_see_each_other():
    (ours, _), context, x = block_pair(), draw(7, 12), draw(4, 12)
    memory = ours.remember(context)
    alone = torch.cat([ours(token[None], memory) for token in x])
    torch.testing.assert_close(ours(x, memory), alone)


def test_reading_its_own_memory_is_self_attention():
    (ours, _), x = block_pair(), draw(2, 5, 12)
    torch.testing.assert_close(ours(x, ours.remember(x)), ours(x))


def adapted_loss(block, weights, x, y):
    """Loss of the block after one gradient step on all its weights, as in the inner loop of MAML."""

    def loss(weights, x, y):
        return (functional_call(block, weights, (x,)) - y).square().mean()

    slopes = grad(loss)(weights, x, y)
    return loss({name: w - 0.1 * slopes[name] for name, w in weights.items()}, x + 1, y)


def test_second_order_gradients_under_vmap_are_those_of_a_loop_and_of_finite_differences():
    """Every weight adapted, scales of the norms included, where torch's own layer norm goes wrong."""
    block, _ = block_pair(width=4, heads=2, hidden=5)
    weights = {name: w.detach() for name, w in block.named_parameters()}
    x, y = draw(3, 5, 4), draw(3, 5, 4)

    def mean_loss(weights):
        return vmap(lambda x, y: adapted_loss(block, weights, x, y))(x, y).mean()

    exact = grad(mean_loss)(weights)
    loop = [grad(lambda w, i=i: adapted_loss(block, w, x[i], y[i]))(weights) for i in range(3)]
    direction = {name: torch.randn_like(w) for name, w in weights.items()}
    slope, step = 0.0, 1e-5
    for name in weights:
        torch.testing.assert_close(exact[name], sum(one[name] for one in loop) / 3)
        slope += (exact[name] * direction[name]).sum()
    ahead, behind = ({n: w + s * direction[n] for n, w in weights.items()} for s in (step, -step))
    torch.testing.assert_close((mean_loss(ahead) - mean_loss(behind)) / (2 * step), slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiHeadAttention(6, 4), "heads must divide the width, got 4 heads for a width of 6"),
        (lambda: MultiHeadAttention(0, 1), "width must be a positive integer, got 0"),
        (lambda: MultiHeadAttention(8, 0), "heads must be a positive integer, got 0"),
        (lambda: TransformerBlock(8, 2, hidden=0), "hidden must be a positive integer, got 0"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
