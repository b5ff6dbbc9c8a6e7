"""torch.library: operators of a program's own, which are Python functions with a derivative.

``custom_op("mine::f", fn)`` is called by its own value and as ``torch.ops.mine.f``. Autograd does
not look into it: its derivative is what `register_autograd` gave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from . import ops
from .autograd import Function, no_grad
from .core.call import Value, unsupported
from .core.errors import AutogradError, BadValueError

__all__ = [
    "CustomOpDef", "Library", "custom_op", "define", "impl", "register_autograd", "register_fake",
    "register_kernel",
]  # fmt: skip


class CustomOpDef:
    """An operator that `custom_op` made; callable, and a decorator for its parts."""

    def __init__(self, qualname: str, function: Callable[..., Any]) -> None:
        self._qualname = qualname
        self._function = function
        self._backward: Callable[..., Any] | None = None
        self._setup: Callable[..., Any] | None = None
        self.__name__ = qualname.partition("::")[2]
        self.__doc__ = function.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        def run(*tensors: Any) -> Any:
            with no_grad():
                return self._function(*tensors, **kwargs)

        if not any(isinstance(a, Value) and a.requires_grad for a in args):  # type: ignore[attr-defined]
            return run(*args)
        return self._recorded(run).apply(*args)

    def _recorded(self, run: Callable[..., Any]) -> Any:
        """Return the Function that runs the operator and, backwards, its registered derivative."""
        op = self

        class Recorded(Function):
            @staticmethod
            def forward(ctx: Any, *args: Any) -> Any:
                output = run(*args)
                if op._setup is not None:
                    op._setup(ctx, args, output)
                return output

            @staticmethod
            def backward(ctx: Any, *grads: Any) -> Any:
                if op._backward is None:
                    raise AutogradError(
                        f"Trying to backward through {op._qualname} but no autograd formula was "
                        "registered. Please use register_autograd to add one."
                    )
                return op._backward(ctx, *grads)

        return Recorded

    def register_autograd(
        self, backward: Callable[..., Any], /, *, setup_context: Callable[..., Any] | None = None
    ) -> None:
        """Let ``backward(ctx, *grads)`` be the derivative.

        setup_context(ctx, inputs, output) keeps in ctx what backward needs.
        """
        self._backward, self._setup = backward, setup_context

    def register_fake(self, fn: Callable[..., Any], /) -> Callable[..., Any]:
        """Return fn: shapes come from running the operator, nothing is compiled."""
        return fn

    def register_kernel(
        self, device_types: Any, fn: Callable[..., Any] | None = None, /
    ) -> Callable[..., Any]:
        """Let fn be the operator's function, on every kind of device. Works as a decorator."""
        if fn is None:
            return lambda f: self.register_kernel(device_types, f)
        self._function = fn
        return fn


_made: dict[str, CustomOpDef] = {}


def custom_op(
    name: str,
    fn: Callable[..., Any] | None = None,
    /,
    *,
    mutates_args: str | Iterable[str],
    device_types: Any = None,
    schema: str | None = None,
    tags: Any = None,
) -> Any:
    """Return an operator `namespace::name` of a Python function; without fn, a decorator.

    The schema is not needed: arguments are passed as they come. ValueError without a namespace.
    """
    if fn is None:
        return lambda f: custom_op(name, f, mutates_args=mutates_args, schema=schema)
    namespace, _, base = name.partition("::")
    if not base:
        raise BadValueError(f"expected a name of the form namespace::name, got {name!r}")
    made = _made[name] = CustomOpDef(name, fn)
    setattr(getattr(ops, namespace), base, made)
    return made


def _of(op: Any) -> CustomOpDef:
    found = op if isinstance(op, CustomOpDef) else _made.get(op)
    if found is None:
        raise BadValueError(f"{op} is no operator that torch.library.custom_op made")
    return found


def register_autograd(
    op: Any, backward: Callable[..., Any], /, *, setup_context: Any = None, lib: Any = None
) -> None:
    """Give an operator its derivative: see `CustomOpDef.register_autograd`."""
    _of(op).register_autograd(backward, setup_context=setup_context)


def register_fake(
    op: Any, func: Callable[..., Any] | None = None, /, *, lib: Any = None, **kwargs: Any
) -> Any:
    """Return func: shapes come from running the operator. Works as a decorator."""
    return (lambda f: f) if func is None else func


def register_kernel(
    op: Any, device_types: Any, func: Callable[..., Any] | None = None, /, *, lib: Any = None
) -> Any:
    """Let func be an operator's function. Works as a decorator."""
    return _of(op).register_kernel(device_types, func)


_WHY = "operators are made by torch.library.custom_op of a Python function"
Library, define, impl = (unsupported(f"library.{n}", _WHY) for n in ("Library", "define", "impl"))
