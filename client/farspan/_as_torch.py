"""`import torch` means farspan: the import hook of `farspan run` and of `%load_ext farspan`.

One finder answers for `torch` and everything below it with farspan's own modules, so that
`torch.nn.Linear is farspan.nn.Linear`; `torch.__version__` ends in ``+farspan``. Processes started
from this one inherit the folder ``_shim`` through PYTHONPATH; its package `torch` does the same.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

SHIM = str(Path(__file__).parent / "_shim")
_OURS, _THEIRS = "farspan", "torch"


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `torch.x.y` where `farspan.x.y` is; loading it gives that very module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != _THEIRS:
            return None
        name = _ours(fullname)
        if name not in sys.modules and not _exists(name):
            return None  # nobody else has it either: they look in farspan's folder
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(_ours(spec.name))
        _name_loaded(_ours(spec.name))
        # The import system now puts its spec for the new name on the module; it is put back.
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


def _name_loaded(ours: str) -> None:
    """Give the loaded modules below one of ours their other name, too.

    Importing them by it finds them then. The import system would otherwise make the module an
    attribute of its parent, over a function of that name: ``torch.autograd.gradcheck``.
    """
    for name in [n for n in sys.modules if n.startswith(ours + ".")]:
        sys.modules.setdefault(_THEIRS + name.removeprefix(_OURS), sys.modules[name])


def _ours(name: str) -> str:
    return _OURS + name.removeprefix(_THEIRS)


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a parent is missing, or is no package
        return False


def install() -> None:
    """Make `import torch` mean farspan in this process and in those it starts.

    Safe to call again. Raises ImportError where the real torch is loaded already: one process
    cannot have both under one name.
    """
    loaded = sys.modules.get(_THEIRS)
    if loaded not in (None, sys.modules.get(_OURS)) and not _is_shim(loaded):
        raise ImportError(
            "the real torch is loaded in this process, so `import torch` cannot mean farspan; "
            "start a new process (or restart the notebook's kernel) and do this first"
        )
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    # numpy() over a wire is a private copy; a script may write to it, and is told once.
    importlib.import_module(f"{_OURS}._interop").copies_are_writable()
    root = sys.modules[_THEIRS] = importlib.import_module(_OURS)
    _name_loaded(_OURS)
    root.__name__ = _THEIRS  # libraries that patch torch look for it by name
    # There is no TorchScript: functions marked for it are to stay the Python that they are.
    os.environ.setdefault("PYTORCH_JIT", "0")
    if SHIM not in sys.path:  # where `importlib.metadata.version("torch")` finds its answer
        sys.path.insert(0, SHIM)
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if SHIM not in inherited:
        os.environ["PYTHONPATH"] = os.pathsep.join([SHIM, *filter(None, inherited)])


def load_ipython_extension(shell: Any) -> None:
    """Do for a notebook what `farspan run` does for a script: `%load_ext farspan`."""
    install()


def _is_shim(module: Any) -> bool:
    return str(getattr(module, "__file__", "")).startswith(SHIM)
