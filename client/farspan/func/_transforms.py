"""grad, vjp, jvp and linearize: functions of functions, over trees of tensors."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from .._batching.tensor import union
from .._dispatch import mode
from .._tensor import Tensor
from ..utils._pytree import tree_flatten, tree_unflatten, treespec_pprint
from ._differentiable import Inputs, Linear, filled, pulled, transform, two
from ._vmap import TransformError

if TYPE_CHECKING:
    from collections.abc import Callable

Argnums = int | tuple[int, ...]


# ------------------------------------------------------------------------------------ arguments --
def _place(argnum: Any, count: int) -> int:
    if not isinstance(argnum, int):
        raise TransformError(f"argnum must be int, got: {type(argnum)}")
    if not -count <= argnum < count:
        raise TransformError(f"Got argnum={argnum}, but only {count} positional inputs")
    return argnum % count


def places_of(argnums: Argnums, count: int) -> tuple[int, ...]:
    """Return the positions of the differentiated arguments."""
    if not isinstance(argnums, (int, tuple)):
        raise TransformError(f"argnums must be int or Tuple[int, ...], got: {type(argnums)}")
    if isinstance(argnums, int):
        return (_place(argnums, count),)
    places = tuple(_place(a, count) for a in argnums)
    if not places:
        raise TransformError("argnums must be non-empty")
    if len(set(places)) != len(places):
        raise TransformError(f"argnums elements must be unique, got {argnums}")
    return places


def chosen(args: tuple[Any, ...], argnums: Argnums) -> Any:
    """Return the differentiated argument, or a tuple of them."""
    places = places_of(argnums, len(args))
    return args[places[0]] if isinstance(argnums, int) else tuple(args[p] for p in places)


def replaced(args: tuple[Any, ...], fresh: Any, argnums: Argnums) -> tuple[Any, ...]:
    """Return the arguments with fresh ones in the places of the differentiated."""
    places = places_of(argnums, len(args))
    new = (fresh,) if isinstance(argnums, int) else fresh
    return tuple(new[places.index(i)] if i in places else a for i, a in enumerate(args))


# ----------------------------------------------------------------------------------------- grad --
def grad(
    func: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return a function that returns the gradient of func's one number by its arguments.

    argnums: which arguments; a tuple gives a tuple. has_aux: func returns (number, aux), and the
    new function (gradient, aux). Arguments and gradients may be trees. May be nested, also with
    vmap: ``vmap(grad(f), in_dims=(None, 0))`` gives a gradient a sample. Does not wait.

    >>> import farspan
    >>> farspan.func.grad(lambda x: x**3)(farspan.tensor(2.0))
    tensor(12.)
    """
    both = grad_and_value(func, argnums, has_aux)

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        found, made = both(*args, **kwargs)
        return (found, made[1]) if has_aux else found

    return wrapper


def grad_and_value(
    func: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return a function of (gradient, func's number): see `grad`."""

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with transform() as tracked:
            inputs = Inputs(chosen(args, argnums), tracked)
            made = func(*replaced(args, inputs.tree, argnums), **kwargs)
            aux = None
            if has_aux:
                made, aux = two(made, "grad_and_value(f)(*args): output of function f should be a "
                                "tuple: (output, aux) if has_aux is True")  # fmt: skip
            _check_number(made)
            connected = inputs.connected([made])
            found = pulled([made], inputs.flat, [None], connected, connected)
            gradients = tree_unflatten(filled(found, inputs.flat), inputs.spec)
            made, aux = inputs.leave(made), inputs.leave(aux)
        return (gradients, (made, aux)) if has_aux else (gradients, made)

    return wrapper


def _check_number(made: Any) -> None:
    if not isinstance(made, Tensor):
        raise TransformError(
            f"grad_and_value(f)(*args): Expected f(*args) to return a Tensor, got {type(made)}"
        )
    if made._spec.ndim:
        raise TransformError(
            "grad_and_value(f)(*args): Expected f(*args) to return a scalar Tensor, got tensor with"
            f" {made._spec.ndim} dims. Maybe you wanted to use the vjp or jacrev APIs instead?"
        )


# ------------------------------------------------------------------------------------------ vjp --
def check_outputs(flat: list[Any], api: str) -> None:
    """Raise unless all results are tensors, and there is one."""
    if not flat or (len(flat) == 1 and flat[0] is None):
        raise TransformError(
            f"{api}: Expected f to be a function that has non-empty output (got output = {flat})"
        )
    for x in flat:
        if not isinstance(x, Tensor):
            raise TransformError(
                f"{api}: expected f(*primals) to return only tensors, got unsupported type "
                f"{type(x)}"
            )


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """Return (func's results, a function from cotangents of these to those of the primals).

    has_aux: func returns (results, aux); then (results, function, aux) is returned.
    """
    made, pull, aux = vjp_of(func, primals, None, has_aux)[:3]
    return (made, pull, aux) if has_aux else (made, pull)


def vjp_of(
    func: Callable[..., Any], args: tuple[Any, ...], argnums: Argnums | None, has_aux: bool
) -> tuple[Any, Callable[..., Any], Any, list[Tensor]]:
    """Return what `vjp` does by some of the arguments; the flat inputs come last."""
    with transform() as tracked:
        inputs = Inputs(args if argnums is None else chosen(args, argnums), tracked)
        call = inputs.tree if argnums is None else replaced(args, inputs.tree, argnums)
        made = func(*call)
        aux = None
        if has_aux:
            made, aux = two(made, "vjp(f, *primals): output of function f should be a tuple: "
                            "(output, aux) if has_aux is True")  # fmt: skip
        flat, spec = tree_flatten(made)
        check_outputs(flat, "vjp(f, *primals)")
        for x in flat:
            if x._spec.dtype.category < 2:
                raise TransformError(
                    "vjp(f, ...): All outputs of f must be floating-point or complex Tensors, got "
                    f"Tensor with dtype {x.dtype}"
                )
        results, aux = inputs.leave(made), inputs.leave(aux)
        reaches = inputs.connected(flat)

    def pull(cotangents: Any, retain_graph: bool = True, create_graph: bool | None = None) -> Any:
        given, structure = tree_flatten(cotangents)
        if structure != spec:
            raise TransformError(
                "Expected pytree structure of cotangents to be the same as pytree structure of "
                f"outputs to the function. cotangents: {treespec_pprint(structure)}, primal output:"
                f" {treespec_pprint(spec)}"
            )
        create = mode.grad if create_graph is None else create_graph
        create = create and (reaches or any(c.requires_grad for c in given))
        found = pulled(flat, inputs.flat, given, retain_graph, create)
        return tree_unflatten(filled(found, inputs.flat), inputs.spec)

    return results, pull, aux, inputs.flat


# ------------------------------------------------------------------------------------------ jvp --
_JVP = "jvp(f, primals, tangents)"


def _check_tensors(flat: list[Any], name: str) -> None:
    if not flat:
        raise TransformError(f"{_JVP}: Expected {name} to contain at least one Tensor.")
    for x in flat:
        if not isinstance(x, Tensor):
            raise TransformError(f"{_JVP}: Expected {name} to only contain Tensors, got {type(x)}")


def jvp(
    func: Callable[..., Any], primals: Any, tangents: Any, *, strict: bool = False,
    has_aux: bool = False,
) -> Any:  # fmt: skip
    """Return (func's results, their tangents) for tangents of the primals.

    By two reverse passes, since ops have no forward rules; the derivatives are the same. strict: an
    error for results that do not depend on the primals. has_aux: func returns (results, aux).
    """
    if not isinstance(primals, tuple):
        raise TransformError(
            f"{_JVP}: Expected primals to be a tuple. E.g. it should be valid to call f(*primals)."
        )
    flat, spec = tree_flatten(primals)
    given, structure = tree_flatten(tangents)
    if spec != structure:
        raise TransformError(
            f"{_JVP}: Expected primals and tangents to have the same python structure. For example,"
            f" if primals is a tuple of 3 tensors, tangents also must be. Got primals with "
            f"structure {spec} and tangents with structure {structure}"
        )
    _check_tensors(flat, "primals")
    _check_tensors(given, "tangents")
    with transform() as tracked:
        inputs = Inputs(primals, tracked, union(given))
        made = func(*inputs.tree)
        aux = None
        if has_aux:
            made, aux = two(made, f"{_JVP}: output of function f should be a tuple: (output, aux) "
                            "if has_aux is True")  # fmt: skip
        outputs, out_spec = tree_flatten(made)
        check_outputs(outputs, _JVP)
        linear = Linear(outputs, inputs.flat)
        found = _pushed(linear, inputs, given)
        if strict and any(t is None for t in found):
            raise TransformError(
                "jvp(f, primals, tangents, strict=True): The output of f is independent of the "
                "inputs. This is not allowed with strict=True."
            )
        pushed = tree_unflatten(filled(found, outputs), out_spec)
        made, aux = inputs.leave(made), inputs.leave(aux)
    return (made, pushed, aux) if has_aux else (made, pushed)


def _pushed(linear: Linear, inputs: Inputs, tangents: list[Tensor]) -> list[Tensor | None]:
    """Return the outputs' tangents, recorded if a graph outside has a part in them."""
    inputs.leaves |= linear.own_leaves()
    create = inputs.connected([*linear.roots(), *tangents])
    return linear.push(tangents, create)


def linearize(func: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """Return func's results and the function from tangents of the primals to theirs.

    func runs once, however often the returned function is called.
    """
    flat, spec = tree_flatten(primals)
    with transform() as tracked:
        inputs = Inputs(primals, tracked)
        made = func(*inputs.tree)
        outputs, out_spec = tree_flatten(made)
        check_outputs(outputs, "linearize(f, *primals)")
        linear = Linear(outputs, inputs.flat)
        made = inputs.leave(made)

    def push(*tangents: Any) -> Any:
        given, structure = tree_flatten(tangents)
        if structure != spec:
            raise TransformError(
                f"Expected the tangents {structure} to have the same argspec as the primals {spec}"
            )
        for i, (t, x) in enumerate(zip(given, flat, strict=True)):
            for what in ("shape", "device", "dtype"):
                have, want = getattr(t, what), getattr(x, what)
                if have != want:
                    raise TransformError(
                        f"tangent:{i} with {what} {have} in flattened pytree doesn't match the "
                        f"{what} {want} of the corresponding primal."
                    )
        found = _pushed(linear, inputs, given)
        return tree_unflatten(filled(found, outputs), out_spec)

    return made, push


# --------------------------------------------------------------------------------------- others --
def functionalize(func: Callable[..., Any], *, remove: str = "mutations") -> Callable[..., Any]:
    """Return a function of the same results.

    In torch this rewrites in-place ops for tracers. Commands to a worker are never rewritten, so
    what is left of it here is its promise: the results, and what is written to the arguments.
    """
    if remove not in ("mutations", "mutations_and_views"):
        raise TransformError(
            f"functionalize(f, remove='mutations'): received invalid argument for remove={remove}. "
            "Valid options are: 'mutations', 'mutations_and_views'"
        )

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return wrapped


def debug_unwrap(tensor: Tensor, *, recurse: bool = True) -> Tensor:
    """Return what a batched tensor holds: all samples; with recurse=False one level less."""
    from .._batching.tensor import lower, value

    if not tensor._levels:
        return tensor
    return value(tensor) if recurse else lower(tensor, tensor._levels[-1:])
