"""Derivatives of functions: jacobian, hessian and their products with vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._autograd import grad
from .._grad_mode import enable_grad
from .._tensor import Tensor
from ..core.call import fn
from ..core.errors import ArgumentError, AutogradError, ShapeError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable


def _prepared(inputs: Any, create_graph: bool) -> tuple[bool, tuple[Tensor, ...]]:
    """Return whether there were several inputs, and fresh tensors that require grad."""
    several = isinstance(inputs, (tuple, list))
    given = tuple(inputs) if several else (inputs,)
    _check_tensors(given, several, "inputs given")
    if create_graph:
        return several, tuple(fn.view(x, x._spec.shape) if x.requires_grad else
                              fn.detach(x).requires_grad_() for x in given)  # fmt: skip
    return several, tuple(fn.clone(fn.detach(x)).requires_grad_() for x in given)


def _called(func: Callable[..., Any], inputs: tuple[Tensor, ...]) -> tuple[bool, tuple[Any, ...]]:
    made = func(*inputs)
    several = isinstance(made, (tuple, list))
    found = tuple(made) if several else (made,)
    _check_tensors(found, several, "outputs of the user-provided function")
    return several, found


def _check_tensors(given: tuple[Any, ...], several: bool, name: str) -> None:
    for i, x in enumerate(given):
        if not isinstance(x, Tensor):
            where = f"value at index {i}" if several else f"given {name}"
            raise ArgumentError(
                f"The {name} must be either a Tensor or a tuple of Tensors but the {where} has type"
                f" {type(x)}."
            )


def _vector(v: Any, like: tuple[Tensor, ...], what: str) -> tuple[Tensor, ...]:
    if v is None:
        if len(like) != 1 or like[0].numel() != 1:
            raise ShapeError(f"The vector v can only be None if the user-provided function {what}")
        return (fn.ones_like(like[0]),)
    given = tuple(v) if isinstance(v, (tuple, list)) else (v,)
    for i, (x, y) in enumerate(zip(given, like, strict=True)):
        if x._spec.shape != y._spec.shape:
            raise ShapeError(
                f"Entry {i} of v has shape {list(x.shape)} and should have {list(y.shape)}"
            )
    return given


def _gradients(
    outputs: Any, inputs: Any, vectors: Any, create_graph: bool, strict: bool = False
) -> tuple[Tensor, ...]:
    """Return gradients, zeros for inputs that play no part (or an error if strict)."""
    pairs = [(o, v) for o, v in zip(outputs, vectors, strict=True) if o.requires_grad]
    found: Any = [None] * len(inputs)
    if pairs:
        found = grad([o for o, _ in pairs], inputs, [v for _, v in pairs], retain_graph=True,
                     create_graph=create_graph, allow_unused=True)  # fmt: skip
    for i, g in enumerate(found):
        if g is None and strict:
            raise AutogradError(
                f"The output of the user-provided function is independent of input {i}. This is "
                "not allowed in strict mode."
            )
    return tuple(fn.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True))


def _result(values: tuple[Any, ...], several: bool, create_graph: bool) -> Any:
    if not create_graph:
        values = tuple(fn.detach(x) for x in values)
    return values if several else values[0]


def vjp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """Return ``func(*inputs)`` and the product of v with its Jacobian."""
    with enable_grad():
        many, xs = _prepared(inputs, create_graph)
        several, outputs = _called(func, xs)
        vectors = _vector(v, outputs, "returns a single Tensor with a single element.")
        found = _gradients(outputs, xs, vectors, create_graph, strict)
    return _result(outputs, several, create_graph), _result(found, many, create_graph)


def jvp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """Return ``func(*inputs)`` and the product of its Jacobian with v, by differentiating twice."""
    with enable_grad():
        _, xs = _prepared(inputs, create_graph)
        vectors = _vector(v, xs, "has a single input Tensor with a single element.")
        several, outputs = _called(func, xs)
        dummies = [fn.zeros_like(o).requires_grad_() for o in outputs]
        first = _gradients(outputs, xs, dummies, True, strict)
        used = [(g, w) for g, w in zip(first, vectors, strict=True) if g.requires_grad]
        found = _gradients([g for g, _ in used], dummies, [w for _, w in used], create_graph)
    return _result(outputs, several, create_graph), _result(found, several, create_graph)


def jacobian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:
    """Return the derivatives of every output element by every input element.

    Shape: output.shape + input.shape; nested tuples for several outputs and inputs. One backward
    pass an output element; with `vectorize` one batched pass for all, or with the strategy
    "forward-mode" one for all input elements.
    """
    _check_strategy(strategy, create_graph, strict, vectorize)
    if strategy == "forward-mode":
        return _by_columns(func, inputs)
    with enable_grad():
        many, xs = _prepared(inputs, create_graph)
        several, outputs = _called(func, xs)
        if strict:
            _check_outputs(outputs)
        rows_of = _rows_at_once if vectorize else _rows
        rows = tuple(rows_of(out, xs, create_graph, strict) for out in outputs)
    blocks = tuple(_result(row, many, create_graph) for row in rows)
    return blocks if several else blocks[0]


def _check_strategy(strategy: str, create_graph: bool, strict: bool, vectorize: bool) -> None:
    name = "torch.autograd.functional.jacobian"
    assert strategy in ("forward-mode", "reverse-mode"), (
        'Expected strategy to be either "forward-mode" or "reverse-mode". Hint: If your function '
        'has more outputs than inputs, "forward-mode" tends to be more performant. Otherwise, '
        'prefer to use "reverse-mode".'
    )
    if strategy == "forward-mode":
        if create_graph:
            raise UnsupportedError(
                f'{name}: `create_graph=True` and `strategy="forward-mode"` are not supported '
                "together (yet). Please either set `create_graph=False` or "
                '`strategy="reverse-mode"`.'
            )
        if strict:
            raise AutogradError(
                f'{name}: `strict=True` and `strategy="forward-mode"` are not supported together '
                '(yet). Please either set `strict=False` or `strategy="reverse-mode"`.'
            )
        if not vectorize:
            raise UnsupportedError(
                "Computing Jacobian using forward-AD or forward-over-reverse Hessian is only "
                "implemented for `vectorize=True`."
            )
    elif strict and vectorize:
        raise AutogradError(
            f"{name}: `strict=True` and `vectorized=True` are not supported together. Please either"
            " set `strict=False` or `vectorize=False`."
        )


def _check_outputs(outputs: tuple[Any, ...]) -> None:
    for i, out in enumerate(outputs):
        if not out.requires_grad:
            raise AutogradError(
                f"Output {i} of the user-provided function does not require gradients. The outputs "
                "must be computed in a differentiable manner from the input when running in strict "
                "mode."
            )


def _by_columns(func: Callable[..., Any], inputs: Any) -> Any:
    """Return the Jacobian by one batched pass for all elements of the inputs."""
    from ..func import jacfwd

    many = isinstance(inputs, (tuple, list))
    xs = tuple(fn.detach(x) for x in (inputs if many else (inputs,)))
    made = jacfwd(func, tuple(range(len(xs))))(*xs)
    if isinstance(made, tuple) and made and isinstance(made[0], tuple):
        return made if many else tuple(row[0] for row in made)
    return made if many else made[0]


def _rows_at_once(
    out: Tensor, xs: tuple[Tensor, ...], create_graph: bool, strict: bool
) -> tuple[Tensor, ...]:
    """Return d out / d x for each x, all rows in one batched pass."""
    n = out.numel()
    found: Any = [None] * len(xs)
    if n and out.requires_grad:
        basis = fn.reshape(fn.eye(n, dtype=out.dtype, device=out.device), (n, *out.shape))
        found = grad(out, xs, basis, retain_graph=True, create_graph=create_graph,
                     allow_unused=True, is_grads_batched=True)  # fmt: skip
    return tuple(
        fn.new_zeros(x, (*out.shape, *x.shape)) if g is None
        else fn.reshape(g, (*out.shape, *x.shape))
        for g, x in zip(found, xs, strict=True)
    )  # fmt: skip


def _rows(
    out: Tensor, xs: tuple[Tensor, ...], create_graph: bool, strict: bool
) -> tuple[Tensor, ...]:
    """Return d out / d x for each x."""
    flat = fn.reshape(out, (-1,))
    picked = [fn.select(flat, 0, i) for i in range(out.numel())]
    found = [_gradients((p,), xs, (None,), create_graph, strict) for p in picked]
    return tuple(
        fn.reshape(fn.stack([row[i] for row in found], 0), (*out.shape, *x.shape))
        if found
        else fn.new_zeros(x, (*out.shape, *x.shape))
        for i, x in enumerate(xs)
    )


def _one_number(outputs: tuple[Any, ...]) -> Tensor:
    if len(outputs) != 1 or not isinstance(outputs[0], Tensor) or outputs[0].numel() != 1:
        raise ShapeError(
            "The function given to hessian, vhp or hvp must return one Tensor with one element"
        )
    return outputs[0]


def hessian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """Return the second derivatives of a function of one number."""
    several = isinstance(inputs, (tuple, list))
    assert outer_jacobian_strategy in ("forward-mode", "reverse-mode"), (
        'Expected strategy to be either "forward-mode" or "reverse-mode".'
    )

    def gradient(*xs: Tensor) -> Any:
        out = _one_number(_called(func, xs)[1])
        found = _gradients((out,), xs, (None,), True, strict)
        return found if several else found[0]

    return jacobian(gradient, inputs, create_graph, strict, vectorize, outer_jacobian_strategy)


def vhp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """Return ``func(*inputs)`` and the product of v with its Hessian."""
    with enable_grad():
        many, xs = _prepared(inputs, create_graph)
        vectors = _vector(v, xs, "has a single input Tensor with a single element.")
        out = _one_number(_called(func, xs)[1])
        first = _gradients((out,), xs, (None,), True, strict)
        found = _gradients(first, xs, vectors, create_graph)
    return _result((out,), False, create_graph), _result(found, many, create_graph)


#: The Hessian is symmetric, so the product from the right is the one from the left.
hvp = vhp
