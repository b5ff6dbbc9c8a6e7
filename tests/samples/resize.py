"""Inputs for images resized."""

import functools

import torch

from samples import FLOATS, Strided, call, samples

#: for each number of dims: size, the size wanted, scales
_SIZES = {
    1: [((5,), (8,), (None,)), ((6,), (3,), (0.5,)), ((4,), (4,), (1.1,)), ((3,), (6,), (2.3,))],
    2: [((4, 5), (7, 3), (None, None)), ((5, 6), (10, 9), (2.0, 1.6)), ((6, 7), (2, 3), (0.4, None)),
        ((3, 3), (3, 3), (None, None)), ((4, 4), (1, 8), (None, None))],
    3: [((2, 4, 3), (3, 2, 6), (None,) * 3), ((4, 3, 2), (6, 6, 2), (1.5, 2.0, 1.0))],
}  # fmt: skip


def _cases(make, n, corners):
    for size, out, scales in _SIZES[n]:
        for aligned in (False, True) if corners else (None,):
            extra = () if aligned is None else (aligned,)
            yield make(2, 3, *size), list(out), (*extra, *scales)


def _forward(make, n, corners):
    calls = [call(x, out, *rest) for x, out, rest in _cases(make, n, corners)]
    if n == 2:
        calls.append(call(Strided(make(1, 2, 3, 4)), [2, 3], *([False] if corners else [])))
        nhwc = make(2, 4, 3, 5)
        calls.append(call(nhwc[:, :1], [3, 2], *([False] if corners else [])))
    return calls


def _backward(make, name, n, corners):
    forward = getattr(torch.ops.aten, name)
    calls = []
    for x, out, rest in _cases(make, n, corners):
        made = forward(torch.zeros(x.shape), out, *rest).shape
        calls.append(call(make(*made), out, list(x.shape), *rest))
    return calls


_OPS = [
    (f"{p}{n}d", n, False)
    for p in ("upsample_nearest", "_upsample_nearest_exact")
    for n in (1, 2, 3)
]
_OPS += [("upsample_linear1d", 1, True), ("upsample_trilinear3d", 3, True)]
_OPS += [(name, 2, True) for name in ("upsample_bilinear2d", "upsample_bicubic2d",
         "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "_upsample_lanczos2d_aa")]  # fmt: skip

for _name, _n, _corners in _OPS:
    _types = FLOATS if "linear1d" in _name or "trilinear" in _name else (*FLOATS, "uint8")
    samples(_name, dtypes=_types, differences=_name != "upsample_nearest1d")(
        functools.partial(_forward, n=_n, corners=_corners)
    )
    samples(
        f"{_name}_backward",
        dtypes=FLOATS,
        differences="upsample_nearest1d" not in _name,
        reason="where sizes are equal torch's gradient forgets the scale, its second does not",
    )(functools.partial(_backward, name=_name, n=_n, corners=_corners))
