"""The law of the GPU's loops: their CUDA C, run on the host, equals the table's kernels.

Bit for bit where it is exact. NVRTC compiles every text too, for sm_80 and sm_90, where it is
installed; it needs no GPU. What is left to a GPU: its own rounding of division and square roots.
"""

from __future__ import annotations

import os
from typing import Any

import cuda_host
import numpy as np
import nvrtc_host
import pytest
from cuda_batch import Batch
from farspan.core.dtype import BY_NAME
from farspan.core.op import OPS
from farspan.core.spec import Spec
from farspan_worker.kernels.cpu.loops import Group, Number, Step
from farspan_worker.kernels.cpu.loops.group import Unfused
from farspan_worker.kernels.cpu.loops.trace import trace
from farspan_worker.kernels.cuda.fused import Fused
from farspan_worker.kernels.cuda.fused.compiled import options
from samples import ALL, ROWS, Row
from test_laws import calls_of
from test_loops import (
    CURVED_STEPS,
    EXACT_STEPS,
    NAMES,
    Given,
    call_parts,
    chain,
    close,
    same,
    tables,
)

REAL = bool(os.environ.get("FARSPAN_TEST_GPU"))
needs_host = pytest.mark.skipif(not (REAL or cuda_host.COMPILER), reason="no g++ here")
needs_nvrtc = pytest.mark.skipif(nvrtc_host.library() is None, reason="no NVRTC here")
DTYPES = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool"]
Case = tuple[Fused, list[Any], Any, str]


def cases(dtype: str, exact: bool, most: int) -> tuple[Batch, list[Case]]:
    """Return some samples of every op that are kernels, with what the table makes of them."""
    batch, found = Batch(), []
    for name in NAMES:
        op, before = OPS[name], len(found)
        for c in calls_of(op, dtype) if dtype in (ROWS.get(name, Row()).dtypes or ALL) else []:
            try:
                arrays, static, scalars = call_parts(op, c)
                expected, spec = tables(op, static, arrays, scalars)
            except (RuntimeError, TypeError, ValueError, IndexError, ArithmeticError):
                continue
            specs = tuple([Given(a)._spec for a in arrays])
            step = Step(op, static, tuple(range(len(arrays))), scalars)
            try:
                fused = Fused(Group(specs, (step,), ((len(arrays), spec),), exact))
            except Unfused:
                continue
            batch.add(fused)
            found.append((fused, arrays, expected, f"{name} {c}"))
            if len(found) - before >= most:
                break
    return batch, found


@needs_host
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "inexact"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_alone_equal_the_tables_kernels(dtype: str, exact: bool) -> None:
    batch, found = cases(dtype, exact, 2)
    assert len(found) > 20
    for fused, arrays, expected, said in found:
        (made,) = batch.run(fused, arrays)
        if exact:
            assert same(made, expected), f"{said}: {made} {expected}\n{fused.text}"
        else:
            close(made, expected, dtype)


@needs_nvrtc
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "inexact"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nvrtc_compiles_every_step(dtype: str, exact: bool) -> None:
    batch, _ = cases(dtype, exact, 1)
    for architecture in nvrtc_host.ARCHITECTURES[dtype != "float32" :]:
        made = nvrtc_host.compile_text(batch.text, options(exact), architecture)
        assert ".visible .entry map_0(" in made
        # Exact text may have no multiplication that is added to in one step, but those asked for.
        assert not exact or "fma.rn" not in made


@needs_host
def test_random_chains_are_bit_for_bit_the_tables() -> None:
    shapes = [(), (1,), (3,), (7, 5), (2, 3, 4), (33, 17), (5, 1, 65), (1000,), (8, 64), (4, 3, 16)]
    batch, found = Batch(), []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        shape = shapes[seed % len(shapes)]
        arrays, steps, values, specs = chain(rng, shape, EXACT_STEPS, True)
        stored = [i for i in range(len(arrays), len(values)) if specs[i].shape == shape]
        if not stored:
            continue
        picked = sorted({stored[-1], int(rng.choice(stored))})
        outs = tuple((i, specs[i]) for i in picked)
        fused = Fused(Group(tuple(specs[: len(arrays)]), tuple(steps), outs))
        batch.add(fused)
        found.append((seed, fused, arrays, [values[i] for i in picked]))
    for seed, fused, arrays, wanted in found:
        for made, value in zip(batch.run(fused, arrays), wanted, strict=True):
            assert same(made, value), f"seed {seed}: {[s.op.name for s in fused.group.steps]}"


@needs_host
def test_chains_that_end_in_a_reduction_are_near() -> None:
    shapes = [(7, 5), (2, 3, 4), (130, 70), (3, 40, 50), (20_011,), (5, 9_001), (3000, 5),
              (2, 1, 9), (9_000, 33)]  # fmt: skip
    batch, found = Batch(), []
    for seed in range(54):
        rng = np.random.default_rng(1000 + seed)
        shape = shapes[seed % len(shapes)]
        arrays, steps, values, specs = chain(rng, shape, CURVED_STEPS + EXACT_STEPS[:3], False)
        last = max(i for i, s in enumerate(specs) if s.shape == shape and s.dtype.name == "float32")
        dims = [d for d in range(len(shape)) if rng.random() < 0.6] or [0]
        op = OPS[["sum.dim_IntList", "mean.dim", "amax"][seed % 3]]
        _, static, scalars = op.bind(Given(values[last]), dims, bool(seed % 2))
        steps.append(Step(op, static, (last,), tuple(scalars)))
        wide, _ = tables(op, static, [values[last].astype("f8")], tuple(scalars))
        _, spec = tables(op, static, [values[last]], tuple(scalars))
        outs = [(len(values), spec)]
        if last >= len(arrays) and seed % 2:
            outs.append((last, specs[last]))
        fused = Fused(Group(tuple(specs[: len(arrays)]), tuple(steps), tuple(outs), False))
        batch.add(fused)
        found.append((fused, arrays, wide, values[last], op.name))
    for fused, arrays, wide, whole, name in found:
        made, *rest = batch.run(fused, arrays)
        scale = max(1.0, float(np.abs(whole).astype("f8").sum() / max(1, made.size)))
        scale = scale if name == "sum.dim_IntList" else 1 + float(np.abs(whole).max())
        np.testing.assert_allclose(made, wide, rtol=1e-5, atol=2e-6 * scale)
        for out in rest:
            close(out, whole, "float32")
    assert any(fused.scratch_bytes for fused, *_ in found), "no reduction was split"


@needs_nvrtc
def test_packs_are_loads_of_16_bytes() -> None:
    for name in ("float32", "bfloat16", "float64"):
        fused = one_add(name, (1024,))
        made = nvrtc_host.compile_text(fused.text, options(True), "sm_90")
        assert "ld.global.v" in made and "st.global.v" in made


@pytest.mark.parametrize("name", ["_softmax", "_log_softmax"])
def test_what_meets_its_rows_reduction_is_the_cpus_alone(name: str) -> None:
    """A kernel here would use sums that it does not have; loops of the CPU walk over rows again."""
    x, op = Given(np.ones((4, 7), "f4")), OPS[name]
    _, static, scalars = op.bind(x, -1, False)
    step = Step(op, static, (0,), tuple(scalars))
    group = Group((x._spec,), (step,), ((1, x._spec),), False)
    assert trace(group).rows
    with pytest.raises(Unfused, match="on a GPU"):
        Fused(group)


def one_add(name: str, shape: tuple[int, ...], scalars: tuple[Any, ...] = ()) -> Fused:
    spec = Spec.make(shape, BY_NAME[name])
    if scalars:
        step = Step(OPS["add.Scalar"], OPS["add.Scalar"].bind(Given(np.ones(2)), 1.0)[1], (0,),
                    scalars)  # fmt: skip
        return Fused(Group((spec,), (step,), ((1, spec),), True), by_pointer=True)
    static = OPS["add.Tensor"].bind(Given(np.ones(2)), Given(np.ones(2)))[1]
    return Fused(
        Group((spec, spec), (Step(OPS["add.Tensor"], static, (0, 1)),), ((2, spec),), True)
    )


def test_one_text_serves_all_lengths() -> None:
    assert one_add("float32", (1024,)).text == one_add("float32", (7, 3)).text


@needs_host
def test_addresses_that_are_not_aligned_go_element_by_element() -> None:
    fused, batch = one_add("float32", (1023,)), Batch()
    batch.add(fused)
    a, b = np.arange(1030, dtype="f4"), np.ones(1030, "f4")
    for start in range(4):
        (made,) = batch.run(fused, [a[start : start + 1023], b[:1023]])
        assert np.array_equal(made, a[start : start + 1023] + 1)


@needs_host
def test_numbers_may_lie_on_the_device() -> None:
    step = OPS["add.Scalar"].bind(Given(np.ones(2)), 1.5)
    numbers = tuple([Number(i, "f" if isinstance(x, float) else "i")
                     for i, x in enumerate(step[2])])  # fmt: skip
    fused = one_add("float32", (100,), numbers)
    assert "numbers[0]" in fused.text
    x, out = np.linspace(-1, 1, 100, dtype="f4"), np.empty(100, "f4")
    row = np.array([np.float64(v).view(np.int64) if isinstance(v, float) else v for v in step[2]])
    (launch,) = fused.launches
    args = [x, out, np.int64(100), row]
    cuda_host.launch(fused.text, launch.name, launch.grid, launch.threads, args)
    assert same(out, x + np.float32(1.5))


def test_the_host_sees_a_thread_that_leaves_others_at_a_barrier() -> None:
    text = one_add("float32", (4,)).text.split("extern")[0] + (
        'extern "C" __global__ void __launch_bounds__(256)\nbad(float* p0) {\n'
        "  if (threadIdx.x == 3) return;\n  __syncthreads();\n}\n"
    )
    if not cuda_host.COMPILER:
        pytest.skip("no g++ here")
    with pytest.raises(AssertionError, match="barrier"):
        cuda_host.launch(text, "bad", (1,), 8, [np.ones(1, "f4")])
