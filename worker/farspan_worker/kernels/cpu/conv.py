"""Convolutions by oneDNN: the three maps of conv.py in the table - forward, and both gradients.

A transposed convolution is the gradient of the input of the plain one, here too. Inside, the
library chooses blocked layouts; outside, arrays are as the metadata says. Measured by
benchmarks/kernels.py, fast / numpy / torch in ms, forward and both gradients: 64x32x14x14 by
64x32x3x3 2.3 / 6.0 / 2.4 and 4.7 / 13.2 / 4.9; depthwise 16x128x28x28 1.1 / 5.1 / 0.9 and 2.5 /
30.3 / 3.1; 16x3x224x224 by 64x3x7x7 24.9 / 61.8 / 69.3 and 131 / 129 / 175.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from farspan.core.op import table

from .. import Fast, Registry, single
from .onednn import (
    BIAS,
    DIFF_BIAS,
    DIFF_DST,
    DIFF_SRC,
    DIFF_WEIGHTS,
    DST,
    SRC,
    TRAINING,
    WEIGHTS,
    After,
    Desc,
    Kind,
    Route,
    cached,
    dims,
    free,
    plain,
)

Ints = tuple[int, ...]
_DIRECT: Final = 1  # the algorithm: sums of products, no transform


# ---------------------------------------------------------------------------------- descriptors --
class Shapes:
    """Sizes and steps of a plain convolution, as oneDNN wants them, and its three primitives."""

    def __init__(
        self, x: Ints, weight: Ints, y: Ints, stride: Ints, padding: Ints, dilation: Ints, n: int
    ) -> None:
        self.x, self.y, self.groups = x, y, n
        self.weight = weight if n == 1 else (n, weight[0] // n, *weight[1:])
        self.bias = weight[:1]
        self.steps = [dims(stride), dims([d - 1 for d in dilation]), dims(padding), dims(padding)]

    def weights(self, strides: Ints) -> Desc:
        """Return the descriptor of a weight (out, in / groups, *kernel) with these byte strides."""
        steps = [s // 4 for s in strides]
        if self.groups != 1:
            steps.insert(0, steps[0] * (self.weight[1]))
        return plain(self.weight, steps)

    def forward(self, has_bias: bool, then: Sequence[After] = ()) -> Kind:
        return Kind(
            "convolution_forward", TRAINING, _DIRECT, free(self.x), free(self.weight),
            plain(self.bias) if has_bias else None, free(self.y), *self.steps, then=then,
        )  # fmt: skip

    def of_input(self) -> Kind:
        return Kind(
            "convolution_backward_data", _DIRECT, free(self.x), free(self.weight), free(self.y),
            *self.steps, self.forward(False),
        )  # fmt: skip

    def of_weights(self, has_bias: bool) -> Kind:
        return Kind(
            "convolution_backward_weights", _DIRECT, free(self.x), free(self.weight),
            plain(self.bias) if has_bias else None, free(self.y), *self.steps,
            self.forward(has_bias),
        )  # fmt: skip


def _images(shape: Ints, strides: Ints) -> Desc:
    return plain(shape, [s // 4 for s in strides])


@cached
def _forward_route(
    x: Ints, x_strides: Ints, weight: Ints, w_strides: Ints, y: Ints, y_strides: Ints,
    has_bias: bool, *steps: Any,
) -> Route:  # fmt: skip
    shapes = Shapes(x, weight, y, *steps)
    inputs = [(SRC, _images(x, x_strides)), (WEIGHTS, shapes.weights(w_strides))]
    if has_bias:
        inputs.append((BIAS, plain(shapes.bias)))
    return Route(shapes.forward(has_bias), inputs, [(DST, _images(y, y_strides))])


@cached
def _data_route(
    x: Ints, x_strides: Ints, weight: Ints, w_strides: Ints, y: Ints, y_strides: Ints,
    *steps: Any,
) -> Route:  # fmt: skip
    shapes = Shapes(x, weight, y, *steps)
    inputs = [(DIFF_DST, _images(y, y_strides)), (WEIGHTS, shapes.weights(w_strides))]
    return Route(shapes.of_input(), inputs, [(DIFF_SRC, _images(x, x_strides))])


@cached
def _weight_route(
    x: Ints, x_strides: Ints, weight: Ints, w_strides: Ints, y: Ints, y_strides: Ints,
    has_bias: bool, *steps: Any,
) -> Route:  # fmt: skip
    shapes = Shapes(x, weight, y, *steps)
    inputs = [(SRC, _images(x, x_strides)), (DIFF_DST, _images(y, y_strides))]
    outputs = [(DIFF_WEIGHTS, shapes.weights(w_strides))]
    if has_bias:
        outputs.append((DIFF_BIAS, plain(shapes.bias)))
    return Route(shapes.of_weights(has_bias), inputs, outputs)


# ------------------------------------------------------------------------------------- the maps --
def _placed(x: Any) -> Any:
    """Return images in C order or with channels innermost: themselves, or a copy in C order."""
    if x.flags.c_contiguous or x.transpose(0, *range(2, x.ndim), 1).flags.c_contiguous:
        return x
    return np.ascontiguousarray(x)


def _images_like(shape: Ints, *others: Any) -> Any:
    """Return memory for images, channels innermost if another's are."""
    if any(not x.flags.c_contiguous and x.ndim == len(shape) for x in others):
        return np.empty((shape[0], *shape[2:], shape[1]), np.float32).transpose(
            0, len(shape) - 1, *range(1, len(shape) - 1)
        )
    return np.empty(shape, np.float32)


def _forward(x: Any, weight: Any, bias: Any, size: Ints, *steps: Any) -> Any:
    x, weight = _placed(x), _placed(weight)
    y = _images_like((x.shape[0], weight.shape[0], *size), x)
    route = _forward_route(
        x.shape, x.strides, weight.shape, weight.strides, y.shape, y.strides, bias is not None,
        *steps,
    )  # fmt: skip
    given = (x, weight) if bias is None else (x, weight, np.ascontiguousarray(bias))
    route(*given, y)
    return y


def _of_input(g: Any, weight: Any, size: Ints, *steps: Any) -> Any:
    g, weight = _placed(g), _placed(weight)
    x = _images_like((g.shape[0], weight.shape[1] * steps[-1], *size), g)
    _data_route(
        x.shape, x.strides, weight.shape, weight.strides, g.shape, g.strides, *steps
    )(g, weight, x)  # fmt: skip
    return x


def _of_weight(g: Any, x: Any, kernel: Ints, has_bias: bool, *steps: Any) -> tuple[Any, Any]:
    """Return the gradients of the weight and, if asked for, of the bias."""
    g, x = _placed(g), _placed(x)
    weight = np.empty((g.shape[1], x.shape[1] // steps[-1], *kernel), np.float32)
    bias = np.empty(g.shape[1], np.float32) if has_bias else None
    route = _weight_route(
        x.shape, x.strides, weight.shape, weight.strides, g.shape, g.strides, has_bias, *steps
    )
    route(x, g, *((weight,) if bias is None else (weight, bias)))
    return weight, bias


# -------------------------------------------------------------------------------------- kernels --
def _convolution(
    xp: Any, input: Any, weight: Any, bias: Any, stride: Ints, padding: Ints, dilation: Ints,
    transposed: bool, output_padding: Ints, groups: int,
) -> Any:  # fmt: skip
    steps = (stride, padding, dilation, groups)
    reach = [d * (k - 1) + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    if not transposed:
        size = tuple(
            (n + 2 * p - r) // s + 1
            for n, p, r, s in zip(input.shape[2:], padding, reach, stride, strict=True)
        )
        return _forward(input, weight, bias, size, *steps)
    size = tuple(
        (n - 1) * s - 2 * p + r + e
        for n, s, p, r, e in zip(
            input.shape[2:], stride, padding, reach, output_padding, strict=True
        )
    )
    out = _of_input(input, weight, size, *steps)
    if bias is not None:
        out += bias.reshape(-1, *[1] * (out.ndim - 2))
    return out


def _backward(
    xp: Any, grad_output: Any, input: Any, weight: Any, bias_sizes: Ints | None, stride: Ints,
    padding: Ints, dilation: Ints, transposed: bool, output_padding: Ints, groups: int,
    output_mask: Sequence[bool],
) -> tuple[Any, ...]:  # fmt: skip
    steps = (stride, padding, dilation, groups)
    of_input = of_weight = of_bias = np.empty(0, np.float32)
    if output_mask[0] and transposed:
        of_input = _forward(grad_output, weight, None, input.shape[2:], *steps)
    elif output_mask[0]:
        of_input = _of_input(grad_output, weight, input.shape[2:], *steps)
    if output_mask[1]:
        wide, narrow = (grad_output, input) if transposed else (input, grad_output)
        both = output_mask[2] and not transposed
        of_weight, found = _of_weight(narrow, wide, weight.shape[2:], both, *steps)
        of_bias = of_bias if found is None else found
    if output_mask[2] and not of_bias.size:
        of_bias = grad_output.sum(axis=(0, *range(2, grad_output.ndim)))
    return of_input, of_weight, of_bias


def _when(*args: Any) -> bool:
    specs = [a for a in args if hasattr(a, "dtype")]
    return single(*specs) and specs[0].ndim in (3, 4, 5) and all(s.numel for s in specs)


def register(registry: Registry) -> None:
    """Enter the convolutions, of any size: numpy has no quick way even for small ones."""
    assert {"convolution", "convolution_backward"} <= table().keys()
    registry["convolution"] = Fast(_convolution, _when)
    registry["convolution_backward"] = Fast(_backward, _when)
