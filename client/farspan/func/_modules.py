"""Modules as functions of their parameters: functional_call and what goes with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.call import fn
from ..core.errors import BadValueError
from ..nn.utils.stateless import _functional_call
from ._vmap import TransformError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._tensor import Tensor
    from ..nn.module import Module


def functional_call(
    module: Module,
    parameter_and_buffer_dicts: Any,
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Return what the module returns with these tensors in place of its parameters and buffers.

    parameter_and_buffer_dicts: tensors by their names in the state dict; one dict or several.
    args: the arguments, as a tuple; anything else is the one argument. tie_weights: tensors that
    the module has under two names follow each other. strict: all names, and no others.

    >>> import farspan
    >>> m = farspan.nn.Linear(2, 1)
    >>> params = {"weight": farspan.ones(1, 2), "bias": farspan.zeros(1)}
    >>> farspan.func.functional_call(m, params, farspan.ones(2)).item()
    2.0
    """
    given = parameter_and_buffer_dicts
    if isinstance(given, (list, tuple)):
        if not all(isinstance(d, dict) for d in given):
            raise BadValueError(
                "Expected all elements of parameter_and_buffer_dicts to be dictionaries"
            )
        names = [k for d in given for k in d]
        repeated = [k for k in dict.fromkeys(names) if names.count(k) > 1]
        if repeated:
            raise BadValueError(
                f"{repeated} appeared in multiple dictionaries; behavior of functional call is "
                "ambiguous"
            )
        given = {k: v for d in given for k, v in d.items()}
    elif not isinstance(given, dict):
        raise BadValueError(
            "Expected parameter_and_buffer_dicts to be a dict, or a list/tuple of dicts, but got "
            f"{type(given)}"
        )
    return _functional_call(module, given, args, kwargs, tie_weights=tie_weights, strict=strict)


def stack_module_state(models: Sequence[Module]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (parameters, buffers) of models of one class, stacked along a new first dim.

    The stacked parameters are leaves of their own, fit for an optimizer and for `vmap`.
    """
    if len(models) == 0:
        raise TransformError("stack_module_state: Expected at least one model, got 0.")
    if len({m.training for m in models}) > 1:
        raise TransformError(
            "stack_module_state: Expected all models to have the same training/eval mode."
        )
    if any(type(m) is not type(models[0]) for m in models):
        raise TransformError("stack_module_state: Expected all models to be of the same class.")
    parameters = [dict(m.named_parameters()) for m in models]
    buffers = [dict(m.named_buffers()) for m in models]
    return (
        {k: _stacked([p[k] for p in parameters], k) for k in parameters[0]},
        {k: _stacked([b[k] for b in buffers], k) for k in buffers[0]},
    )


def _stacked(tensors: list[Any], name: str) -> Tensor:
    if len({t.requires_grad for t in tensors}) > 1:
        raise TransformError(f"Expected {name} from each model to have the same .requires_grad")
    made = fn.stack(tensors)
    if not tensors[0].requires_grad:
        return made  # type: ignore[no-any-return]
    return fn.detach(made).requires_grad_()  # type: ignore[no-any-return]


def replace_all_batch_norm_modules_(root: Module) -> Module:
    """Let every batch norm in `root` use the batch's own statistics only; return root.

    Running statistics are written in place, which a function under vmap cannot do.
    """
    from ..nn.layers.norm import _BatchNorm

    for module in root.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            module.running_mean = None
            module.running_var = None
            module.num_batches_tracked = None
            module.track_running_stats = False
    return root
