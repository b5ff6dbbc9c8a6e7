"""Optimizer: parameter groups, state, hooks and state dicts, all as torch has them.

An optimizer here does no arithmetic. ``step`` gathers lists of tensors and issues one operator
for each group, device and dtype; the worker applies it whole or, if a gradient is poisoned, not
at all. Nothing waits.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import farspan
from farspan._tensor import Tensor
from farspan.nn.module import _typename, _zero_grad
from farspan.utils.hooks import RemovableHandle

__all__ = ["Optimizer"]

Group = dict[str, Any]
Step = Callable[..., Any]


def _with_hooks(step: Step) -> Step:
    """Return ``step`` with the hooks of its optimizer around it."""

    @functools.wraps(step)
    def hooked(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        for hook in self._step_pre_hooks.values():
            changed = hook(self, args, kwargs)
            if changed is not None:
                if not (isinstance(changed, tuple) and len(changed) == 2):
                    raise RuntimeError(
                        f"{step} must return None or a tuple of (new_args, new_kwargs), "
                        f"but got {changed}."
                    )
                args, kwargs = changed
        self._opt_called = True
        result = step(self, *args, **kwargs)
        for hook in self._step_post_hooks.values():
            hook(self, args, kwargs)
        return result

    return hooked


class Optimizer:
    """The parent of all optimizers; a subclass writes ``_step_group``.

    params: tensors, (name, tensor) pairs, or dictionaries with "params" and options of their own.
    defaults: the options of groups that do not say otherwise.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or "
                f"dicts, but got {_typename(params)}"
            )
        self.defaults = defaults
        self.state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[Group] = []
        self._opt_called = False  # for schedulers, which warn when they step first
        self._step_pre_hooks: OrderedDict[int, Step] = OrderedDict()
        self._step_post_hooks: OrderedDict[int, Step] = OrderedDict()
        self._state_dict_pre_hooks: OrderedDict[int, Step] = OrderedDict()
        self._state_dict_post_hooks: OrderedDict[int, Step] = OrderedDict()
        self._load_state_dict_pre_hooks: OrderedDict[int, Step] = OrderedDict()
        self._load_state_dict_post_hooks: OrderedDict[int, Step] = OrderedDict()
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "step" in cls.__dict__:  # a user's own step takes part in hooks too
            cls.step = _with_hooks(cls.step)  # type: ignore[method-assign]

    @_with_hooks
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient. Returns what ``closure`` returns."""
        loss = None
        if closure is not None:
            with farspan.enable_grad():
                loss = closure()
        with farspan.no_grad():
            for group in self.param_groups:
                self._step_group(group)
        return loss

    def _step_group(self, group: Group) -> None:
        """Issue the operators that update the parameters of ``group``."""
        raise NotImplementedError

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters (or fill them with zeros)."""
        for group in self.param_groups:
            for param in group["params"]:
                _zero_grad(param, set_to_none)

    def add_param_group(self, param_group: Group) -> None:
        """Optimize further parameters, with options of their own where they are given."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        params, names = _tensors_and_names(param_group["params"])
        param_group["params"] = params
        if names:
            param_group["param_names"] = names
        for param in params:
            if not isinstance(param, Tensor):
                raise TypeError(
                    "optimizer can only optimize Tensors, but one of the params is "
                    f"{_typename(param)}"
                )
            if not (param.is_leaf or param.retains_grad):
                raise ValueError("can't optimize a non-leaf Tensor")
        for name, default in self.defaults.items():
            param_group.setdefault(name, default)
        new = {id(param) for param in params}
        if len(new) != len(params):
            warnings.warn(
                "optimizer contains a parameter group with duplicate parameters; "
                "in future, this will cause an error",
                stacklevel=3,
            )
        for group in self.param_groups:
            if ("param_names" in group) != bool(names):
                kind = "with names" if names else "without names"
                raise ValueError(
                    "all optimizer param groups should be with/without names. cannot add param "
                    f"group {kind} to the optimizer"
                )
            if any(id(param) in new for param in group["params"]):
                raise ValueError("some parameters appear in more than one parameter group")
        self.param_groups.append(param_group)

    # ---- state dicts ---------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return {"state", "param_groups"} in torch's form: parameters stand as numbers."""
        for hook in self._state_dict_pre_hooks.values():
            hook(self)
        number: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for param in group["params"]:
                number.setdefault(id(param), len(number))
            packed = {key: value for key, value in group.items() if key != "params"}
            packed["params"] = [number[id(param)] for param in group["params"]]
            groups.append(packed)
        state = {
            number[id(key)] if isinstance(key, Tensor) else key: value
            for key, value in self.state.items()
        }
        result = {"state": state, "param_groups": groups}
        for hook in self._state_dict_post_hooks.values():
            changed = hook(self, result)
            result = result if changed is None else changed
        return result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over options and state; tensors move to their parameter's device and dtype."""
        state_dict = dict(state_dict)
        for hook in self._load_state_dict_pre_hooks.values():
            changed = hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        saved = copy.deepcopy(state_dict["param_groups"])
        if len(saved) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        param_of: dict[Any, Tensor] = {}
        for mine, theirs in zip(self.param_groups, saved, strict=True):
            if len(mine["params"]) != len(theirs["params"]):
                raise ValueError(
                    "loaded state dict contains a parameter group that doesn't match the size of "
                    "optimizer's group"
                )
            param_of.update(zip(theirs["params"], mine["params"], strict=True))
            theirs["params"] = mine["params"]
            if "param_names" in mine:
                theirs.setdefault("param_names", mine["param_names"])
            # A state dict of an older version may lack an option.
            for name, default in self.defaults.items():
                theirs.setdefault(name, default)
        state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        for key, value in state_dict["state"].items():
            param = param_of.get(key)
            state[key if param is None else param] = (
                value if param is None else _moved(value, param)
            )
        self.state, self.param_groups = state, saved
        for hook in self._load_state_dict_post_hooks.values():
            hook(self)

    # ---- hooks ---------------------------------------------------------------------------

    def register_step_pre_hook(self, hook: Step) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` before each step."""
        return _add_hook(self._step_pre_hooks, hook)

    def register_step_post_hook(self, hook: Step) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` after each step."""
        return _add_hook(self._step_post_hooks, hook)

    def register_state_dict_pre_hook(self, hook: Step, prepend: bool = False) -> RemovableHandle:
        return _add_hook(self._state_dict_pre_hooks, hook, prepend)

    def register_state_dict_post_hook(self, hook: Step, prepend: bool = False) -> RemovableHandle:
        return _add_hook(self._state_dict_post_hooks, hook, prepend)

    def register_load_state_dict_pre_hook(
        self, hook: Step, prepend: bool = False
    ) -> RemovableHandle:
        return _add_hook(self._load_state_dict_pre_hooks, hook, prepend)

    def register_load_state_dict_post_hook(
        self, hook: Step, prepend: bool = False
    ) -> RemovableHandle:
        return _add_hook(self._load_state_dict_post_hooks, hook, prepend)

    def __repr__(self) -> str:
        text = f"{type(self).__name__} ("
        for i, group in enumerate(self.param_groups):
            text += f"\nParameter Group {i}\n"
            for key in sorted(group):
                if key != "params":
                    text += f"    {key}: {group[key]}\n"
        return text + ")"


def batches(group: Group, key: Callable[[Tensor], Any] = lambda param: None) -> Iterator[Any]:
    """Yield the lists of parameters with a gradient that one operator can update together.

    They share a device, a dtype and what ``key`` returns for them.
    """
    lists: dict[Any, list[Tensor]] = {}
    for param in group["params"]:
        if param.grad is not None:
            place = (param.device, param.dtype, key(param))
            lists.setdefault(place, []).append(param)
    yield from lists.values()


def as_float(value: Any) -> float:
    """Return an option as a number; one that is a tensor is read, which waits."""
    return float(value.item()) if isinstance(value, Tensor) else float(value)


def require_at_least_zero(name: str, value: Any) -> None:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"Tensor {name} must be 1-element")
    if not as_float(value) >= 0.0:
        said = {"lr": "learning rate", "eps": "epsilon value"}.get(name, f"{name} value")
        raise ValueError(f"Invalid {said}: {value}")


def refuse_differentiable(differentiable: bool) -> None:
    if differentiable:
        raise NotImplementedError(
            "differentiable=True: a step is one operator without a gradient; write the update "
            "with tensor operations instead."
        )


def _tensors_and_names(params: Any) -> tuple[list[Any], list[str]]:
    if isinstance(params, Tensor):
        return [params], []
    if isinstance(params, set):
        raise TypeError(
            "optimizer parameters need to be organized in ordered collections, but the ordering "
            "of tensors in sets will change between runs. Please use a list instead."
        )
    listed = list(params)
    names = [item[0] for item in listed if isinstance(item, tuple)]
    if names and len(names) != len(listed):
        raise ValueError(
            "all optimizer params should be with/without names. Some param names are missing"
        )
    return [item[1] for item in listed] if names else listed, names


def _moved(value: Any, param: Tensor, key: str | None = None) -> Any:
    """Return a loaded state with its tensors where the parameter is; counters stay float32."""
    if isinstance(value, Tensor):
        if key == "step":
            return value.to(device=param.device, dtype=farspan.float32)
        dtype = param.dtype if param.is_floating_point() else value.dtype
        return value.to(device=param.device, dtype=dtype)
    if isinstance(value, dict):
        return {name: _moved(item, param, name) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(item, param) for item in value)
    if key == "step":  # old state dicts count in plain numbers
        return farspan.tensor(float(value), dtype=farspan.float32, device=param.device)
    return value


def _add_hook(table: OrderedDict[int, Step], hook: Step, prepend: bool = False) -> RemovableHandle:
    handle = RemovableHandle(table)
    table[handle.id] = hook
    if prepend:
        table.move_to_end(handle.id, last=False)
    return handle
