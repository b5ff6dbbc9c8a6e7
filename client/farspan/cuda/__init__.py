"""farspan.cuda: the GPUs of the current session; the client itself has and needs none."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module as _import_module
from typing import Any

from .. import _state
from .._memory import NAMES as _MEMORY
from .._memory import Memory as _Memory
from ..core.dtype import Device
from ..core.errors import DeviceError, OutOfMemoryError, UnsupportedError

__all__ = [
    "Event", "OutOfMemoryError", "Stream", "amp", "current_device", "current_stream",
    "default_stream", "device", "device_count", "get_device_capability", "get_device_name",
    "get_device_properties", "get_rng_state", "get_rng_state_all", "init", "initial_seed",
    "is_available", "is_bf16_supported", "is_current_stream_capturing", "is_initialized",
    "manual_seed", "manual_seed_all", "seed", "seed_all", "set_device", "set_rng_state",
    "set_rng_state_all", "stream", "synchronize",
    *_MEMORY,
]  # fmt: skip


_GRAPHS = ("CUDAGraph", "ExternalStream", "MemPool", "StreamContext", "graph")


def __getattr__(name: str) -> Any:
    if name == "amp":
        return _import_module(f"{__name__}.amp")
    if name in _MEMORY:
        return getattr(_Memory("cuda"), name)
    if name.endswith("Tensor"):
        return _import_module("farspan._legacy").tensor_type(name, "cuda")
    if name in _GRAPHS:  # classes that annotations and isinstance name
        found = globals()[name] = type(name, (_Absent,), {})
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _devices() -> list[Device]:
    return [d for d in _state.current().devices if d.type == "cuda"]


def is_available() -> bool:
    """Return whether the session has a GPU.

    >>> import farspan
    >>> farspan.cuda.is_available()
    False
    """
    return bool(_devices())


def device_count() -> int:
    """Return how many GPUs the session has."""
    return len(_devices())


def is_initialized() -> bool:
    """Return whether the session has a GPU; nothing is set up in the client."""
    return is_available()


def init() -> None:
    """Raise DeviceError if the session has no GPU."""
    current_device()


def current_device() -> int:
    """Return the index of the session's first GPU."""
    found = _devices()
    if not found:
        raise DeviceError('this session has no GPU; connect with devices="cuda:1"')
    return found[0].index or 0


def set_device(device: Any) -> None:
    """Accept the first GPU, which ``cuda`` without an index names; others are named in full."""
    index = _index(device)
    if index > 0:
        raise DeviceError(f'"cuda" names the first GPU; write "cuda:{index}" for that one')


def _index(device: Any) -> int:
    if isinstance(device, int):
        return device
    return Device("cuda" if device is None else device).index or 0


def synchronize(device: Any = None) -> None:
    """Wait until all commands have run, on one device or on all."""
    session = _state.current()
    named = Device("cuda", device) if isinstance(device, int) else device
    session.synchronize(None if named is None else session.index_of(Device(named)))


@dataclass(frozen=True)
class _Properties:
    name: str
    total_memory: int  # bytes that the session may take
    host: str
    major: int = 0
    minor: int = 0
    multi_processor_count: int = 0


def get_device_properties(device: Any = None) -> _Properties:
    """Return what is known of a GPU: its name, host, and the memory the session may take."""
    session = _state.current()
    at = session.index_of(Device("cuda", _index(device)))
    described = session.describe()["devices"][at]
    return _Properties(described["name"], session.memory_of(at)[2], described["host"])


def get_device_name(device: Any = None) -> str:
    """Return a GPU's name in the session."""
    return get_device_properties(device).name


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """Return the compute capability of a GPU; (0, 0) where the worker does not tell."""
    found = get_device_properties(device)
    return found.major, found.minor


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Return whether the session has a GPU: bfloat16 is computed in float32 where need be."""
    return is_available()


def is_current_stream_capturing() -> bool:
    """Return False: commands are never captured by the client."""
    return False


# ------------------------------------------------------------------------------------- streams --
class Stream:
    """A device's stream of commands: there is one, in the order of issue."""

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self.device = Device("cuda", _index(device))

    def synchronize(self) -> None:
        """Wait until all commands have run."""
        synchronize(self.device)

    def query(self) -> bool:
        """Return True, after waiting until all commands have run."""
        self.synchronize()
        return True

    def wait_stream(self, stream: Stream) -> None:
        """Do nothing: commands run in the order of issue."""

    def wait_event(self, event: Event) -> None:
        """Do nothing: commands run in the order of issue."""

    def record_event(self, event: Event | None = None) -> Event:
        """Return an event of this moment."""
        event = event or Event()
        event.record(self)
        return event

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class Event:
    """A moment in the stream of commands; measuring one waits for the commands before it."""

    def __init__(
        self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False
    ) -> None:
        self._at: float | None = None

    def record(self, stream: Stream | None = None) -> None:
        """Wait for the commands before it and note the time."""
        synchronize()
        self._at = time.perf_counter()

    def elapsed_time(self, end_event: Event) -> float:
        """Return milliseconds to a later event. Raises RuntimeError if either was not recorded."""
        if self._at is None or end_event._at is None:
            raise RuntimeError("both events must be recorded before the time between them is taken")
        return (end_event._at - self._at) * 1000

    def synchronize(self) -> None:
        """Do nothing: recording waited."""

    def query(self) -> bool:
        """Return True: recording waited."""
        return True

    def wait(self, stream: Stream | None = None) -> None:
        """Do nothing: commands run in the order of issue."""


def current_stream(device: Any = None) -> Stream:
    """Return the one stream of a device."""
    return Stream(device)


default_stream = current_stream


def stream(stream: Stream | None) -> Any:
    """Return a context in which commands go to the device's one stream."""
    return contextlib.nullcontext(stream)


@contextlib.contextmanager
def device(device: Any) -> Iterator[None]:
    """Make new tensors be on a GPU inside of the block, unless they name another device."""
    from .._functions import get_default_device, set_default_device

    index = _index(device)
    if index < 0:
        yield
        return
    before = get_default_device()
    set_default_device(Device("cuda", index))
    try:
        yield
    finally:
        set_default_device(before)


# -------------------------------------------------------------------------------------- random --
def manual_seed(seed: int) -> None:
    """Seed the generators of the session."""
    from .._functions import manual_seed as seed_all

    seed_all(seed)


manual_seed_all = manual_seed


def seed() -> None:
    """Seed the generators of the session with a number of their own choice."""
    from .._functions import seed as seed_anew

    seed_anew()


seed_all = seed


def initial_seed() -> int:
    """Return the number that the generators of the session were seeded with."""
    from .._functions import initial_seed as seed_now

    return seed_now()


def get_rng_state(device: Any = "cuda") -> Any:
    """Return the state of the session's generator. Waits."""
    from .._functions import get_rng_state as state

    return state()


def set_rng_state(new_state: Any, device: Any = "cuda") -> None:
    """Put the session's generator into a state that `get_rng_state` returned."""
    from .._functions import set_rng_state as set_state

    set_state(new_state)


def get_rng_state_all() -> list[Any]:
    """Return the state once for each CUDA device; without any, nothing is asked."""
    return [get_rng_state(i) for i in range(device_count())]


def set_rng_state_all(new_states: Any) -> None:
    """Put the session's generator into states that `get_rng_state_all` returned."""
    for state in new_states:
        set_rng_state(state)


class _Absent:
    """A class without objects: commands of a device are batched, not captured."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UnsupportedError(f"torch.cuda.{type(self).__name__}: farspan captures no commands")
