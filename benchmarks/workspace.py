"""What ops need beside inputs and results: the growth of their temporaries with their size.

    python benchmarks/workspace.py

Takes six minutes. Runs what farspan and its nn.functional offer on tensors of two sizes, forward
and backward, with Python's own record of allocations around each kernel, and prints for each op how
many bytes of temporaries one more byte of inputs and results takes; see `workspace.py`.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("FARSPAN_LOOPS", "off")  # its thread allocates too

import farspan as torch
import numpy as np
from farspan.core.op import Op
from farspan_worker import backend, workspace

_SIZES = (256, 512)
_KEPT = ("connect", "compile", "save", "load", "seed", "manual_seed", "session", "attach")
#: By op: (bytes of temporaries, bytes of inputs and results) of each call.
_Calls = dict[str, list[tuple[int, int]]]


def measured(size: int) -> _Calls:
    """Return what every call needed, in an order that does not depend on `size`."""
    calls: _Calls = defaultdict(list)
    original = backend.Host.kernel

    def kernel(self: backend.Host, op: Op, args: Any) -> Any:
        chosen = original(self, op, args)
        return chosen and _watched(chosen, calls[op.name])

    backend.HOST.plans.clear()
    backend.Host.kernel = kernel  # type: ignore[method-assign]
    try:
        for call in _calls(size):
            with contextlib.suppress(Exception):
                _run(call)
    finally:
        backend.Host.kernel = original  # type: ignore[method-assign]
        backend.HOST.plans.clear()
    return calls


def _watched(kernel: Callable[..., Any], calls: list[tuple[int, int]]) -> Callable[..., Any]:
    def run(xp: Any, *args: Any) -> Any:
        tracemalloc.start()
        try:
            result = kernel(xp, *args)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        made = _nbytes(result)
        calls.append((max(0, peak - made), _nbytes(args) + made))
        return result

    return run


def _nbytes(x: Any) -> int:
    if isinstance(x, np.ndarray):
        return x.nbytes
    return sum(map(_nbytes, x)) if isinstance(x, list | tuple) else 0


def _calls(n: int) -> Iterator[Callable[[], Any]]:
    torch.manual_seed(0)
    x, y = torch.randn(n, n), torch.randn(n, n)
    batch = torch.randn(8, n // 2, n // 2)
    images, weight = torch.randn(8, 16, n // 8, n // 8), torch.randn(32, 16, 3, 3)
    row = torch.randint(0, n, (n,))
    index = torch.randint(0, n, (n, n))
    square = x @ x.T + n * torch.eye(n)
    half, mask, c = x.half(), x > 0, torch.complex(x, y)
    of_all: list[tuple[Any, ...]] = [
        (x,), (x, y), (x, 1), (x, 0, row), (x, 0, index), (x, 0, index, y), (x, mask), (x, y, x),
        (half,), (half, half), (batch, batch), (square,), (index,), (index, index), ((x, y),),
        (c,), (x, 2, 0), (mask, y > 0), (square, y), (x.double(), y.double()),
    ]  # fmt: skip
    of_layers: list[tuple[Any, ...]] = [
        (x,), (x, y), (x, row), (images,), (images, weight), (images, 2), (half,), (x, (n,)),
        (images, 4), (images, weight.transpose(0, 1)), (batch, batch, batch), (index, x),
        (images.half(), weight.half()), (images, (3, 3)), (images, (1, 1, 1, 1)),
    ]  # fmt: skip
    for module, all_args in ((torch, of_all), (torch.nn.functional, of_layers)):
        for name in sorted(dir(module)):
            function = getattr(module, name)
            if name.startswith(("_", "set_", *_KEPT)) or inspect.isclass(function):
                continue
            if callable(function):
                for args in all_args:
                    yield lambda f=function, a=args: f(*map(_leaf, a))
    for f in (torch.linalg.svd, torch.linalg.inv, torch.linalg.eigh, torch.linalg.qr,
              torch.linalg.matrix_exp, torch.linalg.cholesky):  # fmt: skip
        yield lambda f=f: f(square)


def _leaf(x: Any) -> Any:
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        return x
    return x.detach().clone().requires_grad_()


def _run(call: Callable[[], Any]) -> None:
    made = call()
    for each in made if isinstance(made, list | tuple) else (made,):
        if isinstance(each, torch.Tensor) and each.requires_grad:
            each.sum().backward()
            break
    torch.cpu.synchronize()


def main() -> None:
    """Print what grows, the most first."""
    torch.connect("local:")
    small, large = (measured(size) for size in _SIZES)
    growth = {}
    for name, calls in large.items():
        pairs = zip(small.get(name, []), calls, strict=False)
        slopes = [(t - s) / (u - v) for (s, v), (t, u) in pairs if u - v > 2**17]
        if slopes:
            growth[name] = max(slopes)
    declared = workspace.declared
    for name, factor in sorted(growth.items(), key=lambda item: -item[1]):
        if factor > 0.2 or declared(name):
            print(f"{name:45} {factor:8.2f}   declared {declared(name)}")
    print(f"{len(growth)} ops measured")


if __name__ == "__main__":
    main()
