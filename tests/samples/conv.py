"""Inputs for convolutions."""

from samples import FLOATS, Strided, call, samples

#: (input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
_CASES = [
    ((2, 3, 7, 6), (4, 3, 3, 2), True, (1, 1), (0, 0), (1, 1), False, (0, 0), 1),
    ((2, 4, 8, 7), (6, 2, 3, 3), True, (2, 3), (1, 2), (2, 1), False, (0, 0), 2),
    ((1, 3, 5, 5), (3, 1, 3, 3), False, (1, 1), (1, 1), (1, 1), False, (0, 0), 3),
    ((3, 2, 4, 4), (5, 2, 1, 1), True, (1, 1), (0, 0), (1, 1), False, (0, 0), 1),
    ((2, 3, 9), (4, 3, 4), True, (2,), (1,), (2,), False, (0,), 1),
    ((2, 2, 4, 5, 3), (3, 2, 2, 3, 1), True, (1, 2, 1), (0, 1, 0), (1, 1, 1), False, (0, 0, 0), 1),
    ((2, 3, 4, 4), (3, 2, 3, 3), True, (2, 2), (1, 0), (1, 2), True, (1, 1), 1),
    ((2, 4, 5), (4, 3, 3), True, (3,), (1,), (1,), True, (2,), 2),
    ((0, 3, 5, 5), (2, 3, 3, 3), True, (1, 1), (0, 0), (1, 1), False, (0, 0), 1),
]


def _channels_out(weight, transposed, groups):
    return weight[1] * groups if transposed else weight[0]


@samples("convolution", dtypes=("float32", "float64", "bfloat16", "complex64"))
def _convolution(make):
    calls = []
    for x, w, bias, *rest in _CASES:
        size = _channels_out(w, rest[3], rest[5])
        calls.append(call(make(*x), make(*w), make(size) if bias else None, *rest))
    if make.dtype != "bfloat16":
        x, w = Strided(make(2, 3, 6, 5)), Strided(make(4, 3, 2, 2))
        calls.append(call(x, w, None, *_CASES[0][3:]))
    return calls


@samples("convolution_backward", dtypes=FLOATS)
def _convolution_backward(make):
    import torch

    calls = []
    for x, w, _, *rest in _CASES[:-1]:
        out = torch.ops.aten.convolution(torch.zeros(x), torch.zeros(w), None, *rest).shape
        args = make(*out), make(*x), make(*w)
        calls.append(call(*args, [out[1]], *rest, [True, True, True]))
    return calls


@samples("conv1d", dtypes=FLOATS)
def _conv1d(make):
    return [
        call(make(2, 3, 8), make(4, 3, 3), make(4)),
        call(make(3, 8), make(4, 3, 3), None, 2, 1, 2),
        call(make(2, 4, 8), make(4, 1, 3), make(4), [1], [1], [1], 4),
    ]


@samples("conv2d", dtypes=FLOATS)
def _conv2d(make):
    return [
        call(make(2, 3, 6, 6), make(4, 3, 3, 3), make(4)),
        call(make(3, 6, 6), make(4, 3, 3, 2), None, 2, [1, 0]),
        call(make(2, 2, 6, 6), make(4, 1, 3, 3), make(4), padding=1, groups=2, dilation=2),
    ]


@samples("conv3d", dtypes=FLOATS)
def _conv3d(make):
    return [call(make(2, 3, 4, 4, 4), make(2, 3, 3, 2, 1), make(2), 1, [1, 0, 0])]


@samples("conv1d.padding", "conv2d.padding", "conv3d.padding", dtypes=FLOATS)
def _named(make):
    return [
        call(make(2, 3, 6, 6), make(4, 3, 3, 3), make(4), padding="same"),
        call(make(2, 3, 6, 6), make(4, 3, 2, 3), make(4), padding="same", dilation=3),
        call(make(3, 6, 6), make(4, 3, 3, 3), None, 2, "valid"),
        call(make(2, 3, 6), make(4, 3, 3), make(4), padding="same"),
    ]


@samples("conv_transpose1d", dtypes=FLOATS)
def _conv_transpose1d(make):
    return [
        call(make(2, 3, 5), make(3, 2, 3), make(2), 2, 1, 1),
        call(make(4, 5), make(4, 2, 3), None, 1, 0, 0, 2, 2),
    ]


@samples("conv_transpose2d.input", "conv_transpose3d.input", dtypes=FLOATS)
def _conv_transpose2d(make):
    return [
        call(make(2, 3, 4, 5), make(3, 2, 3, 3), make(2), 2, 1, 1),
        call(make(3, 4, 5), make(3, 2, 2, 3)),
        call(make(1, 2, 3, 4, 3), make(2, 2, 2, 3, 1), make(2)),
    ]
