"""torch's smaller modules: testing, overrides, versions, processes, backends, jit, compiler.

Each test runs on both libraries and returns what must be equal; a refusal stands alone, where
farspan does not do what torch does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import farspan
import numpy as np
import pytest
import torch
from beside_torch import failure, same


def said(action: Any) -> str:
    """Return the class and the words of what an action raises."""
    try:
        action()
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return "nothing was raised"


@same
def test_what_is_close(t: Any) -> Any:
    close, x = t.testing.assert_close, t.tensor([1.0, 2.0, 3.0])
    nan = t.tensor([1.0, t.nan])
    return [
        said(lambda: close(x, x + 1e-6)), said(lambda: close(x.double(), x.double() + 1e-8)),
        said(lambda: close(x, x + 0.1, rtol=0, atol=0.2)), said(lambda: close(1, 1.0000001)),
        said(lambda: close(x, x.double(), check_dtype=False)), said(lambda: close(2.5, 2.5)),
        said(lambda: close({"a": [x, 1]}, {"a": [x, 1]})),
        said(lambda: close((x, None), (x, None))),
        said(lambda: close(nan, nan, equal_nan=True)), said(lambda: close(x, x.clone(), msg="no")),
        said(lambda: close(np.ones(2), np.ones(2))), said(lambda: close(t.empty(0), t.empty(0))),
        said(lambda: close(x.bfloat16(), (x * 1.01).bfloat16())), said(lambda: close(True, True)),
        said(lambda: close(x.reshape(3, 1).T, x.reshape(1, 3))), said(lambda: close(1j, 1j + 1e-9)),
    ]  # fmt: skip


@same
def test_what_is_not_close(t: Any) -> Any:
    close, x = t.testing.assert_close, t.tensor([1.0, 2.0, 3.0])
    n, m = t.tensor([1, 2, 3]), t.arange(6.0).reshape(2, 3)
    return [
        said(lambda: close(x, t.tensor([1.0, 2.5, 3.25]))), said(lambda: close(n, n.flip(0))),
        said(lambda: close(m, m + t.tensor([0, 0, 1.0]))), said(lambda: close(m, m * 1.5)),
        said(lambda: close(x, t.tensor([1.0, 2.0, 4.0]), rtol=0.0, atol=0.5)),
        said(lambda: close(t.tensor(1.0), t.tensor(1.5))), said(lambda: close(1.0, 1.5)),
        said(lambda: close(3, 4)), said(lambda: close(x, x.double())),
        said(lambda: close(x, x[:2])), said(lambda: close([x, x], [x, x + 1])),
        said(lambda: close({"a": {"b": x}}, {"a": {"b": x * 2}})),
        said(lambda: close([x], [x, x])), said(lambda: close({"a": x}, {"b": x})),
        said(lambda: close(t.tensor([t.nan]), t.tensor([t.nan]))), said(lambda: close(x, None)),
        said(lambda: close(t.tensor([True, False]), t.tensor([True, True]))),
        said(lambda: close(n, n + 1, msg="mine")), said(lambda: close(True, False)),
        said(lambda: close(n, n + 1, msg=lambda text: "before\n" + text)),
        said(lambda: close(x, x, rtol=1e-3)), said(lambda: close(x, x, atol=1e-3)),
        said(lambda: close(m.T, m.T.contiguous(), check_stride=True)),
        said(lambda: close(t.tensor([1j, 2.0]), t.tensor([1j, 2.5]))),
        failure(lambda: close(x, "text")), failure(lambda: close("a", "a")),
        failure(lambda: close(x, object())),
    ]  # fmt: skip


@same
def test_made_tensors(t: Any) -> Any:
    make, found = t.testing.make_tensor, []
    for name in ("float32", "float64", "float16", "bfloat16", "complex64", "complex128", "int64",
                 "int8", "uint8", "bool"):  # fmt: skip
        t.manual_seed(4)
        dtype = getattr(t, name)
        x = make((3, 4), dtype=dtype, device="cpu")
        y = make(2, 6, dtype=dtype, device="cpu", low=0, high=2, noncontiguous=True)
        z = make((50,), dtype=dtype, device="cpu", exclude_zero=True)
        found += [x.dtype, x, y, y.is_contiguous(), y.stride(), bool((z == 0).any())]
    x = make(3, dtype=t.float32, device="cpu", requires_grad=True, low=-1.0, high=1.0)
    return [
        *[f.to(t.float64) if str(getattr(f, "dtype", "")) == "torch.bfloat16" else f
          for f in found], x.requires_grad, x.is_leaf, make((), dtype=t.int64, device="cpu").ndim,
        failure(lambda: make(2, dtype=t.float32, device="cpu", low=3, high=1)),
        failure(lambda: make(2, dtype=t.float32, device="cpu", low=t.nan)),
    ]  # fmt: skip


@same
def test_overrides(t: Any) -> Any:
    class Like:
        def __init__(self) -> None:
            self.asked: list[Any] = []

        @classmethod
        def __torch_function__(cls, func: Any, kinds: Any, args: Any = (), kwargs: Any = None):
            return func.__name__, [c.__name__ for c in kinds], len(args), kwargs

    class Declines:
        @classmethod
        def __torch_function__(cls, func: Any, kinds: Any, args: Any = (), kwargs: Any = None):
            return NotImplemented

    def mine(x: Any, y: Any = None) -> Any:
        if t.overrides.has_torch_function((x, y)):
            return t.overrides.handle_torch_function(mine, (x, y), x, y=y)
        return "plain"

    o, x = t.overrides, t.ones(2)
    return [
        o.has_torch_function((x, 1)), o.has_torch_function((x, Like())),
        o.has_torch_function_unary(Like()), o.has_torch_function_unary(x),
        o.has_torch_function_variadic(x, Like()), o.has_torch_function_variadic(x, "a"),
        o.is_tensor_like(x), o.is_tensor_like(Like()), o.is_tensor_like(3), mine(x),
        mine(x, Like())[0], mine(Like())[1:3], failure(lambda: mine(Declines()), "mine"),
        o.resolve_name(t.nn.functional.relu), o.resolve_name(3),
        o.resolve_name(t.add), o.resolve_name(t.linalg.norm), o.resolve_name(mine),
    ]  # fmt: skip


@same
def test_versions(t: Any) -> Any:
    v, cls = t.__version__, t.torch_version.TorchVersion
    made = cls("2.13.0+cpu")
    return [
        str(v).partition("+")[0], isinstance(v, str), isinstance(v, cls), v >= "2.0", v < "3.0",
        v > "1.13.1", v >= (2, 1), v < (3,), v > (1, 2, 3), made >= "2.13", made > "2.12.9",
        made < "2.14", made == "2.13.0+cpu", made != "2.12.0", "2.0" < made, made <= "2.13.1",
        v.split(".")[:2], tuple(int(n) for n in v.split("+")[0].split(".")), t.version.cuda,
        t.version.hip, t.version.debug, isinstance(t.version.git_version, str),
        t.version.__version__ == v, t.torch_version.__version__ == v,
    ]  # fmt: skip


@same
def test_types(t: Any) -> Any:
    found = [isinstance(x, t.types.Number) for x in (1, 1.5, True, "a", t.ones(1))]
    return [*found, str in t.types.FileLike.__args__, len(t.types.FileLike.__args__)]


def write_number(rank: int, folder: str, text: str) -> None:
    Path(folder, str(rank)).write_text(f"{text} {rank} {os.getpid()}")


def fail_at_one(rank: int) -> None:
    if rank == 1:
        sys.exit(3)


@pytest.mark.parametrize("library", [torch, farspan], ids=lambda m: m.__name__)
def test_processes(library: Any, tmp_path: Path) -> None:
    mp = library.multiprocessing
    mp.spawn(write_number, args=(str(tmp_path), "rank"), nprocs=2, join=True)
    texts = [(tmp_path / str(rank)).read_text().split() for rank in range(2)]
    assert [t[:2] for t in texts] == [["rank", "0"], ["rank", "1"]]
    assert len({t[2] for t in texts} | {str(os.getpid())}) == 3
    with pytest.raises(Exception, match="process 1 terminated with exit code 3") as raised:
        mp.spawn(fail_at_one, nprocs=2)
    assert type(raised.value).__name__ == "ProcessExitedException"
    assert (raised.value.error_index, raised.value.exit_code) == (1, 3)
    assert mp.get_context("spawn").get_start_method() == "spawn"
    assert mp.get_sharing_strategy() in mp.get_all_sharing_strategies()
    assert mp.cpu_count() == os.cpu_count()


@same
def test_switches_of_backends(t: Any) -> Any:
    b, found = t.backends, []
    before = b.cudnn.benchmark, b.cudnn.deterministic, b.cuda.matmul.allow_tf32
    b.cudnn.benchmark, b.cudnn.deterministic, b.cuda.matmul.allow_tf32 = True, True, True
    found += [b.cudnn.benchmark, b.cudnn.deterministic, b.cuda.matmul.allow_tf32]
    with b.cudnn.flags(enabled=False, benchmark=False, deterministic=True):
        found += [b.cudnn.enabled, b.cudnn.benchmark, b.cudnn.deterministic]
    found += [b.cudnn.enabled, b.cudnn.benchmark, b.cudnn.is_available(), b.cudnn.version()]
    b.cudnn.benchmark, b.cudnn.deterministic, b.cuda.matmul.allow_tf32 = before
    for name in ("flash", "mem_efficient", "math", "cudnn"):
        switch, read = (getattr(b.cuda, n) for n in (f"enable_{name}_sdp", f"{name}_sdp_enabled"))
        found.append(read())
        switch(False)
        found.append(read())
        switch(True)
    with b.mkldnn.flags(enabled=False):
        found.append(t.ones(2) + 1)
    return [*found, b.cuda.is_built(), b.mps.is_available(), b.mps.is_built(), b.cudnn.enabled,
            b.cudnn.allow_tf32, t.cuda.is_available(), t.cuda.device_count()]  # fmt: skip


@same
def test_marks_of_torchscript_pass_through(t: Any) -> Any:
    @t.jit.ignore
    def ignored(x: Any) -> Any:
        return x + 1

    @t.jit.ignore(drop=True)
    def dropped(x: Any) -> Any:
        return x + 2

    @t.jit.unused
    def unused(x: Any) -> Any:
        return x + 3

    @t.jit.export
    def exported(x: Any) -> Any:
        return x + 4

    x = t.ones(1)
    return [
        ignored(x), unused(x), exported(x), callable(dropped), t.jit.is_scripting(),
        t.jit.is_tracing(), t.jit.annotate(list, [1]), isinstance(ignored, t.jit.ScriptFunction),
        isinstance(t.nn.Linear(1, 1), t.jit.ScriptModule),
    ]  # fmt: skip


def test_files_of_torchscript_are_refused(tmp_path: Path) -> None:
    jit, layer = farspan.jit, farspan.nn.Linear(2, 1)
    for attempt in (
        lambda: jit.load(tmp_path / "x"), lambda: jit.save(layer, tmp_path / "x"),
        lambda: jit.freeze(layer), lambda: jit.ScriptFunction(),
    ):  # fmt: skip
        with pytest.raises(farspan.FarspanError, match="TorchScript"):
            attempt()


@same
def test_compilation_leaves_functions_as_they_are(t: Any) -> Any:
    @t.compiler.disable
    def plain(x: Any) -> Any:
        return x * 2

    @t.compiler.disable(recursive=False)
    def more(x: Any) -> Any:
        return x * 3

    t.compiler.reset()
    return [
        plain(t.ones(2)), more(t.ones(2)), t.compiler.is_compiling(), t.compiler.is_exporting(),
        t.compiler.is_dynamo_compiling(), t.compile(lambda x: x + 1, backend="eager")(t.ones(1)),
        isinstance(t.compiler.list_backends(), list),
        t.compile(backend="eager")(lambda x: x - 1)(t.ones(1)),
    ]  # fmt: skip


@pytest.mark.parametrize("library", [torch, farspan], ids=lambda m: m.__name__)
def test_serialization(library: Any, tmp_path: Path) -> None:
    s, x = library.serialization, library.arange(3.0)
    s.save({"x": x}, tmp_path / "x.pt")
    assert s.load(tmp_path / "x.pt")["x"].tolist() == [0, 1, 2]
    s.add_safe_globals([dict])
    with s.safe_globals([list]):
        assert library.load(str(tmp_path / "x.pt"), map_location="cpu")["x"].equal(x)
    with open(tmp_path / "x.pt", "rb") as file:
        assert library.load(file, weights_only=True)["x"].equal(x)
