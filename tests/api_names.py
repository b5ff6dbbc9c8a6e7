"""The public names of torch, and why some are not planned: what `docs/coverage.md` lists.

Names come from torch itself: what its namespaces show and, where they say so, list in `__all__`.
"""

from __future__ import annotations

import importlib
import inspect
import re
import types
from typing import Any

NAMESPACES = (
    "", "Tensor", "nn", "nn.functional", "nn.init", "nn.utils", "nn.utils.rnn",
    "nn.utils.parametrize", "nn.utils.parametrizations", "optim", "optim.lr_scheduler",
    "optim.swa_utils", "linalg", "fft", "special", "signal.windows", "distributions", "utils.data",
    "autograd", "autograd.functional", "func", "amp", "random",
)  # fmt: skip

OPERATORS = tuple(
    f"__{name}__"
    for name in (
        "add radd iadd sub rsub isub mul rmul imul truediv rtruediv itruediv floordiv rfloordiv "
        "mod rmod pow rpow ipow matmul rmatmul neg pos abs invert and rand iand or ror ior xor "
        "rxor ixor lshift rshift eq ne lt le gt ge getitem setitem len iter contains bool int "
        "float complex index repr format hash array deepcopy reduce_ex dlpack dlpack_device dir"
    ).split()
)  # fmt: skip

#: (why it is not planned, names); the first that matches counts.
_NOT_PLANNED = [
    ("quantized tensors", r"quant|^q_|^q(int|scheme)|^quint|^qint|^int_repr$|per_(channel|tensor)|"
     r"_qparams|fbgemm"),
    ("sparse tensors", r"sparse|coalesce|^(ccol|crow|col|row)_indices|_(coo|cs[rc]|bs[rc])|"
     r"^(ds|hs|hsp|ss|sp|sspadd|sadd)mm$|^smm$|^(dense_dim|indices|values|to_dense)(_copy)?$"),
    ("named dimensions", r"^(index$|names|align_|refine_names|rename|has_names)"),
    ("TorchScript and its compiler", r"^(Alias|Argument|Block|BufferDict|CallStack|Capsule|Code|"
     r"Compil|Complete|Concrete|DeepCopyMemo|Deserial|Serial|DeviceObj|Dispatch|DisableTorch|Error|Exclude|"
     r"Execution|Fatal|FileCheck|Function|Future$|Gradient$|Graph|IODesc|JIT|Lite|Lock|Logger|"
     r"ModuleDict$|Node$|Noop|OperatorInfo|ParameterDict$|PyTorchFile|Script|Static|StreamObj|Tag$|"
     r"Throughput|Tracing|Use$|Value$|import_ir|parse_|unify_|merge_type|fork$|wait$|Aggregation|"
     r"AVG$|SUM$|profiler_|cpp$|export$|Benchmark|PRIVATE_OPS|get_file_path|prepare_multi|"
     r"classproperty)|.*Type$|^([sS]ym_|Sym(Bool|Int|Float))|"
     r"^(cond|while_loop|slice_inverse|thread_safe|module_load|hash_tensor|const_data|vitals)"),
    ("another device's internals", r"cudnn|miopen|mkldnn|vulkan|nnpack|"
     r"(^|_)(ipu|xla|xpu|mps|mtia|maia|hpu|hip)($|_)|^is_(xla|xpu|mps|mtia|maia|ipu)$|has_(mkl|lapack|openmp|spectral|cuda|magma)|"
     r"_gpu_dtype|^init_num_threads|cxx11|batch_norm_(backward|elemt|gather|stats|update)|^native_|"
     r"norm_except_dim|constrain|is_distributed|_copy$|_jvp$|_backward$|^unsafe_|autocast_(in|de)cre"),
    ("typed storages", r"^(BFloat16|Bool|Byte|Char|Complex\w+|Double|Float|Half|Int|Long|Short|"
     r"Typed|Untyped|Q\w+)?(Storage|Tensor)(Base)?$|storage|^set_default_tensor_type$"),
    ("removed or deprecated in torch", r"^(eig|symeig|lstsq|solve|matrix_rank|volatile|reinforce|"
     r"resize(_as)?|new|map2?_|apply_|chain_matmul|ger|range|msort_|name|output_nr|nelement|ndimension|"
     r"rsub|trapz|legacy_\w+|upsample\w*|Variable|variable|NestedIO\w*|backward_compat\w*|lobpcg_|"
     r"triangular_solve|symmetric|has_torch_function\w*|handle_torch_function|boolean_dispatch|"
     r"\w+_pool\dd_with_indices|unused|LRScheduler_|gradcheck_|Undefined\w*|scaled_\w*mm|grouped_mm|"
     r"ScalingType|SwizzleType|assert_int_or_pair|common_notes)$"),
    ("exotic dtypes", r"^(bits?\d*\w*\d|bit|u?int[1-7]|float[48]_\w+|complex32|chalf)$"),
    ("nested tensors", r"jagged|nested|to_padded_tensor"),
]  # fmt: skip

#: What a pattern above meets by chance.
_PLANNED = (
    "Function",
    "Tensor",
    "index_copy",
    "is_nested",
    "narrow_copy",
    "sgn_",
    "storage_offset",
)


def resolve(library: Any, space: str) -> Any:
    """Return a namespace of torch or of farspan; None if there is none."""
    found = library
    for part in filter(None, space.split(".")):
        following = getattr(found, part, None)
        if following is None and isinstance(found, types.ModuleType):
            try:
                following = importlib.import_module(f"{found.__name__}.{part}")
            except ImportError:
                return None
        found = following
    return found


def full(space: str, name: str) -> str:
    return f"{space}.{name}" if space else name


def public_names(torch: Any, space: str) -> list[str]:
    """Return the names that a namespace of torch shows to its users."""
    home = resolve(torch, space)
    if home is None:
        return []
    listed = None if space in ("", "Tensor") else getattr(home, "__all__", None)
    names = [n for n in dir(home) if not n.startswith("_") and _is_torchs(home, n, space)]
    if listed:
        names = [n for n in names if n in listed]
    return names + [d for d in OPERATORS if space == "Tensor" and hasattr(home, d)]


def _is_torchs(home: Any, name: str, space: str) -> bool:
    """Say whether a name is part of the interface, not an import that shows."""
    try:
        value = getattr(home, name)
    except Exception:
        return True
    if inspect.ismodule(value) or (isinstance(value, (str, bool)) and space != "Tensor"):
        return False
    if space == "nn.functional" and (name[0].isupper() or name.endswith("_notes")):
        return False
    if type(value).__module__ == "typing" or getattr(value, "__module__", "") == "typing":
        return False
    if space == "Tensor":
        return True
    root = (getattr(value, "__module__", None) or "torch").partition(".")[0]
    return not callable(value) or root in ("torch", "builtins", "_VariableFunctionsClass")


def why_not(space: str, name: str) -> str | None:
    """Return why a name is not planned, or None."""
    if space == "nn" and name in ("ModuleDict", "ParameterDict"):
        return None
    if space in ("distributions", "autograd.functional"):
        return None
    if name in (
        "Tensor",
        "storage_offset",
        "index_copy",
        "narrow_copy",
        "sgn_",
        "Function",
        "is_nested",
    ):
        return None
    return next((why for why, names in _NOT_PLANNED if re.search(names, name)), None)
