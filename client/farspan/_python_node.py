"""Nodes of the graph whose backward is a Python function, which the client walks itself.

A copy to another device of the session is one: its gradient comes back the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._dispatch import mode, wrap
from ._gather import Ref
from ._sites import call_site
from .core import tape
from .core.spec import Spec
from .core.tape import Edge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._tensor import Tensor
    from .core.dtype import Device


class PythonNode(tape.Node):
    """A node whose backward is a Python function on the client."""

    __slots__ = ("function", "label")

    def __init__(
        self,
        label: str,
        edges: tuple[Edge | None, ...],
        outs: tuple[Spec, ...],
        function: Callable[[list[Any]], Sequence[Any]],
    ) -> None:
        super().__init__(None, edges)
        self.label = label
        self.outs = outs
        self.function = function
        self.site = call_site()

    def run_python(self, gradients: list[Any]) -> list[tuple[Edge, Any]]:
        """Return (edge, gradient) pairs for the inputs that need one."""
        results = self.function(gradients)
        pairs = zip(self.edges, results, strict=True)
        return [(e, g) for e, g in pairs if e is not None and g is not None]


def crossing(x: Tensor, device: Device) -> Tensor:
    """Return a copy of x on another device of its session; its gradient comes back the same way."""
    if x._levels:
        from ._batching.tensor import value
        from ._batching.tensor import wrap as hide

        return hide(crossing(value(x), device), x._levels)
    session = x._ref.session
    to = session.index_of(device)
    place = session.devices[to]
    spec = Spec.make(x._spec.shape, x._spec.dtype, place)
    id_ = session.new_id()
    out = wrap(Ref(session, to, id_, spec.nbytes), spec)
    session.copy_across(x._ref, id_, to, spec.dtype.code, spec.shape)
    out._copied = True  # type: ignore[attr-defined]
    edge = tape.edge_of(x)
    if edge is not None and mode.grad:
        home = x._spec.device
        out._node = PythonNode(
            "ToCopyBackward0", (edge,), (spec,), lambda gradients: [crossing(gradients[0], home)]
        )
    return out
