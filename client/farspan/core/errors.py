"""What can go wrong, drawn first. The class says whose fault it is.

    FarspanError
    ├── ProgramError           the user's program: it will fail again
    │   ├── ShapeError         (RuntimeError)    shapes that do not fit
    │   ├── DTypeError         (RuntimeError)    dtypes that do not fit
    │   ├── DeviceError        (RuntimeError)    tensors on different devices or sessions
    │   ├── AutogradError      (RuntimeError)    leaf, graph and version rules
    │   ├── ValueRangeError    (IndexError)      an index or value out of range
    │   ├── ArgumentError      (TypeError)       a call that fits no signature
    │   ├── BadValueError      (ValueError)      an argument of the right type, wrong value
    │   ├── ParameterError     (RuntimeError)    a number that the operator cannot work with
    │   ├── LinalgError        (RuntimeError)    singular, not positive-definite, no convergence
    │   ├── DivisionError      (RuntimeError)    integers divided by zero
    │   ├── UnsupportedError   (NotImplementedError)
    │   ├── OutOfMemoryError   (RuntimeError)    over the session's byte budget
    │   └── CommandTimeoutError (TimeoutError)   a command ran longer than is allowed
    └── ServiceError           (RuntimeError)    ours: trying again may help
        ├── ConnectError       the gateway is not there
        ├── AuthError          the token was refused
        ├── VersionError       client and server do not speak one version
        ├── SessionClosedError the session has ended
        ├── CapacityError      no worker became free in time
        ├── WorkerLostError    a worker died with the session's tensors
        ├── JournalError       a session's journal cannot be written or read
        └── ProtocolError      bytes that are no frame of ours

Each is also a subclass of the Python class that torch raises, so ``except RuntimeError`` holds.
"""

from __future__ import annotations


class FarspanError(Exception):
    """The root of every error that farspan raises on purpose."""

    #: Where the failing command was issued, as ``file:line in function``; set when known.
    site: str | None = None
    #: Of an error in a backward pass: the number of the command whose derivative failed, or -1.
    forward: int = -1


class ProgramError(FarspanError):
    """The user's program is wrong; running it again fails again."""


class ShapeError(ProgramError, RuntimeError):
    """Shapes that do not fit together."""


class DTypeError(ProgramError, RuntimeError):
    """Dtypes that an operator does not take."""


class DeviceError(ProgramError, RuntimeError):
    """Tensors of different devices or sessions in one operator, or a device that is not there."""


class AutogradError(ProgramError, RuntimeError):
    """A rule of autograd: leaves, freed graphs, versions of saved tensors."""


class ControlFlowError(ProgramError, RuntimeError):
    """A compiled function asked for a value in its middle; programs have none until they end."""


class ValueRangeError(ProgramError, IndexError):
    """An index that lies outside of its dimension."""


class ArgumentError(ProgramError, TypeError):
    """A call that fits no signature of the function."""


class BadValueError(ProgramError, ValueError):
    """An argument of the right type with a value that is not allowed."""


class ParameterError(ProgramError, RuntimeError):
    """A number that the operator cannot work with: a negative deviation, a probability of 2."""


class LinalgError(ProgramError, RuntimeError):
    """A matrix without the property that an algorithm needs."""


class DivisionError(ProgramError, RuntimeError):
    """Integers divided by zero; floating-point numbers give inf or nan instead."""


class UnsupportedError(ProgramError, NotImplementedError):
    """Something torch has and farspan does not; the message says so."""


class OutOfMemoryError(ProgramError, RuntimeError):
    """A command would take the session over its byte budget; nothing was allocated."""


class CommandTimeoutError(ProgramError, TimeoutError):
    """A command ran longer than the service allows; its session has ended."""


class ServiceError(FarspanError, RuntimeError):
    """Our side failed; the program may be right."""


class ConnectError(ServiceError, ConnectionError):
    """The gateway did not answer."""


class AuthError(ServiceError, PermissionError):
    """The token was missing or refused."""


class VersionError(ServiceError):
    """Client and server have no protocol version or op table in common."""


class SessionClosedError(ServiceError):
    """The session has ended and takes no more commands."""


class CapacityError(ServiceError):
    """No worker became free before the deadline."""


class WorkerLostError(ServiceError):
    """A worker died and took tensors of this session with it."""


class JournalError(ServiceError):
    """A session's journal cannot be written or read: the disk is full, fails, or was changed."""


class ProtocolError(ServiceError):
    """Bytes from a peer that are not a valid message of this protocol."""


class NumericsChangedWarning(UserWarning):
    """A session goes on with workers that compute other bits; names the first such command."""


#: Names that may travel in an event; anything else arrives as ServiceError.
BY_NAME: dict[str, type[FarspanError]] = {}


def _register(cls: type[FarspanError]) -> None:
    BY_NAME[cls.__name__] = cls
    for child in cls.__subclasses__():
        _register(child)


_register(FarspanError)
