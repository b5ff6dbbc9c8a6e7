"""The steps of recurrent networks, and their run over sequences, as composites.

The input's share of every gate is one multiplication for the whole sequence; only the hidden
state's share is done step by step. A step of a cell is a handful of operators, none of which waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import farspan
from farspan._autocast import lowered
from farspan._tensor import Tensor
from farspan.core.call import fn
from farspan.nn.functional.dropout import dropout as _dropout

# step(gates of the input, state, weight_hh, bias_hh) -> next state. A state is (h,) or (h, c).
State = tuple[Tensor, ...]
Step = Callable[[Tensor, State, Tensor, Tensor | None], State]


def tanh_step(gates: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """Return tanh(gates + W h + b)."""
    return ((gates + fn.linear(state[0], weight, bias)).tanh(),)


def relu_step(gates: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """Return relu(gates + W h + b)."""
    return ((gates + fn.linear(state[0], weight, bias)).relu(),)


def lstm_step(gates: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """Return (h, c) of a long short-term memory; the gates' order is in, forget, cell, out."""
    hidden, cell = state
    enter, forget, new, leave = (gates + fn.linear(hidden, weight, bias)).chunk(4, 1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
    return leave.sigmoid() * cell.tanh(), cell


def gru_step(gates: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """Return h of a gated recurrent unit; the gates' order is reset, update, new."""
    (hidden,) = state
    reset, update, new = gates.chunk(3, 1)
    own_reset, own_update, own_new = fn.linear(hidden, weight, bias).chunk(3, 1)
    update = (update + own_update).sigmoid()
    new = (new + (reset + own_reset).sigmoid() * own_new).tanh()
    return (new + update * (hidden - new),)


STEPS: dict[str, Step] = {
    "RNN_TANH": tanh_step,
    "RNN_RELU": relu_step,
    "LSTM": lstm_step,
    "GRU": gru_step,
}


def run(
    mode: str,
    input: Tensor,
    states: State,
    params: Sequence[Tensor | None],
    *,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_sizes: Sequence[int] | None = None,
) -> tuple[Tensor, State]:
    """Return the outputs of all layers and directions, and the last states.

    input: (T, N, I), or with ``batch_sizes`` the data (sum of them, I) of a packed sequence.
    states: (layers * directions, N, H) of h, and of c where the mode has one. params: for each
    layer and direction weight_ih, weight_hh, the two biases if any, and weight_hr if the LSTM
    projects. Outputs come in the input's form.
    """
    projects = mode == "LSTM" and states[0].shape[-1] != states[1].shape[-1]
    count = 2 + 2 * has_biases + projects
    last: list[State] = []
    for layer in range(num_layers):
        outputs = []
        for reverse in (False, True)[: 1 + bidirectional]:
            at = len(last)
            own = list(params[at * count : (at + 1) * count])
            weights = own[:2] + (own[2:4] if has_biases else [None, None])
            weights.append(own[-1] if projects else None)
            start = tuple(each[at] for each in states)
            if batch_sizes is None:
                output, end = run_layer(STEPS[mode], input, start, weights, reverse)
            else:
                output, end = _run_packed(STEPS[mode], input, batch_sizes, start, weights, reverse)
            outputs.append(output)
            last.append(end)
        input = fn.cat(outputs, -1) if bidirectional else outputs[0]
        if layer < num_layers - 1 and dropout:
            input = _dropout(input, dropout, train)
    return input, tuple(fn.stack(list(each)) for each in zip(*last, strict=True))


def run_layer(
    step: Step, input: Tensor, state: State, weights: list[Tensor | None], reverse: bool
) -> tuple[Tensor, State]:
    """Return one direction's outputs (T, N, H) and its last state.

    weights: weight_ih, weight_hh, bias_ih, bias_hh and weight_hr (None: h is not projected).
    """
    weight_ih, weight_hh, bias_ih, bias_hh, weight_hr = weights
    assert weight_ih is not None and weight_hh is not None
    if step is lstm_step and weight_hr is None:  # torch has this one as a kernel
        state = tuple(lowered(x) for x in state)
    gates = fn.linear(input, weight_ih, bias_ih).unbind(0)
    outputs: list[Tensor] = []
    for now in reversed(gates) if reverse else gates:
        state = _projected(step(now, state, weight_hh, bias_hh), weight_hr)
        outputs.append(state[0])
    if reverse:
        outputs.reverse()
    return farspan.stack(outputs), state


def _projected(state: State, weight_hr: Tensor | None) -> State:
    return state if weight_hr is None else (fn.linear(state[0], weight_hr), *state[1:])


def _run_packed(
    step: Step,
    data: Tensor,
    batch_sizes: Sequence[int],
    state: State,
    weights: list[Tensor | None],
    reverse: bool,
) -> tuple[Tensor, State]:
    """Return one direction's outputs, packed as ``data`` is, and each sequence's last state.

    Sequences are sorted by length, so at every step the first ``batch_sizes[t]`` are running:
    forwards the others' states are set aside, backwards they join with their initial ones.
    """
    weight_ih, weight_hh, bias_ih, bias_hh, weight_hr = weights
    assert weight_ih is not None and weight_hh is not None
    gates = fn.linear(data, weight_ih, bias_ih).split(list(batch_sizes))
    initial, running = state, batch_sizes[-1] if reverse else batch_sizes[0]
    state = tuple(each[:running] for each in state)
    outputs: list[Tensor] = []
    ended: list[State] = []
    steps = list(zip(gates, batch_sizes, strict=True))
    for now, size in reversed(steps) if reverse else steps:
        if size < running:
            ended.append(tuple(each[size:] for each in state))
            state = tuple(each[:size] for each in state)
        elif size > running:
            joined = zip(state, initial, strict=True)
            state = tuple(fn.cat([each, more[running:size]]) for each, more in joined)
        running = size
        state = _projected(step(now, state, weight_hh, bias_hh), weight_hr)
        outputs.append(state[0])
    if reverse:
        outputs.reverse()
    if ended:
        groups = zip(state, *reversed(ended), strict=True)
        state = tuple(fn.cat(list(group)) for group in groups)
    return fn.cat(outputs), state


def step_once(
    mode: str,
    input: Tensor,
    state: State,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Any = None,
    b_hh: Any = None,
) -> State:
    """Return the state of a cell after one step on input (N, I)."""
    return STEPS[mode](fn.linear(input, w_ih, b_ih), state, w_hh, b_hh)
