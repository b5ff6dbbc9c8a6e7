"""What fuzzing has found, each as small as it goes: a command that once did harm is refused.

A case is a frame's last command, on tensors 1 (float32, 3 x 4), 2 (int64, 4) and 3 (float64, 0-d).
"""

from __future__ import annotations

from typing import Any

import farspan as torch
import numpy as np
import pytest
from farspan import wire
from farspan.core import command as cmd
from farspan.core.command import Failed, Frame, Value
from farspan.core.errors import ProtocolError
from farspan.core.op import OPS, table
from farspan_worker.engine import Engine
from farspan_worker.kernels.cpu.loops import native

table()
MIB = 1 << 20
I64 = torch.int64.code
F32 = torch.float32.code
F64 = torch.float64.code
BIG = 2**40

#: name -> commands, each (op or opcode, ids, static, scalars)
HARMFUL: dict[str, list[tuple[Any, ...]]] = {
    # a list of 2^40 absent tensors was made before anybody looked at the number
    "a list of 2^40 tensors": [("cat", [1, 9], (BIG, 0))],
    "a list of minus one tensors": [("cat", [1, 9], (-1, 0))],
    # Python's loop over the degree
    "a polynomial of degree 2^60": [
        ("special_laguerre_polynomial_l.n_scalar", [1, 9], ("i",), [2**60])
    ],
    # a view of 2^60 elements costs nothing, working through it for ever
    "the sum of an expanded view": [
        ("expand", [3, 8], ((2**30, 2**20), False)), ("sum", [8, 9], (None,)),
    ],
    "the largest of an expanded view": [
        ("expand", [3, 8], ((2**40,), False)), ("sort.stable", [8, 9, 10], (None, 0, False)),
    ],
    # as_strided over a row that is shorter: the heap was read and written
    "a window beyond its memory": [("_window", [1, 9], ((BIG, 1), (3, 4), (4, 1), 0))],
    "a window with a backward stride": [("_window", [1, 9], ((4, 1), (3,), (-4_096,), 0))],
    "a window without strides": [("_window", [1, 9], ((), (3, 4), (4, 1), 0))],
    "a scatter to a window beyond": [
        ("_window_scatter", [1, 1, 9], ((-4_096, 1), (3, 4), (4, 1), 0))
    ],
    "a scatter of too much": [("_window_scatter", [1, 1, 9], ((4, 1), (2**20, 4), (0, 1), 0))],
    "a sum over windows beyond": [
        ("_window_add", [1, 9], ((3, 4), (4, -1), (3, 4), (4, 1), 2**20))
    ],
    "a diagonal of one dimension": [("diagonal_backward", [2, 9], ((4, 4), 0, 0, 0))],
    # padding that the forward would have refused was allocated by the backward
    "a pooling's backward with padding of 2^23": [
        ("unsqueeze", [1, 8], (0,)),
        ("avg_pool2d_backward", [8, 8, 9], ((2, 2), (2, 2), (0, 2**23), False, False, None)),
    ],
    "a pooling's backward with an index of 2^40": [
        (cmd.PUT, [8], (I64, (1, 3, 4), 3, 0)), ("unsqueeze", [1, 7], (0,)),
        ("adaptive_max_pool2d_backward", [7, 7, 8, 9], ()),
    ],
    # the windows of a batch of none were counted: 352 MiB
    "the mean over a batch of no images": [
        (cmd.PUT, [8], (F64, (0, 2, 5_767_171, 3, 3), 4, 0)),
        ("avg_pool3d", [8, 9], ((2, 2, 2), (1, 1, 1), (0, 0, 0), False, True, None)),
        ("mm", [1, 1, 7], ()),  # the way it ends: in a Failed
    ],
    # the places of 2^40 elements that no gradient has were listed
    "a padding's backward with padding of 2^40": [
        ("_border_pad_backward", [1, 9], ((3, 4), (2**40, 0), "replicate"))
    ],
    # the places of images that nobody had were made: 1 GiB and three seconds
    "an affine grid's gradient of another size": [
        (cmd.PUT, [8], (F32, (1, 3, 1, 4, 1), 0, 0)),
        ("affine_grid_generator_backward", [8, 9], ((1, 2, 2**24, 1, 2), False)),
    ],
    "an affine grid of many images of none": [
        (cmd.PUT, [8], (F32, (0, 2, 3), 4, 0)),
        ("affine_grid_generator", [8, 9], ((0, 2, 2**24, 2**4), False)),
        ("mm", [1, 1, 7], ()),  # the grid has no elements, and costs nothing
    ],
    # the row under a window was made before anybody asked for its bytes
    "a window with a stride of 2^24": [("_window", [2, 9], ((2**24,), (2, 2), (2, 1), 1))],
    "windows that are 2^25 elements apart": [("_window", [1, 9], ((4, 1), (2,), (2**25,), 0))],
    "a sum over windows of 2^24": [("_window_add", [1, 9], ((4,), (2**24,), (3, 4), (4, 1), 0))],
    "a scatter to windows of 2^24": [
        ("_window_scatter", [2, 1, 9], ((2**24,), (3, 4), (4, 1), 0))
    ],
    # a list of as many places as picks was made, for no picks at all; others were counted for ever
    "picks of 2^24 out of two": [
        ("_combinations", [8], (2, 2**24, False, None)), ("mm", [1, 1, 7], ()),
    ],
    "picks of 2^30 out of 2^31": [("_combinations", [8], (2**31, 2**30, False, None))],
    # the labels of a target that was not there were made
    "an alignment of 2^24 labels": [
        (cmd.PUT, [8], (F32, (3, 1, 4), 0, 0)), (cmd.PUT, [7], (I64, (1,), 7, 0)),
        (cmd.PUT, [6], (I64, (1,), 5, 0)), ("_ctc_loss", [8, 2, 7, 6, 9], (0, False)),
    ],
    # 2^40 times the same iteration
    "a step of 2^40 iterations": [
        ("_muon_step_", [1, 1, 1], (1, 1, 1, *"ff", "f", False, *"ffff", 2**40, "original", False,
                                    False), [0.1, 0.0, 0.9, 1.0, 1.0, 1.0, 1e-7]),
    ],
    # its generator was named by a tuple, and then every tensor had to be told
    "a generator of no number": [("random", [1, 9], ((),))],
    # a compiled loop read the index as far as the gradient had rows
    "an embedding's gradient of more rows than were looked up": [
        ("repeat", [1, 8], ((1_024, 1),)), ("embedding_dense_backward", [8, 2, 9], (5, -1, False)),
    ],
    # the windows of images of none were compared: 320 MiB
    "maxima over a batch of no images": [
        (cmd.PUT, [8], (F64, (0, 2, 5_767_171, 3, 3), 4, 0)),
        ("max_pool3d_with_indices", [8, 9, 7],
         ((2, 2, 2), (1, 1, 1), (0, 0, 0), (1, 1, 1), False)),
        ("mm", [1, 1, 6], ()),
    ],
    "adaptive maxima over a batch of no images": [
        (cmd.PUT, [8], (F64, (0, 2, 2**14, 2**14), 4, 0)),
        ("adaptive_max_pool2d", [8, 9, 7], ((2, 2),)), ("mm", [1, 1, 6], ()),
    ],
    "a border around no images of 2^40 columns": [
        (cmd.PUT, [8], (F64, (0, 2, 2**40), 4, 0)), ("reflection_pad1d", [8, 9], ((1, 1),)),
        ("mm", [1, 1, 6], ()),
    ],
    "the largest so far along 2^40 columns of no rows": [
        (cmd.PUT, [8], (F64, (0, 2**40), 4, 0)), ("cummax", [8, 9, 7], (1,)),
        ("mm", [1, 1, 6], ()),
    ],
    "no images, resized to 2^40": [
        (cmd.PUT, [8], (F64, (0, 2, 3), 4, 0)),
        ("upsample_linear1d", [8, 9], ((2**40,), False, None)), ("mm", [1, 1, 6], ()),
    ],
    # what is filled up beyond the edge was counted for the last column: 200 MiB
    "the gradient of few columns for 2^12": [
        (cmd.PUT, [8], (F32, (2, 3, 1, 2), 0, 0)),
        ("_upsample_lanczos2d_aa_backward", [8, 9], ((1, 2), (2, 3, 5, 4_096), True, None, None)),
        ("mm", [1, 1, 6], ()),
    ],
    "a filter over 2^17 columns for each of 2^17": [
        (cmd.PUT, [8], (F32, (1, 1, 1, 12), 0, 0)), ("repeat", [8, 7], ((1, 1, 1, 2_048),)),
        ("_upsample_lanczos2d_aa", [7, 9], ((1, 24_576), False, "f", "f"), [1e-9, 1e-9]),
    ],
    "a gradient of 2^15 columns that all went to one": [
        (cmd.PUT, [8], (F32, (1, 1, 12), 0, 0)), ("repeat", [8, 7], ((1, 1, 256),)),
        ("_upsample_nearest_exact1d_backward", [7, 9], ((3_072,), (1, 1, 3_072), "f"), [1e-9]),
        ("mm", [1, 1, 6], ()),
    ],
    # as long as its tolerance was out of reach
    "2^40 steps to the eigenvectors of a small matrix": [
        (cmd.PUT, [8], (F64, (2, 2), 10, 0)),
        ("_lobpcg", [8, 8, 9, 7], (False, False, 1, 2**40, "f", True), [-1.0]),
        ("mm", [1, 1, 6], ()),
    ],
    # 2^24 counts of nothing
    "a count of at least 2^24 bins": [("bincount", [2, 9], (False, 2**24))],
    # numpy counted 2^63 - 1 in the memory before its counts
    "the gradient of a row at the end of numbers": [
        (cmd.PUT, [8], (I64, (3,), 9, 0)), ("embedding_dense_backward", [1, 8, 9], (5, -1, True)),
    ],
    "a count of the last number": [
        (cmd.PUT, [8], (I64, (3,), 9, 0)), ("bincount", [8, 9], (False, 0)),
    ],
    # the edge of a triangle without rows was made
    "the places of a triangle of 0 x 2^27": [
        ("triu_indices", [8], (0, 2**27, -2, None, None, None, None)),
    ],
    # their sum wrapped to nothing, and numpy wrote 2^62 elements there
    "repeats that come to 2^64": [
        (cmd.PUT, [8], (I64, (4,), 6, 0)), ("repeat_interleave.Tensor", [8, 9], (None,)),
    ],
    # no such request could be told back
    "a Get with a negative request": [(cmd.GET, [], (-7, 3, 0))],
    "a Get for a device below zero": [(cmd.GET, [1], (7, 2, -1))],
}  # fmt: skip


def frame_of(rows: list[tuple[Any, ...]]) -> Frame:
    """Return a frame that makes the tensors and then runs the rows. A Put has the payloads' number.

    Only those that are put travel with it: a frame with others is refused before anything runs.
    """
    frame = Frame(0, 1, 1, F32)
    payloads = [np.arange(12, dtype=np.float32), np.arange(4), np.float64(2.0),
                np.full(12, BIG), np.zeros(0),
                np.full(1, 2**24), np.full(4, 2**62), np.ones(1, int), np.full(4, 1e300),
                np.full(3, 2**63 - 1), np.array([2.0, 1, 1, 3])]  # fmt: skip
    first = [
        (cmd.PUT, [k + 1], (code, shape, k, 0))
        for k, (code, shape) in enumerate(((F32, (3, 4)), (I64, (4,)), (F64, ())))
    ]
    for k, (op, ids, static, *scalars) in enumerate([*first, *rows]):
        if op == cmd.PUT:
            code, shape, number, transfer = static
            static = (code, shape, len(frame.payloads), transfer)
            frame.payloads.append(np.asarray(payloads[number]).tobytes())
        opcode = OPS[op].opcode if isinstance(op, str) else op
        frame.add(opcode, ids, static, scalars[0] if scalars else (), number=k + 1)
    return frame


@pytest.mark.parametrize("name", HARMFUL)
def test_what_once_did_harm_is_refused_or_fails_at_once(name: str) -> None:
    engine = Engine(memory_bytes_max=MIB)
    try:
        # As it comes over the wire, where the frame's own checks come first.
        events = engine.handle(wire.decode_frame(wire.encode_frame(frame_of(HARMFUL[name]))))
    except ProtocolError as error:
        assert "payload" not in str(error)  # it would say nothing about the case
        return
    assert events and all(isinstance(e, Failed) for e in events), events
    frame = Frame(0, 2, 1, F32)
    frame.add(cmd.GET, [1], (1, cmd.GET_BYTES, 0), number=20)
    (value,) = engine.handle(frame)
    assert isinstance(value, Value) and value.data is not None
    assert bytes(value.data) == np.arange(12, dtype=np.float32).tobytes()


def test_a_mask_of_more_digits_than_python_prints_is_a_protocol_error() -> None:
    frame = frame_of([("isnan", [1, 9], ())])
    frame.modes[-1] = (1 << 16_000) - 4
    with pytest.raises(ProtocolError, match="no gradient"):
        Engine(memory_bytes_max=MIB).handle(frame)


def test_proposals_that_nobody_accepts_give_nan() -> None:
    rows = [
        (cmd.PUT, [6], (F64, (4,), 8, 0)),
        ("_von_mises", [6, 6, 6, 9], ((4,), None)),
        (cmd.GET, [9], (1, cmd.GET_BYTES, 0)),
    ]
    frame = frame_of(rows)
    (value,) = Engine(memory_bytes_max=MIB).handle(frame)
    assert isinstance(value, Value) and value.data is not None
    assert np.isnan(np.frombuffer(value.data)).all()


def test_matrices_that_are_not_finite_have_no_singular_values() -> None:
    """LAPACK may never come back from one; torch refuses it."""
    with torch.connect("local:"):
        x = torch.ones(3, 4)
        x[0, 0] = float("nan")
        for f in (torch.linalg.pinv, lambda x: torch.linalg.lstsq(x, torch.ones(3, 1)).solution):
            with pytest.raises(RuntimeError, match="non-finite"):
                f(x).tolist()


def test_a_default_dtype_is_a_floating_one() -> None:
    """With another, a compiled loop had copysign of integers in it: LLVM ended the process."""
    frame = frame_of([("copysign.Tensor", [2, 2, 9], ())])
    frame.default_dtype = torch.int32.code
    with pytest.raises(ProtocolError, match="default dtype int32"):
        Engine(memory_bytes_max=MIB).handle(frame)


def test_a_loop_that_is_no_valid_module_is_refused_and_not_translated() -> None:
    text = """
    define void @loop(ptr %p) {
      %v = load i32, ptr %p
      %w = call i32 @llvm.copysign.f32(i32 %v, i32 %v)
      store i32 %w, ptr %p
      ret void
    }
    declare i32 @llvm.copysign.f32(i32, i32)
    """
    if native.missing():
        pytest.skip(native.missing())
    with pytest.raises(RuntimeError, match="copysign"):
        native.compiled(text)
