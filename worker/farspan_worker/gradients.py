"""A backward pass over the arrays of an engine: the gradients that a Backward asks for.

The walk is `core/tape.py`, the formulas `formulas.py`. Nothing of the engine changes here but the
bytes that the gradients take: it decides what becomes of them. A tracer's arrays are symbols.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from farspan.core import command as cmd
from farspan.core import tape
from farspan.core.command import ErrorInfo
from farspan.core.errors import AutogradError, ProtocolError
from farspan.core.names import backward_name

from . import formulas
from .backend import Host
from .checks import describe, gradient_spec
from .store import Array, Poison

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .engine import Engine

_SKIPPED = "a tensor on the way to this gradient failed to be computed, so it has no gradient"


def walk(
    engine: Engine,
    roots: Sequence[Array],
    seeds: Sequence[Array],
    stops: Sequence[Array],
    flags: int,
) -> list[Array | Poison] | ErrorInfo:
    """Return the gradient of each stop, in memory of its own, or what the pass failed of.

    roots: each has a node. seeds: their gradients. flags: 1 keeps the graph, CHECK_NAN refuses
    gradients that are no numbers. ProtocolError: not what a client of ours asks for.
    """
    edges = [(x._node, x._index) for x in roots]
    wanted = [tape.edge_of(x) for x in stops]
    shared = {id(x._storage.memory) for x in seeds}
    watch = _Watch(bool(flags & cmd.CHECK_NAN), engine.backend)

    def unpack(node: tape.Node, name: str, saved: Array) -> Array:
        shared.add(id(saved._storage.memory))
        return saved

    try:
        found = tape.walk(
            list(zip(edges, seeds, strict=True)),
            {w for w in wanted if w is not None},
            unpack,
            keep=bool(flags & 1),
            watch=watch if engine.timeline is None else engine.timeline.watching(watch),
        )
        results: list[Array | Poison] = []
        for stop, edge in zip(stops, wanted, strict=True):
            gradient = None if edge is None else found.get(edge)
            if gradient is None:
                # A store on the way was skipped, so the tapes of client and engine differ.
                error = engine.skipped or ErrorInfo("AutogradError", _SKIPPED, engine.running)
                results.append(Poison(error, gradient_spec(stop._spec)))
            else:
                results.append(engine.own(gradient, stop._spec, shared))
        return results
    except ProtocolError:
        raise
    except Exception as e:
        node = watch.node
        name = f"{node.op.base} in backward" if node and node.op else "backward"
        return ErrorInfo(*describe(e, name), engine.running, getattr(node, "number", -1))


class _Watch(tape.Watch):
    """Knows the node whose formulas run, and fails at gradients that are no numbers if asked to."""

    def __init__(self, check_nan: bool, backend: Host) -> None:
        self.node: tape.Node | None = None
        self.check_nan = check_nan
        self.backend = backend

    def run(self, node: tape.Node, gradients: list[Any], unpack: Any) -> Any:
        self.node = node
        run = tape.backward_of if self.backend.remote else formulas.run
        pairs = list(run(node, gradients, unpack))
        if self.check_nan:
            at = tape.first_bad(node, pairs, lambda g: bool(self.backend.xp.isnan(g.array).any()))
            if at >= 0:
                raise AutogradError(
                    f"Function '{backward_name(node)}' returned nan values in its {at}th output."
                )
        return pairs
