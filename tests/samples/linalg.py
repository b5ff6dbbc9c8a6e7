"""Inputs for products: shapes that fit, empty, one, transposed in memory."""

from typing import Any

from samples import ALL, Strided, call, samples

NUMBERS = ALL[1:]  # torch multiplies bool matrices only where they are empty
#: Sums of products in half precision: torch rounds partial sums, we round once.
LOOSE: dict[str, Any] = {
    "half": (2e-2, 2e-1),
    "dtypes": NUMBERS,
    "reason": "torch rounds partial sums in half precision, we round once",
}


@samples("mm", **LOOSE)
def _mm(make):
    return [
        call(make(3, 4), make(4, 5)),
        call(make(1, 1), make(1, 1)),
        call(make(0, 4), make(4, 5)),
        call(make(3, 0), make(0, 5)),
        call(Strided(make(3, 4)), Strided(make(4, 5))),
        call(make(40, 30), make(30, 40)),
    ]


@samples("bmm", **LOOSE)
def _bmm(make):
    return [
        call(make(2, 3, 4), make(2, 4, 5)),
        call(make(0, 3, 4), make(0, 4, 5)),
        call(make(2, 3, 0), make(2, 0, 5)),
        call(Strided(make(2, 3, 4)), Strided(make(2, 4, 5))),
    ]


@samples("_batched_mm", **LOOSE)
def _batched_mm(make):
    return [
        call(make(2, 1, 3, 4), make(5, 4, 2)),
        call(make(3, 4), make(2, 4, 2)),
        call(make(0, 3, 4), make(4, 2)),
    ]


@samples("matmul", "linalg_matmul", **LOOSE)
def _matmul(make):
    shapes = [
        ((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)),
        ((5, 2, 3), (3,)), ((3,), (5, 3, 2)), ((2, 3), (5, 3, 2)), ((5, 2, 3), (5, 3, 2)),
        ((1, 2, 3), (5, 3, 2)), ((2, 1, 2, 3), (4, 3, 2)), ((2, 4, 2, 3), (2, 4, 3, 2)),
        ((0, 2, 3), (3, 4)), ((2, 0, 3), (2, 3, 4)),
    ]  # fmt: skip
    return [call(make(*a), make(*b)) for a, b in shapes]


@samples("mv", **LOOSE)
def _mv(make):
    return [
        call(make(3, 4), make(4)),
        call(make(0, 4), make(4)),
        call(make(3, 0), make(0)),
        call(Strided(make(3, 4)), make(4)),
    ]


@samples("dot", "vdot", "inner", **LOOSE)
def _dot(make):
    return [call(make(4), make(4)), call(make(0), make(0))]


@samples("linalg_vecdot", **LOOSE)
def _vecdot(make):
    return [
        call(make(2, 4), make(2, 4)),
        call(make(2, 4), make(4)),
        call(make(2, 4), make(2, 4), dim=0),
    ]


@samples("outer", "ger")
def _outer(make):
    return [call(make(3), make(4)), call(make(0), make(4))]


@samples("linear", **LOOSE)
def _linear(make):
    return [
        call(make(2, 3), make(4, 3), make(4)),
        call(make(2, 3), make(4, 3)),
        call(make(3), make(4, 3), make(4)),
        call(make(2, 5, 3), make(4, 3), make(4)),
        call(make(2, 5, 3), make(4, 3)),
        call(Strided(make(2, 5, 3)), Strided(make(4, 3)), make(4)),
        call(make(0, 3), make(4, 3), make(4)),
        call(make(2, 0), make(4, 0), make(4)),
        call(make(2, 5, 0), make(4, 0), make(4)),
        call(make(2, 3), make(3)),
        call(make(2, 5, 3), make(3)),
    ]


@samples("addmm", **LOOSE)
def _addmm(make):
    made = [
        call(make(2, 4), make(2, 3), make(3, 4)),
        call(make(4), make(2, 3), make(3, 4)),
        call(make(2, 1), make(2, 3), make(3, 4), beta=2, alpha=3),
        call(make(), make(2, 3), make(3, 4), beta=0),
        call(make(2, 4), make(2, 0), make(0, 4)),
        call(make(2, 4), Strided(make(2, 3)), Strided(make(3, 4))),
    ]
    if make.is_floating:
        made.append(call(make(2, 4), make(2, 3), make(3, 4), beta=0.5, alpha=-1.5))
    return made


@samples("addmv", **LOOSE)
def _addmv(make):
    return [
        call(make(2), make(2, 3), make(3)),
        call(make(1), make(2, 3), make(3), beta=2, alpha=3),
        call(make(2), make(2, 0), make(0)),
    ]


@samples("addr", **LOOSE)
def _addr(make):
    return [
        call(make(2, 3), make(2), make(3)),
        call(make(3), make(2), make(3), beta=2, alpha=3),
        call(make(2, 3), make(2), make(3), beta=0),
    ]


@samples("baddbmm", **LOOSE)
def _baddbmm(make):
    return [
        call(make(2, 3, 5), make(2, 3, 4), make(2, 4, 5)),
        call(make(5), make(2, 3, 4), make(2, 4, 5), beta=2, alpha=3),
        call(make(2, 3, 5), make(2, 3, 0), make(2, 0, 5)),
    ]


@samples("addbmm", **LOOSE)
def _addbmm(make):
    return [
        call(make(3, 5), make(2, 3, 4), make(2, 4, 5)),
        call(make(5), make(2, 3, 4), make(2, 4, 5), beta=2, alpha=3),
    ]


@samples("linalg_cross", **LOOSE)
def _linalg_cross(make):
    return [
        call(make(4, 3), make(4, 3)),
        call(make(3, 4), make(3, 1), dim=0),
        call(make(2, 3, 4), make(2, 3, 4), dim=-2),
        call(Strided(make(2, 3)), Strided(make(2, 3))),
    ]


@samples("cross", **LOOSE)
def _cross(make):
    return [call(make(4, 3), make(4, 3)), call(make(3, 4), make(3, 4)), call(make(3), make(3), 0)]
