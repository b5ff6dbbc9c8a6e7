"""The steps of recurrent networks, and their run over a sequence, as composites.

The input's share of every gate is one multiplication for the whole sequence; only the hidden
state's share is done step by step. A step of a cell is a handful of operators, none of which waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import farspan
from farspan._autocast import lowered
from farspan._tensor import Tensor
from farspan.core.call import fn

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
        state = step(now, state, weight_hh, bias_hh)
        if weight_hr is not None:
            state = (fn.linear(state[0], weight_hr), *state[1:])
        outputs.append(state[0])
    if reverse:
        outputs.reverse()
    return farspan.stack(outputs), state


def pad_sequence(
    sequences: Any,
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:
    """Return sequences (L_i, *) as one tensor (L, N, *), shorter ones filled up."""
    if padding_side not in ("left", "right"):
        raise RuntimeError(
            f"Expected padding_side to be one of left or right, but got {padding_side}."
        )
    listed = list(sequences)
    length = max(sequence.shape[0] for sequence in listed)
    filled = []
    for sequence in listed:
        missing = length - sequence.shape[0]
        sides = (missing, 0) if padding_side == "left" else (0, missing)
        amounts = [0, 0] * (sequence.dim() - 1) + list(sides)
        filled.append(farspan.constant_pad_nd(sequence, amounts, padding_value))
    return farspan.stack(filled, 0 if batch_first else 1)
