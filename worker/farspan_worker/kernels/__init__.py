"""Fast kernels: op name -> a kernel that computes the same as the table's, sooner.

Which kernel runs an op follows from metadata alone, never from timing or load: a replay on an equal
worker gives the same bits. FARSPAN_KERNELS=plain turns them off. Rules and kernels stand in `cpu/`;
the law `fast == kernel` in tests/test_kernels.py. Nothing is opened before the first op runs.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farspan.core.spec import Spec


@dataclass(frozen=True, slots=True)
class Fast:
    """A kernel beside the table's one, and for which metadata it stands in for it."""

    kernel: Callable[..., Any]  # (xp, *args), as the op's own
    when: Callable[..., bool]  # (*args in schema order, Specs for tensors): the rule
    least: int = 0  # elements of the first argument below which the table's is done sooner


Registry = dict[str, Fast]


def choose(name: str, args: Sequence[Any]) -> Callable[..., Any] | None:
    """Return the fast kernel of the op for these arguments, None if the table's is to run.

    args: in schema order, Specs for tensors.
    """
    fast = overrides().get(name)
    if fast is None or (fast.least and args[0].numel < fast.least) or not fast.when(*args):
        return None
    return fast.kernel


def overrides() -> Mapping[str, Fast]:
    """Return all fast kernels that this process can run, by op name with overload."""
    return _found()[0]


def missing() -> str:
    """Return why there is no oneDNN here: "" if there is, or if FARSPAN_KERNELS says "plain"."""
    return _found()[1]


def slower() -> str:
    """Return why loops are not compiled here: "" if they are, or if FARSPAN_KERNELS is "plain"."""
    if os.environ.get("FARSPAN_KERNELS", "") == "plain":
        return ""
    from .cpu import loops

    return loops.absent()


@functools.cache
def _found() -> tuple[Registry, str]:
    if os.environ.get("FARSPAN_KERNELS", "") == "plain":
        return {}, ""
    from . import cpu

    return cpu.overrides()


def single(*specs: Spec | None) -> bool:
    """Return whether all tensors that are there reach a kernel as float32."""
    return all(s is None or s.dtype.name in _SINGLE for s in specs)


#: Half precision computes in float32 (see `plan.py`).
_SINGLE = ("float32", "float16", "bfloat16")
