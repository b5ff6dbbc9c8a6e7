"""farspan: a distributed tensor service with PyTorch's API. `import farspan as torch`."""

from __future__ import annotations

from builtins import bool as _builtin_bool
from importlib import import_module as _import_module
from importlib.util import find_spec as _find_spec
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from . import core as _core
from ._contract import chain_matmul, einsum, tensordot
from ._creation import (
    as_tensor,
    channels_last,
    channels_last_3d,
    contiguous_format,
    from_numpy,
    layout,
    memory_format,
    preserve_format,
    strided,
    tensor,
)
from ._einops import announce as _announce
from ._format import set_printoptions
from ._functions import (
    unreduced as _unreduced,
    FACTORIES as _FACTORIES,
)
from ._functions import (
    Generator,
    can_cast,
    default_generator,
    get_default_device,
    get_default_dtype,
    get_rng_state,
    initial_seed,
    is_complex,
    is_floating_point,
    is_inference,
    is_tensor,
    manual_seed,
    norm,
    numel,
    promote_types,
    result_type,
    seed,
    set_debug,
    set_default_device,
    set_default_dtype,
    set_rng_state,
)
from ._functions import factory as _factory
from ._shapes import (
    atleast_1d,
    atleast_2d,
    atleast_3d,
    block_diag,
    broadcast_shapes,
    broadcast_tensors,
    cartesian_prod,
    cdist,
    lu,
    meshgrid,
    nonzero,
    split,
    unique,
    unique_consecutive,
    unravel_index,
    where,
)
from ._shapes import bind as _bind_shapes
from ._grad_mode import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from ._state import attach, connect
from ._state import current as current_session
from ._tensor import Size, Tensor
from .core.call import fn as _fn
from .core.dtype import Device as device
from .core.dtype import DType as dtype
from .core.dtype import (
    bfloat16,
    complex64,
    complex128,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)
from .core.dtype import (
    bool_ as bool,
)
from .core.errors import (
    DeviceError as AcceleratorError,
    FarspanError,
    NumericsChangedWarning,
    OutOfMemoryError,
    ProgramError,
    ServiceError,
    WorkerLostError,
)

from .torch_version import TorchVersion as _TorchVersion

if _TYPE_CHECKING:
    from ._table import *

_bind_shapes()
_announce()
half, float, double = float16, float32, float64
short, int, long = int16, int32, int64
cfloat, cdouble = complex64, complex128
inf, nan, pi, e = _core_inf, _core_nan, _core_pi, _core_e = (
    __import__("math").inf, __import__("math").nan, __import__("math").pi, __import__("math").e,
)  # fmt: skip
newaxis = None
__version__ = _TorchVersion("2.13.0+farspan")


_DUNDER = ("__config__",)
_PRIVATE = ("_C", "_VF", "_dynamo")  # private in torch too, and used by programs
_ELSEWHERE = {
    **dict.fromkeys(("load", "save"), "_io"),
    **dict.fromkeys(("dsmm", "spmm"), "_legacy"),
    **dict.fromkeys(("as_strided_", "detach_"), "_shapes"),
    **dict.fromkeys(("finfo", "iinfo"), "_typeinfo"),
    **dict.fromkeys(("asarray", "frombuffer", "from_dlpack", "from_file", "to_dlpack"), "_buffers"),
    **dict.fromkeys(("lobpcg", "pca_lowrank", "svd_lowrank"), "_lowrank"),
    **dict.fromkeys(
        ("get_device", "is_conj", "is_inference", "is_neg", "is_nonzero", "is_same_size",
         "is_signed", "typename"), "_queries"),
    **dict.fromkeys(("TypedStorage", "UntypedStorage"), "storage"),
    **dict.fromkeys(("GradScaler", "autocast"), "amp"),
    **dict.fromkeys(("Event", "Stream"), "cuda"),
    **dict.fromkeys(("ScriptFunction", "ScriptModule"), "jit"),
    "get_device_module": "_queries",
    **dict.fromkeys(("compile", "cond"), "_compile"),
    "load_ipython_extension": "_as_torch",
    "resize_as_": "_resize",
    **dict.fromkeys(
        ("is_anomaly_enabled", "is_anomaly_check_nan_enabled", "set_anomaly_enabled"),
        "autograd.anomaly_mode",
    ),
    "vmap": "func",
    **{
        f"{net}{kind}": "_VF"
        for net in ("lstm", "gru", "rnn_tanh", "rnn_relu")
        for kind in ("", "_cell")
    },
}  # fmt: skip


def __getattr__(name: str) -> _Any:
    """Return a submodule, a name of another module or a function of the table, at its first use."""
    if name == "__all__":  # what `from farspan import *` brings
        return __dir__()
    if name.startswith("__") and name not in _DUNDER:
        raise AttributeError(name)
    if name == "torch":  # torch has its own name too
        found: _Any = _import_module(__package__)
    elif name in _ELSEWHERE:
        found = getattr(_import_module(f"{__package__}.{_ELSEWHERE[name]}"), name)
    elif name in _FACTORIES:
        found = _factory(name)
    elif name.startswith(("Sym", "_assert", "_check")) or name == "_shape_as_tensor":
        found = getattr(_import_module(f"{__package__}._assertions"), name)
    elif name.startswith("_foreach_"):
        found = _import_module(f"{__package__}._foreach").function(name)
    elif "autocast" in name:
        found = getattr(_import_module(f"{__package__}._autocast"), name)
    elif _is_module(name):
        found = _import_module(f"{__package__}.{name}")
    elif name.endswith("Tensor"):
        from ._legacy import tensor_type

        found = tensor_type(name)
    elif name in (absent := _import_module(f"{__package__}._absent").NAMES):
        found = absent[name]
    elif hasattr(_settings := _import_module(f"{__package__}._settings"), name):
        found = getattr(_settings, name)
    else:
        try:
            found = _unreduced(getattr(_fn, name))
        except AttributeError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    globals()[name] = found
    return found


def _is_module(name: str) -> _builtin_bool:
    """Return whether `farspan.name` is a public module or package that no one imported yet."""
    if name in _PRIVATE or name in _DUNDER:
        return True
    return not name.startswith("_") and _find_spec(f"{__package__}.{name}") is not None


def __dir__() -> list[str]:
    """Return the public names, also those that are made at their first use; for completion too."""
    from ._settings import __all__ as settings
    from .core.op import table

    ops = {op.base for op in table().values() if not op.base.startswith(("_", "linalg_", "fft_"))}
    here = {n for n in globals() if not n.startswith("_")}
    return sorted(here | {*_ELSEWHERE, *_FACTORIES, *settings, *ops})
