"""torch.overrides: the hooks of tensor-like classes, for libraries that ask whether to use them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ._tensor import Tensor
from .core.errors import UnsupportedError

__all__ = [
    "TorchFunctionMode", "handle_torch_function", "has_torch_function", "has_torch_function_unary",
    "has_torch_function_variadic", "is_tensor_like",
    "resolve_name",
]  # fmt: skip


class TorchFunctionMode:
    """What sees every call of torch's API while it is entered, in torch; here it cannot be."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        raise NotImplementedError

    def __enter__(self) -> TorchFunctionMode:
        raise UnsupportedError(
            f"{type(self).__name__}: calls of the API are not passed to modes; put hooks on "
            "modules or tensors instead"
        )

    def __exit__(self, *error: object) -> None:
        """Nothing was entered."""


def has_torch_function(relevant_args: Iterable[Any]) -> bool:
    """Return whether any argument's class, other than Tensor's own, has `__torch_function__`."""
    return any(
        hasattr(type(x), "__torch_function__") and not isinstance(x, Tensor) for x in relevant_args
    )


def has_torch_function_unary(tensor: Any, /) -> bool:
    """Return `has_torch_function` of one argument."""
    return has_torch_function((tensor,))


def has_torch_function_variadic(*args: Any) -> bool:
    """Return `has_torch_function` of the arguments."""
    return has_torch_function(args)


def handle_torch_function(
    public_api: Callable[..., Any], relevant_args: Iterable[Any], *args: Any, **kwargs: Any
) -> Any:
    """Return what the first `__torch_function__` makes of the call; TypeError if none does."""
    overloaded = [x for x in relevant_args if has_torch_function_unary(x)]
    types = tuple(type(x) for x in overloaded)
    for x in overloaded:
        made = type(x).__torch_function__(public_api, types, args, kwargs)
        if made is not NotImplemented:
            return made
    name = f"{public_api.__module__}.{public_api.__name__}"
    raise TypeError(f"no implementation found for {name!r} on types {list(types)}")


def is_tensor_like(inp: Any) -> bool:
    """Return whether it is a Tensor, or of a class with `__torch_function__`."""
    return isinstance(inp, Tensor) or hasattr(type(inp), "__torch_function__")


def resolve_name(f: Any) -> str | None:
    """Return a function of torch's by its dotted name; None for anything else."""
    from importlib import import_module

    name = getattr(f, "__name__", None)
    for space in ("linalg", "fft", "special", "", "Tensor", "nn.functional") if name else ():
        home = Tensor if space == "Tensor" else import_module(f"farspan.{space}".rstrip("."))
        public = str(name).removeprefix(f"{space}_")
        if getattr(home, public, None) is f:
            return ".".join(filter(None, ("torch", space, public)))
    return None
