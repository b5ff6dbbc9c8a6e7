"""Recurrent nets and transposed convolutions: weights, outputs and gradients equal torch's."""

from __future__ import annotations

from typing import Any

import farspan as ft
import pytest
import torch
from parity import assert_same, error_of, randn, seeded, to_ft

NETS: dict[str, Any] = {
    "rnn": lambda t: t.nn.RNN(4, 5),
    "rnn relu": lambda t: t.nn.RNN(4, 5, 2, "relu", False),
    "lstm": lambda t: t.nn.LSTM(4, 5),
    "lstm deep": lambda t: t.nn.LSTM(4, 5, num_layers=2, batch_first=True, bidirectional=True),
    "lstm projection": lambda t: t.nn.LSTM(4, 5, proj_size=3, bias=False),
    "gru": lambda t: t.nn.GRU(4, 5),
    "gru deep": lambda t: t.nn.GRU(4, 5, 2, bidirectional=True),
}


@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_recurrent_net_equals_torch(name: str, batched: bool, with_state: bool) -> None:
    mine, theirs = seeded(NETS[name])
    assert repr(mine) == repr(theirs)
    assert_same(mine.state_dict(), theirs.state_dict())
    x = randn(6, 3, 4) if batched else randn(6, 4)
    batch = [6 if theirs.batch_first else 3] if batched else []
    count = theirs.num_layers * (2 if theirs.bidirectional else 1)
    state: Any = None
    if with_state:
        state = randn(count, *batch, theirs.proj_size or 5, seed=1)
        if "lstm" in name:
            state = (state, randn(count, *batch, 5, seed=2))
    results = []
    for net, move in ((mine, to_ft), (theirs, lambda value: value)):
        inputs = move(x).requires_grad_()
        out, end = net(inputs, move(state))
        (out * out).sum().backward()
        results.append([out, end, inputs.grad, [p.grad for p in net.parameters()]])
    assert_same(results[0], results[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cell_equals_torch(cls: str) -> None:
    mine, theirs = seeded(lambda t: getattr(t.nn, cls)(4, 5))
    assert repr(mine) == repr(theirs)
    for shape in ((3, 4), (4,)):
        x = randn(*shape)
        state = theirs(x)
        assert_same(mine(to_ft(x)), state)
        assert_same(mine(to_ft(x), to_ft(state)), theirs(x, state))


def test_dropout_between_layers_draws_torchs_mask() -> None:
    x = randn(4, 3, 4)
    mine, theirs = seeded(
        lambda t: t.nn.LSTM(4, 5, num_layers=3, dropout=0.4)(x if t is torch else to_ft(x))
    )
    assert_same(mine, theirs)


WRONG: dict[str, Any] = {
    "dim": lambda t: t.nn.LSTM(4, 5)(t.zeros(4)),
    "size": lambda t: t.nn.GRU(4, 5)(t.zeros(2, 3, 5)),
    "hidden": lambda t: t.nn.GRU(4, 5)(t.zeros(2, 3, 4), t.zeros(1, 3, 4)),
    "hidden of lstm": lambda t: t.nn.LSTM(4, 5)(
        t.zeros(2, 3, 4), (t.zeros(1, 3, 5), t.zeros(1, 3, 4))
    ),
    "projection": lambda t: t.nn.GRU(4, 5, proj_size=2),
    "large projection": lambda t: t.nn.LSTM(4, 5, proj_size=5),
    "nonlinearity": lambda t: t.nn.RNN(4, 5, nonlinearity="other"),
    "zero": lambda t: t.nn.RNN(0, 5),
    "dropout": lambda t: t.nn.RNN(4, 5, dropout=2.0),
    "cell dim": lambda t: t.nn.LSTMCell(4, 5)(t.zeros(1, 2, 4)),
    "transposed channels": lambda t: t.nn.ConvTranspose2d(4, 5, 3)(t.zeros(1, 3, 4, 4)),
    "transposed size": lambda t: t.nn.ConvTranspose1d(3, 5, 3)(t.zeros(1, 3, 4), [9]),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_call_is_refused_as_in_torch(name: str) -> None:
    mine, theirs = error_of(lambda: WRONG[name](ft)), error_of(lambda: WRONG[name](torch))
    assert isinstance(mine, type(theirs))
    assert str(theirs).splitlines()[0] in str(mine)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_pad_sequence_equals_torch(batch_first: bool, side: str) -> None:
    sequences = [randn(3, 2), randn(1, 2), randn(0, 2)]
    mine = ft.nn.utils.rnn.pad_sequence(to_ft(sequences), batch_first, 0.5, side)
    assert_same(mine, torch.nn.utils.rnn.pad_sequence(sequences, batch_first, 0.5, side))


CONVOLUTIONS: dict[str, Any] = {
    "1d": (lambda t: t.nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), (2, 4, 7), None),
    "2d": (
        lambda t: t.nn.ConvTranspose2d(3, 5, (3, 2), 2, 1, output_padding=1, dilation=2),
        (2, 3, 5, 4),
        None,
    ),
    "2d unbatched": (lambda t: t.nn.ConvTranspose2d(3, 5, 4, bias=False), (3, 5, 4), None),
    "1d size": (lambda t: t.nn.ConvTranspose1d(4, 6, 3, stride=3), (2, 4, 7), [23]),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_transposed_convolution_equals_torch(name: str) -> None:
    build, shape, size = CONVOLUTIONS[name]
    mine, theirs = seeded(build)
    assert repr(mine) == repr(theirs)
    x = randn(*shape)
    results = []
    for net, inputs in ((mine, to_ft(x)), (theirs, x)):
        out = net(inputs.requires_grad_(), size)
        (out * out).sum().backward()
        results.append([out, inputs.grad, [p.grad for p in net.parameters()]])
    assert_same(results[0], results[1], rtol=1e-4, atol=1e-4)
