"""torch.lstm, gru, rnn_tanh, rnn_relu and their cells, as ``torch._VF`` and ``torch`` name them.

Each net has two forms: of a padded input, with ``batch_first`` last, and of a packed one, with
``batch_sizes`` second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ._tensor import Tensor
from .core.errors import ShapeError
from .nn.functional.recurrent import run, step_once

__all__ = [
    "gru",
    "gru_cell",
    "lstm",
    "lstm_cell",
    "rnn_relu",
    "rnn_relu_cell",
    "rnn_tanh",
    "rnn_tanh_cell",
]


def _padded(
    mode: str,
    input: Tensor,
    hx: Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    out, ends = run(
        mode,
        input.transpose(0, 1) if batch_first else input,
        tuple(hx),
        params,
        has_biases=has_biases,
        num_layers=num_layers,
        dropout=dropout,
        train=train,
        bidirectional=bidirectional,
    )
    return (out.transpose(0, 1) if batch_first else out, *ends)


def _packed(
    mode: str,
    data: Tensor,
    batch_sizes: Tensor,
    hx: Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
) -> tuple[Tensor, ...]:
    from .nn.utils.rnn import host_values

    out, ends = run(
        mode,
        data,
        tuple(hx),
        params,
        has_biases=has_biases,
        num_layers=num_layers,
        dropout=dropout,
        train=train,
        bidirectional=bidirectional,
        batch_sizes=host_values(batch_sizes),
    )
    return (out, *ends)


def _net(mode: str, name: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return the function of a net whose state is h alone."""

    def net(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        if "batch_sizes" in kwargs or (len(args) > 1 and isinstance(args[1], Tensor)):
            return _of_packed(input, *args, **kwargs)
        return _of_padded(input, *args, **kwargs)

    def _of_packed(data: Tensor, batch_sizes: Tensor, hx: Tensor, *rest: Any, **named: Any) -> Any:
        return _packed(mode, data, batch_sizes, (hx,), *rest, **named)

    def _of_padded(input: Tensor, hx: Tensor, *rest: Any, **named: Any) -> Any:
        return _padded(mode, input, (hx,), *rest, **named)

    net.__name__ = name
    net.__doc__ = f"Return (outputs, last h) of a {mode} net; see `torch.nn.{mode.split('_')[0]}`."
    return net


gru = _net("GRU", "gru")
rnn_tanh = _net("RNN_TANH", "rnn_tanh")
rnn_relu = _net("RNN_RELU", "rnn_relu")


def lstm(input: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return (outputs, last h, last c) of an LSTM; see `torch.nn.LSTM`."""
    if "batch_sizes" in kwargs or (args and isinstance(args[0], Tensor)):
        return _packed("LSTM", input, *args, **kwargs)  # type: ignore[return-value]
    return _padded("LSTM", input, *args, **kwargs)  # type: ignore[return-value]


def _check_cell(input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor) -> None:
    if input.shape[-1] != w_ih.shape[1]:
        raise ShapeError(
            f"input has inconsistent input_size: got {input.shape[-1]} expected {w_ih.shape[1]}"
        )
    if hx.shape[-1] != w_hh.shape[1]:
        raise ShapeError(
            f"hidden0 has inconsistent hidden_size: got {hx.shape[-1]}, expected {w_hh.shape[1]}"
        )
    if input.shape[0] != hx.shape[0]:
        raise ShapeError(
            f"Input batch size {input.shape[0]} doesn't match hidden0 batch size {hx.shape[0]}"
        )


def _cell(mode: str, name: str) -> Callable[..., Tensor]:
    def cell(
        input: Tensor,
        hx: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Tensor:
        _check_cell(input, hx, w_ih, w_hh)
        return step_once(mode, input, (hx,), w_ih, w_hh, b_ih, b_hh)[0]

    cell.__name__ = name
    cell.__doc__ = f"Return h after one step of a {mode} cell; input (N, I), hx (N, H)."
    return cell


gru_cell = _cell("GRU", "gru_cell")
rnn_tanh_cell = _cell("RNN_TANH", "rnn_tanh_cell")
rnn_relu_cell = _cell("RNN_RELU", "rnn_relu_cell")


def lstm_cell(
    input: Tensor,
    hx: Sequence[Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Return (h, c) after one step of an LSTM cell; input (N, I), hx two of (N, H)."""
    if len(hx) != 2:
        raise ShapeError("lstm_cell expects two hidden states")
    _check_cell(input, hx[0], w_ih, w_hh)
    return step_once("LSTM", input, tuple(hx), w_ih, w_hh, b_ih, b_hh)
