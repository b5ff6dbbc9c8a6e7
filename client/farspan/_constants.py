"""Constants of traced functions: the tensors that they make of Python values.

A Put within a trace becomes an input that every Call gets again. That is right only if the values
are the same each time; whoever traces asks for the same values twice. What the function writes to,
or gives away, is copied first. Read `_trace.py` next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._dispatch import wrap
from ._gather import Ref
from .core import command as cmd
from .core import limits
from .core.dtype import DTYPES
from .core.op import OPS, op_at
from .core.spec import Spec

if TYPE_CHECKING:
    from ._program import Commands
    from ._session import Session
    from ._tensor import Tensor

#: What is known of a constant: the code of its dtype, its shape and its bytes.
Value = tuple[int, tuple[int, ...], bytes]


def values_of(run: Commands) -> list[Value] | None:
    """Return what was put during the run, in order; None if some were too large to look at."""
    if any(data is None or len(data) > limits.INLINE_BYTES_MAX for _, _, data, _, _ in run.puts):
        return None
    return [(static[0], static[1], bytes(data)) for _, static, data, _, _ in run.puts]


def install(session: Session, device: int, run: Commands) -> dict[int, Tensor]:
    """Send the run's constants once more, to be kept; return them by the ids that the run reads.

    Those that are written to, or are alive after it, become clones in the run.
    """
    kept: dict[int, Tensor] = {}
    spoilt = _spoilt(run) | _alive(session, device, run)
    for id_, static, data, number, site in run.puts:
        spec = Spec.make(static[1], DTYPES[static[0]], session.devices[device])
        constant = wrap(Ref(session, device, session.new_id(), spec.nbytes), spec)
        session.put(device, constant._ref.id, static[0], static[1], data)
        if id_ in spoilt:
            own = session.new_id()  # a name that nothing else has
            _insert_clone(run, own, id_, number, site, constant)
            id_ = own
        kept[id_] = constant
    return kept


def _roots(run: Commands) -> dict[int, int]:
    """Return, of each tensor that shows a constant's memory, which one: itself, and views."""
    roots = {put[0]: put[0] for put in run.puts}
    at = 0
    for opcode, count in zip(run.opcodes, run.counts, strict=True):
        ids = run.ids[at : at + count]
        if opcode >= cmd.FIRST_OPCODE and op_at(opcode).family == "view" and ids[0] in roots:
            roots.update(dict.fromkeys(ids[1:], roots[ids[0]]))
        at += count
    return roots


def _spoilt(run: Commands) -> set[int]:
    """Return the constants that some command may write to."""
    roots, spoilt, at = _roots(run), set(), 0
    for opcode, mode, count in zip(run.opcodes, run.modes, run.counts, strict=True):
        if opcode >= cmd.FIRST_OPCODE and (mode & 3 != cmd.FUNCTIONAL or op_at(opcode).writes):
            spoilt.update(roots[i] for i in run.ids[at : at + count] if i in roots)
        at += count
    return spoilt


def _alive(session: Session, device: int, run: Commands) -> set[int]:
    """Return the constants of which the caller holds a tensor."""
    lane = session.lanes[device]
    gone = set(lane.freed)
    return {root for i, root in _roots(run).items() if i in lane.held and i not in gone}


def _insert_clone(
    run: Commands, source: int, made: int, number: int, site: Any, constant: Tensor
) -> None:
    """Let the run make `made` as a copy of `source`, where it was put."""
    op = OPS["clone"]
    at = sum(n < number for n in run.numbers)
    ids = sum(run.counts[:at])
    run.opcodes.insert(at, op.opcode)
    run.modes.insert(at, cmd.FUNCTIONAL)
    run.counts.insert(at, 2)
    run.ids[ids:ids] = [source, made]
    run.statics.insert(at, op.bind(constant)[1])
    run.scalar_counts.insert(at, 0)
    run.numbers.insert(at, number)
    run.sites.insert(at, site)
