"""Inputs for differences, integrals, powers and combinations."""

import numpy as np

from samples import Strided, call, samples

REAL = ("uint8", "int32", "int64", "float32", "float64", "complex64")
FLOATING = ("float32", "float64", "complex64")


@samples("diff")
def _diff(make):
    return [
        call(make(5)), call(make(3, 4), 2), call(make(3, 4), 1, 0), call(make(3), 0), call(make(2), 4),
        call(make(3, 4), 1, -1, make(3, 2), make(3, 1)), call(Strided(make(4, 3))), call(make(3, 0)),
        call(make(3), 1, 0, make(1)), call(make(3), prepend=make(0)),
    ]  # fmt: skip


@samples("gradient.scalarint", dtypes=REAL)
def _gradient(make):
    return [call(make(5)), call(make(3, 4), spacing=2), call(make(3, 4), spacing=0.5, dim=0),
            call(make(3, 4), dim=-1, edge_order=2), call(Strided(make(4, 3)), dim=1)]  # fmt: skip


@samples("gradient.scalararray", dtypes=REAL)
def _gradient_dims(make):
    return [call(make(3, 4, 2), spacing=2, dim=(0, 1))]


@samples("gradient.array", dtypes=REAL)
def _gradient_array(make):
    return [call(make(3, 4), dim=(1, 0)), call(make(3, 4), dim=(1,), edge_order=2)]


@samples("gradient.scalarrayint", dtypes=REAL)
def _gradient_list(make):
    return [call(make(3, 4), spacing=[2, 0.5]), call(make(3, 4), spacing=[2], dim=1)]


@samples("gradient.scalarrayarray", dtypes=REAL)
def _gradient_lists(make):
    return [call(make(3, 4), spacing=[2, 0.5], dim=(1, 0))]


def places(n):
    return np.cumsum(np.arange(1, n + 1)).astype("float64") / 4


@samples("gradient.tensorarrayint", dtypes=FLOATING, rtol=1e-5, atol=1e-5)
def _gradient_places(make):
    return [call(make(5), spacing=[places(5)]), call(make(3, 4), spacing=[places(3), places(4)], edge_order=2),
            call(make(3, 4), spacing=[places(4)], dim=1)]  # fmt: skip


@samples("gradient.tensorarray", dtypes=FLOATING, rtol=1e-5, atol=1e-5)
def _gradient_places_dims(make):
    return [call(make(3, 4), spacing=[places(4), places(3)], dim=(1, 0))]


@samples("trapezoid.x", "trapz.x", "cumulative_trapezoid.x")
def _trapezoid(make):
    return [call(make(4), make(4)), call(make(3, 4), make(4)), call(make(3, 4), make(3), dim=0),
            call(make(2, 3, 4), make(3, 4), dim=-2), call(make(3, 4), make(3, 4)), call(make(1), make(1))]  # fmt: skip


@samples("trapezoid.dx", "trapz.dx", "cumulative_trapezoid.dx")
def _trapezoid_step(make):
    return [call(make(4)), call(make(3, 4), dx=2.0, dim=0), call(make(3, 4), dx=0.5), call(make(0)),
            call(make(2, 1)), call(Strided(make(3, 4)))]  # fmt: skip


@samples("vander")
def _vander(make):
    return [
        call(make(3)),
        call(make(3), 2),
        call(make(3), 4, True),
        call(make(3), 0),
        call(make(0)),
    ]


@samples("linalg_vander", half=(1e-2, 1e-1), rtol=1e-4, atol=1e-4, reason="powers by products")
def _linalg_vander(make):
    return [
        call(make(3)),
        call(make(2, 3)),
        call(make(2, 3), N=2),
        call(make(), N=3),
        call(make(0, 3)),
    ]


@samples("combinations")
def _combinations(make):
    return [call(make(4)), call(make(4), 3), call(make(3), 2, True), call(make(3), 0), call(make(2), 4),
            call(make(0)), call(make(0), 2, True)]  # fmt: skip


@samples("_combinations", dtypes=("float32",))
def _picks(make):
    return [call(4, 2, False), call(3, 2, True), call(2, 3, False)]


@samples("_unravel_index", dtypes=("int64", "int32"))
def _unravel(make):
    return [call(make.ints(5, high=12).astype(make.dtype), (3, 4)),
            call(np.array([-1, 13, 7], make.dtype), (2, 2, 3))]  # fmt: skip
