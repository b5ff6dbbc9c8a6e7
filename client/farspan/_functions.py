"""Public functions that are not rows of the table: factories' defaults, seeds, global settings."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from . import _state
from ._session import default_dtype_changes
from .core import dtype as dtypes
from .core.call import Function, fn
from .core.dtype import PLACES, Defaults, Device, DType
from .core.errors import ArgumentError, BadValueError
from .core.op import OPS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._tensor import Tensor

FACTORIES = (
    "zeros", "ones", "empty", "full", "arange", "eye", "linspace", "logspace", "rand", "randn",
    "randint", "randperm", "scalar_tensor", "tril_indices", "triu_indices", "zeros_like",
    "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like", "normal",
    "empty_permuted", "empty_strided", "bartlett_window", "blackman_window", "hamming_window",
    "hann_window", "kaiser_window",
)  # fmt: skip


def factory(name: str) -> Callable[..., Tensor]:
    """Return the table's factory with torch's extra keywords: `requires_grad`, a default device."""
    make: Function = getattr(fn, name)
    like = name.endswith("_like")

    def create(*args: Any, requires_grad: bool = False, **kwargs: Any) -> Tensor:
        if not like:
            session = _state.current()
            wanted = kwargs.get("device")
            wanted = PLACES.device if wanted is None else Device(wanted)
            if wanted is not None:
                kwargs["device"] = session.devices[session.index_of(wanted)]
        result = make(*args, **kwargs)
        return result.requires_grad_() if requires_grad else result  # type: ignore[no-any-return]

    create.__name__ = create.__qualname__ = name
    create.__doc__ = "\n".join(o.schema.line for o in make.overloads)
    return create


def set_default_device(device: Any) -> None:
    """Let factories without `device=` make tensors there."""
    PLACES.device = None if device is None else Device(device)


def get_default_device() -> Device:
    """Return the device of factories without `device=`."""
    return PLACES.device or Device("cpu")


def set_default_dtype(d: DType) -> None:
    """Let Python floats and factories make this dtype; it must be a floating one."""
    if not d.is_floating_point:
        raise ArgumentError(f"only floating-point types are supported as the default type, got {d}")
    if d is not Defaults.dtype:
        from . import _quick

        default_dtype_changes()
        _quick.forget()
    Defaults.dtype = d


def get_default_dtype() -> DType:
    """Return the dtype that Python floats become."""
    return Defaults.dtype


# ------------------------------------------------------------------------------- random numbers --
class Generator:
    """A stream of random numbers of its own, kept by the session's first CPU device."""

    def __init__(self, device: Any = "cpu") -> None:
        self.device = Device(device)
        self._session: Any = None
        self._id: int | None = None
        self._seed = 67280421310721
        self._seeded = False

    def _number(self) -> int:
        session = _state.current()
        if self._session is not session:
            if self._session is not None and self._seeded:
                raise BadValueError("this Generator belongs to another session")
            self._session = session
            self._id = session.new_id()
            session.generators.add(self._id)
            home = session.index_of(session.default_device)
            for at, device in enumerate(session.devices):
                if at == home or device.type == "cuda":
                    weakref.finalize(self, session.lanes[at].freed.append, self._id)
            _seed_devices(self)
        assert self._id is not None
        return self._id

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream at `seed`. Returns self."""
        self._seed, self._seeded = int(seed), True
        _seed_devices(self)
        return self

    def seed(self) -> int:
        """Start the stream at a number nobody knows; returns it."""
        self.manual_seed(_entropy())
        return self._seed

    def initial_seed(self) -> int:
        """Return the seed as torch keeps it: 64 bits without a sign."""
        return self._seed % 2**64

    def get_state(self) -> Tensor:
        """Return the state as a uint8 tensor, laid out as torch's."""
        return fn._get_rng_state(generator=self)  # type: ignore[no-any-return]

    def set_state(self, state: Tensor) -> Generator:
        self._seeded = True
        fn._set_rng_state(state, generator=self)
        return self


def _seed_devices(generator: Generator) -> None:
    """Start a stream where CPU tensors draw, and on each GPU, which draws its own numbers."""
    seed = generator._seed
    fn._seed(seed, generator=generator)
    session = _state.current()
    for at, device in enumerate(session.devices):
        if device.type == "cuda":
            op = OPS["_seed"]
            _, static, scalars = op.bind(seed, generator=generator)
            session.issue(at, op.opcode, 0, [], static, scalars)


class _DefaultGenerator(Generator):
    """The session's default stream."""

    def _number(self) -> int:
        return 0


default_generator = _DefaultGenerator()


def _entropy() -> int:
    import secrets

    return secrets.randbits(63)


def manual_seed(seed: int) -> Generator:
    """Seed the session's default generators; the same seed gives torch's numbers on the CPU."""
    seed = int(seed)
    if not -(2**63) <= seed < 2**64:
        raise BadValueError("Overflow when unpacking long long")
    return default_generator.manual_seed(seed if seed < 2**63 else seed - 2**64)


def seed() -> int:
    """Seed the default generators with a number nobody knows; returns it."""
    return default_generator.seed()


def initial_seed() -> int:
    return default_generator.initial_seed()


def get_rng_state() -> Tensor:
    return default_generator.get_state()


def set_rng_state(new_state: Tensor) -> None:
    default_generator.set_state(new_state)


# -------------------------------------------------------------------------------------- queries --
def is_tensor(obj: Any) -> bool:
    from ._tensor import Tensor

    return isinstance(obj, Tensor)


def is_inference(input: Tensor) -> bool:
    """Return whether the tensor was made in inference mode."""
    return input.is_inference()


def is_floating_point(input: Tensor) -> bool:
    return input.dtype.is_floating_point


def is_complex(input: Tensor) -> bool:
    return input.dtype.is_complex


def numel(input: Tensor) -> int:
    return input.numel()


def promote_types(type1: DType, type2: DType) -> DType:
    """Return the smallest dtype that holds both."""
    return dtypes.promote(type1, type2)


def result_type(tensor1: Any, tensor2: Any) -> DType:
    """Return the dtype of an arithmetic operation on the two."""
    from .core.family import common_dtype

    return common_dtype(*[getattr(t, "_spec", t) for t in (tensor1, tensor2)])


def can_cast(from_: DType, to: DType) -> bool:
    """Return whether results of one dtype may be stored as another."""
    return from_.category <= to.category


def norm(
    input: Tensor,
    p: Any = "fro",
    dim: Any = None,
    keepdim: bool = False,
    out: Tensor | None = None,
    dtype: DType | None = None,
) -> Tensor:
    """Return the p-norm over dims, all by default; "fro" is p=2, "nuc" the sum of singular values.

    As torch.norm: ``x.norm()``, ``x.norm(1)``, ``x.norm(2, dim=0, keepdim=True)``.
    """
    if p == "nuc":
        found = fn.linalg_matrix_norm(input, "nuc", (-2, -1) if dim is None else dim, keepdim)
        return found if out is None else fn.copy_(out, found)  # type: ignore[no-any-return]
    if isinstance(p, str) and p != "fro":
        raise BadValueError(f"only valid string values are 'fro' and 'nuc', found {p}")
    order = 2.0 if p in (None, "fro") else p
    extra = {} if out is None else {"out": out}
    return fn.linalg_vector_norm(  # type: ignore[no-any-return]
        input, order, dim, keepdim, dtype=dtype, **extra
    )


def unreduced(function: Function) -> Any:
    """Return a loss of ATen as ``torch.<name>`` has it: without `reduction` it reduces nothing.

    The schema's default is the mean, but torch's Python parser reads its name as the number 0.
    """
    names = [a.name for a in function.overloads[0].args]
    if "reduction" not in names:
        return function
    position = names.index("reduction")

    def loss(*args: Any, **kwargs: Any) -> Tensor:
        if len(args) <= position:
            kwargs.setdefault("reduction", 0)
        return function(*args, **kwargs)  # type: ignore[no-any-return]

    loss.__name__ = loss.__qualname__ = function.__name__
    loss.__doc__ = "\n".join(o.schema.line for o in function.overloads)
    return loss


def set_debug(mode: str | None) -> None:
    """``"sync"`` makes every call wait, so that an error is raised by the line that made it."""
    if mode not in (None, "sync", "off"):
        raise BadValueError(f'set_debug({mode!r}): write "sync" or None')
    _state.current().debug = "sync" if mode == "sync" else None
