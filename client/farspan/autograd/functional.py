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


def _prepared(inputs: Any, create_graph: bool, name: str) -> tuple[bool, tuple[Tensor, ...]]:
    """Return whether there were several inputs, and fresh tensors that require grad."""
    several, given = _tensors(inputs, "inputs", name)
    if create_graph:
        return several, tuple(fn.view(x, x._spec.shape) if x.requires_grad else
                              fn.detach(x).requires_grad_() for x in given)  # fmt: skip
    return several, tuple(fn.clone(fn.detach(x)).requires_grad_() for x in given)


def _called(
    func: Callable[..., Any], inputs: tuple[Tensor, ...], name: str, strict: bool
) -> tuple[bool, tuple[Any, ...]]:
    """Return whether the function gave several outputs, and them; strict: all in the graph."""
    several, found = _tensors(func(*inputs), "outputs of the user-provided function", name)
    if strict:
        _check_outputs(found)
    return several, found


def _tensors(given: Any, what: str, name: str) -> tuple[bool, tuple[Tensor, ...]]:
    """Return whether these are several, and a tuple of them. ArgumentError if not all tensors."""
    several = isinstance(given, tuple)  # a list is refused, as in torch
    found = given if several else (given,)
    for i, x in enumerate(found):
        if not isinstance(x, Tensor):
            where = f"value at index {i}" if several else f"given {what}"
            raise ArgumentError(
                f"The {what} given to {name} must be either a Tensor or a tuple of Tensors but the "
                f"{where} has type {type(x)}."
            )
    return several, found


def _vector(
    v: Any, like: tuple[Tensor, ...], several: bool, name: str, source: str
) -> tuple[Tensor, ...]:
    """Return the vectors of a product, shaped like the tensors; by default a one for one number."""
    if v is None:
        if len(like) != 1 or like[0].numel() != 1:
            raise ShapeError(
                f"The vector v can only be None if {source} a single Tensor with a single element."
            )
        return (fn.ones_like(like[0]),)
    _, given = _tensors(v, "v", name)
    if len(given) != len(like):
        raise ShapeError(
            f"v is a tuple of invalid length: should be {len(like)} but got {len(given)}."
            if several
            else "The given v should contain a single Tensor."
        )
    for i, (x, y) in enumerate(zip(given, like, strict=True)):
        if x._spec.shape != y._spec.shape:
            entry = f"Entry {i} in v" if several else "v"
            raise ShapeError(f"{entry} has invalid size: should be {y.size()} but got {x.size()}.")
    return given


_BY_RESULT = "the user-provided function returns"
_BY_INPUT = "the input to the user-provided function is"


def _gradients(
    outputs: Any, inputs: Any, vectors: Any, create_graph: bool, missing: str = ""
) -> tuple[Tensor, ...]:
    """Return gradients, zeros for inputs that play no part; or an error where `missing` says it."""
    pairs = [(o, v) for o, v in zip(outputs, vectors, strict=True) if o.requires_grad]
    found: Any = [None] * len(inputs)
    if pairs:
        found = grad([o for o, _ in pairs], inputs, [v for _, v in pairs], retain_graph=True,
                     create_graph=create_graph, allow_unused=True)  # fmt: skip
    for i, g in enumerate(found):
        if g is None and missing:
            raise AutogradError(missing.format(i))
    return tuple(fn.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True))


_INDEPENDENT = (
    "The output of the user-provided function is independent of input {}. This is not allowed in "
    "strict mode."
)
_CONSTANT = (
    "The jacobian of the user-provided function is independent of input {}. This is not allowed in "
    "strict mode when create_graph=True."
)
_LINEAR = (
    "While computing the hessian, found that the jacobian of the user-provided function with "
    "respect to input {} is independent of the input. This is not allowed in strict mode. You "
    "should ensure that your function is twice differentiable and that the jacobian depends on the "
    "inputs (this would be violated by a linear function for example)."
)


def _check_recorded(found: tuple[Tensor, ...], message: str) -> None:
    """Raise unless every gradient depends on the inputs itself."""
    for i, g in enumerate(found):
        if not g.requires_grad:
            raise AutogradError(message.format(i))


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
        many, xs = _prepared(inputs, create_graph, "vjp")
        several, outputs = _called(func, xs, "vjp", strict)
        vectors = _vector(v, outputs, several, "vjp", _BY_RESULT)
        found = _gradients(outputs, xs, vectors, create_graph, _INDEPENDENT if strict else "")
        if strict and create_graph:
            _check_recorded(found, _CONSTANT)
    return _result(outputs, several, create_graph), _result(found, many, create_graph)


def jvp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """Return ``func(*inputs)`` and the product of its Jacobian with v, by differentiating twice."""
    with enable_grad():
        many, xs = _prepared(inputs, create_graph, "jvp")
        vectors = _vector(v, xs, many, "jvp", _BY_INPUT)
        several, outputs = _called(func, xs, "jvp", strict)
        dummies = [fn.zeros_like(o).requires_grad_() for o in outputs]
        first = _gradients(outputs, xs, dummies, True, _INDEPENDENT if strict else "")
        used = [(g, w) for g, w in zip(first, vectors, strict=True) if g.requires_grad]
        found = _gradients([g for g, _ in used], dummies, [w for _, w in used], create_graph)
        if strict and create_graph:
            _check_recorded(found, _CONSTANT)
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
    return _jacobian(func, inputs, create_graph, strict, vectorize, strategy, "jacobian")


def _jacobian(
    func: Callable[..., Any], inputs: Any, create_graph: bool, strict: bool, vectorize: bool,
    strategy: str, name: str,
) -> Any:  # fmt: skip
    """Return the Jacobian; `name` is the function that messages speak of."""
    _check_strategy(strategy, create_graph, strict, vectorize)
    if strategy == "forward-mode":
        return _by_columns(func, inputs)
    with enable_grad():
        many, xs = _prepared(inputs, create_graph, name)
        several, outputs = _called(func, xs, name, strict)
        rows_of = _rows_at_once if vectorize else _rows
        rows = tuple(
            rows_of(out, xs, create_graph, _independent(i) if strict else "")
            for i, out in enumerate(outputs)
        )
        if strict and create_graph:
            for row in rows:
                _check_recorded(row, _CONSTANT)
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


def _independent(output: int) -> str:
    return (
        f"Output {output} of the user-provided function is independent of input {{}}. This is not "
        "allowed in strict mode."
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
    out: Tensor, xs: tuple[Tensor, ...], create_graph: bool, missing: str
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
    out: Tensor, xs: tuple[Tensor, ...], create_graph: bool, missing: str
) -> tuple[Tensor, ...]:
    """Return d out / d x for each x."""
    flat = fn.reshape(out, (-1,))
    picked = [fn.select(flat, 0, i) for i in range(out.numel())]
    found = [_gradients((p,), xs, (None,), create_graph, missing) for p in picked]
    return tuple(
        fn.reshape(fn.stack([row[i] for row in found], 0), (*out.shape, *x.shape))
        if found
        else fn.new_zeros(x, (*out.shape, *x.shape))
        for i, x in enumerate(xs)
    )


def _one_number(
    func: Callable[..., Any], xs: tuple[Tensor, ...], name: str, strict: bool
) -> Tensor:
    """Return what the function gives for the inputs: one tensor with one element."""
    several, outputs = _called(func, xs, name, strict)
    if several:
        raise ShapeError(f"The function given to {name} should return a single Tensor")
    if outputs[0].numel() != 1:
        raise ShapeError(
            f"The Tensor returned by the function given to {name} should contain a single element"
        )
    return outputs[0]  # type: ignore[no-any-return]


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
        out = _one_number(func, xs, "hessian", strict)
        found = _gradients((out,), xs, (None,), True)
        if strict:
            _check_recorded(found, _LINEAR)
        return found if several else found[0]

    strategy = outer_jacobian_strategy
    return _jacobian(gradient, inputs, create_graph, strict, vectorize, strategy, "hessian")


def vhp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """Return ``func(*inputs)`` and the product of v with its Hessian."""
    return _hessian_product(func, inputs, v, create_graph, strict, "vhp")


def hvp(
    func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """Return ``func(*inputs)`` and the product of its Hessian with v: `vhp`, by symmetry."""
    return _hessian_product(func, inputs, v, create_graph, strict, "hvp")


def _hessian_product(
    func: Callable[..., Any], inputs: Any, v: Any, create_graph: bool, strict: bool, name: str
) -> tuple[Any, Any]:
    with enable_grad():
        many, xs = _prepared(inputs, create_graph, name)
        vectors = _vector(v, xs, many, name, _BY_INPUT)
        out = _one_number(func, xs, name, strict)
        first = _gradients((out,), xs, (None,), True, _INDEPENDENT if strict else "")
        if strict:
            _check_recorded(first, _LINEAR)
        found = _gradients(first, xs, vectors, create_graph)
    return _result((out,), False, create_graph), _result(found, many, create_graph)
