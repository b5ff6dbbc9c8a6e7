"""Inputs for views and for the composites made of them."""

from samples import Strided, call, samples

ONE = ("float32", "int64", "bfloat16", "bool")


@samples("view", "reshape")
def _view(make):
    return [
        call(make(2, 6), [3, 4]), call(make(2, 6), [-1]), call(make(), [1, 1]), call(make(0, 3), [3, 0]),
        call(make(4), [2, -1]), call(Strided(make(2, 6)), [2, 2, 3]), call(make(1, 3), [3]),
        call(make(2, 3), [2, 3]),
    ]  # fmt: skip


@samples("view.dtype", dtypes=("float32", "float64", "int32", "complex64"), grad=False,
         reason="bits of another type have no gradient")  # fmt: skip
def _view_dtype(make):
    import farspan

    dtypes = (farspan.float32, farspan.float64, farspan.int16, farspan.int32)
    return [call(make(2, 4), d) for d in dtypes] + [call(make(), farspan.int32)]


@samples("view_as", "reshape_as", "expand_as")
def _other(make):
    return [call(make(2, 3), make(2, 3)), call(make(1), make(1)), call(make(), make())]


@samples("flatten.using_ints", dtypes=ONE)
def _flatten(make):
    return [
        call(make(2, 3, 4)), call(make(2, 3, 4), 1), call(make(2, 3, 4), 0, -2), call(make()),
        call(make(3)), call(Strided(make(2, 3, 4)), 1), call(make(2, 0, 3)), call(make(2, 3), 1, 1),
    ]  # fmt: skip


@samples("unflatten.int", dtypes=ONE)
def _unflatten(make):
    return [call(make(2, 6), 1, [2, 3]), call(make(2, 6), -1, [-1, 2]), call(make(4), 0, [4])]


@samples("expand", dtypes=ONE)
def _expand(make):
    return [
        call(make(3, 1), [3, 4]), call(make(3), [2, 3]), call(make(), [2, 2]), call(make(3, 1), [-1, 2]),
        call(make(1, 3), [0, 3]), call(Strided(make(3, 2)), [2, 3, 2]),
    ]  # fmt: skip


@samples("broadcast_to", dtypes=ONE)
def _broadcast_to(make):
    return [call(make(3, 1), [3, 4]), call(make(), [2]), call(make(3), [2, 3])]


@samples("sum_to_size", dtypes=("float32", "float64"))
def _sum_to_size(make):
    return [call(make(2, 3, 4), [3, 1]), call(make(2, 3), [2, 3]), call(make(2, 3), [])]


@samples("select.int")
def _select(make):
    return [call(make(3, 4), 0, 1), call(make(3, 4), -1, -2), call(Strided(make(3, 4)), 1, 0)]


@samples("slice.Tensor")
def _slice(make):
    return [
        call(make(5, 4), 0, 1, 4, 2), call(make(5, 4), 1), call(make(5, 4), -1, -3, -1),
        call(make(5), 0, 4, 2), call(make(5), 0, -100, 100, 3), call(make(5), 0, 7, 9),
        call(Strided(make(3, 4)), 1, 1, None), call(make(0, 3), 0, 0, 5),
    ]  # fmt: skip


@samples("unbind.int")
def _unbind(make):
    return [call(make(3, 2)), call(make(3, 2), 1), call(make(1, 2)), call(Strided(make(3, 2)), -1)]


@samples("unsqueeze", dtypes=ONE)
def _unsqueeze(make):
    return [call(make(3, 2), d) for d in (0, 1, 2, -1)] + [call(make(), 0), call(make(0, 2), 1)]


@samples("squeeze", dtypes=ONE)
def _squeeze(make):
    return [call(make(1, 3, 1)), call(make(2)), call(make()), call(Strided(make(3, 1, 2)))]


@samples("squeeze.dim", dtypes=ONE)
def _squeeze_dim(make):
    return [call(make(1, 3, 1), d) for d in (0, 1, -1)] + [call(make(), 0)]


@samples("squeeze.dims", dtypes=ONE)
def _squeeze_dims(make):
    return [call(make(1, 3, 1), [0, 2]), call(make(1, 3, 1), [1]), call(make(1, 2), [])]


@samples("transpose.int", "swapaxes", "swapdims")
def _transpose(make):
    return [call(make(2, 3, 4), 0, 2), call(make(2, 3), -1, 0), call(make(), 0, -1),
            call(Strided(make(2, 3)), 0, 1)]  # fmt: skip


@samples("numpy_T", "mT", "mH", "matrix_H", "adjoint", dtypes=("float32", "complex64", "int64"))
def _transposed(make):
    return [call(make(2, 3)), call(make(2, 3, 4)), call(make(3)), call(make())]


@samples("permute")
def _permute(make):
    return [call(make(2, 3, 4), [2, 0, 1]), call(make(2, 3), [-1, 0]), call(make(), [])]


@samples("movedim.int", "moveaxis.int", dtypes=ONE)
def _movedim_int(make):
    return [call(make(2, 3, 4), 0, 2), call(make(2, 3, 4), -1, 0), call(make(), 0, 0)]


@samples("movedim.intlist", "moveaxis.intlist", dtypes=ONE)
def _movedim(make):
    return [
        call(make(2, 3, 4), [0, 1], [2, 0]),
        call(make(2, 3, 4), [-1], [0]),
        call(make(2), [], []),
    ]


@samples("narrow", dtypes=ONE)
def _narrow(make):
    return [call(make(5, 2), 0, 1, 3), call(make(5, 2), -1, -1, 1), call(make(5), 0, 5, 0)]


@samples("narrow.Tensor", dtypes=("float32",))
def _narrow_tensor(make):
    return [call(make(5, 2), 0, make.ints(low=1, high=2), 3)]


@samples("split.Tensor", "chunk", "unsafe_chunk", "unsafe_split.Tensor")
def _split(make):
    return [call(make(5, 2), 2), call(make(5, 2), 1, 1), call(make(5), 7), call(make(0, 2), 3),
            call(Strided(make(4, 3)), 2, -1)]  # fmt: skip


@samples("split.sizes", "split_with_sizes", "unsafe_split_with_sizes")
def _split_sizes(make):
    return [call(make(5, 2), [2, 3]), call(make(2, 5), [0, 1, 4], 1), call(make(3), [3])]


@samples("tensor_split.sections", dtypes=ONE)
def _tensor_split(make):
    return [call(make(5, 2), 3), call(make(5, 2), 3, 1), call(make(2), 1)]


@samples("tensor_split.indices", dtypes=ONE)
def _tensor_split_indices(make):
    return [call(make(5, 2), [1, 3]), call(make(5), [4, 2, -1]), call(make(2, 3), [1], -1)]


@samples("tensor_split.tensor_indices_or_sections", dtypes=("float32",))
def _tensor_split_tensor(make):
    return [call(make(5, 2), make.ints(low=2, high=3)), call(make(5), make.ints(2, low=1, high=4))]


@samples("hsplit.int", "vsplit.int", "dsplit.int", dtypes=ONE)
def _hsplit(make):
    return [call(make(4, 2, 2), 2), call(make(4, 2), 2), call(make(4), 2)]


@samples("hsplit.array", "vsplit.array", "dsplit.array", dtypes=ONE)
def _hsplit_array(make):
    return [call(make(4, 2, 2), [1]), call(make(4, 2), [1]), call(make(4), [1, 3])]


@samples("unfold")
def _unfold(make):
    return [call(make(7), 0, 3, 2), call(make(2, 5, 3), 1, 2, 1), call(make(), 0, 1, 1),
            call(make(4, 2), -1, 2, 3), call(Strided(make(4, 3)), 0, 2, 1)]  # fmt: skip


@samples("unfold_backward", dtypes=("float32", "float64"))
def _unfold_backward(make):
    return [call(make(3, 3), [7], 0, 3, 2), call(make(2, 4, 3, 2), [2, 5, 3], 1, 2, 1)]


@samples("diagonal")
def _diagonal(make):
    return [call(make(3, 4)), call(make(3, 4), 1), call(make(3, 4), -2), call(make(3, 4), 9),
            call(make(2, 3, 4), 1, -1, 0), call(Strided(make(3, 3)))]  # fmt: skip


@samples("as_strided", dtypes=("float32", "int64"))
def _as_strided(make):
    return [call(make(6), [2, 2], [2, 1], 1), call(make(6), [3, 2], [1, 2]), call(make(4), [2, 3], [0, 1]),
            call(make(2, 3), [2], [1], 4), call(make(6), [], [])]  # fmt: skip


@samples("_data", "detach", "alias")
def _same(make):
    return [call(make(2, 3)), call(make()), call(Strided(make(2, 3)))]


@samples("t", "ravel", dtypes=ONE)
def _t(make):
    return [call(make(2, 3)), call(make(3)), call(make())]


@samples("atleast_1d", "atleast_2d", "atleast_3d", dtypes=ONE)
def _atleast(make):
    return [call(make()), call(make(3)), call(make(2, 3)), call(make(2, 3, 4))]


@samples("atleast_1d.Sequence", "atleast_2d.Sequence", "atleast_3d.Sequence", dtypes=ONE)
def _atleast_all(make):
    return [call([make(), make(3), make(2, 3)])]


@samples("broadcast_tensors", dtypes=ONE)
def _broadcast_tensors(make):
    return [call([make(3, 1), make(4), make()])]


@samples("_as_strided", dtypes=("float32",), grad=False, reason="as_strided has the samples")
def _raw_as_strided(make):
    return [call(make(6), [2, 2], [2, 1], 1)]
