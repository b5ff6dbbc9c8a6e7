"""Packed sequences, and recurrent nets over them; the functions behind the nets."""

from __future__ import annotations

from typing import Any

import pytest
from beside_torch import failure, leaf, same

CASES: list[tuple[list[int], bool]] = [
    ([5, 3, 3, 1], True),
    ([2, 5, 1, 4], False),
    ([3], True),
    ([4, 4], False),
]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("lengths", "is_sorted"), CASES)
def test_packing_and_back(lengths: list[int], is_sorted: bool, batch_first: bool) -> None:
    @same
    def program(torch: Any) -> Any:
        rnn = torch.nn.utils.rnn
        x = leaf(torch, *((len(lengths), 6) if batch_first else (6, len(lengths))), 2)
        rows = []
        for given in (lengths, torch.tensor(lengths)):
            packed = rnn.pack_padded_sequence(x, given, batch_first, is_sorted)
            padded, sizes = rnn.pad_packed_sequence(packed, batch_first, -1.0)
            longer, _ = rnn.pad_packed_sequence(packed, total_length=9)
            weights = torch.arange(padded.numel()).reshape(padded.shape)
            (grad,) = torch.autograd.grad((padded * weights).sum() + longer.sum(), x)
            rows.append([list(packed), padded, sizes, longer, grad])
            rows.append([t.detach() for t in rnn.unpack_sequence(packed)])
        return rows

    program()


@same
def test_sequences_of_different_lengths(torch: Any) -> Any:
    rnn = torch.nn.utils.rnn
    listed = [torch.arange(n) + 10 * n for n in (2, 4, 1)]
    packed = rnn.pack_sequence(listed, enforce_sorted=False)
    padded = rnn.pad_sequence(listed, batch_first=True, padding_value=-1)
    again = rnn.PackedSequence(packed.data, packed.batch_sizes, packed.sorted_indices)
    pair = rnn.PackedSequence((packed.data, packed.batch_sizes))
    changed = [packed.double(), packed.float(), packed.half(), packed.int(), packed.short()]
    changed += [packed.char(), packed.byte(), packed.long(), packed.cpu(), packed.to(torch.float64)]
    return (
        repr(packed),
        list(again),
        list(pair),
        padded,
        rnn.pad_sequence(tuple(listed), padding_side="left"),
        rnn.unpad_sequence(padded, torch.tensor([2, 4, 1]), batch_first=True),
        rnn.unpad_sequence(padded.mT.clone(), torch.tensor([2, 4, 1])),
        rnn.unpack_sequence(packed),
        rnn.invert_permutation(torch.tensor([2, 0, 1])),
        rnn.invert_permutation(None),
        [str(c.data.dtype) for c in changed],
        packed.long() is packed,
        packed.is_cuda,
        packed.is_pinned(),
        isinstance(packed, tuple),
    )


@same
def test_packing_refuses_what_does_not_fit(torch: Any) -> Any:
    rnn = torch.nn.utils.rnn
    x = torch.ones(4, 3, 2)
    packed = rnn.pack_padded_sequence(x, [4, 2, 1])
    return (
        failure(lambda: rnn.pack_padded_sequence(x, [4, 2]), "to be equal to batch_size"),
        failure(lambda: rnn.pack_padded_sequence(x, [4, 2, 0]), "greater than 0"),
        failure(lambda: rnn.pack_padded_sequence(x, [1, 2, 3]), "sorted in decreasing order"),
        failure(lambda: rnn.pack_padded_sequence(x[:0], [1, 1, 1]), "Cannot pack empty"),
        failure(lambda: rnn.pad_packed_sequence(packed, total_length=2), "at least the length"),
        failure(lambda: rnn.pad_sequence(3), "Expected iterable"),
        failure(lambda: rnn.pad_sequence([x], padding_side="up")),
        failure(lambda: rnn.pack_padded_sequence(x, torch.ones(3, 1)), "1D CPU int64"),
    )


NETS: dict[str, Any] = {
    "rnn": lambda n: n.RNN(3, 4),
    "rnn relu": lambda n: n.RNN(3, 4, nonlinearity="relu", bias=False),
    "lstm": lambda n: n.LSTM(3, 4, 2, bidirectional=True),
    "lstm projection": lambda n: n.LSTM(3, 4, proj_size=2, bidirectional=True),
    "gru": lambda n: n.GRU(3, 4, 2),
    "gru both": lambda n: n.GRU(3, 4, bidirectional=True, batch_first=True),
}


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("is_sorted", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_nets_run_over_packed_sequences(name: str, is_sorted: bool, with_state: bool) -> None:
    @same
    def program(torch: Any) -> Any:
        torch.manual_seed(0)
        net = NETS[name](torch.nn).double()  # sums come in another order than torch's
        rnn = torch.nn.utils.rnn
        lengths = [5, 3, 3, 1] if is_sorted else [3, 1, 5, 3]
        x = leaf(torch, 4, 5, 3, dtype="float64")
        packed = rnn.pack_padded_sequence(x, lengths, True, is_sorted)
        count = net.num_layers * (1 + net.bidirectional)
        state: Any = None
        if with_state:
            state = leaf(torch, count, 4, net.proj_size or 4, seed=1, dtype="float64")
            if "lstm" in name:
                state = (state, leaf(torch, count, 4, 4, seed=2, dtype="float64"))
        out, end = net(packed, state)
        ends = list(end) if isinstance(end, tuple) else [end]
        loss = (out.data * torch.arange(out.data.numel()).reshape(out.data.shape)).sum()
        (loss + sum((e * e).sum() for e in ends)).backward()
        states = list(state) if isinstance(state, tuple) else [state] if with_state else []
        return (
            list(out),
            ends,
            x.grad,
            [p.grad for p in net.parameters()],
            [s.grad for s in states],
            rnn.pad_packed_sequence(out)[0],
        )

    program()


@same
def test_recurrent_nets_check_their_input(torch: Any) -> Any:
    nn, rows = torch.nn, []
    for net in (nn.RNN(3, 4), nn.LSTM(3, 4, proj_size=2), nn.GRU(3, 4, batch_first=True)):
        h = torch.zeros(1, 2, 4)
        state = (torch.zeros(1, 2, 2), h) if isinstance(net, nn.LSTM) else h
        actions: list[Any] = [
            lambda net=net: net(torch.ones(2)),
            lambda net=net: net(torch.ones(2, 2, 5)),
            lambda net=net: net(torch.ones(2, 2, 3).double()),
            lambda net=net, state=state: net(torch.ones(5, 5, 3), state),
            lambda net=net, state=state: net(torch.ones(5, 3), state),
            lambda net=net: net(torch.ones(2, 2, 3), (h[0], h[0]) if net.mode == "LSTM" else h[0]),
        ]
        for action in actions:
            try:
                action()
                rows.append("nothing was raised")
            except Exception as e:
                builtin = next(c for c in type(e).__mro__ if c.__module__ == "builtins")
                rows.append(f"{builtin.__name__}: {e}")
    bad: list[Any] = [
        lambda: nn.RNNBase("X", 1, 1),
        lambda: nn.LSTM(1, 1, bias=3),
        lambda: nn.LSTM(1, 1, batch_first="a"),
        lambda: nn.LSTM(0, 1),
        lambda: nn.LSTM(1, 2.0),
        lambda: nn.LSTM(1, 1, num_layers=0),
        lambda: nn.LSTM(1, 1, proj_size=1),
        lambda: nn.LSTM(1, 1, dropout=2),
        lambda: nn.GRU(1, 1, proj_size=1),
        lambda: nn.RNN(1, 1, nonlinearity="x"),
        lambda: nn.RNNCell(1, 1, nonlinearity="x")(torch.ones(1, 1)),
        lambda: nn.LSTMCell(1, 1)(torch.ones(1, 1, 1)),
        lambda: nn.GRUCell(1, 1)(torch.ones(1, 1), torch.ones(1, 1, 1)),
    ]
    return rows, [failure(b) for b in bad]


@same
def test_recurrent_bases_and_weights(torch: Any) -> Any:
    nn = torch.nn
    torch.manual_seed(0)
    base = nn.RNNBase("GRU", 2, 3, num_layers=2, bidirectional=True)
    cell = nn.RNNCellBase(2, 3, True, 4)
    net = nn.LSTM(2, 3, proj_size=1)
    net.flatten_parameters()
    x = torch.ones(4, 5, 2)
    return (
        repr(base),
        [n for n, _ in base.named_parameters()],
        [[w.shape for w in ws] for ws in base.all_weights],
        repr(cell),
        [tuple(p.shape) for p in cell.parameters()],
        net.get_expected_hidden_size(x, None),
        net.get_expected_cell_size(x, None),
        net.check_input(x, None),
        net.permute_hidden((torch.ones(1, 2, 1), torch.ones(1, 2, 3)), torch.tensor([1, 0])),
        base.permute_hidden(torch.arange(6.0).reshape(1, 2, 3), torch.tensor([1, 0])),
        failure(lambda: net.check_hidden_size(x, (1, 1, 1)), "Expected hidden size (1, 1, 1)"),
        failure(lambda: base.check_forward_args(x, x, None), "Expected hidden size"),
        base.get_expected_hidden_size(x, None),
    )


@same
def test_recurrent_functions(torch: Any) -> Any:
    torch.manual_seed(0)
    nn, VF = torch.nn, torch._VF
    x, h, rows = leaf(torch, 4, 2, 3), torch.zeros(1, 2, 5), []
    lengths = torch.tensor([4, 2])
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths)
    data, sizes = packed.data, packed.batch_sizes
    tail = (True, 1, 0.0, False, False)
    for function, net, state in (
        (torch.lstm, nn.LSTM(3, 5), (h, h)),
        (torch.gru, nn.GRU(3, 5), h),
        (torch.rnn_tanh, nn.RNN(3, 5), h),
        (torch.rnn_relu, nn.RNN(3, 5), h),
        (VF.gru, nn.GRU(3, 5), h),
    ):
        weights = list(net.parameters())
        rows.append(list(function(x, state, weights, *tail, False)))
        rows.append(list(function(x.transpose(0, 1), state, weights, *tail, True)))
        rows.append(list(function(data, sizes, state, weights, *tail)))
    step, hidden = x[0], torch.ones(2, 5)
    for function, cell, state in (
        (torch.lstm_cell, nn.LSTMCell(3, 5), (hidden, hidden)),
        (torch.gru_cell, nn.GRUCell(3, 5), hidden),
        (torch.rnn_tanh_cell, nn.RNNCell(3, 5), hidden),
        (torch.rnn_relu_cell, nn.RNNCell(3, 5), hidden),
    ):
        weights = list(cell.parameters())
        rows.append(function(step, state, *weights))
        rows.append(function(step, state, *weights[:2]))
        rows.append(failure(lambda f=function, s=state, w=weights: f(torch.ones(2, 4), s, *w)))
        (rows[-2][0] if isinstance(rows[-2], tuple) else rows[-2]).sum().backward()
        rows.append(weights[1].grad)
    return rows
