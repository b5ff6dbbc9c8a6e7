"""What libraries written on torch reach for besides its public API, beside torch."""

from __future__ import annotations

import ctypes
import tempfile
from importlib import import_module
from typing import Any

import farspan
import numpy as np
import pytest
from beside_torch import failure, same


def module(torch: Any, path: str) -> Any:
    return import_module(f"{torch.__name__}.{path}")


@same
def test_a_number_may_stand_before_a_tensor(torch: Any) -> Any:
    x = torch.tensor([1.0, 4.0], requires_grad=True)
    i, half = torch.tensor([1, 2]), torch.tensor(2.0, dtype=torch.float16)
    made = [
        torch.add(2.0, x, alpha=3), torch.sub(1, x), torch.mul(2, i), torch.div(1.0, i),
        torch.divide(2, x), torch.multiply(2.5, half), torch.subtract(2, i),
        torch.true_divide(3, i), torch.floor_divide(7, i), torch.add(2, 3), torch.div(1, 4.0),
    ]  # fmt: skip
    (g,) = torch.autograd.grad(torch.div(2.0, x).sum(), x, only_inputs=True)
    errors = [failure(lambda: torch.eq(2.0, x)), failure(lambda: torch.fmod(2.0, x))]
    return [made, [m.dtype for m in made], g, errors]


@same
def test_weights_may_stand_before_tensors_as_they_once_did(torch: Any) -> Any:
    x, y = torch.arange(4.0).reshape(2, 2), torch.ones(2, 2)
    made = [
        x.clone().add_(2, y), x.add(3.0, y), torch.add(x, 2, y), x.sub(2, y),
        x.clone().addcmul_(0.5, x, y), x.addcdiv(2, x, y), torch.addmm(2, x, 3, x, y),
        x.addmm(2, x, y), torch.addr(2, x, 3, x[0], y[0]),
    ]  # fmt: skip
    return made


@same
def test_lists_of_tensors_take_one_operation(torch: Any) -> Any:
    a, b = [torch.tensor([1.0, 4.0]), torch.tensor([9.0])], [torch.ones(2), torch.tensor([2.0])]
    copies = [t.clone() for t in a]
    torch._foreach_add_(copies, 1)
    torch._foreach_mul_(copies, [2.0, 3.0])
    torch._foreach_addcdiv_(copies, a, b, torch.tensor([1.0, 2.0]))
    torch._foreach_zero_(b[:1])
    torch._foreach_copy_(b[1:], [torch.tensor([2.5])])
    group = module(torch, "utils._foreach_utils")._group_tensors_by_device_and_dtype
    ((lists, places),) = group([a, b], with_indices=True).values()
    return [
        copies, b, list(torch._foreach_sub(a, b, alpha=2)), list(torch._foreach_sqrt(a)),
        list(torch._foreach_lerp(a, b, 0.5)), list(torch._foreach_norm(a, 1)),
        list(torch._foreach_maximum(a, 3.0)), list(torch._foreach_pow(2.0, a)),
        list(torch._foreach_addcmul(a, a, b, value=0.5)), list(torch._foreach_max(a)),
        lists, places, failure(lambda: torch._foreach_add(a, b[:1])),
    ]  # fmt: skip


@same
def test_addresses_are_of_the_elements(torch: Any) -> Any:
    x = torch.arange(6.0)
    at = ctypes.cast(x[2:].data_ptr(), ctypes.POINTER(ctypes.c_float))
    memory, empty, array = x.untyped_storage(), torch.empty(0), np.zeros(3)
    here = (
        x[3:].data_ptr() - memory.data_ptr(),
        empty.data_ptr(),
        empty.untyped_storage().data_ptr(),
    )
    shared = torch.from_numpy(array).data_ptr() == array.ctypes.data
    return [
        np.ctypeslib.as_array(at, (4,)).tolist(),
        here,
        shared,
        x.t().data_ptr() == x.data_ptr(),
    ]


def test_addresses_over_a_wire_are_of_copies(service: tuple[str, str]) -> None:
    with farspan.connect(service[0], token=service[1]):
        x = farspan.arange(6).reshape(2, 3)
        memory = x.untyped_storage().data_ptr()
        assert x.t()[1].data_ptr() == memory + 8
        at = ctypes.cast(x.data_ptr(), ctypes.POINTER(ctypes.c_int64))
        assert np.ctypeslib.as_array(at, (6,)).tolist() == [0, 1, 2, 3, 4, 5]


@same
def test_storages_are_read_by_slices_and_from_files(torch: Any) -> Any:
    with tempfile.NamedTemporaryFile() as file:
        file.write(np.arange(4, dtype=np.float32).tobytes())
        file.flush()
        memory = torch.UntypedStorage.from_file(file.name, False, 16)
        part = torch.asarray(memory[4:12], dtype=torch.uint8).view(dtype=torch.float32)
        is_one = isinstance(part.untyped_storage(), module(torch, "storage").UntypedStorage)
        return [part, memory.nbytes(), memory[7], is_one, memory.untyped().nbytes()]


@same
def test_dtypes_and_layouts_are_there_to_compare_with(torch: Any) -> Any:
    x = torch.ones(2)
    names = ("uint16", "uint64", "float8_e4m3fn", "float8_e5m2", "complex32", "qint8")
    dtypes = [getattr(torch, name) for name in names]
    limits = [torch.finfo(torch.float8_e5m2).max, torch.iinfo(torch.uint32).max]
    layouts = [torch.sparse_coo, torch.sparse_csr, torch.jagged, torch.strided]
    return [
        [x.dtype == d for d in dtypes], [(d.itemsize, d.is_floating_point) for d in dtypes[:5]],
        dtypes, limits, [x.layout == each for each in layouts], [str(each) for each in layouts],
        isinstance(3, torch.SymInt), isinstance(x, torch.ScriptModule),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "use",
    [
        lambda t: t.zeros(2, dtype=t.float8_e4m3fn),
        lambda t: t.ones(2).to(t.float8_e5m2),
        lambda t: t.sparse_coo_tensor([[0]], [1.0], (1,)),
        lambda t: t.sparse.softmax(t.ones(2), 0),
        lambda t: t.fx.symbolic_trace(t.nn.ReLU()),
        lambda t: t.quasirandom.SobolEngine(2),
        lambda t: t.ops.aten.no_such_operator(t.ones(2)),
        lambda t: t.overrides.TorchFunctionMode().__enter__(),
        lambda t: t.cuda.CUDAGraph(),
        lambda t: t.futures.Future(),
    ],
)
def test_what_is_only_a_name_says_so_at_its_use(use: Any) -> None:
    with pytest.raises(farspan.core.errors.UnsupportedError):
        use(farspan)


@same
def test_checks_raise_what_they_are_told(torch: Any) -> Any:
    t = torch.tensor([True, False])
    torch._check(True), torch._check_with(KeyError, True, ""), torch._assert(1, "")
    torch._check_is_size(3), torch._assert_async(torch.tensor(1))
    return [
        failure(lambda: torch._check(False, lambda: "said so"), "said so"),
        failure(lambda: torch._check_index(False)), failure(lambda: torch._check_value(False)),
        failure(lambda: torch._check_type(False)), failure(lambda: torch._check_is_size(-1)),
        failure(lambda: torch._check_not_implemented(False)), failure(lambda: torch._check(1)),
        failure(lambda: torch._check_tensor_all(t)), failure(lambda: torch._assert(0, "no"), "no"),
        failure(lambda: torch._assert_async(torch.tensor(0)), "nonzero"),
        torch._shape_as_tensor(t), torch.torch is torch,
    ]  # fmt: skip


@same
def test_operators_of_a_program_have_their_derivative(torch: Any) -> Any:
    library, name = module(torch, "library"), f"{torch.__name__}_names::scaled"

    def scaled(x: torch.Tensor, k: float) -> torch.Tensor:
        return x * x * k

    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.k = inputs[1]

    scaled.__annotations__ = {"x": torch.Tensor, "k": float, "return": torch.Tensor}
    op = library.custom_op(name, scaled, mutates_args=())
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    refused = failure(lambda: op(x, 2.0).sum().backward(), "no autograd formula")
    library.register_fake(name, lambda x, k: torch.empty_like(x))
    library.register_autograd(
        name, lambda ctx, g: (2 * ctx.saved_tensors[0] * ctx.k * g, None), setup_context=setup
    )
    y = getattr(torch.ops, name.split("::")[0]).scaled(x, 3.0)
    return [refused, y.detach(), torch.autograd.grad(y.sum(), x), op(x.detach(), 1.0),
            torch.ops.aten.add.Tensor(x.detach(), y.detach(), alpha=2)]  # fmt: skip


@same
def test_loaders_iterators_and_other_small_names(torch: Any) -> Any:
    data = torch.utils.data.DataLoader(torch.arange(5.0), batch_size=2)
    iterator = iter(data)
    base = module(torch, "utils.data.dataloader")._BaseDataLoaderIter
    x = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        values = x.numpy().tolist()  # no graph is recorded, so none is lost

    class Mine:
        """A distribution of a library's own."""

    kl = torch.distributions.kl
    rule = kl.register_kl(Mine, torch.distributions.Normal)(lambda p, q: 7)
    jit = module(torch, "jit")
    return [
        isinstance(iterator, base), len(iterator), next(iterator), len(list(iterator)), values,
        rule(0, 0), torch.cuda.get_rng_state_all(), torch.cuda.set_rng_state_all([]),
        jit.is_scripting(), str(torch._C._nn._parse_to("cpu")[0]), torch._C._get_tracing_state(),
        module(torch, "_tensor_str")._tensor_str(torch.tensor([[1.0, 2.5], [3.0, 4.0]]), 2),
        isinstance(torch.__config__.show(), str), module(torch, "_dynamo").is_compiling(),
        torch.distributed.is_initialized(), module(torch, "fx").Graph.__name__,
        failure(lambda: torch.distributed.all_reduce(x), "Default process group"),
    ]  # fmt: skip


def test_functions_for_torchscript_stay_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def double(x: Any) -> Any:
        return 2 * x

    jit = farspan.jit
    for refused in (jit.script, jit.trace, jit.trace_module):
        with pytest.raises(farspan.core.errors.UnsupportedError, match="TorchScript"):
            refused(double, {})
    monkeypatch.setenv("PYTORCH_JIT", "0")  # torch's switch, which `farspan run` sets
    assert jit.script(double) is double and jit.trace(double, farspan.ones(1)) is double
    assert jit.script_method(double) is double and jit.optimize_for_inference(double) is double
    with pytest.raises(farspan.core.errors.UnsupportedError, match="TorchScript"):
        jit.load("model.pt")


def test_files_name_no_classes() -> None:
    serialization = farspan.serialization
    serialization.clear_safe_globals()
    assert serialization.get_safe_globals() == []


def test_old_signatures_warn() -> None:
    with pytest.warns(UserWarning, match="deprecated: pass alpha by name"):
        farspan.ones(2).add(5, farspan.ones(2))
