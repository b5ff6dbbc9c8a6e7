"""Inputs for embedding bags, sequence and margin losses, distances and single layers."""

import numpy as np
import torch

from samples import FLOATS, Strided, call, samples


# ------------------------------------------------------------------------------- embedding bags --
def _bags(make):
    """Return (weight, indices, offsets), with an empty bag and one that ends the list."""
    return make(7, 3), make.ints(9, high=7), np.array([0, 2, 2, 5])


def _bag_calls(make, tail):
    weight, indices, offsets = _bags(make)
    per_sample = make(9)
    calls = []
    for mode in (0, 1, 2):
        calls.append(call(weight, indices, offsets, False, mode, False, None, False, *tail(None)))
        calls.append(call(weight, indices, offsets, False, mode, False, None, False, *tail(2)))
    last = np.array([0, 4, 9])
    calls += [
        call(weight, indices, offsets, False, 0, False, per_sample, False, *tail(None)),
        call(weight, indices, offsets, False, 0, False, per_sample, False, *tail(1)),
        call(weight, indices, last, False, 1, False, None, True, *tail(None)),
        call(weight, indices, last, False, 2, False, None, True, *tail(None)),
        call(weight, indices[:0], offsets * 0, False, 1, False, None, False, *tail(None)),
    ]
    return calls


_NO_SECOND = "torch has no second order"


@samples("_embedding_bag", dtypes=FLOATS, second=False, reason=_NO_SECOND)
def _embedding_bag(make):
    return _bag_calls(make, lambda padding: [-1 if padding is None else padding])


@samples("embedding_bag", dtypes=FLOATS, second=False, reason=_NO_SECOND)
def _embedding_bag_short(make):
    weight, indices, offsets = _bags(make)
    by_frequency = call(weight, indices, offsets, True, 0)
    return [*_bag_calls(make, lambda padding: []), by_frequency]


@samples("embedding_bag.padding_idx", dtypes=FLOATS, second=False, reason=_NO_SECOND)
def _embedding_bag_padding(make):
    return _bag_calls(make, lambda padding: [padding if padding is None else padding - 7])


@samples("_bag_of", dtypes=("int64",))
def _bag_of(make):
    return [call(np.array([0, 2, 2, 5]), 8), call(np.array([0]), 3)]


@samples("_bag_frequencies", dtypes=("int64",))
def _bag_frequencies(make):
    return [call(np.array([2, 2, 2, 2])), call(np.array([0, 1, 2])), call(make.ints(0))]


@samples("embedding_renorm", dtypes=FLOATS, grad=False, reason="torch has no gradient")
def _renorm(make):
    weight, indices, _ = _bags(make)
    return [call(weight, indices, 1.5, p) for p in (2.0, 1.0, float("inf"))]


# ------------------------------------------------------------------------------------------ ctc --
def _sequences(make, lengths=np.array):
    """Return arguments of ctc_loss: targets padded and joined; one that cannot be aligned."""
    scores = torch.from_numpy(make(8, 3, 5).real.copy()).log_softmax(-1).numpy()
    padded = np.array([[1, 2, 2, 4], [3, 1, 0, 0], [4, 4, 4, 4]])
    joined = np.array([1, 2, 2, 4, 3, 1])
    steps = lengths([8, 6, 5])
    return [
        (scores, padded, steps, lengths([4, 2, 3]), 0),
        (scores, padded, steps, lengths([4, 2, 4]), 0),
        (scores, joined, steps, lengths([4, 2, 0]), 0),
        (scores, padded[:, :3] % 4, lengths([8, 6, 0]), lengths([3, 2, 0]), 4),
    ]


@samples("ctc_loss.Tensor", dtypes=FLOATS, second=False, reason=_NO_SECOND)
def _ctc(make):
    return [call(*args, r, zero) for args in _sequences(make) for r in (0, 1, 2)
            for zero in (False, True)] + [
        call(make(6, 5), np.array([1, 3, 3]), np.array(6), np.array(3), 0, r) for r in (0, 1)
    ]  # fmt: skip


@samples("ctc_loss.IntList", dtypes=FLOATS, second=False, reason=_NO_SECOND)
def _ctc_lists(make):
    return [call(*args, r) for args in _sequences(make, list) for r in (0, 1)]


@samples("_ctc_loss", dtypes=FLOATS)
def _ctc_each(make):
    return [call(*args, False) for args in _sequences(make)]


@samples("_ctc_loss_backward", dtypes=FLOATS)
def _ctc_backward(make):
    calls = []
    for *args, blank in _sequences(make):
        tensors = [torch.from_numpy(a) for a in args]
        loss = torch.ops.aten._ctc_loss.Tensor(*tensors, blank)[0].numpy()
        for zero in (False, True):
            calls.append(call(make(3), *args, loss, blank, zero))
    return calls


@samples("_integers", dtypes=("int64",))
def _integers(make):
    return [call([3, 1, 2]), call([])]


# -------------------------------------------------------------------------------------- margins --
def _scores(make):
    return [
        (make(5, 4), make.ints(5, high=4), make(4)),
        (make(4), make.ints(high=4), None),
        (make(0, 4), make.ints(0), None),
    ]


@samples("multi_margin_loss", dtypes=FLOATS, second=False, reason=_NO_SECOND)
def _multi_margin(make):
    return [call(x, t, p, 1.27, w, r) for x, t, w in _scores(make) for p in (1, 2)
            for r in (0, 1, 2) if x.size or r == 0]  # fmt: skip


@samples("multi_margin_loss_backward", dtypes=FLOATS, grad=False, reason=_NO_SECOND)
def _multi_margin_backward(make):
    return [call(make(*t.shape) if r == 0 else make(), x, t, p, 1.27, w, r)
            for x, t, w in _scores(make)[:2] for p in (1, 2) for r in (0, 1, 2)]  # fmt: skip


def _several(make):
    targets = np.array([[1, 3, -1, 0], [-1, 2, 1, 0], [0, 1, 2, 3], [2, 2, -1, -1]])
    return [(make(4, 4) * 0.53, targets), (make(4) * 0.53, targets[0])]


@samples("multilabel_margin_loss", dtypes=FLOATS, second=False, reason=_NO_SECOND)
def _multilabel(make):
    return [call(x, t, r) for x, t in _several(make) for r in (0, 1, 2)]


@samples(
    "multilabel_margin_loss_forward", dtypes=FLOATS, second=False, outputs=1, reason=_NO_SECOND
)
def _multilabel_forward(make):
    return [call(x, t, r) for x, t in _several(make) for r in (0, 1, 2)]


@samples("multilabel_margin_loss_backward", dtypes=FLOATS, grad=False, reason=_NO_SECOND)
def _multilabel_backward(make):
    calls = []
    for x, t in _several(make):
        for r in (0, 1, 2):
            each = (4,) if x.ndim == 2 and r == 0 else ()
            real = torch.from_numpy(x.real.copy())
            forward = torch.ops.aten.multilabel_margin_loss_forward
            mask = forward(real, torch.from_numpy(t), r)[1].numpy()
            calls.append(call(make(*each), x, t, r, mask.astype(x.dtype)))
    return calls


# ------------------------------------------------------------------------------------ distances --
_POWERS = (0.0, 0.7, 1.0, 2.0, 3.0, float("inf"))


@samples("pdist", "_pdist_forward", dtypes=FLOATS, second=False, reason=_NO_SECOND)
def _pdist(make):
    calls = [call(make(5, 3), p) for p in _POWERS]
    if make.dtype == "float32":  # not where gradients are compared: torch's crashes
        calls += [call(make(1, 3)), call(make(0, 3)), call(make(3, 0))]
    return calls


@samples("_pdist_backward", dtypes=FLOATS, grad=False, reason=_NO_SECOND)
def _pdist_backward(make):
    calls = []
    for p in _POWERS:
        x = make(5, 3).real.copy()
        x[3] = x[1]
        calls.append(
            call(make(10), x, p, torch.ops.aten._pdist_forward(torch.from_numpy(x), p).numpy())
        )
    return calls


# --------------------------------------------------------------------------------- single layers --
@samples("channel_shuffle", "native_channel_shuffle", dtypes=(*FLOATS, "int64", "bool"))
def _channel_shuffle(make):
    return [call(make(2, 6, 3), 3), call(make(1, 4, 2, 3), 2), call(Strided(make(2, 4, 3)), 4),
            call(make(0, 4, 2), 2)]  # fmt: skip


@samples("conv_tbc", dtypes=FLOATS)
def _conv_tbc(make):
    return [call(make(6, 2, 3), make(3, 3, 4), make(4), pad) for pad in (0, 1)]


@samples("instance_norm", dtypes=FLOATS)
def _instance_norm(make):
    return [
        call(make(2, 3, 4, 2), make(3), make(3), None, None, True, 0.1, 1e-5, False),
        call(make(2, 3, 5), None, None, None, None, True, 0.1, 1e-5, False),
        call(make(2, 3, 5), make(3), None, make(3), make(3, low=0.5), False, 0.1, 1e-5, False),
    ]


@samples("_rrelu_with_noise", dtypes=FLOATS, values=False)
def _rrelu_with_noise(make):
    return [
        call(make(3, 4), 0.1, 0.4),
        call(Strided(make(2, 3)), 0.1, 0.4),
        call(make(0), 0.1, 0.4),
    ]


@samples("rrelu", dtypes=FLOATS)
def _rrelu(make):
    return [call(make(3, 4)), call(make(3, 4), 0.2, 0.3), call(make())]


@samples("feature_alpha_dropout", dtypes=FLOATS)
def _feature_alpha_dropout(make):
    return [call(make(2, 3, 4), p, train) for p, train in ((0.4, False), (0.0, True), (1.0, True))]
