"""einops knows farspan's tensors, whichever of the two is imported first.

einops asks the subclasses of its AbstractBackend who takes a tensor; ours must exist by then. If
einops comes later, a finder waits for that one module, and leaves when it has seen it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_MODULE = "einops._backends"


def announce() -> None:
    """Give einops its backend: now if it is imported, else when it is."""
    module = sys.modules.get(_MODULE)
    if module is not None:
        _define(module)
    else:
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds nothing itself; what the others find for einops' module also runs `_define`."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                run(module)
                _define(module)

            spec.loader.exec_module = exec_module
        return spec


def _define(module: Any) -> None:
    """Declare the backend; einops finds it among the subclasses by itself."""
    from . import _tensor
    from .core.call import fn

    class FarspanBackend(module.AbstractBackend):  # type: ignore[misc, name-defined]
        framework_name = "farspan"

        def is_appropriate_type(self, tensor: Any) -> bool:
            return isinstance(tensor, _tensor.Tensor)

        def is_float_type(self, x: Any) -> bool:
            return x.dtype.is_floating_point  # type: ignore[no-any-return]

        def from_numpy(self, x: Any) -> Any:
            from ._creation import from_numpy

            return from_numpy(x)

        def to_numpy(self, x: Any) -> Any:
            return fn.detach(x).cpu().numpy()

        def arange(self, start: int, stop: int) -> Any:
            return fn.arange(start, stop)

        def transpose(self, x: Any, axes: Sequence[int]) -> Any:
            return fn.permute(x, tuple(axes))

        def reshape(self, x: Any, shape: Sequence[int]) -> Any:
            return fn.reshape(x, tuple(shape))

        def reduce(self, x: Any, operation: str, axes: Sequence[int]) -> Any:
            if operation in ("min", "max"):
                return getattr(fn, f"a{operation}")(x, axes)
            if operation in ("sum", "mean"):
                return getattr(fn, operation)(x, axes)
            for axis in sorted(axes, reverse=True):  # prod, any, all take one dim
                x = getattr(fn, operation)(x, axis)
            return x

        def stack_on_zeroth_dimension(self, tensors: Any) -> Any:
            return fn.stack(tensors)

        def add_axis(self, x: Any, new_position: int) -> Any:
            return fn.unsqueeze(x, new_position)

        def add_axes(self, x: Any, n_axes: int, pos2len: dict[int, int]) -> Any:
            sizes = [-1] * n_axes
            for position, length in pos2len.items():
                x = fn.unsqueeze(x, position)
                sizes[position] = length
            return fn.expand(x, sizes)

        def tile(self, x: Any, repeats: Sequence[int]) -> Any:
            return fn.repeat(x, tuple(repeats))

        def concat(self, tensors: Any, axis: int) -> Any:
            return fn.cat(list(tensors), axis)

        def einsum(self, pattern: str, *x: Any) -> Any:
            from ._contract import einsum

            return einsum(pattern, *x)

    module.FarspanBackend = FarspanBackend  # keeps the class alive: subclasses are weakly held
