"""A module called with other tensors than its own, which come back after the call."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from farspan._tensor import Tensor
from farspan.nn.module import Module

__all__ = ["functional_call"]


def functional_call(
    module: Module,
    parameters_and_buffers: dict[str, Tensor],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Call ``module`` with the tensors given by name; the older form of torch.func's.

    tie_weights: a tensor given for one name stands in for every name of the same parameter.
    strict: the names must be exactly the module's. What the call writes to the tensors, or puts in
    their place, is found in ``parameters_and_buffers``.
    """
    warnings.warn(
        "`torch.nn.utils.stateless.functional_call` is deprecated as of PyTorch 2.0 and will be "
        "removed in a future version of PyTorch. Please use `torch.func.functional_call` instead "
        "which is a drop-in replacement.",
        FutureWarning,
        stacklevel=2,
    )
    return _functional_call(
        module, parameters_and_buffers, args, kwargs, tie_weights=tie_weights, strict=strict
    )


def _functional_call(
    module: Module,
    parameters_and_buffers: dict[str, Tensor],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    from farspan.nn.parallel import DataParallel

    if isinstance(module, DataParallel):
        raise RuntimeError("The stateless API can't be used with nn.DataParallel module")
    args = () if args is None else args if isinstance(args, tuple) else (args,)
    with _reparametrize_module(
        module, parameters_and_buffers, tie_weights=tie_weights, strict=strict
    ):
        return module(*args, **(kwargs or {}))


@contextlib.contextmanager
def _reparametrize_module(
    module: Module,
    parameters_and_buffers: dict[str, Tensor],
    tie_weights: bool = False,
    strict: bool = False,
) -> Iterator[None]:
    """Let the module hold the tensors given by name inside ``with``."""
    given = parameters_and_buffers
    if tie_weights:
        given = _with_tied(module, given)
    if strict:
        _check_names(module, given)
    places = {name: _place(module, name) for name in given}
    before = {name: _swap(*places[name], tensor) for name, tensor in given.items()}
    try:
        yield
    finally:
        for name, tensor in reversed(before.items()):
            now = _swap(*places[name], tensor)
            if name in parameters_and_buffers:
                parameters_and_buffers[name] = now


def _place(module: Module, path: str) -> tuple[Module, str]:
    """Return the module that owns the tensor at a dotted path, and its name there."""
    prefix, _, name = path.rpartition(".")
    return module.get_submodule(prefix), name


_ABSENT = object()


def _swap(owner: Module, name: str, tensor: Any) -> Any:
    """Put ``tensor`` where ``owner`` has ``name``, past the checks of assignment; return the old.

    A parametrized tensor is a property of the module's own class and wins over its tables, so it
    is replaced there.
    """
    for table in (owner._parameters, owner._buffers):
        if name in table:
            old = table[name]
            table[name] = tensor
            return old
    cls = type(owner)
    if isinstance(cls.__dict__.get(name), property) or isinstance(tensor, property):
        old = cls.__dict__[name]
        setattr(cls, name, tensor)
        return old
    if tensor is _ABSENT:
        return owner.__dict__.pop(name)
    old = owner.__dict__.get(name, _ABSENT)
    owner.__dict__[name] = tensor
    return old


def _names_of(module: Module) -> dict[str, Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _with_tied(module: Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return ``given`` with every other name of the tensors that it replaces."""
    groups: dict[int, list[str]] = {}
    for name, tensor in _names_of(module).items():
        groups.setdefault(id(tensor), []).append(name)
    result = dict(given)
    for names in groups.values():
        mine = [name for name in names if name in given]
        if not mine or len(names) == 1:
            continue
        if len({id(given[name]) for name in mine}) > 1:
            raise ValueError(
                f"functional_call got multiple values for keys {sorted(names)}, which are tied. "
                "Consider using tie_weights=False"
            )
        result.update(dict.fromkeys(names, given[mine[0]]))
    return result


def _check_names(module: Module, given: dict[str, Tensor]) -> None:
    own = _names_of(module)
    problems = []
    for title, names in (
        ("Unexpected", [name for name in given if name not in own]),
        ("Missing", [name for name in own if name not in given]),
    ):
        if names:
            problems.append(f"{title} key(s): {', '.join(map(repr, names))}.")
    if problems:
        raise RuntimeError(
            "Error(s) in reparametrizing for {}:\n\t{}".format(
                module._get_name(), "\n\t".join(problems)
            )
        )
