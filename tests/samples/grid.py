"""Inputs for sampling by a grid."""

import itertools

from samples import FLOATS, call, samples

_SHAPES = {2: ((2, 3, 4, 5), (2, 3, 2, 2)), 3: ((2, 2, 3, 4, 2), (2, 2, 2, 3, 3))}


def _off_corners(grid):
    """Return places that are not at an element, where a sample has no derivative."""
    return (grid * 0.537 + 0.0131).astype(grid.dtype)


def _forward(make, n):
    image, grid = _SHAPES[n]
    modes = (0, 1, 2) if n == 2 else (0, 1)
    return [
        call(make(*image), _off_corners(make(*grid)), mode, padding, aligned)
        for mode, padding, aligned in itertools.product(modes, (0, 1, 2), (False, True))
    ]


@samples("grid_sampler_2d", dtypes=FLOATS)
def _grid2d(make):
    return _forward(make, 2)


@samples("grid_sampler_3d", dtypes=FLOATS)
def _grid3d(make):
    return _forward(make, 3)


@samples("grid_sampler", dtypes=FLOATS)
def _grid(make):
    return _forward(make, 2)[::5] + _forward(make, 3)[::5]


_THIRD = "the third order is not there"


@samples("grid_sampler_2d_backward", dtypes=FLOATS, second=False, reason=_THIRD)
def _grid2d_backward(make):
    return [
        call(make(*c.args[0].shape[:2], *c.args[1].shape[1:-1]), *c.args, [True, True])
        for c in _forward(make, 2)
    ]


@samples("grid_sampler_3d_backward", dtypes=FLOATS, second=False, reason=_THIRD)
def _grid3d_backward(make):
    return [
        call(make(*c.args[0].shape[:2], *c.args[1].shape[1:-1]), *c.args, [True, True])
        for c in _forward(make, 3)
    ]


@samples("_grid_sampler_double_backward", dtypes=FLOATS, rtol=1e-4, atol=1e-4)
def _grid_double(make):
    calls = []
    for c in _forward(make, 2)[::3] + _forward(make, 3)[::3]:
        image, grid, *modes = c.args
        out = make(*image.shape[:2], *grid.shape[1:-1])
        calls.append(call(make(*image.shape), make(*grid.shape), out, image, grid, *modes))
    return calls


@samples("affine_grid_generator", dtypes=FLOATS)
def _affine(make):
    return [call(make(2, 2, 3), [2, 3, 4, 5], aligned) for aligned in (False, True)] + [
        call(make(1, 3, 4), [1, 2, 3, 1, 2], aligned) for aligned in (False, True)
    ]


@samples("affine_grid_generator_backward", dtypes=FLOATS, grad=False, reason="composite in torch")
def _affine_backward(make):
    return [call(make(2, 4, 5, 2), [2, 3, 4, 5], aligned) for aligned in (False, True)] + [
        call(make(1, 3, 1, 2, 3), [1, 2, 3, 1, 2], False)
    ]
