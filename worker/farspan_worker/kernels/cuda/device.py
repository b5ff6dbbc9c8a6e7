"""Cuda: the backend of one session on one GPU - a stream, a pool with the session's quota, copies.

All work of a session goes onto one stream, so its order is the order of commands; only reading a
value waits. What cupy cannot compute is computed on the host and copied back (hosted.py); that is
counted. Kernels are the table's, over the namespace of namespace.py.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from farspan.core.errors import FarspanError, OutOfMemoryError, ShapeError

from ...backend import Host
from . import math_mode
from .copies import Staging
from .fused import Modules
from .hosted import is_hosted, on_host
from .math_mode import MathMode
from .namespace import Namespace
from .philox import Philox
from .products import PRODUCTS, Products
from .rows import ROWS
from .steps import STEPS, Steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from farspan.core.op import Op
    from farspan.core.spec import Spec

log = logging.getLogger(__name__)


class Cuda(Host):
    """Arrays of cupy, or of a module that is used as cupy is, on one device."""

    remote = True
    halves = frozenset(PRODUCTS)

    def __init__(self, module: Any, index: int, memory_bytes_max: int | None) -> None:
        super().__init__()
        self.module = module
        self.xp = Namespace(module)
        self.device = module.cuda.Device(index)
        with self.device:
            self.stream = module.cuda.Stream(non_blocking=True)
            self.pool = module.cuda.MemoryPool()
            self.pool_limit = _with_room(memory_bytes_max) if memory_bytes_max else 0
            if self.pool_limit:
                self.pool.set_limit(size=self.pool_limit)
            self.staging = Staging(module)
        self.modules = Modules(module)
        self.steps = Steps(self)
        self.products = Products(self)
        self.math = MathMode()
        self.keeping: list[Any] | None = None  # what a graph that is being captured looks at
        self.hosted = 0  # runs of ops on the host because hosted.py says so
        self.fallbacks: dict[str, str] = {}  # ops that cupy refused all the same, and its words

    # ------------------------------------------------------------------------------- running --
    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Run what is inside on this device and stream, with memory from the session's pool."""
        allocator = self.module.cuda.using_allocator(self.pool.malloc)
        with np.errstate(all="ignore"), self.device, self.stream, allocator, self.xp.strict():
            yield

    def kernel(self, op: Op, args: Sequence[Any]) -> Callable[..., Any] | None:
        if op.kernel is None or is_hosted(op):
            return op.kernel and on_host(op, self)
        if op.name == "_math_mode":
            return math_mode.setter(self)
        if op.name in PRODUCTS:
            return PRODUCTS[op.name](self, self._guarded(op))
        if op.name in ROWS:
            return ROWS[op.name](self, self._guarded(op))
        if op.name in STEPS:
            return STEPS[op.name][0](self, op.kernel)
        return op.kernel if op.writes else self._guarded(op)

    def into(self, op: Op) -> Callable[..., None] | None:
        return None if is_hosted(op) else op.into

    def keep(self, *arrays: Any) -> None:
        """Let what is being captured, if anything is, hold these as long as it lives."""
        if self.keeping is not None:
            self.keeping += arrays

    def copy_bytes(self, to: Any, source: Any) -> None:
        """Copy a row of bytes to another of its length, in the stream's order."""
        if to.size:
            to.data.copy_from_device_async(source.data, to.size, self.stream)

    def _guarded(self, op: Op) -> Callable[..., Any]:
        """Return the table's kernel; what cupy has no way to do is done on the host instead.

        Kernels make new arrays, so that a second try starts from the same inputs. Ops that write
        their arguments have no second try: a step is applied whole or not at all.
        """
        kernel, other = op.kernel, on_host(op, self)
        assert kernel is not None

        def run(xp: Any, *args: Any) -> Any:
            if op.name in self.fallbacks:
                return other(xp, *args)
            try:
                return kernel(xp, *args)
            except FarspanError:
                raise
            except MemoryError:
                return self._again(lambda: kernel(xp, *args))
            except (TypeError, AttributeError, NotImplementedError, ValueError) as e:
                result = other(xp, *args)  # raises what numpy raises, if the fault is the caller's
                self.fallbacks[op.name] = f"{type(e).__name__}: {e}"
                log.warning("%s runs on the host: cupy refused it (%s)", op.name, e)
                return result

        return run

    def _again(self, run: Callable[[], Any]) -> Any:
        """Run once more with what the pool keeps given back. OutOfMemoryError: still no room."""
        self.release()
        try:
            return run()
        except MemoryError:
            used, kept = self.pool.used_bytes(), self.pool.total_bytes()
            free, whole = self.module.cuda.runtime.memGetInfo()
            limit = f" of the {self.pool_limit} it may" if self.pool_limit else ""
            raise OutOfMemoryError(
                f"the GPU has no memory left for this: the session uses {used} bytes and keeps "
                f"{kept - used} more{limit}; {free} of the device's {whole} bytes are free"
            ) from None

    # ---------------------------------------------------------------------------------- bytes --
    def upload(self, flat: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
        with self.turn():
            array = self.module.empty(flat.size, np.uint8)
            self.staging.upload(flat, array, self.stream)
            return array.view(dtype).reshape(shape)

    def download(self, array: Any, outlet: Any = None) -> np.ndarray[Any, Any]:
        """Return a copy on the host, in C order. Waits for all work of the session before it."""
        with self.turn():
            whole = self.module.ascontiguousarray(array)
            flat = np.empty(whole.nbytes, np.uint8)
            if flat.size:
                self.staging.download(whole.reshape(-1).view(np.uint8), flat, self.stream)
            return flat.view(array.dtype).reshape(array.shape)

    def own(self, result: Any) -> Any:
        """Return what a kernel returned as an array of this device."""
        if isinstance(result, self.module.ndarray):
            return result
        array = np.asarray(result)
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return self.upload(flat, array.dtype, array.shape)

    # --------------------------------------------------------------------------------- layout --
    def lay_out(self, result: Any, spec: Spec, inputs: Sequence[Any]) -> Any:
        dtype = spec.dtype.numpy
        result = self.own(result)
        if result.shape != spec.shape:
            raise ShapeError(f"a kernel returned shape {result.shape}, not {spec.shape}")
        if result.dtype != dtype:
            result = result.astype(dtype)
        elif any(_share(result, a) for a in inputs):
            result = result.copy()
        if spec.contiguous and result.flags.c_contiguous:
            return result
        wanted = tuple([s * dtype.itemsize for s in spec.stride])
        if result.strides == wanted:
            return result
        out = self.empty(spec)
        out[...] = result
        return out

    def window(self, flat: Any, spec: Spec, start: int, strides: tuple[int, ...]) -> Any:
        return self.module.ndarray(spec.shape, spec.dtype.numpy, flat.data + start, strides)

    def write(self, target: Any, result: Any) -> None:
        result = self.own(result)
        if _share(result, target):
            result = result.copy()  # the two may overlap, which copies on a GPU do not look for
        target[...] = result.astype(target.dtype, copy=False)

    # ---------------------------------------------------------------------------------- state --
    def generator(self, seed: int) -> Philox:
        return Philox(seed)

    def memory_bytes(self) -> int | None:
        with self.device:
            free, _ = self.module.cuda.runtime.memGetInfo()
        return int(free) * 4 // 5

    def stats(self) -> dict[str, int]:
        """Return how many ops ran on the host, how many of the table may, and the pool's bytes."""
        return {
            "hosted": self.hosted,
            "fallbacks": len(self.fallbacks),
            "pool_bytes": int(self.pool.total_bytes()),
            "staged_bytes": self.staging.moved,
            "kernels": self.modules.compiled,
            "kernels_refused": len(self.modules.refused),
            "products_refused": self.products.refused,
        }

    def modes(self) -> list[Any]:
        return [self.math.matmul_tf32]

    def set_modes(self, modes: list[Any]) -> None:
        (matmul_tf32,) = modes
        self.math = MathMode(bool(matmul_tf32))

    def release(self) -> None:
        """Give what the pool keeps, and nothing uses, back to the device. Waits for it."""
        self.stream.synchronize()
        self.pool.free_all_blocks()

    def close(self) -> None:
        self.stream.synchronize()
        self.products.close()
        self.pool.free_all_blocks()


def _share(a: Any, b: Any) -> bool:
    """Return whether two arrays lie in one allocation."""
    return a.data.mem is b.data.mem


#: Kernels make temporaries that the budget does not count: the pool's limit leaves as much again.
def _with_room(nbytes: int) -> int:
    return 2 * nbytes + (64 << 20)
