"""farspan.random: the default generators' seeds and states, under torch.random's names."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from ._functions import (
    Generator,
    default_generator,
    get_rng_state,
    initial_seed,
    manual_seed,
    seed,
    set_rng_state,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "default_generator",
    "fork_rng",
    "get_rng_state",
    "initial_seed",
    "manual_seed",
    "seed",
    "set_rng_state",
    "thread_safe_generator",
]


@contextlib.contextmanager
def fork_rng(
    devices: Any = None,
    enabled: bool = True,
    _caller: str = "fork_rng",
    _devices_kw: str = "devices",
    device_type: str | None = None,
) -> Iterator[None]:
    """Draw inside as you like: the default generator goes on outside as if nothing had been drawn.

    A session has one default generator, whatever the devices, so `devices` changes nothing. Does
    not wait.
    """
    if not enabled or device_type == "meta":
        yield
        return
    state = get_rng_state()
    try:
        yield
    finally:
        set_rng_state(state)


def thread_safe_generator() -> Generator | None:
    """Return None, which means the default generator: loaders have no worker threads of their own.

    >>> import farspan
    >>> farspan.random.thread_safe_generator() is None
    True
    """
    return None
