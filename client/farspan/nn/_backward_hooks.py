"""What runs a module's backward hooks: two identities on the tape, around one call.

Gradients of the outputs pass the one that was recorded last, first; gradients of the inputs leave
by the other. Both are Python nodes, so such a pass is walked by the client (docs/decisions/002).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from farspan._dispatch import mode
from farspan._grad_mode import no_grad
from farspan._python_node import PythonNode
from farspan._tensor import Tensor
from farspan.core import tape
from farspan.core.call import fn

Gradients = tuple[Any, ...]


class Crossing:
    """One call of a module, with the hooks that its backward pass runs."""

    def __init__(
        self,
        module: Any,
        hooks: Sequence[Callable[..., Any]],
        pre_hooks: Sequence[Callable[..., Any]],
    ) -> None:
        self.module, self.hooks, self.pre_hooks = module, hooks, pre_hooks
        self.grad_outputs: Gradients | None = None  # between the two identities of one pass
        self.input_places: list[int] | None = None  # of the tensors; None: no gradient goes there
        self.output_places: list[int] | None = None
        self.input_count = self.output_count = 0

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments, the tensors among them behind an identity."""
        self.input_count = len(args)
        args, self.input_places = _identity(args, self._at_inputs, True)
        return args

    def leave(self, result: Any) -> Any:
        """Return the module's result behind an identity."""
        if not isinstance(result, (Tensor, tuple)):
            warnings.warn(
                "For backward hooks to be called, module output should be a Tensor or a tuple of "
                f"Tensors but received {type(result)}",
                stacklevel=5,
            )
        several = isinstance(result, tuple)
        parts = result if several else (result,)
        self.output_count = len(parts)
        parts, self.output_places = _identity(parts, self._at_outputs, False)
        return parts if several else parts[0]

    def _at_outputs(self, gradients: list[Any]) -> Gradients:
        assert self.output_places is not None
        grads = _spread(self.output_places, gradients, self.output_count)
        for hook in self.pre_hooks:
            changed = hook(self.module, grads)
            if changed is None:
                continue
            if len(changed) != len(grads):
                raise RuntimeError(
                    "Backward pre hook returned an invalid number of grad_output, got "
                    f"{len(changed)}, but expected {len(grads)}"
                )
            grads = changed
        self.grad_outputs = grads
        if self.input_places is None:
            self._run_without_inputs(grads)
        return tuple(grads[i] for i in self.output_places)

    def _run_without_inputs(self, grads: Gradients) -> None:
        warnings.warn(
            "Full backward hook is firing when gradients are computed with respect to module "
            "outputs since no inputs require gradients. See "
            "https://docs.pytorch.org/docs/main/generated/torch.nn.Module.html"
            "#torch.nn.Module.register_full_backward_hook for more details.",
            stacklevel=5,
        )
        nothing = (None,) * self.input_count
        for hook in self.hooks:
            changed = hook(self.module, nothing, grads)
            if changed is not None and any(part is not None for part in changed):
                raise RuntimeError(
                    "Backward hook for Modules where no input requires gradient should always "
                    "return None or None for all gradients."
                )
        self.grad_outputs = None

    def _at_inputs(self, gradients: list[Any]) -> Sequence[Any]:
        if self.grad_outputs is None:
            return gradients  # they came around the module's output, as in a second derivative
        assert self.input_places is not None
        grads = _spread(self.input_places, gradients, self.input_count)
        for hook in self.hooks:
            changed = hook(self.module, grads, self.grad_outputs)
            if changed is None:
                continue
            if len(changed) != len(grads):
                raise RuntimeError(
                    "Backward hook returned an invalid number of grad_input, got "
                    f"{len(changed)}, but expected {len(grads)}"
                )
            grads = changed
        self.grad_outputs = None
        return tuple(grads[i] for i in self.input_places)


def hook_last_node(
    module: Any, hooks: Iterable[Callable[..., Any]], args: tuple[Any, ...], result: Any
) -> None:
    """Let the node that made the first tensor of ``result`` run hooks of the older form.

    They see the gradients of that one node: of its own inputs, be they the module's or not.
    """
    first = result
    while not isinstance(first, Tensor):
        if isinstance(first, dict):
            first = next(x for x in first.values() if isinstance(x, Tensor))
        else:
            first = first[0]
    node = first.grad_fn
    if node is None:
        return
    for hook in hooks:
        node.register_hook(functools.partial(hook, module))
    complaint = _what_is_missed(args, result, node)
    if complaint:
        warnings.warn(complaint, FutureWarning, stacklevel=5)


def _what_is_missed(args: tuple[Any, ...], result: Any, node: Any) -> str:
    """Return why hooks on this node do not see all gradients of the module, in torch's words."""
    full = "Please use register_full_backward_hook to get the documented behavior."
    results = (result,) if isinstance(result, Tensor) else result
    if not (isinstance(results, tuple) and all(isinstance(r, Tensor) for r in results)):
        return (
            "Using non-full backward hooks on a Module that does not return a single Tensor or a "
            "tuple of Tensors is deprecated and will be removed in future versions. This hook will "
            f"be missing some of the grad_output. {full}"
        )
    if not all(isinstance(a, Tensor) for a in args):
        return (
            "Using non-full backward hooks on a Module that does not take as input a single Tensor "
            "or a tuple of Tensors is deprecated and will be removed in future versions. This hook "
            f"will be missing some of the grad_input. {full}"
        )
    if len({r.grad_fn for r in results} - {None}) > 1:
        return (
            "Using a non-full backward hook when outputs are generated by different autograd Nodes "
            "is deprecated and will be removed in future versions. This hook will be missing some "
            f"grad_output. {full}"
        )
    if {a.grad_fn for a in args} - {None} != {n for n, _ in node.next_functions}:
        return (
            "Using a non-full backward hook when the forward contains multiple autograd Nodes is "
            "deprecated and will be removed in future versions. This hook will be missing some "
            f"grad_input. {full}"
        )
    return ""


def _spread(places: list[int], values: Sequence[Any], size: int) -> Gradients:
    spread = [None] * size
    for place, value in zip(places, values, strict=True):
        spread[place] = value
    return tuple(spread)


def _identity(
    parts: tuple[Any, ...],
    function: Callable[[list[Any]], Sequence[Any]],
    zeros_first: bool,
) -> tuple[tuple[Any, ...], list[int] | None]:
    """Return ``parts`` behind a node that runs ``function``, and where the tensors are.

    None for the places if no gradient will come, and the parts are as they were.
    """
    places = [i for i, part in enumerate(parts) if isinstance(part, Tensor)]
    edges = tuple(tape.edge_of(parts[i]) for i in places)
    if not mode.grad or all(edge is None for edge in edges):
        return parts, None
    with no_grad():
        outs = [fn.detach(parts[i]) for i in places]
    specs = tuple(x._spec for x in outs)

    def filled(gradients: Sequence[Any]) -> list[Any]:
        some = next(g for g in gradients if g is not None)
        return [
            fn.new_zeros(some, s.shape, dtype=s.dtype) if g is None else g
            for g, s in zip(gradients, specs, strict=True)
        ]

    def run(gradients: list[Any]) -> Sequence[Any]:
        # Like a Function's backward, the identity gives zeros where no gradient came. The hooks of
        # the inputs run behind it and see them, those of the outputs run before it.
        return function(filled(gradients)) if zeros_first else filled(function(gradients))

    node = PythonNode("BackwardHookFunctionBackward", edges, specs, run)
    made = list(parts)
    for index, (place, out, edge) in enumerate(zip(places, outs, edges, strict=True)):
        if edge is not None:
            out._node, out._index, out._made_by = node, index, "function"
        made[place] = out
    kind = type(parts)
    return (tuple(made) if kind is tuple else kind(*made)), places
