"""Inputs for indexing by tensors."""

import numpy as np

from samples import Strided, call, samples

FEW = ("float32", "int64", "bfloat16", "bool", "complex64")


def ints(*values):
    return np.array(values, np.int64)


@samples("index.Tensor")
def _index(make):
    x = make(3, 4, 5)
    i, j = ints(2, 0, -1), ints(1, 1, 3)
    return [
        call(x, [i]), call(x, [i, j]), call(x, [None, i]), call(x, [i, None, j]), call(x, [None, i, j]),
        call(x, [np.array([[0, 2], [1, 1]]), i[:2]]), call(x, [np.array(1)]), call(x, [ints()]),
        call(Strided(x), [i]), call(Strided(x), [None, i, None]), call(x, [i, None, np.array(1)]),
        call(x, [np.array([0, 1], np.int32)]), call(x, [Strided(np.array([[0, 2], [1, 1]]))]),
        call(make(0, 3), [ints()]), call(x, [i[:1], j]),
    ]  # fmt: skip


@samples("index_put")
def _index_put(make):
    i, j, mask = ints(2, 0, -2), ints(1, 1, 3), np.array([True, False, True])
    x = make(3, 4)
    return [
        call(x, [i], make(3, 4)), call(x, [i], make(4)), call(x, [i, j], make(3)), call(x, [i, j], make()),
        call(x, [None, j[1:]], make(3, 2)), call(x, [ints(0, 1, 0)], make(3, 4), True),
        call(x, [ints(0, 0), ints(1, 1)], make(2), True), call(x, [None, ints(1, 1)], make(3, 2), True),
        call(x, [mask], make(2, 4)), call(x, [mask], make(), True), call(x, [mask, ints(0, 1)], make(2)),
        call(Strided(x), [i], make(4)), call(make(2, 3, 4), [ints(1), None, ints(2)], make(1, 3)),
        call(x, [ints()], make(1, 4)), call(make(2, 3, 4), [ints(1, 1), None, ints(2, 2)], make(3), True),
    ]  # fmt: skip


@samples("index_select")
def _index_select(make):
    return [call(make(3, 4), 0, ints(2, 0, 2)), call(make(3, 4), -1, ints(1)), call(make(), 0, ints(0)),
            call(Strided(make(3, 4)), 1, ints(3, 0)), call(make(3, 4), 0, np.array(1)),
            call(make(3), 0, ints())]  # fmt: skip


@samples("index_add")
def _index_add(make):
    return [
        call(make(3, 4), 0, ints(2, 0, 2), make(3, 4)), call(make(3, 4), 1, ints(1, 1), make(3, 2)),
        call(make(3, 4, 2), 1, ints(1, 1, 0), make(3, 3, 2), alpha=2), call(make(), 0, ints(0), make()),
        call(make(3), 0, ints(1, 1), make(2)), call(Strided(make(3, 4)), 0, ints(0), make(1, 4)),
    ]  # fmt: skip


@samples("index_copy")
def _index_copy(make):
    return [call(make(3, 4), 0, ints(2, 0), make(2, 4)), call(make(3, 4), 1, ints(1), make(3, 1)),
            call(make(3), -1, ints(1, 0), make(2)), call(make(), 0, ints(0), make())]  # fmt: skip


@samples("index_fill.int_Scalar")
def _index_fill(make):
    return [call(make(3, 4), 0, ints(2, 0), 2), call(make(3, 4), -1, ints(-1), 1),
            call(Strided(make(3, 4)), 0, ints(1), 0)]  # fmt: skip


@samples("index_fill.int_Tensor")
def _index_fill_tensor(make):
    return [call(make(3, 4), 0, ints(2, 0), make()), call(make(3), -1, ints(-1), make())]


@samples("gather")
def _gather(make):
    return [
        call(make(3, 4), 0, make.ints(2, 4, high=3)), call(make(3, 4), 1, make.ints(3, 6, high=4)),
        call(make(3, 4), -1, make.ints(2, 1, high=4)), call(make(3), 0, make.ints(5, high=3)),
        call(make(), 0, np.array(0)), call(Strided(make(3, 4)), 0, make.ints(1, 2, high=3)),
        call(make(2, 3, 2), 1, make.ints(2, 4, 2, high=3)), call(make(3, 4), 0, np.zeros((0, 4), int)),
    ]  # fmt: skip


@samples("take_along_dim", dtypes=FEW)
def _take_along_dim(make):
    return [call(make(3, 4), make.ints(3, 2, high=4), 1), call(make(3, 4), make.ints(1, 2, high=4), -1),
            call(make(3, 4), make.ints(5, high=12))]  # fmt: skip


DISTINCT = np.array([[0, 1, 2, 0], [2, 0, 1, 1]])


@samples("scatter.src")
def _scatter(make):
    return [call(make(3, 4), 0, DISTINCT, make(2, 4)), call(make(3, 4), 0, DISTINCT[:, :2], make(3, 4)),
            call(make(3, 5), 1, DISTINCT[:, :3], make(2, 3)), call(make(4), -1, ints(2, 0), make(2)),
            call(Strided(make(3, 4)), 0, DISTINCT, make(2, 4))]  # fmt: skip


@samples("scatter.value")
def _scatter_value(make):
    return [
        call(make(3, 4), 0, DISTINCT, 2),
        call(make(4), -1, ints(2, 0), 1),
        call(make(), 0, np.array(0), 1),
    ]


@samples("scatter_add")
def _scatter_add(make):
    return [call(make(3, 4), 0, DISTINCT, make(2, 4)), call(make(3, 4), 1, DISTINCT, make(3, 4)),
            call(make(4), -1, ints(2, 2, 0), make(3)), call(make(2, 3, 2), 1, make.ints(2, 4, 2, high=3),
            make(2, 4, 2))]  # fmt: skip


@samples("scatter_reduce.two", dtypes=("float32", "float64", "int64"))
def _scatter_reduce(make):
    return [call(make(3, 4), 0, DISTINCT, make(2, 4), r, include_self=s)
            for r in ("sum", "prod", "mean", "amax", "amin") for s in (True, False)] + [
        call(make(4), 0, ints(1, 1, 2), make(3), "sum")]  # fmt: skip


@samples("scatter.reduce", dtypes=("float32", "int64"), grad=False, reason="torch has no formula")
def _scatter_old(make):
    return [call(make(3, 4), 0, DISTINCT, make(2, 4), reduce=r) for r in ("add", "multiply")]


@samples("scatter.value_reduce", dtypes=("float32",), grad=False, reason="torch has no formula")
def _scatter_value_old(make):
    return [call(make(3, 4), 0, DISTINCT, 2, reduce=r) for r in ("add", "multiply")]


@samples("take")
def _take(make):
    return [call(make(3, 4), make.ints(2, 2, high=12)), call(make(3), ints(-1, 0)), call(make(), np.array(0)),
            call(Strided(make(3, 4)), ints(5))]  # fmt: skip


@samples("put")
def _put(make):
    return [call(make(3, 4), ints(3, -1), make(2)), call(make(3, 4), ints(3, 3), make(2), True),
            call(Strided(make(3, 4)), ints(5, 2), make(2))]  # fmt: skip


@samples("nonzero", "argwhere", "nonzero_numpy", "where", strides=False,
         reason="torch's result is transposed in memory; a dynamic one of ours is contiguous")  # fmt: skip
def _nonzero(make):
    return [
        call(make(3, 4)),
        call(make(5)),
        call(make()),
        call(make(0, 2)),
        call(Strided(make(2, 3))),
    ]


@samples("masked_select")
def _masked_select(make):
    return [call(make(3, 4), make.bools(3, 4)), call(make(4), make.bools(3, 4)), call(make(3, 1), make.bools(4)),
            call(make(), np.array(True)), call(Strided(make(3, 4)), make.bools(3, 4))]  # fmt: skip


@samples("masked_scatter")
def _masked_scatter(make):
    return [call(make(3, 4), make.bools(3, 4), make(12)), call(make(3, 4), make.bools(4), make(4, 4)),
            call(make(2), np.array(True), make(2))]  # fmt: skip


@samples("masked_scatter_backward", dtypes=("float32",))
def _masked_scatter_backward(make):
    return [call(make(3, 4), make.bools(3, 4), [12])]


@samples("embedding")
def _embedding(make):
    return [call(make(5, 3), make.ints(4)), call(make(5, 3), make.ints(2, 2), 1), call(make(5, 3), np.array(2)),
            call(make(5, 3), ints())]  # fmt: skip


@samples("embedding_dense_backward", dtypes=("float32", "float64", "bfloat16"))
def _embedding_dense_backward(make):
    return [
        call(make(4, 3), make.ints(4), 5, -1, False),
        call(make(2, 2, 3), make.ints(2, 2), 5, 1, False),
    ]


@samples("one_hot", dtypes=("int64",))
def _one_hot(make):
    return [
        call(make.ints(4), 6),
        call(make.ints(2, 3), 5),
        call(make.ints(3)),
        call(ints(), 3),
        call(np.array(1), 2),
    ]


@samples("_one_hot", dtypes=("int64",))
def _raw_one_hot(make):
    return [call(make.ints(4), 6)]


@samples("_from_front", dtypes=("int64",))
def _from_front(make):
    return [call(np.array([0, -1, 3, -4]), 4)]
