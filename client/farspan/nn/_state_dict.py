"""How a module tree becomes a flat dictionary of tensors and takes one back.

Keys, order, metadata and messages are torch's, so that state dicts travel both ways. All
problems of a load are collected and reported together; a size that does not fit copies nothing
into its own parameter, other parameters are still filled.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import farspan
from farspan._tensor import Tensor
from farspan.nn.parameter import Parameter, is_lazy

if TYPE_CHECKING:
    from farspan.nn.module import Module

EXTRA_STATE_SUFFIX = "_extra_state"


class _IncompatibleKeys(NamedTuple):
    """What ``load_state_dict`` found beyond or short of the module's own names."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return (
            f"_IncompatibleKeys(missing_keys={self.missing_keys}, "
            f"unexpected_keys={self.unexpected_keys})"
        )


class Report(NamedTuple):
    """The lists that a load fills while it walks the tree."""

    missing: list[str]
    unexpected: list[str]
    errors: list[str]


def collect(
    module: Module, destination: dict[str, Any] | None, prefix: str, keep_vars: bool
) -> dict[str, Any]:
    """Return the state of ``module`` and all below it, added to ``destination``."""
    if destination is None:
        destination = OrderedDict()
        destination._metadata = OrderedDict()  # type: ignore[attr-defined]
    metadata = {"version": module._version}
    if hasattr(destination, "_metadata"):
        destination._metadata[prefix[:-1]] = metadata
    for hook in module._state_dict_pre_hooks.values():
        hook(module, prefix, keep_vars)
    module._save_to_state_dict(destination, prefix, keep_vars)
    for name, child in module._modules.items():
        if child is not None:
            child.state_dict(
                destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars
            )
    for hook in module._state_dict_hooks.values():
        changed = hook(module, destination, prefix, metadata)
        if changed is None:
            continue
        if getattr(hook, "_from_public_api", False):
            raise RuntimeError("state_dict post-hook must return None")
        destination = changed
    return destination


def save_own(module: Module, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
    """Add the tensors that ``module`` itself names, without its children."""
    for name, tensor in _own_state(module).items():
        kept = keep_vars or is_lazy(tensor)
        destination[prefix + name] = tensor if kept else tensor.detach()
    if _overrides(module, "get_extra_state"):
        destination[prefix + EXTRA_STATE_SUFFIX] = module.get_extra_state()


def load(
    module: Module, state_dict: Mapping[str, Any], strict: bool, assign: bool
) -> _IncompatibleKeys:
    """Copy ``state_dict`` into the tree under ``module`` or raise one RuntimeError for all."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
    metadata = getattr(state_dict, "_metadata", None)
    report = Report([], [], [])
    copied: Any = OrderedDict(state_dict)  # the hooks may change it
    if metadata is not None:
        copied._metadata = metadata
    _load_tree(module, copied, "", metadata, assign, report)
    keys = _IncompatibleKeys(report.missing, report.unexpected)
    errors = list(report.errors)
    if strict:
        for title, names in (("Unexpected", report.unexpected), ("Missing", report.missing)):
            if names:
                quoted = ", ".join(f'"{name}"' for name in names)
                errors.insert(0, f"{title} key(s) in state_dict: {quoted}. ")
    if errors:
        raise RuntimeError(
            "Error(s) in loading state_dict for {}:\n\t{}".format(
                type(module).__name__, "\n\t".join(errors)
            )
        )
    return keys


def _load_tree(
    module: Module,
    state_dict: dict[str, Any],
    prefix: str,
    metadata: Mapping[str, Any] | None,
    assign: bool,
    report: Report,
) -> None:
    local = dict((metadata or {}).get(prefix[:-1], {}))
    if assign:
        local["assign_to_params_buffers"] = True
    # Strictness is judged once, at the end; below it every key is looked for.
    module._load_from_state_dict(state_dict, prefix, local, True, *report)
    for name, child in module._modules.items():
        if child is not None:
            below = f"{prefix}{name}."
            part = {key: value for key, value in state_dict.items() if key.startswith(below)}
            _load_tree(child, part, below, metadata, assign, report)
    for hook in module._load_state_dict_post_hooks.values():
        if hook(module, _IncompatibleKeys(report.missing, report.unexpected)) is not None:
            raise AssertionError(
                "Hooks registered with ``register_load_state_dict_post_hook`` are not expected "
                "to return new values, if incompatible_keys need to be modified, "
                "it should be done inplace."
            )


def load_own(
    module: Module,
    state_dict: dict[str, Any],
    prefix: str,
    local_metadata: Mapping[str, Any],
    strict: bool,
    report: Report,
) -> None:
    """Copy the tensors that ``module`` itself names; what does not fit goes to ``report``."""
    assign = local_metadata.get("assign_to_params_buffers", False)
    own = _own_state(module)
    for name, tensor in own.items():
        key = prefix + name
        if key in state_dict:
            _load_tensor(module, name, key, tensor, state_dict[key], assign, report)
        elif strict:
            report.missing.append(key)
    extra_key = prefix + EXTRA_STATE_SUFFIX
    if _overrides(module, "set_extra_state"):
        if extra_key in state_dict:
            module.set_extra_state(state_dict[extra_key])
        elif strict:
            report.missing.append(extra_key)
    elif strict and extra_key in state_dict:
        report.unexpected.append(extra_key)
    if not strict:
        return
    for key in state_dict:
        if not key.startswith(prefix) or key == extra_key:
            continue
        first, *rest = key[len(prefix) :].split(".", 1)
        if first not in (module._modules if rest else own):
            report.unexpected.append(key)


def _load_tensor(
    module: Module,
    name: str,
    key: str,
    tensor: Tensor,
    saved: Any,
    assign: bool,
    report: Report,
) -> None:
    if not isinstance(saved, Tensor):
        report.errors.append(
            f'While copying the parameter named "{key}", expected torch.Tensor or Tensor-like '
            f"object from checkpoint but received {type(saved)}"
        )
        return
    lazy = is_lazy(tensor)
    if not lazy and tensor.dim() == 0 and tuple(saved.shape) == (1,):
        saved = saved[0]  # scalars were saved with one dimension once; torch still takes them
    if not lazy and tuple(saved.shape) != tuple(tensor.shape):
        report.errors.append(
            f"size mismatch for {key}: copying a param with shape {saved.shape} from checkpoint, "
            f"the shape in current model is {tensor.shape}."
        )
        return
    try:
        with farspan.no_grad():
            if is_lazy(saved):
                return  # both are uninitialized: the module's hook has given a shape otherwise
            if not assign:
                tensor.copy_(saved)
                return
            if isinstance(tensor, Parameter) and isinstance(saved, Parameter):
                saved.requires_grad_(tensor.requires_grad)
            elif isinstance(tensor, Parameter):
                saved = Parameter(saved, tensor.requires_grad)
            setattr(module, name, saved)
    except Exception as error:  # reported with all the others, as torch does
        report.errors.append(
            f'While copying the parameter named "{key}", whose dimensions in the model are '
            f"{tensor.shape} and whose dimensions in the checkpoint are {saved.shape}, "
            f"an exception occurred : {error.args}."
        )


def _own_state(module: Module) -> dict[str, Tensor]:
    """Return the parameters and persistent buffers of ``module`` that are not None."""
    skipped = module._non_persistent_buffers_set
    state = {name: p for name, p in module._parameters.items() if p is not None}
    state.update(
        (name, b) for name, b in module._buffers.items() if b is not None and name not in skipped
    )
    return state


def _overrides(module: Module, method: str) -> bool:
    from farspan.nn.module import Module

    return getattr(type(module), method) is not getattr(Module, method)
