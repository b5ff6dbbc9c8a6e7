"""Inputs for normalizations. The statistics are outputs without gradients."""

import torch

from samples import FLOATS, Strided, call, samples

_STATISTICS = {"outputs": 1}
_BACKWARD = {
    "differences": False,
    "reason": "mean and deviation go with the input, but are arguments of their own",
}


def _given(arrays):
    return [torch.from_numpy(a.real.copy()) if hasattr(a, "dtype") else a for a in arrays]


@samples("native_layer_norm", dtypes=(*FLOATS, "bfloat16"), **_STATISTICS)
def _native_layer_norm(make):
    calls = [
        call(make(4, 6), [6], make(6), make(6), 1e-5),
        call(make(2, 3, 4), [3, 4], make(3, 4), None, 1e-3),
        call(make(5), [5], None, None, 1e-5),
        call(make(0, 3), [3], make(3), make(3), 1e-5),
    ]
    if make.dtype != "bfloat16":
        calls.append(call(Strided(make(4, 6)), [6], make(6), make(6), 1e-5))
    return calls


@samples("native_layer_norm_backward", dtypes=FLOATS, **_BACKWARD)
def _native_layer_norm_backward(make):
    calls = []
    for shape, dims in (((4, 6), [6]), ((2, 3, 4), [3, 4])):
        x, w, b = make(*shape), make(*dims), make(*dims)
        _, mean, rstd = torch.ops.aten.native_layer_norm(*_given((x, dims, w, b)), 1e-5)
        calls.append(
            call(make(*shape), x, dims, mean.numpy(), rstd.numpy(), w, b, [True, True, True])
        )
    return calls


@samples("layer_norm", "rms_norm", dtypes=FLOATS)
def _layer_norm(make):
    return [call(make(4, 6), [6]), call(make(2, 3, 4), [3, 4], make(3, 4))]


@samples("native_group_norm", dtypes=FLOATS, **_STATISTICS)
def _native_group_norm(make):
    return [
        call(make(2, 4, 3), make(4), make(4), 2, 4, 3, 2, 1e-5),
        call(make(3, 6, 2, 2), make(6), None, 3, 6, 4, 1, 1e-3),
        call(make(3, 4), None, None, 3, 4, 1, 2, 1e-5),
    ]


@samples("native_group_norm_backward", dtypes=FLOATS, **_BACKWARD)
def _native_group_norm_backward(make):
    x, w = make(2, 4, 3), make(4)
    sizes = (2, 4, 3, 2)
    _, mean, rstd = torch.ops.aten.native_group_norm(*_given((x, w, None, *sizes)), 1e-5)
    rest = mean.numpy(), rstd.numpy(), w, *sizes, [True, True, True]
    return [call(make(2, 4, 3), x, *rest)]


@samples("group_norm", dtypes=FLOATS)
def _group_norm(make):
    return [call(make(2, 4, 3, 2), 2, make(4), make(4)), call(make(2, 4), 4)]


@samples("_native_batch_norm", dtypes=FLOATS, **_STATISTICS)
def _native_batch_norm(make):
    calls = []
    for x in (make(5, 3), make(2, 3, 4), make(2, 3, 4, 2)):
        w, b = make(3), make(3)
        calls += [call(x, w, b, None, None, True, 0.1, 1e-5),
                  call(x, None, None, None, None, True, 0.1, 1e-3),
                  call(x, w, b, make(3), make(3, low=0.5), False, 0.1, 1e-5)]  # fmt: skip
    return calls


@samples("native_batch_norm", dtypes=FLOATS, **_STATISTICS)
def _public_batch_norm(make):
    return [call(make(5, 3, 2), make(3), make(3), None, None, True, 0.1, 1e-5)]


@samples("batch_norm", dtypes=FLOATS)
def _batch_norm(make):
    return [
        call(make(5, 3), make(3), make(3), None, None, True, 0.1, 1e-5, False),
        call(make(2, 3, 4, 2), make(3), None, None, None, True, 0.1, 1e-5, False),
        call(make(2, 3, 4), make(3), make(3), make(3), make(3, low=0.5), False, 0.1, 1e-5, False),
        call(make(2, 3, 4), make(3), make(3), make(3), make(3, low=0.5), True, 0.1, 1e-5, False),
    ]


@samples("native_batch_norm_backward", dtypes=FLOATS, **_BACKWARD)
def _native_batch_norm_backward(make):
    calls = []
    for shape in ((5, 3), (2, 3, 4)):
        x, w = make(*shape), make(3)
        found = torch.ops.aten.native_batch_norm(*_given((x, w, None)), None, None, True, 0.1, 1e-5)
        saved = found[1].numpy(), found[2].numpy()
        mask = [True, True, True]
        calls.append(call(make(*shape), x, w, None, None, *saved, True, 1e-5, mask))
        running = make(3), make(3, low=0.5)
        none = make(0), make(0)
        calls.append(call(make(*shape), x, w, *running, *none, False, 1e-5, mask))
    return calls


@samples("_total_norm", dtypes=FLOATS)
def _total_norm(make):
    tensors = [make(4, 6), make(3), Strided(make(2, 5)), make()]
    return [call(tensors, ord) for ord in (2.0, 1.0, 3.0, 0.0, float("inf"), -float("inf"))]
