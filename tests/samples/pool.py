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


# ---------------------------------------------------------------------------------- three dims --
_VOLUMES = [
    ((1, 2, 4, 5, 4), [2, 2, 2], [2, 2, 2], [0, 0, 0], [1, 1, 1], False),
    ((2, 5, 4, 6), [3, 2, 2], [], [1, 0, 1], [1, 1, 2], True),
    ((0, 2, 3, 3, 3), [2, 2, 2], [1, 1, 1], [0, 0, 0], [1, 1, 1], False),
]


@samples("max_pool3d_with_indices", "max_pool3d", dtypes=(*FLOATS, "int64"))
def _max_pool3d(make):
    calls = [call(distinct(make, *s), *rest) for s, *rest in _VOLUMES]
    return [*calls, call(distinct(make, 1, 2, 4, 4, 4), 2)]


@samples("max_pool3d_with_indices_backward", dtypes=FLOATS)
def _max_pool3d_backward(make):
    calls = []
    for shape, *rest in _VOLUMES:
        x = distinct(make, *shape)
        values, indices = torch.ops.aten.max_pool3d_with_indices(torch.from_numpy(x), *rest)
        calls.append(call(make(*values.shape), x, *rest, indices.numpy()))
    return calls


_MEANS3D = [(*w[:4], w[5]) for w in _VOLUMES if w[4] == [1, 1, 1]] + [
    ((2, 5, 4, 6), [3, 2, 2], [2, 2, 1], [1, 0, 1], True)
]


@samples("avg_pool3d", dtypes=(*FLOATS, "int64"))
def _avg_pool3d(make):
    calls = [call(make(*s), *rest) for s, *rest in _MEANS3D]
    calls += [call(make(*s), *rest, False) for s, *rest in _MEANS3D]
    return [*calls, call(make(2, 4, 4, 4), 2, divisor_override=3)]


@samples("avg_pool3d_backward", dtypes=FLOATS)
def _avg_pool3d_backward(make):
    calls = []
    for shape, *rest in _MEANS3D:
        for counts, divisor in ((True, None), (False, None), (True, 5)):
            out = torch.ops.aten.avg_pool3d(torch.zeros(shape), *rest).shape
            calls.append(call(make(*out), make(*shape), *rest, counts, divisor))
    return calls


@samples("_adaptive_avg_pool3d", "adaptive_avg_pool3d", dtypes=FLOATS)
def _adaptive_avg_pool3d(make):
    return [call(make(2, 3, 5, 4, 3), [3, 2, 2]), call(make(2, 4, 4, 4), [1, 1, 1]),
            call(make(1, 1, 2, 3, 3), [3, 4, 2])]  # fmt: skip


@samples("_adaptive_avg_pool3d_backward", dtypes=FLOATS)
def _adaptive_avg_pool3d_backward(make):
    return [
        call(make(2, 3, 3, 2, 2), make(2, 3, 5, 4, 3)),
        call(make(2, 1, 1, 1), make(2, 4, 4, 4)),
    ]


@samples("adaptive_max_pool3d", dtypes=FLOATS)
def _adaptive_max_pool3d(make):
    special = distinct(make, 1, 2, 3, 3, 3)
    special[0, 0, 1, :2, 1] = np.nan
    calls = [
        call(distinct(make, 2, 3, 5, 4, 3), [3, 2, 2]),
        call(distinct(make, 2, 3, 3, 3), [4, 1, 2]),
    ]
    if make.dtype == "float32":  # not where gradients are compared
        calls.append(call(special, [2, 2, 2]))
    return calls


@samples("adaptive_max_pool3d_backward", dtypes=FLOATS)
def _adaptive_max_pool3d_backward(make):
    x = distinct(make, 2, 3, 5, 4, 3)
    values, indices = torch.ops.aten.adaptive_max_pool3d(torch.from_numpy(x), [3, 2, 2])
    return [call(make(*values.shape), x, indices.numpy())]


# --------------------------------------------------------------------------- chosen by an index --
_FRACTIONS = {2: ([2, 3], [3, 2], (2, 3, 7, 6)), 3: ([2, 2, 1], [2, 3, 2], (2, 2, 4, 6, 5))}


def _draws(make, *shape):
    return make(*shape, low=0, high=1)


@samples("fractional_max_pool2d", dtypes=FLOATS)
def _fractional2d(make):
    kernel, out, shape = _FRACTIONS[2]
    return [call(distinct(make, *shape), kernel, out, _draws(make, *shape[:2], 2)),
            call(distinct(make, *shape[1:]), kernel, [1, 4], _draws(make, 1, shape[1], 2))]  # fmt: skip


@samples("fractional_max_pool3d", dtypes=FLOATS)
def _fractional3d(make):
    kernel, out, shape = _FRACTIONS[3]
    return [call(distinct(make, *shape), kernel, out, _draws(make, *shape[:2], 3)),
            call(distinct(make, *shape[1:]), kernel, [1, 4, 5], _draws(make, 1, shape[1], 3))]  # fmt: skip


def _fractional_backward(make, n):
    kernel, out, shape = _FRACTIONS[n]
    x = distinct(make, *shape)
    forward = getattr(torch.ops.aten, f"fractional_max_pool{n}d")
    draws = torch.from_numpy(_draws(make, *shape[:2], n).real.astype(x.dtype))
    values, indices = forward(torch.from_numpy(x), kernel, out, draws)
    return [call(make(*values.shape), x, kernel, out, indices.numpy())]


@samples("fractional_max_pool2d_backward", dtypes=FLOATS)
def _fractional2d_backward(make):
    return _fractional_backward(make, 2)


@samples("fractional_max_pool3d_backward", dtypes=FLOATS)
def _fractional3d_backward(make):
    return _fractional_backward(make, 3)


def _places(make, shape, volume):
    planes = int(np.prod(shape[:2]))
    count = int(np.prod(shape[2:]))
    chosen = [make.rng.permutation(volume)[:count] for _ in range(planes)]
    return np.asarray(chosen).reshape(shape)


@samples("max_unpool2d", dtypes=FLOATS)
def _max_unpool2d(make):
    shape = (2, 3, 3, 2)
    return [call(make(*shape), _places(make, shape, 30), [5, 6]),
            call(make(2, 2, 2), _places(make, (1, 2, 2, 2), 9)[0], [3, 3])]  # fmt: skip


@samples("max_unpool3d", dtypes=FLOATS)
def _max_unpool3d(make):
    shape = (2, 3, 2, 2, 1)
    return [call(make(*shape), _places(make, shape, 24), [2, 3, 4], [2, 2, 2], [0, 0, 0])]
