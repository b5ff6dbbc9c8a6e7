"""Numbers that a compiled function is given: which of them a program takes anew at each Call.

Two traces with different numbers tell. Where all that differs between their commands are numbers
that arrived as they were given - untouched, by the tag they carry - a Call can bring others. What
the function computed with is among the commands as another number, and stays a guard by value.
Read `_trace.py` first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .core import command as cmd
from .core.coerce import Tagged
from .core.op import op_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._program import Commands, Form
    from ._trace import Traced

#: Families whose ops do the same for every number, whatever it is.
_ANY_NUMBER = frozenset({"pointwise", "step"})


def tagged(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], list[Tagged]]:
    """Return the arguments with floats tagged, and the tags in the order of `numbers_of`."""
    numbers = numbers_of(args, kwargs)
    tags = [Tagged(x) for x in numbers]
    rest = iter(tags)
    given = tuple([next(rest) if type(a) is float else a for a in args])
    by_name = {k: next(rest) for k in sorted(kwargs) if type(kwargs[k]) is float}
    return given, {k: by_name.get(k, a) for k, a in kwargs.items()}, tags


def numbers_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[float]:
    """Return the floats among the arguments, those by name in the order of their names."""
    found = [a for a in args if type(a) is float]
    if kwargs:
        found += [kwargs[k] for k in sorted(kwargs) if type(kwargs[k]) is float]
    return found


def places_of(tags: Sequence[Tagged], run: Commands) -> dict[int, list[int]]:
    """Return, of each tag that arrived in commands and nowhere else, where among their numbers."""
    index = {id(tag): i for i, tag in enumerate(tags)}
    found: dict[int, list[int]] = {}
    at = 0
    for opcode, count in zip(run.opcodes, run.scalar_counts, strict=True):
        for place in range(at, at + count):
            i = index.get(id(run.scalars[place]))
            if i is not None:
                op = op_at(opcode) if opcode >= cmd.FIRST_OPCODE else None
                if op is None or op.by_value or op.family not in _ANY_NUMBER:
                    tags[i].seen = True
                found.setdefault(i, []).append(place)
        at += count
    return {i: places for i, places in found.items() if not tags[i].seen}


def fits(given: Sequence[float | None], numbers: Sequence[float]) -> bool:
    """Return whether the numbers that stay what they are, bit for bit, do."""
    return all(
        mine is None or mine is value or mine.hex() == value.hex()
        for mine, value in zip(given, numbers, strict=True)
    )


def widen(new: Traced, old: Traced) -> bool:
    """Let the new trace stand for the calls of the old one too, if they differ in numbers only.

    Numbers that differ between the two, and arrived as they were given, are not looked at any more.
    """
    if not old.given or not _are_alike(new, old) or not old.world.holds():
        return False
    mine, others = new.program.form.scalars, old.program.form.scalars
    free = {at for at, _ in new.rates}
    for places in new.places.values():
        free.update(places)
    pairs = enumerate(zip(mine, others, strict=True))
    if any(at not in free and not _same(a, b) for at, (a, b) in pairs):
        return False
    for i, before in enumerate(old.given):
        now = new.given[i]
        if i in new.places and now is not None and (before is None or before.hex() != now.hex()):
            new.given[i] = None
    return all(
        now is None or (before is not None and before.hex() == now.hex())
        for now, before in zip(new.given, old.given, strict=True)
    )


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and repr(a) == repr(b)


def _are_alike(new: Traced, old: Traced) -> bool:
    return (
        new.device == old.device
        and new.session is old.session
        and new.places == old.places
        and _guards(new) == _guards(old)
        and [at for at, _ in new.rates] == [at for at, _ in old.rates]
        and new.values == old.values
        and new.program.outputs == old.program.outputs
        and _forms_alike(new.program.form, old.program.form)
        and _made_alike(new, old)
        and list(map(_source, new.sources)) == list(map(_source, old.sources))
        and _tree(new.result) == _tree(old.result)
        and [(_source(s), n) for s, n in new.writes] == [(_source(s), n) for s, n in old.writes]
        and [(_source(s), n) for s, n in new.grads] == [(_source(s), n) for s, n in old.grads]
    )


def _forms_alike(a: Form, b: Form) -> bool:
    return (
        a.opcodes == b.opcodes
        and a.modes == b.modes
        and a.counts == b.counts
        and a.statics == b.statics
        and a.scalar_counts == b.scalar_counts
        and a.slots == b.slots
        and a.inputs == b.inputs
        and a.relative == b.relative
        and a.default_dtype == b.default_dtype
    )


def _made_alike(new: Traced, old: Traced) -> bool:
    return len(new.made) == len(old.made) and all(
        (a.output, a.memory, a.version, type(a.node))
        == (b.output, b.memory, b.version, type(b.node))
        and a.spec is b.spec
        for a, b in zip(new.made, old.made, strict=True)
    )


def _source(source: Any) -> Any:
    """Return where a source's tensor is found; of constants, which the values tell, only that."""
    return source.argument, source.grad, 0 if source.constant else id(source.tensor)


def _guards(traced: Traced) -> Any:
    """Return what has to hold before a Call, apart from plain values."""
    return (
        [(_source(s), has) for s, has in traced.graded],
        [(id(t), needs) for t, needs in traced.flags],
        [(i, id(t)) for i, t in traced.same],
    )


def _tree(tree: Any) -> Any:
    """Return a result's structure as what can be compared."""
    kind, value = tree
    if kind == "source":
        return kind, _source(value)
    if kind == "value":
        return kind, type(value), repr(value)
    if kind == "made":
        return kind, value
    if kind == "dict":
        return kind, value[0], [(k, _tree(v)) for k, v in value[1]]
    return kind, [_tree(v) for v in value]
