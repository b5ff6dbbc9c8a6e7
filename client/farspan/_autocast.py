"""Autocast: which ops compute in half precision inside of `torch.autocast`, and the casts.

The casts are recorded ops, so gradients come back in the dtype of what was cast. Without autocast
nothing here is called: dispatch looks at one variable. The state is each thread's own.
The lists are those of ATen/autocast_mode.h for the CPU, as torch's registrations show them.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import _dispatch
from ._grad_mode import enable_grad
from ._tensor import Tensor
from .core import call
from .core.call import fn
from .core.dtype import DType, bfloat16, float16, float32, float64, promote
from .core.errors import ArgumentError, DTypeError

if TYPE_CHECKING:
    from .core.op import Op

__all__ = [
    "autocast_decrement_nesting", "autocast_increment_nesting", "clear_autocast_cache",
    "get_autocast_cpu_dtype", "get_autocast_dtype", "get_autocast_gpu_dtype",
    "get_autocast_ipu_dtype", "get_autocast_xla_dtype", "is_autocast_cache_enabled",
    "is_autocast_cpu_enabled", "is_autocast_enabled", "is_autocast_ipu_enabled",
    "is_autocast_xla_enabled", "set_autocast_cache_enabled", "set_autocast_cpu_dtype",
    "set_autocast_cpu_enabled", "set_autocast_dtype", "set_autocast_enabled",
    "set_autocast_gpu_dtype", "set_autocast_ipu_dtype", "set_autocast_ipu_enabled",
    "set_autocast_xla_dtype", "set_autocast_xla_enabled",
]  # fmt: skip

_LOWER = """
    _addmm_activation _convolution _native_multi_head_attention addbmm addmm baddbmm bmm conv1d
    conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d linalg_vecdot linear
    matmul mm prelu scaled_dot_product_attention
"""
_FLOAT32 = """
    _grid_sampler_2d_cpu_fallback _lu_with_info adaptive_avg_pool3d adaptive_max_pool3d avg_pool3d
    binary_cross_entropy binary_cross_entropy_with_logits cdist cholesky cholesky_inverse
    cholesky_solve cosine_embedding_loss cross_entropy_loss ctc_loss
    fake_quantize_per_tensor_affine fft_fft fft_fft2 fft_fftn fft_hfft fft_ifft fft_ifft2 fft_ifftn
    fft_ihfft fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftn fractional_max_pool2d
    fractional_max_pool3d geqrf grid_sampler grid_sampler_2d grid_sampler_3d hinge_embedding_loss
    huber_loss inverse kl_div l1_loss linalg_cholesky linalg_cholesky_ex linalg_cond linalg_eig
    linalg_eigh linalg_eigvals linalg_eigvalsh linalg_householder_product linalg_inv linalg_inv_ex
    linalg_lstsq linalg_matrix_rank linalg_qr linalg_solve linalg_svd linalg_svdvals
    linalg_tensorinv linalg_tensorsolve lu_solve margin_ranking_loss max_pool3d max_unpool2d
    max_unpool3d mse_loss multi_margin_loss multilabel_margin_loss multilabel_margin_loss_forward
    nanquantile nll_loss nll_loss2d orgqr ormqr pinverse poisson_nll_loss polar prod qr quantile
    reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d replication_pad3d
    smooth_l1_loss soft_margin_loss stft svd trace triangular_solve triplet_margin_loss
    view_as_complex
"""
_WIDEST = "cat index_copy stack"
#: Composites of this table that are one kernel in torch, so that their products are not cast.
_GIVEN = "bilinear linalg_lu_solve"


def _of_pair(static: Any) -> str:
    """Return how a pair of einsum's operands is cast: torch multiplies where nothing is summed."""
    inputs, _, out = static[0].partition("->")
    left, _, right = inputs.partition(",")
    return "lower" if any(c in right and c not in out for c in left) else "promoted"


def _of_tensordot(args: Any) -> str:
    """Return how tensordot is cast: torch takes a plain sum where one number is left."""
    for x, dims in zip(args[:2], args[2:], strict=False):
        taken = {d % x.ndim for d in dims}
        if any(n != 1 for d, n in enumerate(x.shape) if d not in taken):
            return "lower"
    return "given"


#: By the base name of an op: in which dtype it computes. Other ops take what they are given. Some
#: look at static arguments, composites at all of them.
POLICIES: dict[str, str | Callable[[Any], str]] = {
    **dict.fromkeys(_LOWER.split(), "lower"),
    **dict.fromkeys(_FLOAT32.split(), "float32"),
    **dict.fromkeys(_WIDEST.split(), "widest"),
    **dict.fromkeys(_GIVEN.split(), "given"),
    "_contract": _of_pair,
    "tensordot": _of_tensordot,
    "linalg_pinv": "float32",  # torch rounds its last product to half precision
}

#: The half precision of each device type that torch can cast on, unless a program sets another.
_DTYPES = {
    "cpu": bfloat16, "cuda": float16, "xpu": float16, "mps": float16, "hpu": bfloat16,
    "xla": bfloat16, "mtia": float16, "ipu": float16, "privateuseone": float16, "maia": bfloat16,
}  # fmt: skip


class _State(threading.local):
    """What one thread has switched on."""

    def __init__(self) -> None:
        self.enabled: set[str] = set()  # device types
        self.dtypes = dict(_DTYPES)
        self.cached = True  # whether casts of weights are kept until the outermost context ends
        self.nesting = 0
        self.below = False  # inside of an op that has been cast for
        #: (id of a weight, dtype) -> the weight, kept alive; its cast
        self.casts: dict[tuple[int, DType], tuple[Tensor, Tensor]] = {}


_state = _State()
_lock = threading.Lock()
_casting_threads = 0


def _switch(device_type: str, enabled: bool) -> None:
    """Note the switch, and let dispatch look here while any thread has one on."""
    global _casting_threads
    before = bool(_state.enabled)
    (_state.enabled.add if enabled else _state.enabled.discard)(device_type)
    with _lock:
        _casting_threads += bool(_state.enabled) - before
        call.set_casting(_run_composite if _casting_threads else None)
        _dispatch.set_casting(_cast_inputs if _casting_threads else None)


# ---------------------------------------------------------------------------------------- casts --
def _cast_inputs(op: Op, tensors: Any, static: Any) -> Any:
    """Return the inputs of a primitive as autocast wants them."""
    if _state.below or not _state.enabled:
        return tensors
    policy = POLICIES.get(op.base)
    if policy is None:
        return tensors
    return _all_cast(policy if isinstance(policy, str) else policy(static), tensors)


def _run_composite(body: Callable[..., Any], op: Op, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run a composite's body; if the composite itself is on a list, its ops are not cast again."""
    policy = POLICIES.get(op.base)
    if policy is None or _state.below or not _state.enabled:
        return body(*args, **kwargs)
    if not isinstance(policy, str):
        policy = policy(args)
    _state.below = True
    try:
        args, values = _all_cast(policy, (list(args), list(kwargs.values())))
        return body(*args, **dict(zip(kwargs, values, strict=True)))
    finally:
        _state.below = False


def _all_cast(policy: str, values: Any) -> Any:
    """Return lists and tuples of arguments with their tensors cast."""
    if policy == "given":
        return values
    dtype = None if policy == "lower" else float32
    if policy == "widest":
        dtype = _widest(values)
    elif policy == "promoted":
        floats = [x.dtype for x in _tensors(values) if _eligible(x)]
        dtype = functools.reduce(promote, floats) if floats else None
    return _cast(values, dtype)


def _cast(x: Any, dtype: DType | None) -> Any:
    """Return x with its tensors in `dtype`; None: in the half precision of their device."""
    if isinstance(x, Tensor):
        if not _eligible(x):
            return x
        wanted = _state.dtypes[x.device.type] if dtype is None else dtype
        return x if x.dtype is wanted else _kept_cast(x, wanted)
    if type(x) in (list, tuple):
        return type(x)([_cast(i, dtype) for i in x])
    return x


def lowered(x: Tensor) -> Tensor:
    """Return x as the ops of half precision take it; x itself without autocast."""
    on = _state.enabled and not _state.below
    return _cast(x, None) if on else x  # type: ignore[no-any-return]


def _eligible(x: Tensor) -> bool:
    spec = x._spec
    return (
        spec.device.type in _state.enabled
        and spec.dtype.category == 2
        and spec.dtype is not float64
    )


def _kept_cast(x: Tensor, dtype: DType) -> Tensor:
    """Return the cast; of a float32 weight the one that this context has made already."""
    weight = x.dtype is float32 and dtype.is_reduced and x.requires_grad and x.is_leaf
    if not (weight and _state.cached and x._base is None):
        return fn._cast(x, dtype)  # type: ignore[no-any-return]
    if _dispatch.mode.inference:
        return fn._cast(x, dtype)  # type: ignore[no-any-return]
    key = (id(x), dtype)
    found = _state.casts.get(key)
    if found is None:
        with enable_grad():  # whoever uses it later may want the gradient
            found = _state.casts[key] = (x, fn._cast(x, dtype))
    return found[1]


def _widest(values: Any) -> DType | None:
    """Return the wider of half precision and float32 that is among the tensors."""
    found = None
    for x in _tensors(values):
        if not _eligible(x):
            continue
        lower = _state.dtypes[x.device.type]
        if x.dtype is not float32 and x.dtype is not lower and found is not float32:
            raise DTypeError("Unexpected floating ScalarType in at::autocast::prioritize")
        if x.dtype is not float32 and x.dtype is not lower:
            continue
        found = float32 if float32 in (x.dtype, found) else lower
    return found


def _tensors(values: Any) -> Any:
    for x in values:
        if isinstance(x, Tensor):
            yield x
        elif type(x) in (list, tuple):
            yield from _tensors(x)


# ---------------------------------------------------------------------------------------- state --
def _known(device_type: Any, what: str) -> str:
    if not isinstance(device_type, str):
        name = type(device_type).__name__
        raise ArgumentError(
            f"{what}(): argument 'device_type' (position 1) must be str, not {name}"
        )
    plain = device_type.partition(":")[0]
    if plain not in _DTYPES:
        raise DTypeError(
            "unknown device type for autocast in get_autocast_dispatch_key_from_device_type"
            if "enabled" in what
            else "unsupported scalarType"
        )
    return plain


def is_autocast_enabled(device_type: str = "cuda") -> bool:
    """Return whether this thread casts for a type of device."""
    return _known(device_type, "is_autocast_enabled") in _state.enabled


def set_autocast_enabled(device_type: Any, enabled: Any = None) -> None:
    """Switch casting of this thread for a type of device; with one argument for "cuda"."""
    if enabled is None:
        device_type, enabled = "cuda", device_type
        if not isinstance(enabled, bool):
            raise ArgumentError(
                "set_autocast_enabled(): argument 'enabled' (position 1) must be bool, not "
                f"{type(enabled).__name__}"
            )
    if not isinstance(enabled, bool):
        raise ArgumentError(
            "set_autocast_enabled(): argument 'enabled' (position 2) must be bool, not "
            f"{type(enabled).__name__}"
        )
    _switch(_known(device_type, "set_autocast_enabled"), enabled)


def get_autocast_dtype(device_type: str) -> DType:
    """Return the half precision of a type of device."""
    return _state.dtypes[_known(device_type, "get_autocast_dtype")]


def set_autocast_dtype(device_type: str, dtype: DType) -> None:
    """Set the half precision of a type of device, for this thread."""
    place = _known(device_type, "set_autocast_dtype")
    if not isinstance(dtype, DType):
        raise ArgumentError(
            "set_autocast_dtype(): argument 'dtype' (position 2) must be torch.dtype, not "
            f"{type(dtype).__name__}"
        )
    _state.dtypes[place] = dtype


def is_autocast_cache_enabled() -> bool:
    """Return whether casts of weights are kept within a context."""
    return _state.cached


def set_autocast_cache_enabled(enabled: bool) -> None:
    """Keep casts of weights within a context, or do not."""
    _state.cached = enabled


def clear_autocast_cache() -> None:
    """Forget all kept casts."""
    _state.casts.clear()


def autocast_increment_nesting() -> int:
    """Enter a context; return how many this thread is in."""
    _state.nesting += 1
    return _state.nesting


def autocast_decrement_nesting() -> int:
    """Leave a context; return how many this thread is still in."""
    _state.nesting -= 1
    return _state.nesting


def _deprecated(old: str, new: str) -> None:
    warnings.warn(
        f"torch.{old} is deprecated. Please use torch.{new} instead.",
        DeprecationWarning,
        stacklevel=3,
    )


def deprecated_class(old: str, new: str, device_type: str) -> None:
    """Warn whoever makes an object by its old name."""
    warnings.warn(
        f"`torch.{old}(args...)` is deprecated. Please use `torch.{new}('{device_type}', args...)` "
        "instead.",
        FutureWarning,
        stacklevel=3,
    )


def deprecated_call(old: str, new: str, device_type: str) -> None:
    """Warn whoever calls a function by its old name."""
    warnings.warn(
        f"`torch.{old}(args...)` is deprecated. Please use `torch.{new}(args..., "
        f"device_type='{device_type}')` instead.",
        FutureWarning,
        stacklevel=3,
    )


def _of_device(name: str, device_type: str) -> tuple[Callable[..., Any], ...]:
    """Return the four functions of one device type that torch has deprecated."""

    def is_enabled() -> bool:
        _deprecated(f"is_autocast_{name}_enabled()", f"is_autocast_enabled('{device_type}')")
        return is_autocast_enabled(device_type)

    def set_enabled(enabled: bool) -> None:
        new = f"set_autocast_enabled('{device_type}', enabled)"
        _deprecated(f"set_autocast_{name}_enabled(enabled)", new)
        set_autocast_enabled(device_type, enabled)

    def get_dtype() -> DType:
        _deprecated(f"get_autocast_{name}_dtype()", f"get_autocast_dtype('{device_type}')")
        return get_autocast_dtype(device_type)

    def set_dtype(dtype: DType) -> None:
        new = f"set_autocast_dtype('{device_type}', dtype)"
        _deprecated(f"set_autocast_{name}_dtype(dtype)", new)
        set_autocast_dtype(device_type, dtype)

    names = (
        f"is_autocast_{name}_enabled",
        f"set_autocast_{name}_enabled",
        f"get_autocast_{name}_dtype",
        f"set_autocast_{name}_dtype",
    )
    made = (is_enabled, set_enabled, get_dtype, set_dtype)
    for function, public in zip(made, names, strict=True):
        function.__name__ = function.__qualname__ = public
    return made


(
    is_autocast_cpu_enabled,
    set_autocast_cpu_enabled,
    get_autocast_cpu_dtype,
    set_autocast_cpu_dtype,
) = _of_device("cpu", "cpu")
_, _, get_autocast_gpu_dtype, set_autocast_gpu_dtype = _of_device("gpu", "cuda")
(
    is_autocast_ipu_enabled,
    set_autocast_ipu_enabled,
    get_autocast_ipu_dtype,
    set_autocast_ipu_dtype,
) = _of_device("ipu", "ipu")
(
    is_autocast_xla_enabled,
    set_autocast_xla_enabled,
    get_autocast_xla_dtype,
    set_autocast_xla_dtype,
) = _of_device("xla", "xla")
