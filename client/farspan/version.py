"""Which torch this is, for programs that ask: its interface, no CUDA in the client."""

from .torch_version import __version__

__all__ = ["__version__", "cuda", "debug", "git_version", "hip", "rocm", "xpu"]

cuda = hip = rocm = xpu = None
debug = False
git_version = "farspan"
