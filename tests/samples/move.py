"""Inputs for ops that move elements: copies, stacks, tiles, pads, and the reverses of views."""

from samples import Strided, call, samples

ONE = ("float32", "int64", "bfloat16", "bool", "complex64")


@samples("clone")
def _clone(make):
    return [call(make(2, 3)), call(make()), call(make(0, 2)), call(make(2, 3), memory_format=None),
            call(Strided(make(2, 3)))]  # fmt: skip


@samples("contiguous", "conj", "conj_physical")
def _unary(make):
    return [call(make(2, 3)), call(make()), call(Strided(make(2, 3)))]


@samples("copy")
def _copy(make):
    return [call(make(2, 3), make(2, 3)), call(make(2, 3), make(3)), call(make(2), make()),
            call(make(2, 3), make.ints(2, 3)), call(Strided(make(2, 3)), make(3))]  # fmt: skip


@samples("cat", "concat", "concatenate")
def _cat(make):
    return [
        call([make(2, 3), make(1, 3)]), call([make(2, 3), make(2, 1)], 1), call([make(2), make(0)]),
        call([make(2, 3), make(2, 3)], -1), call([make(2), make.ints(3)]), call([make(3)]),
        call([Strided(make(2, 3)), make(2, 3)]), call([make(0), make(0)]), call([make(0), make(2, 2)], 1),
    ]  # fmt: skip


@samples("stack")
def _stack(make):
    return [call([make(2, 3), make(2, 3)], d) for d in (0, 1, 2, -1)] + [
        call([make(), make()]), call([make(2), make.ints(2)]), call([Strided(make(2, 3))])]  # fmt: skip


@samples("hstack", "vstack", "row_stack", "dstack", "column_stack", dtypes=ONE)
def _stacks(make):
    return [call([make(2, 3), make(2, 3)]), call([make(3), make(3)]), call([make(), make()]),
            call([make(2, 2, 1), make(2, 2, 1)])]  # fmt: skip


@samples("block_diag", dtypes=ONE)
def _block_diag(make):
    return [call([make(2, 3), make(), make(2)]), call([make(1, 1)])]


@samples("meshgrid", dtypes=ONE)
def _meshgrid(make):
    return [call([make(2), make(3)]), call([make(2), make(), make(3)]), call([make(2)])]


@samples("meshgrid.indexing", dtypes=ONE)
def _meshgrid_indexing(make):
    return [call([make(2), make(3), make(4)], indexing=i) for i in ("ij", "xy")]


@samples("cartesian_prod", dtypes=ONE)
def _cartesian_prod(make):
    return [call([make(2), make(3)]), call([make(2)])]


@samples("select_backward", dtypes=ONE)
def _select_backward(make):
    return [call(make(3), [3, 4], 1, 2), call(make(4), [3, 4], 0, -1), call(make(), [3], -1, 0)]


@samples("slice_backward", dtypes=ONE)
def _slice_backward(make):
    return [call(make(2, 4), [5, 4], 0, 1, 4, 2), call(make(3, 2), [3, 4], -1, 0, 2, 1)]


@samples("diagonal_backward", dtypes=ONE)
def _diagonal_backward(make):
    return [call(make(3), [3, 4], 0, 0, 1), call(make(2, 3), [3, 2, 4], 1, 0, -1)]


@samples("_window", dtypes=("float32",))
def _window(make):
    return [call(make(6), [1], [2, 2], [2, 1], 1), call(make(2, 3), [3, 1], [3], [1], 2)]


@samples("_window_add", dtypes=("float32",))
def _window_add(make):
    return [
        call(make(2, 2), [6], [1], [2, 2], [2, 1], 1),
        call(make(2, 3), [4], [1], [2, 3], [0, 1], 0),
    ]


@samples("_window_scatter", dtypes=("float32",))
def _window_scatter(make):
    return [call(make(6), make(2, 2), [1], [2, 2], [2, 1], 1)]


@samples("repeat")
def _repeat(make):
    return [call(make(2, 3), [2, 1]), call(make(3), [2, 2]), call(make(), [3]), call(make(2), [0]),
            call(make(), []), call(Strided(make(2, 3)), [1, 2])]  # fmt: skip


@samples("tile", dtypes=ONE)
def _tile(make):
    return [call(make(2, 3), [2]), call(make(3), [2, 2]), call(make(2, 3), [])]


@samples("repeat_interleave.self_int", dtypes=ONE)
def _repeat_interleave(make):
    return [call(make(2, 3), 2), call(make(2, 3), 2, 1), call(make(2, 3), 3, -2), call(make(), 2),
            call(make(3), 0, 0), call(make(2), 2, 0, output_size=4)]  # fmt: skip


@samples("repeat_interleave.self_Tensor", dtypes=ONE)
def _repeat_interleave_tensor(make):
    return [call(make(3, 2), make.ints(3), 0), call(make(3, 2), make.ints(1, low=1), 1),
            call(make(3), make.ints(3, low=2, high=3), 0, output_size=6), call(make(2, 2), make.ints(4))]  # fmt: skip


@samples("flip")
def _flip(make):
    return [call(make(2, 3), [0]), call(make(2, 3), [0, -1]), call(make(2, 3), []),
            call(Strided(make(2, 3)), [1]), call(make(), [])]  # fmt: skip


@samples("fliplr", "flipud", dtypes=ONE)
def _fliplr(make):
    return [call(make(2, 3)), call(make(3))]


@samples("roll")
def _roll(make):
    return [call(make(2, 3), [1]), call(make(2, 3), [1, -2], [0, 1]), call(make(5), [7], [0]),
            call(Strided(make(2, 3)), [1], [-1]), call(make(0, 2), [1], [0])]  # fmt: skip


@samples("rot90", dtypes=ONE)
def _rot90(make):
    return [call(make(2, 3), k) for k in (0, 1, 2, 3, -1)] + [call(make(2, 3, 4), 1, [1, 2])]


@samples("tril", "triu")
def _tril(make):
    return [call(make(3, 4)), call(make(3, 4), 1), call(make(2, 4, 3), -1), call(Strided(make(3, 4))),
            call(make(0, 3)), call(make(3, 4), -9)]  # fmt: skip


@samples("diag", "diagflat", dtypes=ONE)
def _diag(make):
    return [call(make(3)), call(make(3), 1), call(make(3, 4)), call(make(3, 4), -1)]


@samples("diag_embed")
def _diag_embed(make):
    return [call(make(3)), call(make(2, 3), 1), call(make(2, 3), -1, 0, 2), call(make(2, 3), 1, 2, 0),
            call(Strided(make(2, 3)))]  # fmt: skip


@samples("constant_pad_nd")
def _constant_pad_nd(make):
    return [call(make(2, 3), [1, 2]), call(make(2, 3), [1, 0, 0, 2], 2), call(make(4, 5), [-1, 2]),
            call(make(4), [-1, -1]), call(Strided(make(2, 3)), [1, 1]), call(make(2), [])]  # fmt: skip


@samples("pad", dtypes=("float32", "float64"))
def _pad(make):
    return [
        call(make(2, 3), [1, 2]), call(make(2, 3), [1, 2], "constant", 1.5),
        *[call(make(2, 3, 4), [2, 1], m) for m in ("reflect", "replicate", "circular")],
        *[call(make(1, 2, 3, 4), [2, 1, 0, 1], m) for m in ("reflect", "replicate", "circular")],
        call(make(2, 3, 4), [-1, 1], "circular"), call(make(2, 3, 4, 3), [1, 1, 1, 1, 1, 0], "replicate"),
    ]  # fmt: skip


@samples("reflection_pad1d", "replication_pad1d", dtypes=("float32", "float64", "complex64"))
def _pad1d(make):
    return [call(make(2, 4), [1, 2]), call(make(2, 3, 4), [3, 0]), call(make(2, 4), [-1, 1])]


@samples("reflection_pad2d", "replication_pad2d", dtypes=("float32", "float64", "complex64"))
def _pad2d(make):
    return [call(make(2, 3, 4), [1, 2, 0, 2]), call(make(1, 2, 3, 4), [1, 0, 2, 1])]


@samples("reflection_pad3d", "replication_pad3d", dtypes=("float32", "float64"))
def _pad3d(make):
    return [call(make(2, 3, 3, 4), [1, 2, 0, 2, 1, 1])]


@samples("_border_pad_backward", dtypes=("float32",))
def _border_pad_backward(make):
    return [
        call(make(2, 7), [2, 4], [1, 2], "reflect"),
        call(make(2, 7), [2, 4], [1, 2], "replicate"),
    ]


@samples("pixel_shuffle", dtypes=ONE)
def _pixel_shuffle(make):
    return [call(make(1, 8, 2, 3), 2), call(make(9, 1, 1), 3)]


@samples("pixel_unshuffle", dtypes=ONE)
def _pixel_unshuffle(make):
    return [call(make(1, 2, 4, 6), 2), call(make(1, 3, 3), 3)]


@samples("select_scatter", dtypes=("float32",))
def _select_scatter(make):
    return [call(make(2, 3), make(3), 0, 1), call(make(2, 3), make(2), -1, -1)]


@samples("slice_scatter", dtypes=("float32",))
def _slice_scatter(make):
    return [call(make(5, 2), make(2, 2), 0, 1, 4, 2), call(make(2, 3), make(2, 3), 1)]


@samples("diagonal_scatter", dtypes=("float32",))
def _diagonal_scatter(make):
    return [call(make(3, 4), make(3)), call(make(3, 4), make(2), -1)]
