"""Layers beside torch: the same seed gives the same repr, state, outputs and gradients.

One table for all: (constructor, shapes or values of the inputs). What a layer refuses stands below.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from beside_torch import failure, same

Build = Any


def ints(low: int, high: int, *shape: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).integers(low, high, shape)


def spread(*shape: int) -> Any:
    """Return different numbers in random order: at ties a maximum has no derivative."""
    size = int(np.prod(shape))
    return (np.random.default_rng(2).permutation(size).reshape(shape) / 8 - 2).astype("float32")


def log_probs(*shape: int) -> Any:
    x = np.random.default_rng(3).normal(size=shape)
    return (x - np.log(np.exp(x).sum(-1, keepdims=True))).astype("float32")


LAYERS: dict[str, tuple[Build, Any]] = {
    # ------------------------------------------------------------------------------ convolutions
    "conv3d": (lambda t: t.nn.Conv3d(4, 6, 3, padding=1, groups=2), (2, 4, 5, 4, 6)),
    "conv3d strided": (
        lambda t: t.nn.Conv3d(3, 4, (2, 3, 1), stride=(1, 2, 2), bias=False), (3, 4, 7, 5)),
    "conv3d circular": (
        lambda t: t.nn.Conv3d(2, 3, 3, padding=1, padding_mode="circular"), (1, 2, 4, 4, 4)),
    "conv3d same": (lambda t: t.nn.Conv3d(2, 3, 2, padding="same"), (1, 2, 4, 4, 4)),
    "convtranspose1d": (lambda t: t.nn.ConvTranspose1d(4, 6, 3, 2, 1, 1), (2, 4, 5)),
    "convtranspose2d": (lambda t: t.nn.ConvTranspose2d(4, 6, 3, 2, groups=2), (2, 4, 5, 4)),
    "convtranspose3d": (
        lambda t: t.nn.ConvTranspose3d(3, 4, (2, 3, 2), 2, output_padding=1), (2, 3, 3, 3, 2)),
    # ----------------------------------------------------------------------------------- pooling
    "maxpool3d": (lambda t: t.nn.MaxPool3d(2, padding=1, ceil_mode=True), spread(1, 2, 5, 4, 6)),
    "maxpool3d indices": (lambda t: t.nn.MaxPool3d(2, return_indices=True), spread(2, 4, 4, 4)),
    "avgpool3d": (lambda t: t.nn.AvgPool3d(2, 1, 1, count_include_pad=False), (2, 3, 4, 3, 5)),
    "avgpool3d divisor": (lambda t: t.nn.AvgPool3d((1, 2, 2), divisor_override=3), (3, 4, 4, 5)),
    "adaptiveavgpool3d": (lambda t: t.nn.AdaptiveAvgPool3d((2, None, 3)), (2, 3, 5, 4, 7)),
    "adaptiveavgpool3d one": (lambda t: t.nn.AdaptiveAvgPool3d(1), (2, 3, 5, 4, 3)),
    "adaptivemaxpool3d": (
        lambda t: t.nn.AdaptiveMaxPool3d((2, 3, None), return_indices=True), spread(2, 5, 4, 3)),
    "fractional2d": (
        lambda t: t.nn.FractionalMaxPool2d(2, output_ratio=0.6, return_indices=True),
        spread(2, 3, 8, 7)),
    "fractional2d size": (lambda t: t.nn.FractionalMaxPool2d((2, 3), (3, 2)), spread(3, 8, 7)),
    "fractional3d": (lambda t: t.nn.FractionalMaxPool3d(2, (2, 3, 2)), spread(1, 2, 5, 7, 6)),
    "fractional3d ratio": (
        lambda t: t.nn.FractionalMaxPool3d(2, output_ratio=(0.5, 0.6, 0.4)), spread(2, 6, 7, 6)),
    "lppool1d": (lambda t: t.nn.LPPool1d(2, 3, stride=2), abs(spread(2, 3, 9)) + 0.5),
    "lppool1d largest": (lambda t: t.nn.LPPool1d(float("inf"), 3), spread(2, 3, 9)),
    "lppool2d": (lambda t: t.nn.LPPool2d(3, (2, 3), ceil_mode=True), abs(spread(2, 3, 5, 7)) + 0.5),
    "lppool3d": (lambda t: t.nn.LPPool3d(1, 2), abs(spread(1, 2, 4, 5, 4)) + 0.5),
    # ------------------------------------------------------------------------------------- norms
    "batchnorm3d": (lambda t: t.nn.BatchNorm3d(3), (4, 3, 2, 3, 4)),
    "batchnorm without bias": (lambda t: t.nn.BatchNorm2d(3, bias=False), (4, 3, 3, 2)),
    "syncbatchnorm": (lambda t: t.nn.SyncBatchNorm(3), (4, 3, 5)),
    "instancenorm1d": (
        lambda t: t.nn.InstanceNorm1d(3, affine=True, track_running_stats=True), (4, 3, 5)),
    "instancenorm2d": (lambda t: t.nn.InstanceNorm2d(3), (3, 4, 5)),
    "instancenorm3d": (lambda t: t.nn.InstanceNorm3d(2, affine=True), (3, 2, 3, 2, 4)),
    "instancenorm3d tracked": (
        lambda t: t.nn.InstanceNorm3d(2, track_running_stats=True), (2, 3, 2, 4)),
    "localresponsenorm": (lambda t: t.nn.LocalResponseNorm(3, alpha=0.1), (2, 5, 4)),
    "localresponsenorm 2d": (lambda t: t.nn.LocalResponseNorm(2, 0.1, 0.6, 1.5), (2, 5, 4, 3)),
    "crossmaplrn2d": (lambda t: t.nn.CrossMapLRN2d(3, alpha=0.1), (2, 7, 3, 2)),
    "crossmaplrn2d wide": (lambda t: t.nn.CrossMapLRN2d(5, 0.1, 0.5, 2), (1, 4, 3, 2)),
    # -------------------------------------------------------------------------------- activations
    "rrelu": (lambda t: t.nn.RReLU(0.1, 0.4), (3, 4)),
    "dropout1d": (lambda t: t.nn.Dropout1d(0.4), (3, 4, 2)),
    "dropout2d": (lambda t: t.nn.Dropout2d(0.4), (3, 4, 2, 2)),
    "dropout3d": (lambda t: t.nn.Dropout3d(0.4), (3, 4, 2, 2, 1)),
    "dropout3d unbatched": (lambda t: t.nn.Dropout3d(0.4), (4, 2, 2, 1)),
    "featurealphadropout": (lambda t: t.nn.FeatureAlphaDropout(0.4), (3, 5, 2)),
    # -------------------------------------------------------------------------- spatial rearranging
    "channelshuffle": (lambda t: t.nn.ChannelShuffle(3), (2, 6, 2, 3)),
    "fold": (lambda t: t.nn.Fold((4, 5), (2, 3), padding=1, stride=(1, 2)), (2, 12, 15)),
    "unfold": (lambda t: t.nn.Unfold((2, 3), dilation=(1, 2)), (2, 2, 4, 6)),
    "upsampling nearest": (lambda t: t.nn.UpsamplingNearest2d(scale_factor=1.7), (2, 3, 4, 5)),
    "upsampling bilinear": (lambda t: t.nn.UpsamplingBilinear2d((7, 3)), (2, 3, 4, 5)),
    "upsample bicubic": (lambda t: t.nn.Upsample(scale_factor=2, mode="bicubic"), (1, 2, 4, 5)),
    "upsample trilinear": (
        lambda t: t.nn.Upsample(scale_factor=(2, 1.5, 1), mode="trilinear"), (1, 2, 2, 4, 3)),
    "upsample exact": (lambda t: t.nn.Upsample(7, mode="nearest-exact"), (1, 2, 4)),
    **{
        f"{kind}pad{n}d": (
            lambda t, kind=kind, n=n: getattr(t.nn, f"{kind}Pad{n}d")(
                tuple([1, 2, 0, 1, 2, 1][: 2 * n])),
            (2, 3, 4, 5, 3)[: n + 2])
        for kind in ("Circular", "Reflection", "Replication", "Zero")
        for n in (1, 2, 3)
    },
    **{
        f"constantpad{n}d": (
            lambda t, n=n: getattr(t.nn, f"ConstantPad{n}d")(n, 1.5), (2, 3, 4, 5, 3)[: n + 2])
        for n in (1, 2, 3)
    },
    # ---------------------------------------------------------------------------------- look-ups
    "embeddingbag": (lambda t: t.nn.EmbeddingBag(10, 3), [ints(0, 10, 4, 5)]),
    "embeddingbag sum": (
        lambda t: t.nn.EmbeddingBag(10, 3, mode="sum", padding_idx=-2),
        [ints(0, 10, 9), np.array([0, 2, 2, 5]), None]),
    "embeddingbag weighted": (
        lambda t: t.nn.EmbeddingBag(10, 3, mode="sum", include_last_offset=True),
        [ints(0, 10, 9), np.array([0, 2, 9]), spread(9)]),
    "embeddingbag max": (
        lambda t: t.nn.EmbeddingBag(10, 3, mode="max", max_norm=1.2, norm_type=1.0),
        [ints(0, 10, 4, 5)]),
    "embeddingbag frequency": (
        lambda t: t.nn.EmbeddingBag(10, 3, scale_grad_by_freq=True), [ints(0, 10, 4, 5)]),
    "embedding norm": (lambda t: t.nn.Embedding(10, 3, max_norm=1.0), [ints(0, 10, 4)]),
    "adaptive softmax": (
        lambda t: t.nn.AdaptiveLogSoftmaxWithLoss(16, 20, [5, 12], 2.0, head_bias=True),
        [spread(6, 16), np.array([0, 19, 7, 12, 4, 11])]),
    "adaptive softmax unbatched": (
        lambda t: t.nn.AdaptiveLogSoftmaxWithLoss(16, 20, [5]), [spread(16), np.array(7)]),
    # ------------------------------------------------------------------------------------ losses
    "multilabelmargin": (
        lambda t: t.nn.MultiLabelMarginLoss(),
        [spread(2, 4), np.array([[3, 0, -1, 1], [1, -1, 0, 0]])]),
    "multilabelsoftmargin": (
        lambda t: t.nn.MultiLabelSoftMarginLoss(t.tensor([1.0, 2.0, 0.5]), reduction="sum"),
        [spread(4, 3), ints(0, 2, 4, 3).astype("float32")]),
    "multimargin": (
        lambda t: t.nn.MultiMarginLoss(2, 0.7, t.tensor([1.0, 2.0, 0.5])),
        [spread(4, 3), ints(0, 3, 4)]),
    "multimargin none": (
        lambda t: t.nn.MultiMarginLoss(reduction="none"), [spread(4, 3), ints(0, 3, 4)]),
    "nllloss2d": (
        lambda t: t.nn.NLLLoss2d(ignore_index=1), [log_probs(2, 3, 4, 4), ints(0, 3, 2, 4, 4)]),
    "ctc": (
        lambda t: t.nn.CTCLoss(),
        [log_probs(9, 2, 5), ints(1, 5, 2, 3), np.array([9, 8]), np.array([3, 2])]),
    "ctc tuples": (
        lambda t: t.nn.CTCLoss(blank=4, reduction="sum", zero_infinity=True),
        [log_probs(9, 2, 5), ints(0, 4, 5), (9, 1), (3, 2)]),
    "ctc unbatched": (
        lambda t: t.nn.CTCLoss(reduction="none"),
        [log_probs(9, 5), ints(1, 5, 3), np.array(9), np.array(3)]),
    "tripletdistance": (
        lambda t: t.nn.TripletMarginWithDistanceLoss(swap=True, margin=0.5),
        [spread(4, 3), spread(4, 3)[::-1].copy(), spread(4, 3)[:, ::-1].copy()]),
    "linearcrossentropy": (
        lambda t: t.nn.LinearCrossEntropyLoss(4, 3, bias=True, label_smoothing=0.1),
        [spread(5, 4), ints(0, 3, 5)]),
    "linearcrossentropy images": (
        lambda t: t.nn.LinearCrossEntropyLoss(4, 3, out_features=(2,), reduction="none"),
        [spread(5, 4), ints(0, 3, 5, 2)]),
    "linearcrossentropy options": (
        lambda t: t.nn.LinearCrossEntropyLoss(
            4, 3, ignore_index=1, options=t.nn.LinearCrossEntropyOptions(batch_chunk_size=2)),
        [spread(5, 4), ints(0, 3, 5)]),
}  # fmt: skip


def inputs_of(given: Any) -> list[Any]:
    if isinstance(given, list):
        return given
    if isinstance(given, tuple):
        return [np.random.default_rng(0).uniform(-2, 2, given).astype("float32")]
    return [given]


def outcome(t: Any, build: Build, given: Any, training: bool) -> Any:
    """Return all that is to be equal: repr, state, outputs, gradients, state after."""
    t.manual_seed(5)
    module = build(t).train(training)
    inputs = []
    for value in inputs_of(given):
        if isinstance(value, np.ndarray):
            floating = value.dtype.kind == "f"
            value = t.tensor(value, requires_grad=floating)
        inputs.append(value)
    before = [(k, v.clone()) for k, v in module.state_dict().items()]
    t.manual_seed(6)
    made = module(*inputs)
    outs = [o for o in (made if isinstance(made, tuple) else (made,)) if o.requires_grad]
    # Weights that differ show a transposed gradient, and of both signs keep its sums small.
    weights = [(t.arange(o.numel(), dtype=o.dtype) * 0.7).cos().reshape(o.shape) for o in outs]
    t.autograd.backward(outs, weights)
    grads = [x.grad for x in inputs if isinstance(x, t.Tensor) and x.requires_grad]
    parameters = [(n, p.grad) for n, p in module.named_parameters()]
    shown = [tuple(o.stride()) for o in outs]
    after = list(module.state_dict().items())
    return [repr(module), before, made, shown, grads, parameters, after]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_is_torchs(name: str, training: bool) -> None:
    build, given = LAYERS[name]

    def program(torch: Any) -> Any:
        return outcome(torch, build, given, training)

    same(program)()


# ------------------------------------------------------------------------- more than one forward --
@same
def test_unpooling_puts_maxima_back(torch: Any) -> Any:
    found = []
    for n, shape in ((1, (2, 3, 8)), (2, (2, 3, 6, 8)), (3, (1, 2, 4, 6, 4))):
        x = torch.tensor(spread(*shape), requires_grad=True)
        pool = getattr(torch.nn, f"MaxPool{n}d")(2, return_indices=True)
        unpool = getattr(torch.nn, f"MaxUnpool{n}d")(2)
        values, indices = pool(x)
        back = unpool(values, indices)
        wide = unpool(values, indices, output_size=shape)
        back.square().sum().backward()
        found += [repr(unpool), values, indices, back, wide, x.grad]
    return found


@same
def test_transposed_convolution_reaches_a_size(torch: Any) -> Any:
    torch.manual_seed(0)
    up = torch.nn.ConvTranspose3d(2, 2, 3, stride=2, padding=1)
    x = torch.tensor(spread(1, 2, 2, 3, 2))
    return [up(x, output_size=[4, 6, 3]), failure(lambda: up(x, output_size=[9, 9, 9]))]


@same
def test_adaptive_softmax_knows_all_classes(torch: Any) -> Any:
    torch.manual_seed(0)
    layer = torch.nn.AdaptiveLogSoftmaxWithLoss(8, 12, [4, 8], div_value=2.0)
    x = torch.tensor(spread(5, 8))
    found = [layer.log_prob(x), layer.predict(x), layer(x, torch.tensor([0, 5, 11, 4, 3])).loss]
    layer.reset_parameters()
    return [*found, failure(lambda: layer(x, torch.tensor([0, 5, 12, 4, 3])))]


@same
def test_embedding_bag_from_a_table(torch: Any) -> Any:
    table = torch.tensor(spread(6, 3))
    bag = torch.nn.EmbeddingBag.from_pretrained(table, mode="max")
    return [repr(bag), bag.weight.requires_grad, bag(torch.tensor([[0, 5], [2, 2]]))]


@same
def test_convert_sync_batchnorm(torch: Any) -> Any:
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.InstanceNorm1d(3))
    made = torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)
    return [repr(made), made(torch.tensor(spread(4, 3, 2))), made[0].running_mean]


@same
def test_layers_refuse_what_torch_refuses(torch: Any) -> Any:
    nn, x = torch.nn, torch.zeros(2, 3)
    attempts = [
        lambda: nn.Conv3d(3, 4, 2, groups=2),
        lambda: nn.FractionalMaxPool2d(2),
        lambda: nn.FractionalMaxPool2d(2, 3, 0.5),
        lambda: nn.FractionalMaxPool3d(2, output_ratio=1.5),
        lambda: nn.FractionalMaxPool3d(0, 2),
        lambda: nn.BatchNorm3d(3)(x),
        lambda: nn.InstanceNorm3d(3)(x),
        lambda: nn.InstanceNorm2d(3, affine=True)(torch.zeros(2, 4, 3, 3)),
        lambda: nn.LocalResponseNorm(2)(x),
        lambda: nn.CrossMapLRN2d(3)(x),
        lambda: nn.SyncBatchNorm(3)(torch.zeros(3)),
        lambda: nn.ChannelShuffle(2)(torch.zeros(1, 3, 2)),
        lambda: nn.CircularPad3d(1)(x),
        lambda: nn.EmbeddingBag(3, 2, padding_idx=3),
        lambda: nn.EmbeddingBag(3, 2)(torch.tensor([0, 1])),
        lambda: nn.EmbeddingBag(3, 2)(torch.tensor([[0, 1]]), torch.tensor([0])),
        lambda: nn.EmbeddingBag(3, 2)(torch.tensor([[0, 3]])).sum().item(),
        lambda: nn.AdaptiveLogSoftmaxWithLoss(4, 8, []),
        lambda: nn.AdaptiveLogSoftmaxWithLoss(4, 8, [5, 3]),
        lambda: nn.AdaptiveLogSoftmaxWithLoss(4, 8, [3, 8]),
        lambda: nn.MultiMarginLoss(p=3),
        lambda: nn.MultiMarginLoss(weight=x),
        lambda: nn.TripletMarginWithDistanceLoss(margin=0),
        lambda: nn.LinearCrossEntropyLoss(3, 4, label_smoothing=2),
        lambda: nn.LinearCrossEntropyOptions(acc_policy="none"),
        lambda: nn.LinearCrossEntropyOptions(chunking_method="aspect_ratio:0"),
        lambda: nn.LinearCrossEntropyOptions(batch_chunk_size=0),
        lambda: nn.LinearCrossEntropyOptions(acc_dtype=torch.int64),
        lambda: nn.CTCLoss(reduction="median")(x, x, x, x),
        lambda: nn.Dropout3d(1.5),
        lambda: nn.RReLU(0.5, 0.1)(x),
        lambda: nn.AvgPool3d(2, divisor_override=0)(torch.zeros(1, 2, 2, 2)),
        lambda: nn.AdaptiveMaxPool3d(2)(x),
    ]
    return [failure(attempt) for attempt in attempts]


@same
def test_an_encoder_gives_zeros_where_inference_leaves_padding_out(torch: Any) -> Any:
    nn = torch.nn
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2)
    with torch.no_grad():
        for i, p in enumerate(encoder.parameters()):
            p.copy_((torch.arange(p.numel()).reshape(p.shape) + i).sin())
    encoder.eval()
    x = torch.arange(24.0).reshape(2, 3, 4).cos()
    at_ends = torch.tensor([[False, False, True], [False, True, True]])
    with torch.no_grad():
        found = [encoder(x, src_key_padding_mask=m) for m in (at_ends, at_ends.flip(1))]
        found.append(
            encoder(x, mask=torch.zeros(3, 3), src_key_padding_mask=at_ends.float() * -1e9)
        )
    found.append(encoder(x, src_key_padding_mask=at_ends))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        odd = nn.TransformerEncoder(nn.TransformerEncoderLayer(3, 3, batch_first=True), 1)
        nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, norm_first=True), 1)
    said = [str(w.message) for w in caught]
    return found, said, encoder.use_nested_tensor, odd.use_nested_tensor
