"""Inputs for copying views, windows replaced and filled diagonals."""

from samples import Strided, call, samples


@samples("alias_copy", "detach_copy", "t_copy", "squeeze_copy")
def _whole(make):
    return [call(make(2, 3)), call(Strided(make(2, 3))), call(make(3)), call(make())]


@samples("view_as_complex_copy", dtypes=("float32", "float64"))
def _as_complex(make):
    return [call(make(3, 2)), call(make(2))]


@samples("view_as_real_copy", dtypes=("complex64", "complex128"))
def _as_real(make):
    return [call(make(3, 2)), call(Strided(make(2, 3)))]


@samples("as_strided_copy")
def _as_strided(make):
    return [
        call(make(12), (2, 3), (1, 2)),
        call(make(12), (2, 3), (1, 2), 3),
        call(make(4), (), ()),
    ]


@samples("as_strided_scatter", grad=False,
         reason="torch gives self the gradient of the window that was replaced, not of the rest")  # fmt: skip
def _window(make):
    return [
        call(make(3, 3), make(2, 2), (2, 2), (1, 2)),
        call(make(3, 3), make(2, 2), (2, 2), (1, 2), 1),
        call(make(4), make(), (), (), 2),
        call(Strided(make(3, 4)), make(2, 2), (2, 2), (1, 3), 1),
    ]


@samples("diagonal_copy")
def _diagonal(make):
    return [call(make(3, 4)), call(make(2, 3, 4), 1, 0, 2), call(Strided(make(3, 4)), -1)]


@samples("expand_copy")
def _expand(make):
    return [call(make(3, 1), (2, 3, 4)), call(make(3), (-1,)), call(make(), (2,))]


@samples("permute_copy")
def _permute(make):
    return [call(make(2, 3, 4), (2, 0, 1)), call(make(), ())]


@samples("select_copy.int")
def _select(make):
    return [call(make(3, 4), 0, 1), call(make(3, 4), -1, -2)]


@samples("slice_copy.Tensor")
def _slice(make):
    return [call(make(5, 4), 0, 1, 4, 2), call(make(5), 0, -2), call(make(2, 3), 1, 3, 9)]


@samples("split_copy.Tensor")
def _split(make):
    return [call(make(5, 4), 2), call(make(4, 3), 2, -1)]


@samples("split_with_sizes_copy")
def _split_sizes(make):
    return [call(make(5, 4), (2, 0, 3)), call(make(4, 3), (1, 2), 1)]


@samples("squeeze_copy.dim", "unbind_copy.int")
def _dim(make):
    return [call(make(2, 1, 3), 1), call(make(2, 3), -1)]


@samples("squeeze_copy.dims")
def _dims(make):
    return [call(make(2, 1, 1, 3), (1, 2)), call(make(2, 1), ())]


@samples("transpose_copy.int")
def _transpose(make):
    return [call(make(2, 3, 4), 0, -1), call(make(2, 3), 1, 0)]


@samples("unfold_copy")
def _unfold(make):
    return [call(make(7), 0, 3, 2), call(make(2, 5), -1, 2, 1)]


@samples("unsqueeze_copy")
def _unsqueeze(make):
    return [call(make(2, 3), 1), call(Strided(make(2, 3)), -1), call(make(), 0)]


@samples("view_copy", "_reshape_copy")
def _view(make):
    return [call(make(2, 6), (3, -1)), call(make(4), (2, 2)), call(make(0, 3), (3, 0))]


@samples("view_copy.dtype", dtypes=("float32",))
def _view_dtype(make):
    import farspan

    return [call(make(2, 4), dtype=farspan.int32), call(make(2, 4), dtype=farspan.float64)]


@samples("narrow_copy")
def _narrow(make):
    return [call(make(5, 4), 0, 1, 3), call(Strided(make(3, 4)), -1, -2, 2), call(make(3), 0, 3, 0)]


@samples("fill_diagonal_")
def _fill_diagonal(make):
    return [
        call(make(3, 4), 2), call(make(7, 3), 1), call(make(7, 3), 1, wrap=True), call(make(4, 3), 1, True),
        call(Strided(make(8, 3)), 1, True), call(make(2, 2, 2), 3), call(make(3, 7), 1, True), call(make(0, 3), 1),
    ]  # fmt: skip
