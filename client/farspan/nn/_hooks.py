"""Hooks around a module's call: their tables, their registration, and the call that runs them.

``Hooked`` is the part of Module that is called; it knows nothing of parameters. Hooks common to
all modules are registered by the functions at the end. What happens at backward time is in
``_backward_hooks.py``.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from farspan.utils.hooks import RemovableHandle

Hook = Callable[..., Any]
Table = OrderedDict[int, Any]

HOOK_TABLES = (
    "_backward_pre_hooks",
    "_backward_hooks",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_state_dict_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)

_global_buffer_registration_hooks: Table = OrderedDict()
_global_module_registration_hooks: Table = OrderedDict()
_global_parameter_registration_hooks: Table = OrderedDict()
_global_backward_pre_hooks: Table = OrderedDict()
_global_backward_hooks: Table = OrderedDict()
_global_forward_pre_hooks: Table = OrderedDict()
_global_forward_hooks: Table = OrderedDict()
_global_forward_hooks_always_called: Table = OrderedDict()
_global_forward_hooks_with_kwargs: Table = OrderedDict()
_global_full: dict[str, bool] = {}  # "full": whether the global backward hooks are full ones


def add_hook(table: Table, hook: Hook, *flags: Table, prepend: bool = False) -> RemovableHandle:
    """Put ``hook`` into ``table`` and its number into the tables of flags that hold for it."""
    handle = RemovableHandle(table, *flags)
    table[handle.id] = hook
    for flag in flags:
        flag[handle.id] = True
    if prepend:
        table.move_to_end(handle.id, last=False)
    return handle


class WrappedHook:
    """A hook that may be given its module first, which it does not keep alive."""

    def __init__(self, hook: Hook, module: Any = None) -> None:
        self.hook = hook
        functools.update_wrapper(self, hook)
        self.with_module = module is not None
        if module is not None:
            self.module = weakref.ref(module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.with_module:
            return self.hook(*args, **kwargs)
        module = self.module()
        if module is None:
            raise RuntimeError("You are trying to call the hook of a dead Module!")
        return self.hook(module, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> WrappedHook:
        """Return the hook for the copy of its module, if that is what is being copied."""
        module = self.module() if self.with_module else None
        return type(self)(self.hook, memo.get(id(module), module))


class Hooked:
    """What can be called, with hooks before, after and at backward time."""

    forward: Callable[..., Any]
    _is_full_backward_hook: bool | None
    _compiled_call_impl: Hook | None = None
    _backward_pre_hooks: Table
    _backward_hooks: Table
    _forward_pre_hooks: Table
    _forward_pre_hooks_with_kwargs: Table
    _forward_hooks: Table
    _forward_hooks_with_kwargs: Table
    _forward_hooks_always_called: Table

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._compiled_call_impl is not None:
            return self._compiled_call_impl(*args, **kwargs)
        return self._call_impl(*args, **kwargs)

    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        if not (
            self._forward_hooks
            or self._forward_pre_hooks
            or self._backward_hooks
            or self._backward_pre_hooks
            or _global_forward_hooks
            or _global_forward_pre_hooks
            or _global_backward_hooks
            or _global_backward_pre_hooks
        ):
            return self.forward(*args, **kwargs)
        return self._call_with_hooks(args, kwargs)

    def _call_with_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result, called = None, set()
        try:
            args, kwargs = self._run_pre_hooks(args, kwargs)
            crossing = self._backward_crossing()
            if crossing is not None:
                args = crossing.enter(args)
            result = self.forward(*args, **kwargs)
            for key, hook, with_kwargs in self._all_forward_hooks():
                called.add(key)
                result = self._run_hook(hook, with_kwargs, args, kwargs, result)
            if crossing is not None:
                result = crossing.leave(result)
            self._hook_last_node(args, result)
            return result
        except Exception:
            always = {**_global_forward_hooks_always_called, **self._forward_hooks_always_called}
            for key, hook, with_kwargs in self._all_forward_hooks():
                if key not in always or key in called:
                    continue
                kind = "global module" if key in _global_forward_hooks else "module"
                try:
                    result = self._run_hook(hook, with_kwargs, args, kwargs, result)
                except Exception as error:
                    warnings.warn(
                        f"{kind} forward hook with ``always_call=True`` raised an exception that "
                        f"was silenced as another error was raised in forward: {error}",
                        stacklevel=4,
                    )
            raise

    def _all_forward_hooks(self) -> list[tuple[int, Hook, bool]]:
        """Return (number, hook, whether it takes keyword arguments), the global ones first."""
        tables = (
            (_global_forward_hooks, _global_forward_hooks_with_kwargs),
            (self._forward_hooks, self._forward_hooks_with_kwargs),
        )
        return [(key, hook, key in flag) for table, flag in tables for key, hook in table.items()]

    def _run_pre_hooks(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        for key, hook in (*_global_forward_pre_hooks.items(), *self._forward_pre_hooks.items()):
            if key in self._forward_pre_hooks_with_kwargs:
                changed = hook(self, args, kwargs)
                if changed is None:
                    continue
                if not (isinstance(changed, tuple) and len(changed) == 2):
                    raise RuntimeError(
                        "forward pre-hook must return None or a tuple of "
                        f"(new_args, new_kwargs), but got {changed}."
                    )
                args, kwargs = changed
            else:
                changed = hook(self, args)
                if changed is not None:
                    args = changed if isinstance(changed, tuple) else (changed,)
        return args, kwargs

    def _run_hook(self, hook: Hook, with_kwargs: bool, args: Any, kwargs: Any, result: Any) -> Any:
        changed = hook(self, args, kwargs, result) if with_kwargs else hook(self, args, result)
        return result if changed is None else changed

    def _backward_crossing(self) -> Any:
        """Return what runs this call's backward hooks, or None if there are none."""
        hooks = self._chosen_backward_hooks(True)
        pre_hooks = [*_global_backward_pre_hooks.values(), *self._backward_pre_hooks.values()]
        if not (hooks or pre_hooks):
            return None
        from farspan.nn._backward_hooks import Crossing

        return Crossing(self, hooks, pre_hooks)

    def _hook_last_node(self, args: tuple[Any, ...], result: Any) -> None:
        """Put backward hooks of the older form where they belong."""
        hooks = self._chosen_backward_hooks(False)
        if hooks:
            from farspan.nn._backward_hooks import hook_last_node

            hook_last_node(self, hooks, args, result)

    def _chosen_backward_hooks(self, full: bool) -> list[Hook]:
        """Return the backward hooks of this form, the global ones first."""
        hooks = [*_global_backward_hooks.values()] if _global_full.get("full") == full else []
        return hooks + [*self._backward_hooks.values()] * (self._is_full_backward_hook == full)

    def register_forward_pre_hook(
        self, hook: Hook, *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, args)`` before ``forward``; what it returns replaces ``args``."""
        flags = [self._forward_pre_hooks_with_kwargs] if with_kwargs else []
        return add_hook(self._forward_pre_hooks, hook, *flags, prepend=prepend)

    def register_forward_hook(
        self,
        hook: Hook,
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Call ``hook(module, args, output)`` after ``forward``; a result replaces ``output``."""
        flags = [self._forward_hooks_with_kwargs] if with_kwargs else []
        flags += [self._forward_hooks_always_called] if always_call else []
        return add_hook(self._forward_hooks, hook, *flags, prepend=prepend)

    def register_full_backward_pre_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Call ``hook(module, grad_output)`` before the gradient enters the module.

        A tuple that it returns takes the place of ``grad_output``. It runs on the client.
        """
        return add_hook(self._backward_pre_hooks, hook, prepend=prepend)

    def register_full_backward_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Call ``hook(module, grad_input, grad_output)`` when the inputs' gradients are there.

        A tuple that it returns takes the place of ``grad_input``. It runs on the client.
        """
        self._claim_backward_hooks(True)
        return add_hook(self._backward_hooks, hook, prepend=prepend)

    def register_backward_hook(self, hook: Hook) -> RemovableHandle:
        """Call ``hook(module, grad_input, grad_output)``; the older form of the full hook.

        ``grad_input`` and ``grad_output`` are those of the last operation in ``forward``.
        """
        self._claim_backward_hooks(False)
        return add_hook(self._backward_hooks, hook)

    def _claim_backward_hooks(self, full: bool) -> None:
        if self._is_full_backward_hook is not None and self._is_full_backward_hook != full:
            raise RuntimeError(
                "Cannot use both regular backward hooks and full backward hooks on a single "
                "Module. Please use only one of them."
            )
        self._is_full_backward_hook = full


def registered(table: Table, module: Any, name: str, value: Any) -> Any:
    """Return what is to be registered, after the global hooks in ``table`` have seen it."""
    for hook in table.values():
        changed = hook(module, name, value)
        if changed is not None:
            value = changed
    return value


def register_module_buffer_registration_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(module, name, buffer)`` at every registration; a result replaces ``buffer``."""
    return add_hook(_global_buffer_registration_hooks, hook)


def register_module_module_registration_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(module, name, child)`` at every registration; a result replaces ``child``."""
    return add_hook(_global_module_registration_hooks, hook)


def register_module_parameter_registration_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(module, name, param)`` at every registration; a result replaces ``param``."""
    return add_hook(_global_parameter_registration_hooks, hook)


def register_module_forward_pre_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(module, args)`` before every module's ``forward``."""
    return add_hook(_global_forward_pre_hooks, hook)


def register_module_forward_hook(
    hook: Hook, *, with_kwargs: bool = False, always_call: bool = False
) -> RemovableHandle:
    """Call ``hook(module, args, output)`` after every module's ``forward``."""
    flags = [_global_forward_hooks_with_kwargs] if with_kwargs else []
    flags += [_global_forward_hooks_always_called] if always_call else []
    return add_hook(_global_forward_hooks, hook, *flags)


def register_module_backward_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(module, grad_input, grad_output)`` for every module; the older form."""
    return _add_global_backward_hook(hook, False)


def register_module_full_backward_pre_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(module, grad_output)`` before a gradient enters any module."""
    return add_hook(_global_backward_pre_hooks, hook)


def register_module_full_backward_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(module, grad_input, grad_output)`` when any module's input gradients exist."""
    return _add_global_backward_hook(hook, True)


def _add_global_backward_hook(hook: Hook, full: bool) -> RemovableHandle:
    if _global_full.get("full", full) != full:
        raise RuntimeError(
            "Cannot use both regular backward hooks and full backward hooks as a global Module "
            "hook. Please use only one of them."
        )
    _global_full["full"] = full
    return add_hook(_global_backward_hooks, hook)
