"""RNN, LSTM, GRU and their cells. The steps themselves are in ``functional/recurrent.py``."""

from __future__ import annotations

import math
import warnings
from typing import Any

import farspan
from farspan._tensor import Tensor
from farspan.nn import functional as F
from farspan.nn import init
from farspan.nn.functional.recurrent import STEPS, State, run_layer
from farspan.nn.layers.linear import new_parameter
from farspan.nn.module import Module

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]

_GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}


class _Recurrent(Module):
    """What the recurrent nets share: layers, directions, weights and states."""

    mode: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        _check_sizes(input_size, hidden_size, num_layers, proj_size, dropout)
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        gates = _GATES[self.mode] * hidden_size
        out_size = proj_size or hidden_size
        made = {"device": device, "dtype": dtype}
        for layer in range(num_layers):
            in_size = input_size if layer == 0 else out_size * (1 + bidirectional)
            shapes = {
                "weight_ih": (True, gates, in_size),
                "weight_hh": (True, gates, out_size),
                "bias_ih": (bias, gates),
                "bias_hh": (bias, gates),
                "weight_hr": (proj_size > 0, proj_size, hidden_size),
            }
            for suffix in ("", "_reverse")[: 1 + bidirectional]:
                for name, shape in shapes.items():
                    if shape[0]:
                        setattr(self, f"{name}_l{layer}{suffix}", new_parameter(*shape, **made))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw everything from U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)), in order."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for param in self.parameters():
            init.uniform_(param, -bound, bound)

    def flatten_parameters(self) -> None:
        """Do nothing: torch's layout for cuDNN is not needed here."""

    def _weights(self, layer: int, suffix: str) -> list[Tensor | None]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        return [self._parameters.get(f"{name}_l{layer}{suffix}") for name in names]

    def _run(self, input: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Return the outputs and the last states; input and states may be unbatched."""
        if input.dim() not in (2, 3):
            raise ValueError(
                f"{type(self).__name__}: Expected input to be 2D or 3D, got {input.dim()}D instead"
            )
        batched = input.dim() == 3
        batch_dim = 0 if self.batch_first else 1
        x = input if batched else input.unsqueeze(batch_dim)
        if self.batch_first:
            x = x.transpose(0, 1)
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                "input.size(-1) must be equal to input_size. "
                f"Expected {self.input_size}, got {x.shape[-1]}"
            )
        states = self._checked_states(x, state, batched)
        step, last = STEPS[self.mode], []
        for layer in range(self.num_layers):
            outputs = []
            for suffix in ("", "_reverse")[: 1 + self.bidirectional]:
                start = tuple(each[len(last)] for each in states)
                weights = self._weights(layer, suffix)
                output, end = run_layer(step, x, start, weights, reverse=bool(suffix))
                outputs.append(output)
                last.append(end)
            x = farspan.cat(outputs, -1) if self.bidirectional else outputs[0]
            if layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        ends = tuple(farspan.stack(list(each)) for each in zip(*last, strict=True))
        out = x.transpose(0, 1) if self.batch_first else x
        if batched:
            return out, ends
        return out.squeeze(batch_dim), tuple(each.squeeze(1) for each in ends)

    def _checked_states(self, x: Tensor, state: State | None, batched: bool) -> State:
        count = self.num_layers * (1 + self.bidirectional)
        sizes = [self.proj_size or self.hidden_size]
        if self.mode == "LSTM":
            sizes.append(self.hidden_size)
        shapes = [(count, x.shape[1], size) for size in sizes]
        if state is None:
            return tuple(farspan.zeros(s, dtype=x.dtype, device=x.device) for s in shapes)
        checked = []
        for i, (each, shape) in enumerate(zip(state, shapes, strict=True)):
            each = each if batched else each.unsqueeze(1)
            if tuple(each.shape) != shape:
                which = f"hidden[{i}]" if self.mode == "LSTM" else "hidden"
                raise RuntimeError(f"Expected {which} size {shape}, got {list(each.shape)}")
            checked.append(each)
        return tuple(checked)

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        for name, default in (
            ("proj_size", 0),
            ("num_layers", 1),
            ("bias", True),
            ("batch_first", False),
            ("dropout", 0.0),
            ("bidirectional", False),
        ):
            value = getattr(self, name)
            if value != default:
                parts.append(f"{name}={value}")
        return ", ".join(parts)


class RNN(_Recurrent):
    """h' = tanh(W x + b + W h + b) over a sequence (L, N, input_size); returns (outputs, h)."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        _refuse_projection(kwargs)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'."
            )
        mode = f"RNN_{nonlinearity.upper()}"
        object.__setattr__(self, "mode", mode)
        object.__setattr__(self, "nonlinearity", nonlinearity)
        super().__init__(input_size, hidden_size, num_layers, *args, **kwargs)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        out, (hidden,) = self._run(input, None if hx is None else (hx,))
        return out, hidden


class GRU(_Recurrent):
    """Gated recurrent units over a sequence (L, N, input_size); returns (outputs, h)."""

    mode = "GRU"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _refuse_projection(kwargs)
        super().__init__(*args, **kwargs)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        out, (hidden,) = self._run(input, None if hx is None else (hx,))
        return out, hidden


class LSTM(_Recurrent):
    """Long short-term memory over a sequence (L, N, input_size); returns (outputs, (h, c))."""

    mode = "LSTM"

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, State]:
        return self._run(input, hx)


class _Cell(Module):
    """What the cells share: one step's weights, and inputs with or without a batch."""

    mode: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        gates, made = _GATES[self.mode] * hidden_size, {"device": device, "dtype": dtype}
        self.weight_ih = new_parameter(True, gates, input_size, **made)
        self.weight_hh = new_parameter(True, gates, hidden_size, **made)
        self.register_parameter("bias_ih", new_parameter(bias, gates, **made))
        self.register_parameter("bias_hh", new_parameter(bias, gates, **made))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1.0 / math.sqrt(self.hidden_size)
        for param in self.parameters():
            init.uniform_(param, -bound, bound)

    def _run(self, input: Tensor, state: State | None) -> State:
        if input.dim() not in (1, 2):
            raise ValueError(
                f"{type(self).__name__}: Expected input to be 1D or 2D, got {input.dim()}D instead"
            )
        batched = input.dim() == 2
        x = input if batched else input.unsqueeze(0)
        if state is None:
            zeros = farspan.zeros(x.shape[0], self.hidden_size, dtype=x.dtype, device=x.device)
            state = (zeros, zeros) if self.mode == "LSTM" else (zeros,)
        elif not batched:
            state = tuple(each.unsqueeze(0) for each in state)
        gates = F.linear(x, self.weight_ih, self.bias_ih)
        state = STEPS[self.mode](gates, state, self.weight_hh, self.bias_hh)
        return state if batched else tuple(each.squeeze(0) for each in state)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        if not self.bias:
            text += f", bias={self.bias}"
        if self.mode == "RNN_RELU":
            text += ", nonlinearity=relu"
        return text


class RNNCell(_Cell):
    """One step of an RNN: ``h = cell(x, h)``."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {nonlinearity}")
        object.__setattr__(self, "mode", f"RNN_{nonlinearity.upper()}")
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._run(input, None if hx is None else (hx,))[0]


class GRUCell(_Cell):
    """One step of a GRU: ``h = cell(x, h)``."""

    mode = "GRU"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._run(input, None if hx is None else (hx,))[0]


class LSTMCell(_Cell):
    """One step of an LSTM: ``h, c = cell(x, (h, c))``."""

    mode = "LSTM"

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> State:
        return self._run(input, hx)


def _check_sizes(
    input_size: int, hidden_size: int, num_layers: int, proj_size: int, dropout: Any
) -> None:
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an "
            "element being zeroed"
        )
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout "
            f"expects num_layers greater than 1, but got dropout={dropout} and "
            f"num_layers={num_layers}",
            stacklevel=4,
        )
    for name, value in (("input_size", input_size), ("hidden_size", hidden_size)):
        if not isinstance(value, int):
            raise TypeError(f"{name} should be of type int, got: {type(value).__name__}")
        if value <= 0:
            raise ValueError(f"{name} must be greater than zero")
    if num_layers <= 0:
        raise ValueError("num_layers must be greater than zero")
    if proj_size < 0:
        raise ValueError("proj_size should be a positive integer or zero to disable projections")
    if proj_size >= hidden_size:
        raise ValueError("proj_size has to be smaller than hidden_size")


def _refuse_projection(kwargs: dict[str, Any]) -> None:
    if "proj_size" in kwargs:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
