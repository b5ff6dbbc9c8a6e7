"""torch.__config__: how this torch was built; libraries look for words such as USE_MKL in it."""

from __future__ import annotations

import numpy as np

from ._native import describe
from ._settings import get_num_interop_threads, get_num_threads
from .version import __version__

__all__ = ["parallel_info", "show"]


def show() -> str:
    """Return the settings that torch's text would list: no accelerator library is linked here."""
    return (
        "PyTorch's API by farspan, with:\n"
        f"  - numpy {np.__version__} on CPU workers\n"
        f"  - {describe()}\n"
        f"  - Build settings: TORCH_VERSION={__version__}, USE_CUDA=0, USE_MKL=OFF, "
        "USE_MKLDNN=OFF, USE_OPENMP=OFF\n"
    )


def parallel_info() -> str:
    """Return how many threads the program asked for."""
    return (
        "farspan:\n"
        f"\tat::get_num_threads() : {get_num_threads()}\n"
        f"\tat::get_num_interop_threads() : {get_num_interop_threads()}\n"
    )
