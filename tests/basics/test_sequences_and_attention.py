"""Readers of sequences: the task of recall, products of Jacobians, and attention as a soft nearest neighbour."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metabook.basics.sequences_and_attention import (
    AttentionReader,
    MeanReader,
    Recall,
    RecurrentReader,
    jacobian_products,
    positions,
    soft_nearest,
)
from metabook.networks.recurrent import LSTMCell


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# the task


def test_a_sequence_is_pairs_then_a_gap_then_a_question():
    task = Recall(pairs=3, gap=2, width=5, symbols=4)
    tokens, answers = task.sample(50, generator())
    assert tokens.shape == (50, 6, task.features) and answers.shape == (50,)
    symbols, flags = tokens[..., 5:-1], tokens[..., -1]
    assert (symbols.sum(-1) == torch.tensor([1.0, 1, 1, 0, 0, 0])).all()
    assert (flags == torch.tensor([0.0, 0, 0, 0, 0, 1])).all()
    torch.testing.assert_close(tokens[..., :5].norm(dim=-1), torch.ones(50, 6))
    for sequence, answer in zip(tokens, answers, strict=True):
        [asked] = [t for t in range(3) if torch.equal(sequence[t, :5], sequence[-1, :5])]
        assert sequence[asked, 5:-1].argmax() == answer


def test_every_symbol_and_every_pair_is_asked_for_equally_often():
    task = Recall(pairs=4)
    tokens, answers = task.sample(4000, generator())
    assert torch.bincount(answers, minlength=4).sub(1000).abs().max() < 150
    asked = torch.cdist(tokens[:, -1:, :8], tokens[:, :4, :8])[:, 0].argmin(-1)
    assert torch.bincount(asked, minlength=4).sub(1000).abs().max() < 150


def test_the_oracle_is_never_wrong_and_the_seed_decides():
    task = Recall(pairs=20, gap=5)
    tokens, answers = task.sample(300, generator(1))
    assert (task.look_up(tokens) == answers).all()
    again, _ = task.sample(300, generator(1))
    assert torch.equal(tokens, again)


@pytest.mark.parametrize(
    ("counts", "words"),
    [({"pairs": 0}, "pairs"), ({"pairs": 2, "gap": -1}, "gap"), ({"pairs": 2, "symbols": 1}, "2 symbols")],
)
def test_a_task_that_is_none_is_refused(counts, words):
    with pytest.raises(ValueError, match=words):
        Recall(**counts)


# readers


@pytest.mark.parametrize("cell", ["tanh", "lstm"])
def test_a_recurrent_reader_is_its_cell_step_by_step(cell):
    reader = RecurrentReader(5, 3, hidden=4, cell=cell).double()
    weights = {name.removesuffix("_l0"): value for name, value in reader.states.state_dict().items()}
    step = nn.RNNCell(5, 4).double() if cell == "tanh" else LSTMCell(5, 4).double()
    step.load_state_dict(weights)
    tokens, zeros = doubles(2, 7, 5), torch.zeros(2, 4).double()
    state = zeros if cell == "tanh" else (zeros, zeros)
    for t in range(7):
        state = step(tokens[:, t], state)
    last = state if cell == "tanh" else state[0]
    torch.testing.assert_close(reader(tokens), reader.output(last))


def test_the_forget_bias_opens_the_forget_gates_only():
    torch.manual_seed(0)
    plain = RecurrentReader(5, 3, hidden=4, forget_bias=0.0)
    torch.manual_seed(0)
    open_ = RecurrentReader(5, 3, hidden=4, forget_bias=2.0)
    change = open_.states.bias_hh_l0 - plain.states.bias_hh_l0
    torch.testing.assert_close(change, torch.tensor([0.0] * 4 + [2.0] * 4 + [0.0] * 8))


@pytest.mark.parametrize("make", [MeanReader, AttentionReader])
def test_a_set_has_no_order(make):
    reader, tokens = make(6, 3).double(), doubles(4, 9, 6)
    order = torch.cat([torch.randperm(8), torch.tensor([8])])
    torch.testing.assert_close(reader(tokens), reader(tokens[:, order]))
    assert reader(tokens).shape == (4, 3)


def test_attention_asks_with_the_last_token_alone():
    reader, tokens = AttentionReader(6, 3, width=8, heads=2).double(), doubles(2, 5, 6)
    x = reader.embed(tokens)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([reader.attention.query.weight, reader.attention.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([reader.attention.query.bias, reader.attention.key_value.bias]))
        theirs.out_proj.load_state_dict(reader.attention.output.state_dict())
    read, _ = theirs(x[:, -1:], x[:, :-1], x[:, :-1])
    torch.testing.assert_close(reader(tokens), reader.output(read[:, 0]))


def test_bad_readers_are_refused():
    with pytest.raises(ValueError, match="one of tanh, lstm, got 'gru'"):
        RecurrentReader(3, 2, cell="gru")
    for make in (RecurrentReader, MeanReader, AttentionReader):
        with pytest.raises(ValueError, match="outputs"):
            make(3, 0)


# gradients through time


def test_products_of_jacobians_are_what_backpropagation_finds():
    cell, inputs = nn.RNNCell(3, 4).double(), doubles(6, 3)
    products = jacobian_products(lambda x, h: cell(x[None], h[None])[0], inputs, torch.zeros(4).double())
    states = [torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)]
    for x in inputs:
        states.append(cell(x[None], states[-1]))
    for row in range(4):
        slopes = torch.autograd.grad(states[-1][0, row], states, retain_graph=True)
        torch.testing.assert_close(products[:, row], torch.cat(slopes))


def test_a_linear_recurrence_has_powers_for_products():
    U = doubles(3, 3)
    products = jacobian_products(lambda x, h: U @ h + x, doubles(5, 3), doubles(3))
    for t in range(6):
        torch.testing.assert_close(products[t], torch.linalg.matrix_power(U, 5 - t))


# attention as a soft nearest neighbour


def test_a_small_bandwidth_is_the_nearest_neighbour_and_a_large_one_the_mean():
    queries, keys, values = doubles(6, 3), doubles(9, 3), doubles(9, 2)
    nearest = values[torch.cdist(queries, keys).argmin(-1)]
    torch.testing.assert_close(soft_nearest(queries, keys, values, 1e-3), nearest)
    torch.testing.assert_close(soft_nearest(queries, keys, values, 1e6), values.mean(0).expand(6, 2))


def test_with_keys_of_one_length_it_is_attention():
    queries, values = doubles(2, 6, 4), doubles(2, 9, 3)
    keys = F.normalize(doubles(2, 9, 4), dim=-1)
    expected = F.scaled_dot_product_attention(queries, keys, values)
    torch.testing.assert_close(soft_nearest(queries, keys, values, math.sqrt(2.0)), expected)  # tau^2 = sqrt(d)


def test_attention_has_the_right_gradient():
    arguments = [doubles(3, 2).requires_grad_(), doubles(4, 2).requires_grad_(), doubles(4, 1).requires_grad_()]
    assert torch.autograd.gradcheck(lambda q, k, v: soft_nearest(q, k, v, 0.7), arguments)


def test_a_bandwidth_must_be_positive():
    with pytest.raises(ValueError, match="bandwidth must be positive, got 0"):
        soft_nearest(doubles(1, 2), doubles(3, 2), doubles(3, 1), 0)


# positions


def test_positions_are_the_formula_and_a_shift_is_a_rotation():
    table = positions(50, 6)
    for place in (0, 7, 49):
        for i in range(3):
            angle = place / 10_000 ** (2 * i / 6)
            assert table[place, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[place, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)
    inner = table @ table.T
    torch.testing.assert_close(inner.diagonal(3), inner[0, 3].expand(47), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="even"):
        positions(4, 3)
