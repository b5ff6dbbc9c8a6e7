"""torch.hub: nothing is downloaded at run time; weights are loaded from files."""

from __future__ import annotations

import os
import re
from typing import Any, NoReturn

from .core.errors import UnsupportedError

__all__ = ["download_url_to_file", "get_dir", "load", "load_state_dict_from_url", "set_dir"]

# The end of a file's name: the first digits of its hash, which downloads are checked against.
HASH_REGEX = re.compile(r"-([a-f0-9]*)\.")
_dir: str | None = None


def get_dir() -> str:
    """Return the folder of downloads that torch would use."""
    home = os.environ.get("TORCH_HOME", os.path.expanduser("~/.cache/torch"))
    return _dir or os.path.join(home, "hub")


def set_dir(d: str | os.PathLike[str]) -> None:
    """Name another folder."""
    global _dir
    _dir = os.path.expanduser(d)


def load(*args: Any, **kwargs: Any) -> NoReturn:
    """Raise UnsupportedError: code from elsewhere is not run, and nothing is downloaded."""
    raise UnsupportedError("torch.hub downloads code and weights; use torch.load of a local file")


load_state_dict_from_url = download_url_to_file = load
