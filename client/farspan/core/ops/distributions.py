"""Draws from distributions with tensors as parameters, and their gradients.

The numbers are those of `core/rejection.py`, which are torch's; a draw is one command, however
often its loop rejects. `farspan.distributions` stands on these rows.
"""

from __future__ import annotations

from typing import Any

from .. import gammas, rejection
from ..call import fn
from ..dtype import DType, float64
from ..errors import BadValueError, DTypeError, UnsupportedError
from ..family import common_device, structured
from ..spec import Spec, broadcast_shapes
from .random import GENERATOR

_TORCH_NAMES = {"float16": "Half", "bfloat16": "BFloat16", "float32": "Float", "float64": "Double",
                "int64": "Long", "int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte",
                "bool": "Bool", "complex64": "ComplexFloat",
                "complex128": "ComplexDouble"}  # fmt: skip


def _refuse(name: str, dtype: DType, halves: bool = False) -> None:
    """Raise if torch has no kernel `name` for dtype: it has for float32, float64, `halves`."""
    if dtype.category != 2 or (dtype.itemsize == 2 and not halves):
        raise UnsupportedError(f'"{name}" not implemented for {_TORCH_NAMES[dtype.name]!r}')


def _alike(*specs: Spec) -> Spec:
    """Return the spec of a fresh result of the inputs' broadcast shape and their one dtype."""
    first = specs[0]
    for s in specs[1:]:
        if s.dtype is not first.dtype:
            found, wanted = _TORCH_NAMES[s.dtype.name], _TORCH_NAMES[first.dtype.name]
            raise DTypeError(f"Found dtype {found} but expected {wanted}")
    shape = broadcast_shapes(*[s.shape for s in specs])
    return Spec.make(shape, first.dtype, common_device(specs))


def _drawn(kernel_name: str, halves: bool = False) -> Any:
    """Return the metadata rule of a draw with one tensor as its parameter."""

    def meta(self: Spec, generator: Any) -> Spec:
        _refuse(kernel_name, self.dtype, halves)
        return self.contiguous_

    return meta


structured(
    f"poisson(Tensor self, {GENERATOR}) -> Tensor",
    meta=_drawn("poisson_cpu", halves=True),
    kernel=lambda xp, gen, self, generator: rejection.poisson(gen, self),
    vjp={"self": lambda g: fn.zeros_like(g)},
    moves=True,
    random=True,
)


def _binomial_meta(count: Spec, prob: Spec, generator: Any) -> Spec:
    for name, spec in (("count", count), ("prob", prob)):
        if spec.dtype.category != 2:
            raise BadValueError(
                f"binomial only supports floating-point dtypes for {name}, got: "
                f"{_TORCH_NAMES[spec.dtype.name]}"
            )
    _refuse("binomial_cpu", count.dtype)
    return _alike(count, prob)


structured(
    f"binomial(Tensor count, Tensor prob, {GENERATOR}) -> Tensor",
    meta=_binomial_meta,
    kernel=lambda xp, gen, count, prob, generator: rejection.binomial(
        gen, *xp.broadcast_arrays(count, prob)
    ),
    moves=True,
    random=True,
)
structured(
    f"_standard_gamma(Tensor self, {GENERATOR}) -> Tensor",
    meta=_drawn("gamma_cpu"),
    kernel=lambda xp, gen, self, generator: rejection.gamma(gen, self),
    vjp={"self": lambda g, self, out: fn.mul(g, fn._standard_gamma_grad(self, out))},
    moves=True,
    random=True,
)


def _standard_gamma_grad_meta(self: Spec, output: Spec) -> Spec:
    _refuse("_standard_gamma_grad_cpu", self.dtype)
    return _alike(self, output)


structured(
    "_standard_gamma_grad(Tensor self, Tensor output) -> Tensor",
    meta=_standard_gamma_grad_meta,
    kernel=lambda xp, self, output: gammas.standard_gamma_grad(xp, self, output),
)


def _dirichlet_vjp(g: Any, self: Any, out: Any) -> Any:
    """The gradient of shares that sum to one, from that of each share as a beta number."""
    total = fn.expand_as(fn.sum(self, -1, True), self)
    inner = fn.sub(g, fn.sum(fn.mul(out, g), -1, True))
    return fn.mul(fn._dirichlet_grad(out, self, total), inner)


structured(
    f"_sample_dirichlet(Tensor self, {GENERATOR}) -> Tensor",
    meta=_drawn("dirichlet"),
    kernel=lambda xp, gen, self, generator: rejection.dirichlet(gen, self),
    vjp={"self": _dirichlet_vjp},
    moves=True,
    random=True,
)


def _dirichlet_grad_meta(x: Spec, alpha: Spec, total: Spec) -> Spec:
    spec = _alike(x, alpha, total)
    _refuse("_dirichlet_grad_cpu", x.dtype)
    return spec


structured(
    "_dirichlet_grad(Tensor x, Tensor alpha, Tensor total) -> Tensor",
    meta=_dirichlet_grad_meta,
    kernel=lambda xp, x, alpha, total: gammas.dirichlet_grad(xp, x, alpha, total),
)
structured(
    "farspan::_von_mises(Tensor loc, Tensor concentration, Tensor proposal, SymInt[] size, *,"
    f" {GENERATOR}) -> Tensor",
    meta=lambda loc, concentration, proposal, size, generator: Spec.make(
        tuple(size), float64, loc.device
    ),
    kernel=lambda xp, gen, loc, concentration, proposal, size, generator: rejection.von_mises(
        gen, tuple(size), loc, concentration, proposal
    ),
    moves=True,
    random=True,
)
