"""Inputs for pooling."""

import numpy as np
import torch

from samples import FLOATS, Strided, call, samples

#: shape, kernel_size, stride, padding, dilation, ceil_mode
_WINDOWS = [
    ((2, 3, 6, 6), [2, 2], [2, 2], [0, 0], [1, 1], False),
    ((2, 3, 7, 5), [3, 2], [2, 1], [1, 1], [1, 1], False),
    ((3, 8, 7), [3, 3], [], [0, 1], [1, 2], False),
    ((1, 2, 7, 7), [2, 3], [3, 2], [1, 1], [2, 1], True),
    ((0, 2, 4, 4), [2, 2], [2, 2], [0, 0], [1, 1], False),
]


def distinct(make, *shape):
    """Return different numbers in random order: at ties a maximum has no derivative."""
    numbers = make.rng.permutation(int(np.prod(shape))).reshape(shape)
    return (numbers / 16 - 2).astype(make.dtype if make.is_floating else "float32")


@samples("max_pool2d_with_indices", "max_pool2d", dtypes=FLOATS)
def _max_pool2d(make):
    calls = [call(distinct(make, *s), *rest) for s, *rest in _WINDOWS]
    calls.append(call(Strided(distinct(make, 2, 3, 4, 4)), 2))
    special = distinct(make, 1, 1, 4, 4)
    special[0, 0, 1, 1] = np.nan
    special[0, 0, 2:, 2:] = -np.inf
    if make.dtype == "float32":  # not where gradients are compared
        calls.append(call(special, 2, 2, 1))
    return calls


@samples("max_pool2d_with_indices_backward", dtypes=FLOATS)
def _max_pool2d_backward(make):
    calls = []
    for shape, *rest in _WINDOWS:
        x = distinct(make, *shape)
        values, indices = torch.ops.aten.max_pool2d_with_indices(torch.from_numpy(x), *rest)
        calls.append(call(make(*values.shape), x, *rest, indices.numpy()))
    return calls


@samples("max_pool1d", "max_pool1d_with_indices", dtypes=FLOATS)
def _max_pool1d(make):
    return [call(distinct(make, 2, 3, 8), 2), call(distinct(make, 3, 9), 3, 2, 1, 1, True),
            call(distinct(make, 2, 3, 8), [3], [2], [1], [2])]  # fmt: skip


_MEANS = [(*w[:4], w[5]) for w in _WINDOWS if w[4] == [1, 1]] + [
    ((1, 2, 7, 7), [2, 3], [3, 2], [1, 1], True)
]


@samples("avg_pool2d", dtypes=FLOATS)
def _avg_pool2d(make):
    calls = [call(make(*s), *rest) for s, *rest in _MEANS]
    calls += [call(make(*s), *rest, False) for s, *rest in _MEANS]
    return [*calls, call(make(2, 5, 5), 2, divisor_override=3), call(Strided(make(2, 3, 4, 4)), 2)]


@samples("avg_pool2d_backward", dtypes=FLOATS)
def _avg_pool2d_backward(make):
    calls = []
    for shape, *rest in _MEANS[:-2] + _MEANS[-1:]:
        for counts, divisor in ((True, None), (False, None), (True, 5)):
            out = torch.ops.aten.avg_pool2d(torch.zeros(shape), *rest).shape
            calls.append(call(make(*out), make(*shape), *rest, counts, divisor))
    return calls


@samples("avg_pool1d", dtypes=FLOATS)
def _avg_pool1d(make):
    return [call(make(2, 3, 8), 2), call(make(3, 9), 3, 2, 1, True, False)]


@samples("_adaptive_avg_pool2d", "adaptive_avg_pool2d", dtypes=FLOATS)
def _adaptive_avg_pool2d(make):
    return [call(make(2, 3, 7, 5), [3, 2]), call(make(3, 4, 4), [2, 2]),
            call(make(2, 3, 4, 4), [1, 1]), call(make(1, 1, 3, 3), [5, 4])]  # fmt: skip


@samples("_adaptive_avg_pool2d_backward", dtypes=FLOATS)
def _adaptive_avg_pool2d_backward(make):
    return [call(make(2, 3, 3, 2), make(2, 3, 7, 5)), call(make(3, 2, 2), make(3, 4, 4))]


@samples("adaptive_avg_pool1d", dtypes=FLOATS)
def _adaptive_avg_pool1d(make):
    return [call(make(2, 3, 7), 3), call(make(3, 6), [2])]


@samples("adaptive_max_pool2d", dtypes=FLOATS)
def _adaptive_max_pool2d(make):
    return [call(distinct(make, 2, 3, 7, 5), [3, 2]), call(distinct(make, 3, 4, 4), [2, 2])]


@samples("adaptive_max_pool2d_backward", dtypes=FLOATS)
def _adaptive_max_pool2d_backward(make):
    x = distinct(make, 2, 3, 7, 5)
    values, indices = torch.ops.aten.adaptive_max_pool2d(torch.from_numpy(x), [3, 2])
    return [call(make(*values.shape), x, indices.numpy())]


@samples("adaptive_max_pool1d", dtypes=FLOATS)
def _adaptive_max_pool1d(make):
    return [call(distinct(make, 2, 3, 7), [3]), call(distinct(make, 3, 6), 2)]
