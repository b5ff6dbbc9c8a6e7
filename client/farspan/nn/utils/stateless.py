"""Calling a module with other tensors in place of its parameters and buffers."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any

from farspan.core.errors import ProgramError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from farspan._tensor import Tensor
    from farspan.nn.module import Module

__all__ = ["functional_call"]


class StatelessError(ProgramError, RuntimeError):
    """Names that the module has not, or tied tensors given two values."""


def functional_call(
    module: Module,
    parameters_and_buffers: dict[str, Tensor],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """As `farspan.func.functional_call`, which takes its place."""
    warnings.warn(
        "This API is deprecated as of PyTorch 2.0. Please use torch.func.functional_call instead",
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
    given = () if args is None else args if isinstance(args, tuple) else (args,)
    with _reparametrized(module, parameters_and_buffers, tie_weights, strict):
        return module(*given, **(kwargs or {}))


def _slots(module: Module) -> dict[str, tuple[dict[str, Any], str]]:
    """Return where each parameter and buffer is held, by its name; tied ones under each name."""
    found = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        for table in (part._parameters, part._buffers):
            for name in table:
                found[f"{prefix}.{name}" if prefix else name] = (table, name)
    return found


def _tied(slots: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with those added that the module ties to them."""
    groups: dict[int, list[str]] = {}
    for name, (table, key) in slots.items():
        if table[key] is not None:
            groups.setdefault(id(table[key]), []).append(name)
    found = dict(given)
    for names in groups.values():
        values = {id(given[n]): given[n] for n in names if n in given}
        if len(values) > 1:
            shown = [n for n in names if n in given]
            raise BadTieError(
                f"functional_call got multiple values for keys {shown}, which are tied. Consider "
                "using tie_weights=False"
            )
        for n in names if values else ():
            found[n] = next(iter(values.values()))
    return found


class BadTieError(ProgramError, ValueError):
    """Tied tensors were given two values."""


def _check_names(module: Module, slots: Any, given: dict[str, Tensor], tied: Any) -> None:
    missing = [n for n in slots if n not in tied and slots[n][0][slots[n][1]] is not None]
    unexpected = [n for n in given if n not in slots]
    parts = []
    if unexpected:
        parts.append(f"Unexpected key(s): {', '.join(map(repr, unexpected))}.")
    if missing:
        parts.append(f"Missing key(s): {', '.join(map(repr, missing))}.")
    if parts:
        raise StatelessError(
            f"Error(s) in reparametrizing for {module._get_name()}:\n\t" + "\n\t".join(parts)
        )


@contextlib.contextmanager
def _reparametrized(
    module: Module, given: dict[str, Tensor], tie_weights: bool, strict: bool
) -> Iterator[None]:
    slots = _slots(module)
    chosen = _tied(slots, given) if tie_weights else dict(given)
    if strict:
        _check_names(module, slots, given, chosen)
    before = []
    try:
        for name, tensor in chosen.items():
            if name not in slots:
                raise AttributeError(
                    f"{module._get_name()} has no attribute `{name.rpartition('.')[2]}`"
                    if "." not in name
                    else f"{module._get_name()} has no parameter or buffer `{name}`"
                )
            table, key = slots[name]
            before.append((table, key, table[key]))
            table[key] = tensor
        yield
        for name in given:  # what forward put in place of a buffer belongs to the caller
            table, key = slots[name]
            given[name] = table[key]
    finally:
        for table, key, old in reversed(before):
            table[key] = old
