"""torch's paths to the layers: ``torch.nn.modules.conv.Conv2d``, ``torch.nn.modules.module``, ...

The layers live in ``farspan.nn.layers``; programs import them by torch's paths. Each path is a
module object that looks a name up, when asked, in the table's files and then in ``farspan.nn``.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from farspan.nn.modules import utils as utils

#: torch's file -> ours, below ``farspan.nn``; what is not in these is a public name of farspan.nn.
_FILES = {
    "activation": ("layers.activation", "layers.attention"),
    "adaptive": ("layers.adaptive",),
    "batchnorm": ("layers.norm", "layers.local_norm", "layers.lazy"),
    "channelshuffle": ("layers.resize",),
    "container": ("containers",),
    "conv": ("layers.conv", "layers.lazy"),
    "distance": ("layers.loss",),
    "dropout": ("layers.dropout",),
    "flatten": ("layers.linear",),
    "fold": ("layers.resize",),
    "instancenorm": ("layers.norm", "layers.lazy"),
    "lazy": ("layers.lazy",),
    "linear": ("layers.linear", "layers.lazy"),
    "linear_cross_entropy": ("layers.linear_cross_entropy",),
    "linear_cross_entropy_options": ("layers.linear_cross_entropy",),
    "loss": ("layers.loss", "layers.loss_classes"),
    "module": ("module", "_hooks", "_state_dict"),
    "normalization": ("layers.norm", "layers.local_norm"),
    "padding": ("layers.padding",),
    "pixelshuffle": ("layers.resize",),
    "pooling": ("layers.pooling",),
    "rnn": ("layers.recurrent",),
    "sparse": ("layers.embedding",),
    "transformer": ("layers.transformer",),
    "upsampling": ("layers.resize",),
}


class _Path(ModuleType):
    """A module that has the names of other modules."""

    def __init__(self, name: str, files: tuple[str, ...]) -> None:
        super().__init__(f"{__name__}.{name}", f"torch.nn.modules.{name}: see farspan.nn")
        self._sources = [f"farspan.nn.{file}" for file in files] + ["farspan.nn"]

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":  # of the files, not of farspan.nn: what `import *` takes
            modules = map(importlib.import_module, self._sources[:-1])
            return [public for module in modules for public in getattr(module, "__all__", ())]
        if not name.startswith("__"):
            for source in self._sources:
                found = getattr(importlib.import_module(source), name, None)
                if found is not None:
                    return found
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


for _name, _files in _FILES.items():
    globals()[_name] = sys.modules[f"{__name__}.{_name}"] = _Path(_name, _files)


def __getattr__(name: str) -> Any:
    """Return a layer: ``torch.nn.modules.Linear`` is ``torch.nn.Linear``."""
    nn = importlib.import_module("farspan.nn")
    if name in nn.__all__ or name == "LazyModuleMixin":
        return getattr(nn if name in nn.__all__ else globals()["lazy"], name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
