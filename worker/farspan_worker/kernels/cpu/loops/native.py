"""llvmlite, opened at its first use: IR text to object code, object code to a function.

A machine without it runs every op by itself; `missing()` says why. Code is for the processor it is
made on. llvmlite takes one call at a time, whichever thread it comes from; the thread that compiles
behind lets others go first.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final

from . import disk, team
from .nest import NAME

PACKAGE: Final = "llvmlite"
#: How code refers to what lies elsewhere: by whole addresses, which reach everywhere.
MODEL: Final = {"reloc": "static", "codemodel": "large"}
#: Part of the key of code on disk: another number where `compiled` does something else.
_PASSES: Final = "1"
_lock: Final = threading.Lock()
_this: Final = threading.local()


class _Hurry:
    """How many threads wait for code that they compile themselves."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        with self._changed:
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def gone(self) -> None:
        """Wait until there is none."""
        with self._changed:
            self._changed.wait_for(lambda: not self._count)


_hurry = _Hurry()


def _after_fork() -> None:
    global _hurry
    _hurry = _Hurry()  # the threads that were counted are not here


os.register_at_fork(after_in_child=_after_fork)


def be_behind() -> None:
    """Let what this thread compiles wait for what others do: nobody waits for it."""
    _this.behind = True


class _Machine:
    """LLVM's description of this processor."""

    def __init__(self) -> None:
        import llvmlite
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self.llvm = llvm
        level = os.environ.get("FARSPAN_CPU_LEVEL", "")  # see process.level_environment
        self.cpu = f"x86-64-{level}" if level else llvm.get_host_cpu_name()
        self.features = "" if level else llvm.get_host_cpu_features().flatten()
        self.version = f"{llvmlite.__version__} {'.'.join(map(str, llvm.llvm_version_info))}"
        self.machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=self.cpu, features=self.features, opt=3, jit=False, **MODEL
        )
        # JITLink gives all sections of a module one block of memory. RuntimeDyld, the default, maps
        # each apart: what is mapped between them may put constants out of a 32-bit distance, and
        # then it aborts the process ("isInt<32>(RealOffset)"), as tests/test_loops.py shows.
        self.lljit = llvm.create_lljit_compiler(
            llvm.Target.from_default_triple().create_target_machine(
                cpu=self.cpu, features=self.features, opt=3, jit=True
            ),
            use_jit_link=True,
        )
        self.count = 0
        _waits_at_forks(llvm)


def _waits_at_forks(llvm: Any) -> None:
    """Let a fork wait until LLVM does nothing: its child would find llvmlite's lock taken for ever.

    The lock is no public part of llvmlite; without one a fork goes on as it ever did.
    """
    lock = getattr(getattr(llvm.ffi.lib, "_lock", None), "_lock", None)
    for each in (_lock, lock):
        if each is not None:
            os.register_at_fork(
                before=each.acquire, after_in_parent=each.release, after_in_child=each.release
            )


def absent() -> str:
    """Return why there is no compiler, "" if there may be one; does not open it."""
    if os.environ.get("FARSPAN_KERNELS", "") == "plain":
        return "FARSPAN_KERNELS is plain"
    if os.environ.get("FARSPAN_LOOPS", "") == "off":
        return "FARSPAN_LOOPS is off"
    if importlib.util.find_spec(PACKAGE) is None:
        return f"the package {PACKAGE} is not installed"
    return ""


def waits() -> bool:
    """Return whether FARSPAN_LOOPS is "wait": loops are compiled before a plan first runs."""
    return os.environ.get("FARSPAN_LOOPS", "") == "wait"


@functools.cache
def _opened() -> tuple[_Machine | None, str]:
    why = absent()
    if why:
        return None, why
    try:
        return _Machine(), ""
    except (ImportError, OSError, RuntimeError) as error:  # e.g. no target for this processor
        return None, str(error)


def missing() -> str:
    """Open llvmlite if that was not done yet; return "" or why loops cannot be compiled."""
    with _lock:
        return _opened()[1]


def _machine() -> _Machine:
    with _lock:
        found, why = _opened()
    if found is None:
        raise RuntimeError(why)
    return found


def identity() -> str:
    """Return what object code depends on beside its text: LLVM, how it is asked, the processor."""
    m = _machine()
    return f"{m.version} {MODEL} {_PASSES} {m.machine.triple} {m.cpu} {m.features}"


def processor() -> str:
    """Return LLVM's name of the processor that code is made for."""
    return str(_machine().cpu)


def on_disk(text: str) -> bytes | None:
    """Return the object code of a module of IR if it was compiled before; takes 0.1 ms."""
    kept = disk.opened()
    return None if kept is None else kept.read(_key(text))


def to_object(text: str) -> bytes:
    """Return the object code of a module of IR: from disk, else compiled and kept there.

    Compiling takes 10 to 60 ms. Several threads may call. RuntimeError: LLVM cannot.
    """
    found = on_disk(text)
    if found is None:
        found = compiled(text)
        kept = disk.opened()
        if kept is not None:
            kept.write(_key(text), found)
    return found


def _key(text: str) -> bytes:
    return f"{identity()}\n{text}".encode()


def compiled(text: str) -> bytes:
    """Return the object code of a module of IR, made by LLVM here and now.

    RuntimeError: it is no valid module. LLVM's passes would end the process over one.
    """
    behind = getattr(_this, "behind", False)
    with contextlib.nullcontext() if behind else _hurry.here():
        give_way = _hurry.gone if behind else _nothing
        give_way()
        m = _machine()
        module = m.llvm.parse_assembly(text)
        module.verify()
        module.triple = m.machine.triple
        module.data_layout = str(m.machine.target_data)
        options = m.llvm.create_pipeline_tuning_options(speed_level=3)
        options.loop_vectorization = options.slp_vectorization = True
        options.loop_interleaving = options.loop_unrolling = True
        passes = m.llvm.create_pass_builder(m.machine, options)
        give_way()
        passes.getModulePassManager().run(module, passes)
        give_way()
        found: bytes = m.machine.emit_object(module)
        return found


def _nothing() -> None:
    """Nobody is to be let by."""


class Code:
    """Loaded object code; its memory goes with this object."""

    __slots__ = ("_library", "address")

    def __init__(self, object_code: bytes) -> None:
        m = _machine()
        with _lock:
            m.count += 1
            name = f"loop{m.count}"
        builder = m.llvm.JITLibraryBuilder().add_object_img(object_code).add_current_process()
        for symbol, address in team.symbols().items():
            builder.import_symbol(symbol, address)
        self._library = builder.export_symbol(NAME).link(m.lljit, name)
        self.address: int = self._library[NAME]


def function(address: int, pointers: int, numbers: Sequence[str]) -> Any:
    """Return the ctypes function at an address: pointers, then numbers by kind; no result."""
    kinds = [ctypes.c_double if kind == "f" else ctypes.c_int64 for kind in numbers]
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * pointers, *kinds)(address)
