"""gradcheck and gradgradcheck: derivatives beside differences.

Each input is perturbed in place, since a function may look at it without taking it as an argument.
Rows are read together, so a check waits once for each Jacobian, not once for each element.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _autograd
from .._creation import upload
from .._grad_mode import enable_grad, no_grad
from .._tensor import Tensor
from ..core.call import fn
from ..core.dtype import float64
from ..core.errors import BadValueError, ParameterError, ProgramError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["GradcheckError", "gradcheck", "gradgradcheck"]

Array = np.ndarray[Any, Any]


class GradcheckError(ProgramError, RuntimeError):
    """A derivative does not agree with the differences, or breaks another rule of backward."""


class _Check:
    """One function at one point, and the tolerances of its check."""

    def __init__(
        self, func: Callable[..., Any], inputs: tuple[Any, ...], eps: float, atol: float,
        rtol: float, nondet_tol: float, check_grad_dtypes: bool,
    ) -> None:  # fmt: skip
        self.func, self.inputs = func, inputs
        self.eps, self.atol, self.rtol = eps, atol, rtol
        self.nondet_tol, self.dtypes = nondet_tol, check_grad_dtypes
        self.at = [i for i, x in enumerate(inputs) if _is_differentiable(x)]

    @property
    def variables(self) -> list[Tensor]:
        return [self.inputs[i] for i in self.at]

    def outputs(self) -> list[Tensor]:
        """Return the results that have a gradient, computed anew."""
        with enable_grad():
            return _differentiable(self.func(*self.inputs))

    def values(self, part: Callable[[Any], Any]) -> list[Any]:
        """Return the results' values, one vector each; does not wait."""
        with enable_grad():  # it may take gradients itself
            made = _as_tuple(self.func(*self.inputs))
        with no_grad():
            return [fn.clone(fn.reshape(part(o), (-1,))) for o in made if _is_floating(o)]

    def close(self, a: Array, b: Array) -> bool:
        return bool(np.allclose(a, b, rtol=self.rtol, atol=self.atol, equal_nan=True))


def _is_floating(x: Any) -> bool:
    return isinstance(x, Tensor) and x._spec.dtype.category >= 2


def _is_differentiable(x: Any) -> bool:
    return _is_floating(x) and x.requires_grad


def _as_tuple(x: Any) -> tuple[Any, ...]:
    return tuple(x) if isinstance(x, (tuple, list)) else (x,)


def _differentiable(made: Any) -> list[Tensor]:
    return [o for o in _as_tuple(made) if isinstance(o, Tensor) and o.requires_grad]


def _read(rows: Sequence[Tensor], width: int) -> Array:
    """Return vectors of one length as a matrix. Waits."""
    if not rows:
        return np.zeros((0, width))
    made = fn.detach(fn.stack(list(rows)))
    if made._spec.dtype.is_reduced:
        made = fn._cast(made, float64)
    return made._fetch()


# ----------------------------------------------------------------------------------- Jacobians --
def _written(x: Tensor, values: Array) -> None:
    """Put values into x, unseen by the checks of what was saved."""
    with no_grad():
        fn.copy_(x.data, upload(x.session, values, x._spec.dtype, x._spec.device))


def _differences(c: _Check, at: int, part: Any, steps: Array) -> list[Array]:
    """Return, for each output, how it changes along each step of input `at`: (steps, elements)."""
    x = c.inputs[at]
    begin = fn.detach(x)._fetch()
    ups: list[list[Tensor]] = []
    downs: list[list[Tensor]] = []
    try:
        for step in steps:
            _written(x, begin + c.eps * step)
            ups.append(c.values(part))
            _written(x, begin - c.eps * step)
            downs.append(c.values(part))
    finally:
        _written(x, begin)
    if not ups:
        return [np.zeros((0, int(v._spec.numel))) for v in c.values(part)]
    found = []
    for i, v in enumerate(ups[0]):
        up, down = (_read([row[i] for row in rows], v._spec.numel) for rows in (ups, downs))
        found.append((up - down) / (2 * c.eps))
    return found


def _units(shape: tuple[int, ...], dtype: Any) -> Array:
    n = int(np.prod(shape))
    return np.eye(n, dtype=dtype).reshape(n, *shape)


def _numerical(c: _Check, at: int, part: Any) -> list[Array]:
    """Return d output / d input for each output: (input's elements, output's elements).

    Of a complex input the derivative is d/dx + i d/dy, which is what backward gives.
    """
    x = c.inputs[at]
    units = _units(x._spec.shape, x._spec.dtype.numpy if not x._spec.dtype.is_reduced else float)
    real = _differences(c, at, part, units)
    if not x._spec.dtype.is_complex:
        return real
    imaginary = _differences(c, at, part, units * 1j)
    return [a + 1j * b for a, b in zip(real, imaginary, strict=True)]


def _gradients(outputs: Any, inputs: Any, seeds: Any) -> list[Tensor | None]:
    return _autograd.gradients(list(outputs), list(inputs), list(seeds), True, False)


def _analytical(c: _Check, output: Tensor) -> list[Array]:
    """Return d output / d input for each input, by backward: (input's, output's elements)."""
    n = output._spec.numel
    units = _units(output._spec.shape, float)
    rows: list[list[Tensor]] = [[] for _ in c.at]
    for unit in units:
        seed = upload(output.session, unit, output._spec.dtype, output._spec.device)
        found = _gradients([output], c.variables, [seed])
        for k, (g, x) in enumerate(zip(found, c.variables, strict=True)):
            if g is not None and g._spec.shape != x._spec.shape:
                raise GradcheckError("Analytical gradient has incorrect size")
            if g is not None and c.dtypes and g.dtype is not x.dtype:
                raise GradcheckError("Gradient has dtype mismatch")
            rows[k].append(fn.reshape(fn.zeros_like(x) if g is None else g, (-1,)))
    return [
        _read(row, x._spec.numel).reshape(n, x._spec.numel).T
        for row, x in zip(rows, c.variables, strict=True)
    ]


def _forward(c: _Check, at: int, part: Any) -> list[Array]:
    """Return the columns of the Jacobian by `jvp`: (input's, output's elements)."""
    from ..func import jvp

    x = c.inputs[at]
    columns = []

    def of_one(z: Tensor) -> Any:
        args = [*c.inputs[:at], z, *c.inputs[at + 1 :]]
        return tuple(part(o) for o in _as_tuple(c.func(*args)) if _is_floating(o))

    for unit in _units(x._spec.shape, float):
        tangent = upload(x.session, unit, x._spec.dtype, x._spec.device)
        columns.append(jvp(of_one, (fn.detach(x),), (tangent,))[1])
    if not columns:
        return []
    return [
        _read([fn.reshape(col[i], (-1,)) for col in columns], o._spec.numel)
        for i, o in enumerate(columns[0])
    ]


# -------------------------------------------------------------------------------------- checks --
def _parts(outputs: list[Tensor]) -> list[tuple[Callable[[Any], Any], str]]:
    """Return what is compared of the results: themselves, or real and imaginary parts apart."""
    if not any(o._spec.dtype.is_complex for o in outputs):
        return [(lambda o: o, "")]
    real = "While considering the real part of complex outputs only, "
    imag = "While considering the imaginary part of complex outputs only, "

    def imaginary(o: Any) -> Any:
        return fn.imag(o) if o._spec.dtype.is_complex else fn.zeros_like(o)

    return [(fn.real, real), (imaginary, imag)]


def _mismatch(name: str, i: int, j: int, numerical: Array, analytical: Array) -> GradcheckError:
    return GradcheckError(
        f"{name}Jacobian mismatch for output {i} with respect to input {j},\n"
        f"numerical:{numerical}\nanalytical:{analytical}\n"
    )


def _check_slowly(c: _Check, backward: bool, forward: bool) -> None:
    outputs = c.outputs()
    for part, name in _parts(outputs):
        numerical = [_numerical(c, at, part) for at in c.at]
        shown = [part(o) for o in c.outputs()]
        shown_at = _places_of_outputs(c)
        for i, o in zip(shown_at if backward else (), shown, strict=False):
            found = _analytical(c, o) if o.requires_grad else None
            for j, rows in enumerate(numerical):
                have = np.zeros_like(rows[i]) if found is None else found[j]
                if not c.close(have, rows[i]):
                    raise _mismatch(name, i, c.at[j], rows[i], have)
            if found is not None:
                _check_reentrant(c, o, found)
        if forward:
            for j, at in enumerate(c.at):
                for i, have in enumerate(_forward(c, at, part)):
                    if not c.close(have, numerical[j][i]):
                        raise _mismatch(name, i, at, numerical[j][i], have)


def _places_of_outputs(c: _Check) -> list[int]:
    """Return the number of each differentiable result among those of floating point."""
    with enable_grad():
        made = [o for o in _as_tuple(c.func(*c.inputs)) if _is_floating(o)]
    return [i for i, o in enumerate(made) if o.requires_grad]


def _check_reentrant(c: _Check, output: Tensor, before: list[Array]) -> None:
    again = _analytical(c, output)
    for a, b in zip(before, again, strict=True):
        if a.size and np.abs(a - b).max() > c.nondet_tol:
            raise GradcheckError(
                "Backward is not reentrant, i.e., running backward with same input and grad_output "
                "multiple times gives different values, although analytical gradient matches "
                f"numerical gradient. The tolerance for nondeterminism was {c.nondet_tol}."
            )


def _check_fast(c: _Check, backward: bool, forward: bool) -> None:
    """Compare u^T J v for random u and v: one number for each output and input."""
    rng = np.random.default_rng(0)
    outputs = c.outputs()
    if any(o._spec.dtype.is_complex for o in (*outputs, *c.variables)):
        _check_slowly(c, backward, forward)
        return
    places = _places_of_outputs(c)
    for at in c.at:
        x = c.inputs[at]
        v = _direction(rng, x._spec.shape)
        moved = _differences(c, at, lambda o: o, v[None])
        for i, o in zip(places, outputs, strict=True):
            u = _direction(rng, o._spec.shape)
            numerical = float((moved[i][0] * u.reshape(-1)).sum()) if moved[i].size else 0.0
            if backward:
                seed = upload(o.session, u, o._spec.dtype, o._spec.device)
                (g,) = _gradients([o], [x], [seed])
                analytical = 0.0 if g is None else float((fn.detach(g)._fetch() * v).sum())
                if not c.close(np.asarray(analytical), np.asarray(numerical)):
                    raise _mismatch("(fast mode) ", i, at, np.asarray(numerical),
                                    np.asarray(analytical))  # fmt: skip
    if forward:
        _check_slowly(c, False, True)


def _direction(rng: Any, shape: tuple[int, ...]) -> Array:
    drawn = np.asarray(rng.uniform(0.1, 1, shape))
    length = np.linalg.norm(drawn)
    return drawn / length if length else drawn


def _check_zero_seeds(c: _Check) -> None:
    """A gradient is linear in the one that comes in: of zeros it is zero."""
    outputs = c.outputs()
    if not outputs:
        return
    found = _gradients(outputs, c.variables, [fn.zeros_like(o) for o in outputs])
    for g, x in zip(found, c.variables, strict=True):
        if g is None:
            continue
        if np.any(fn.detach(g)._fetch() != 0):
            raise GradcheckError("backward not multiplied by grad_output")
        if g.dtype is not x.dtype:
            raise GradcheckError("grad is incorrect type")
        if g.device is not x.device:
            raise GradcheckError("grad is incorrect device")
        if g._spec.shape != x._spec.shape:
            raise GradcheckError("grad is incorrect size")


def _check_undefined(c: _Check) -> None:
    """Backward must do with gradients for some of the results only."""
    outputs = c.outputs()
    for i in range(len(outputs) if len(outputs) > 1 else 0):
        some = [o for k, o in enumerate(outputs) if k != i]
        try:
            _gradients(some, c.variables, [fn.zeros_like(o) for o in some])
        except (ProgramError, TypeError, AttributeError) as e:
            raise GradcheckError(
                "Expected backward function to handle undefined output grads. Please look at "
                '"Notes about undefined output gradients" in the documentation of backward.'
            ) from e


def _check_batched(c: _Check) -> None:
    """Gradients of many seeds at once are those of each by itself."""
    for i, o in enumerate(c.outputs()):
        rng = np.random.default_rng(i)
        seeds = upload(o.session, rng.uniform(-1, 1, (2, *o._spec.shape)), o._spec.dtype,
                       o._spec.device)  # fmt: skip
        try:
            together = _autograd.grad(o, c.variables, seeds, retain_graph=True, allow_unused=True,
                                      is_grads_batched=True)  # fmt: skip
        except ProgramError as e:
            raise GradcheckError(
                "While testing batched gradients: gradcheck or gradgradcheck failed. Original "
                f"error: {e}"
            ) from e
        for k in range(2):
            apart = _gradients([o], c.variables, [fn.select(seeds, 0, k)])
            for j, (a, b) in enumerate(zip(together, apart, strict=True)):
                if b is None:
                    continue
                have = fn.detach(fn.select(a, 0, k))._fetch()
                want = fn.detach(b)._fetch()
                if not c.close(have, want):
                    raise GradcheckError(
                        f"For output {i} and input {j}: batched gradients differ from those of each"
                        f" seed:\nexpected:{want}\ngot:{have}"
                    )


def _check_inputs(inputs: tuple[Any, ...]) -> None:
    if not any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
        raise BadValueError(
            "gradcheck expects at least one input tensor to require gradient, but none of the them "
            "have requires_grad=True."
        )
    for i, x in enumerate(inputs):
        if not _is_differentiable(x):
            continue
        if x._spec.dtype.name not in ("float64", "complex128"):
            warnings.warn(
                f"Input #{i} requires gradient and is not a double precision floating point or "
                "complex. This check will likely fail if all the inputs are not of double "
                "precision floating point or complex. ",
                stacklevel=4,
            )
        for n, stride in zip(x._spec.shape, x._spec.stride, strict=True):
            if n > 1 and stride == 0:
                raise ParameterError(
                    f"The {i}th input has a dimension with stride 0. gradcheck only supports inputs"
                    " that are non-overlapping to be able to compute the numerical gradients "
                    "correctly. You should call .contiguous on the input before passing it to "
                    "gradcheck."
                )
        if not x.is_leaf:
            x.retain_grad()


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_batched_forward_grad: bool = False,
    check_forward_ad: bool = False,
    check_backward_ad: bool = True,
    fast_mode: bool = False,
    masked: bool | None = None,
) -> bool:
    """Return True if the gradients of func agree with central differences. Waits.

    inputs: a tensor or a tuple; those of float64 that require grad are varied by `eps`. A mismatch
    beyond atol + rtol * |difference| raises GradcheckError, or returns False without
    raise_exception. fast_mode compares one random projection of each Jacobian.
    """
    assert check_forward_ad or check_backward_ad, (
        "Expected at least one of check_forward_ad or check_backward_ad to be True"
    )
    assert check_backward_ad or not check_batched_grad, (
        "Setting check_batched_grad=True requires check_backward_ad to be True"
    )
    assert check_forward_ad or not check_batched_forward_grad, (
        "Setting check_batched_forward_grad=True requires check_forward_ad to be True"
    )
    given = _as_tuple(inputs)
    _check_inputs(given)
    c = _Check(func, given, eps, atol, rtol, nondet_tol, check_grad_dtypes)
    try:
        if not c.outputs():
            _check_constant(c)
            return True
        (_check_fast if fast_mode else _check_slowly)(c, check_backward_ad, check_forward_ad)
        if not check_backward_ad:
            return True
        if check_batched_grad:
            _check_batched(c)
        _check_zero_seeds(c)
        if check_undefined_grad:
            _check_undefined(c)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def _check_constant(c: _Check) -> None:
    for at in c.at:
        if any(not np.allclose(rows, 0, atol=c.atol) for rows in _numerical(c, at, lambda o: o)):
            raise GradcheckError("Numerical gradient for function expected to be zero")


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    gen_non_contig_grad_outputs: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_fwd_over_rev: bool = False,
    check_rev_over_rev: bool = True,
    fast_mode: bool = False,
    masked: bool = False,
) -> bool:
    """Return True if the gradients of func's gradients agree with differences: see `gradcheck`.

    grad_outputs: the gradients that come in; random ones by default, varied as well.
    """
    given = _as_tuple(inputs)
    outputs = _differentiable(func(*given))
    if grad_outputs is None:
        rng = np.random.default_rng(1)
        seeds = tuple(_drawn(rng, o, gen_non_contig_grad_outputs) for o in outputs)
    else:
        seeds = _as_tuple(grad_outputs)
    count = len(seeds)
    needs = [_is_differentiable(x) for x in given]

    def gradient(*args: Any) -> Any:
        own = args[: len(args) - count]
        made = _differentiable(func(*own))
        chosen = [x for x, need in zip(own, needs, strict=True) if need]
        found = _autograd.grad(made, chosen, args[len(args) - count :], create_graph=True,
                               allow_unused=True)  # fmt: skip
        return tuple(g for g in found if g is not None)

    return gradcheck(
        gradient, (*given, *seeds), eps=eps, atol=atol, rtol=rtol, raise_exception=raise_exception,
        nondet_tol=nondet_tol, check_undefined_grad=check_undefined_grad,
        check_grad_dtypes=check_grad_dtypes, check_batched_grad=check_batched_grad,
        check_forward_ad=check_fwd_over_rev, check_backward_ad=check_rev_over_rev,
        fast_mode=fast_mode, masked=masked,
    )  # fmt: skip


def _drawn(rng: Any, like: Tensor, strided: bool) -> Tensor:
    """Return random numbers in [-1, 1) of a result's shape, that require grad."""
    spec = like._spec
    values = np.asarray(rng.uniform(-1, 1, spec.shape))
    if spec.dtype.is_complex:
        values = values + 1j * rng.uniform(-1, 1, spec.shape)
    if strided and values.ndim:
        wide = upload(like.session, np.repeat(values, 2, -1), spec.dtype, spec.device)
        made = fn.slice(wide, -1, 0, None, 2)
    else:
        made = upload(like.session, values, spec.dtype, spec.device)
    return made.requires_grad_()
