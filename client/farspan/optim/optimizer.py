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
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import farspan
from farspan._dispatch import mode
from farspan._tensor import Tensor
from farspan.core.call import fn
from farspan.core.coerce import Tagged
from farspan.core.command import FUNCTIONAL
from farspan.core.ops.steps import RULES, Rule, update
from farspan.nn.module import _typename, _zero_grad
from farspan.utils.hooks import RemovableHandle

__all__ = [
    "Optimizer",
    "register_optimizer_step_post_hook",
    "register_optimizer_step_pre_hook",
]

Group = dict[str, Any]
Step = Callable[..., Any]

_global_optimizer_pre_hooks: OrderedDict[int, Step] = OrderedDict()
_global_optimizer_post_hooks: OrderedDict[int, Step] = OrderedDict()


def register_optimizer_step_pre_hook(hook: Step) -> RemovableHandle:
    """Call ``hook(optimizer, args, kwargs)`` before each step of any optimizer."""
    return _add_hook(_global_optimizer_pre_hooks, hook)


def register_optimizer_step_post_hook(hook: Step) -> RemovableHandle:
    """Call ``hook(optimizer, args, kwargs)`` after each step of any optimizer."""
    return _add_hook(_global_optimizer_post_hooks, hook)


class _Required:
    """The default of an option that every group must give."""

    def __repr__(self) -> str:
        return "<required parameter>"


required = _Required()


def _with_hooks(step: Step) -> Step:
    """Return ``step`` with the hooks of its optimizer around it."""

    @functools.wraps(step)
    def hooked(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if _HOOKS[0] not in self.__dict__:  # a wrapper of optimizers that is none itself
            return step(self, *args, **kwargs)
        if self._stepping:  # a subclass calls its parent's step: one step, and one round of hooks
            return step(self, *args, **kwargs)
        given: Any = ((self, *args), kwargs)
        hooks = (*_global_optimizer_pre_hooks.values(), *self._optimizer_step_pre_hooks.values())
        for hook in hooks:
            changed = hook(self, *given)
            if changed is not None:
                if not (isinstance(changed, tuple) and len(changed) == 2):
                    raise RuntimeError(
                        f"{step} must return None or a tuple of (new_args, new_kwargs), "
                        f"but got {changed}."
                    )
                given = changed
        self._opt_called = self._stepping = True
        try:
            result = step(*given[0], **given[1])
        finally:
            self._stepping = False
        hooks = (*self._optimizer_step_post_hooks.values(), *_global_optimizer_post_hooks.values())
        for hook in hooks:
            hook(self, *given)
        return result

    return hooked


_HOOKS = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)


class Optimizer:
    """The parent of all optimizers; a subclass writes ``step``, those of this library a rule.

    params: tensors, (name, tensor) pairs, or dictionaries with "params" and options of their own.
    defaults: the options of groups that do not say otherwise.
    """

    _opt_called = False  # for schedulers, which warn when they step first
    _stepping = False
    #: Options that state dicts of older versions lack, with what they did then.
    _later: Mapping[str, Any] = {}
    #: A gradient scaler's finding by device, while it steps this optimizer.
    _found_inf: Mapping[Any, Tensor] | None = None

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or "
                f"dicts, but got {_typename(params)}"
            )
        self.defaults = defaults
        self.state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[Group] = []
        for table in _HOOKS:
            setattr(self, table, OrderedDict())
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

    def _patch_step_function(self) -> None:
        """Do nothing, for wrappers that call it: every class's step takes part in hooks."""

    @_with_hooks
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient. Returns what ``closure`` returns."""
        loss = None
        if closure is not None:
            with farspan.enable_grad():
                loss = closure()
        before, mode.grad = mode.grad, bool(self.defaults.get("differentiable", False))
        try:
            for group in self.param_groups:
                self._step_group(group)
        finally:
            mode.grad = before
        return loss

    def _step_group(self, group: Group) -> None:
        """Issue the operators that update the parameters of ``group``."""
        raise NotImplementedError

    def _take(self, rule: str, group: Group, **options: Any) -> None:
        """Step by one of the RULES: an operator for each device and dtype.

        options: of the rule; numbers may be tensors, which are read (lr alone is not).
        """
        refuse_capturable(group, RULES[rule])
        names = (*RULES[rule].states, *RULES[rule].scalars, "step")
        for params in batches(group):
            states = [self._ready_state(param, group) for param in params]
            if group["differentiable"]:
                for param, state in zip(params, states, strict=True):
                    record_step(rule, param, param.grad, state, {"lr": group["lr"], **options})
                continue
            lists = [[s[name] for s in states] if name in states[0] else [] for name in names]
            grads = [param.grad for param in params]
            issue_step(
                f"_{rule}_step_", params, grads, *lists, **self._rates(group, params[0]), **options
            )  # fmt: skip

    def _rates(self, group: Group, param: Tensor) -> dict[str, Any]:
        """Return the arguments that say how far to step on this parameter's device, if at all."""
        rate = group["lr"]
        found = self._found_inf
        return {
            "lr": 0.0 if isinstance(rate, Tensor) else as_float(rate),
            "rate": rate.detach().reshape(()) if isinstance(rate, Tensor) else None,
            "found_inf": None if found is None else found[param.device],
        }

    def _may_skip(self) -> bool:
        """Return whether a step may be issued that workers do not take after an overflow.

        Not where this process would notice: hooks, recorded steps, a first momentum undamped.
        """
        hooks = (
            _global_optimizer_pre_hooks,
            _global_optimizer_post_hooks,
            self._optimizer_step_pre_hooks,
            self._optimizer_step_post_hooks,
        )
        return not any(hooks) and not any(
            group.get("differentiable") or group.get("dampening") for group in self.param_groups
        )

    def _ready_state(self, param: Tensor, group: Group) -> dict[str, Any]:
        state = self.state[param]
        if not state:
            self._begin(state, param, group)
        return state

    def _begin(self, state: dict[str, Any], param: Tensor, group: Group) -> None:
        """Fill the state of a parameter before its first step."""
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
            if not self.defaults.get("differentiable") and not (
                param.is_leaf or param.retains_grad
            ):
                raise ValueError("can't optimize a non-leaf Tensor")
        for name, default in self.defaults.items():
            if default is required and name not in param_group:
                raise ValueError(
                    "parameter group didn't specify a value of required optimization parameter "
                    f"{name}"
                )
            param_group.setdefault(name, default)
        new = {id(param) for param in params}
        if len(new) != len(params):
            warnings.warn(
                "optimizer contains a parameter group with duplicate parameters; "
                "in future, this will cause an error; "
                "see github.com/pytorch/pytorch/issues/40967 for more information",
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
        for hook in self._optimizer_state_dict_pre_hooks.values():
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
        for hook in self._optimizer_state_dict_post_hooks.values():
            changed = hook(self, result)
            result = result if changed is None else changed
        return result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over options and state; tensors move to their parameter's device and dtype."""
        state_dict = dict(state_dict)
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
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
        state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        for key, value in state_dict["state"].items():
            param = param_of.get(key)
            state[key if param is None else param] = (
                value if param is None else _moved(value, param)
            )
        self.__setstate__({"state": state, "param_groups": saved})
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "defaults": self.defaults,
            "state": self.state,
            "param_groups": self.param_groups,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for table in _HOOKS:
            self.__dict__.setdefault(table, OrderedDict())
        self.defaults.setdefault("differentiable", False)
        for group in self.param_groups:
            for name, value in self._later.items():
                group.setdefault(name, value)

    # ---- hooks ---------------------------------------------------------------------------

    def register_step_pre_hook(self, hook: Step) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` before each step."""
        return _add_hook(self._optimizer_step_pre_hooks, hook)

    def register_step_post_hook(self, hook: Step) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` after each step."""
        return _add_hook(self._optimizer_step_post_hooks, hook)

    def register_state_dict_pre_hook(self, hook: Step, prepend: bool = False) -> RemovableHandle:
        return _add_hook(self._optimizer_state_dict_pre_hooks, hook, prepend)

    def register_state_dict_post_hook(self, hook: Step, prepend: bool = False) -> RemovableHandle:
        return _add_hook(self._optimizer_state_dict_post_hooks, hook, prepend)

    def register_load_state_dict_pre_hook(
        self, hook: Step, prepend: bool = False
    ) -> RemovableHandle:
        return _add_hook(self._optimizer_load_state_dict_pre_hooks, hook, prepend)

    def register_load_state_dict_post_hook(
        self, hook: Step, prepend: bool = False
    ) -> RemovableHandle:
        return _add_hook(self._optimizer_load_state_dict_post_hooks, hook, prepend)

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
            spec = param._spec
            place = (spec.device, spec.dtype, key(param))
            lists.setdefault(place, []).append(param)
    yield from lists.values()


def issue_step(name: str, *args: Any, **options: Any) -> None:
    """Issue a step by its operator: as ``fn``'s function of that name, which looks for it anew."""
    function = getattr(fn, name)
    (op,) = function.overloads
    tensors, static, scalars = op.bind(*args, **options)
    type(tensors[0])._apply(op, tensors, static, scalars, FUNCTIONAL)


def as_float(value: Any) -> float:
    """Return an option as a number; one that is a tensor is read, which waits."""
    if isinstance(value, Tensor):
        return float(value.item())
    return value if type(value) is Tagged else float(value)


def require_at_least_zero(name: str, value: Any) -> None:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"Tensor {name} must be 1-element")
    if not as_float(value) >= 0.0:
        said = {"lr": "learning rate", "eps": "epsilon value"}.get(name, f"{name} value")
        raise ValueError(f"Invalid {said}: {value}")


def require_rate(lr: Any) -> None:
    """Raise unless ``lr`` is a number, or a tensor of one element, that is not negative."""
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    if not lr >= 0.0:
        raise ValueError(f"Invalid learning rate: {lr}")


def require_betas(betas: Any) -> None:
    for i, beta in enumerate(betas[:2]):
        if not 0.0 <= as_float(beta) < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: {beta}")


def refuse_fused_with(group: Mapping[str, Any]) -> None:
    """Raise for options that torch does not combine with ``fused=True``."""
    if group["fused"] and group["differentiable"]:
        raise RuntimeError("`fused` does not support `differentiable`")
    if group["fused"] and group["foreach"]:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


def refuse_unfusable(group: Group) -> None:
    """Raise as torch does at a fused step of parameters that are not real floating tensors."""
    for param in group["params"] if group["fused"] else ():
        if param.grad is not None and not param.is_floating_point():
            raise RuntimeError(
                "`fused=True` requires all the params to be floating point Tensors of supported "
                "devices: ['mps', 'cuda', 'xpu', 'hpu', 'cpu', 'mtia', 'privateuseone'] but "
                f"{param.dtype} and {param.device.type}"
            )


_CAPTURABLE = ["cuda", "xpu", "hpu", "privateuseone", "xla"]


def refuse_capturable(group: Group, rule: Rule) -> None:
    """Raise as torch does at the first step of a capturable optimizer on a CPU."""
    params = [param for param in group["params"] if param.grad is not None]
    if not group.get("capturable") or all(p.device.type in _CAPTURABLE for p in params):
        return
    states = {"mu_product": "mu_products", "mu": "mus,", "eta": "etas,"}
    named = [states[n] for n in reversed(rule.scalars)]
    words = " ".join(["params" + "," * bool(named), *named, "and state_steps"])
    places = _CAPTURABLE[:-1] if "acc_delta" in rule.states else _CAPTURABLE
    raise AssertionError(f"If capturable=True, {words} must be on supported devices: {places}.")


def counter(param: Tensor, value: float = 0.0, fused: bool | None = False) -> Tensor:
    """Return a 0-d state such as the count of steps; of torch's type, where its parameter is."""
    double = not fused and farspan.get_default_dtype() is farspan.float64
    dtype = farspan.float64 if double else farspan.float32
    return farspan.full((), value, dtype=dtype, device=param.device)


def zeros_like(param: Tensor) -> Tensor:
    """Return a state of zeros, laid out as its parameter."""
    return farspan.zeros_like(param, requires_grad=False)


def record_step(
    name: str, param: Tensor, grad: Any, state: dict[str, Any], o: dict[str, Any]
) -> None:
    """Step one parameter by plain operations, so that autograd goes through the step. Waits."""
    rule = RULES[name]
    numbers: dict[str, Any] = {n: float(state[n]) for n in rule.scalars}
    if "step" in state:
        state["step"] += 1
        numbers["step"] = float(state["step"])
    for n in rule.scalars[:1]:
        numbers["round"] = state[n].dtype.numpy.type
    real = farspan.view_as_real if param.is_complex() else lambda x: x
    kept = {name: real(state[name]) for name in rule.states if name in state}
    s = {name: value.clone() for name, value in kept.items()} | numbers
    into = real(param)
    into.copy_(update(rule, farspan, into.clone(), real(grad), s, o))
    for name, value in kept.items():
        value.copy_(s[name])
    for name in rule.scalars:
        state[name].fill_(s[name])


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
    """Return a loaded state with its tensors where the parameter is; steps keep their dtype."""
    if isinstance(value, Tensor):
        if key == "step":
            return value.to(device=param.device)
        dtype = param.dtype if param.is_floating_point() else value.dtype
        return value.to(device=param.device, dtype=dtype)
    if isinstance(value, dict):
        return {name: _moved(item, param, name) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(item, param) for item in value)
    if key in _COUNTERS and isinstance(value, (int, float)):  # of torch before 1.12
        return counter(param, float(value))
    return value


#: States that old state dicts keep as plain numbers.
_COUNTERS = ("step", "mu_product", "eta", "mu")


def _add_hook(table: OrderedDict[int, Step], hook: Step, prepend: bool = False) -> RemovableHandle:
    handle = RemovableHandle(table)
    table[handle.id] = hook
    if prepend:
        table.move_to_end(handle.id, last=False)
    return handle
