"""checkpoint: keep a part's inputs instead of all it computes, and compute it again for backward.

The second run issues ordinary commands at backward time; random numbers are drawn as before.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from .._autograd import backward
from .._functions import get_rng_state, set_rng_state
from .._grad_mode import enable_grad
from .._tensor import Tensor
from ..autograd.function import Function
from ..core.errors import AutogradError, BadValueError, ParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


class CheckpointFunction(Function):
    """Runs a function without recording it; backward runs it once more, recorded."""

    @staticmethod
    def forward(ctx: Any, function: Any, preserve: bool, kwargs: Any, *args: Any) -> Any:
        ctx.function, ctx.kwargs, ctx.preserve = function, kwargs, preserve
        ctx.rng_state = get_rng_state() if preserve else None
        ctx.args = [None if isinstance(a, Tensor) else a for a in args]
        ctx.tensors = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
        ctx.save_for_backward(*[args[i] for i in ctx.tensors])
        return function(*args, **kwargs)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        args = list(ctx.args)
        for i, saved in zip(ctx.tensors, ctx.saved_tensors, strict=True):
            args[i] = saved.detach().requires_grad_(saved.requires_grad)
        before = None
        if ctx.preserve:
            before = get_rng_state()
            set_rng_state(ctx.rng_state)
        with enable_grad():
            made = ctx.function(*args, **ctx.kwargs)
        if before is not None:
            set_rng_state(before)
        results = made if isinstance(made, (tuple, list)) else (made,)
        tensors = [x for x in results if isinstance(x, Tensor)]
        pairs = [(x, g) for x, g in zip(tensors, gradients, strict=True) if x.requires_grad]
        if not pairs:
            raise AutogradError(
                "none of output has requires_grad=True, this checkpoint() is not necessary"
            )
        backward([x for x, _ in pairs], [g for _, g in pairs])
        return (None, None, None, *[a.grad if isinstance(a, Tensor) else None for a in args])


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    preserve_rng_state: bool = True,
    **kwargs: Any,
) -> Any:
    """Return ``function(*args, **kwargs)``, remembering only the arguments.

    For its parameters to get gradients, one tensor argument at least must require grad, or
    `use_reentrant` be False. Gradients go to `.grad` by `backward()`; `autograd.grad` reaches the
    arguments only.
    """
    if use_reentrant is None:
        _warn_of_default("checkpoint")
    if use_reentrant is not False:
        check_backward_validity(args)
    for name in ("context_fn", "determinism_check", "debug", "early_stop"):
        kwargs.pop(name, None)
    if use_reentrant is False and not any(isinstance(a, Tensor) and a.requires_grad for a in args):
        return _with_anchor(function, args, kwargs, preserve_rng_state)
    return CheckpointFunction.apply(function, preserve_rng_state, kwargs, *args)


def _warn_of_default(name: str) -> None:
    warnings.warn(
        f"torch.utils.{name}: the use_reentrant parameter should be passed explicitly. "
        "use_reentrant=False is recommended; torch may refuse a call without it.",
        stacklevel=3,
    )


@contextmanager
def set_checkpoint_early_stop(enable: bool) -> Iterator[None]:
    """Take torch's choice of how much is computed again: here a part always is as a whole."""
    yield


def _with_anchor(function: Any, args: Any, kwargs: Any, preserve: bool) -> Any:
    """Record the part though no argument requires grad: its parameters may."""
    from .._creation import tensor

    anchor = tensor(0.0, requires_grad=True)

    def ignoring(_: Any, *rest: Any, **named: Any) -> Any:
        assert anchor.is_leaf  # the node of a leaf that is gone would not be run for
        return function(*rest, **named)

    return CheckpointFunction.apply(ignoring, preserve, kwargs, anchor, *args)


def checkpoint_sequential(
    functions: Sequence[Callable[..., Any]],
    segments: int,
    input: Any,
    use_reentrant: bool | None = None,
    **kwargs: Any,
) -> Any:
    """Return the functions applied one after another, checkpointed in `segments` parts."""
    if use_reentrant is None:
        _warn_of_default("checkpoint_sequential")
        use_reentrant = True
    parts = list(getattr(functions, "children", lambda: functions)())
    if not 1 <= segments <= len(parts):
        raise BadValueError(f"segments must lie between 1 and {len(parts)}, got {segments}")
    size = len(parts) // segments

    def run(first: int, last: int) -> Callable[[Any], Any]:
        def through(x: Any) -> Any:
            for part in parts[first:last]:
                x = part(x)
            return x

        return through

    end = size * (segments - 1)
    for first in range(0, end, size):
        input = checkpoint(run(first, first + size), input, use_reentrant=use_reentrant, **kwargs)
    return run(end, len(parts))(input)


def check_backward_validity(inputs: Sequence[Any]) -> None:
    """Warn if no tensor among the inputs requires grad: nothing would be recorded."""
    if not any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
        warnings.warn(
            "None of the inputs have requires_grad=True. Gradients will be None", stacklevel=2
        )


def detach_variable(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the inputs with each tensor detached, requiring grad as before."""
    if not isinstance(inputs, tuple):
        raise ParameterError(
            f"Only tuple of tensors is supported. Got Unsupported input type: "
            f"{type(inputs).__name__}"
        )
    return tuple(
        x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in inputs
    )


def get_device_states(*args: Any) -> tuple[list[int], list[Tensor]]:
    """Return the GPUs on which the arguments are, and the states of their generators."""
    from ..cuda import get_rng_state as state_of

    found = {x.device.index for x in args if isinstance(x, Tensor) and x.device.type == "cuda"}
    places = sorted(found)
    return places, [state_of(i) for i in places]


def set_device_states(
    devices: Sequence[int], states: Sequence[Tensor], *, device_type: str | None = None
) -> None:
    """Give the generators of these GPUs their states back."""
    from ..cuda import set_rng_state as restore

    for i, state in zip(devices, states, strict=True):
        restore(state, i)


def noop_context_fn() -> tuple[Any, Any]:
    """Return two contexts that do nothing: for the first run, and for the one at backward."""
    return nullcontext(), nullcontext()
