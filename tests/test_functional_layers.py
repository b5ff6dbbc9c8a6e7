"""torch.nn.functional beside torch: functions that no layer of tests/test_layers.py calls alone."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from beside_torch import failure, grad_of, leaf, same


@same
def test_inplace_activations(torch: Any) -> Any:
    F, found = torch.nn.functional, []
    for name, args in (
        ("celu_", (1.3,)), ("elu_", (0.7,)), ("hardtanh_", (-0.5, 0.6)), ("leaky_relu_", (0.2,)),
        ("relu_", ()), ("selu_", ()), ("threshold_", (0.1, 2.0)), ("rrelu_", (0.1, 0.3)),
    ):  # fmt: skip
        x = leaf(torch, 3, 4)
        y = x * 1.5
        assert getattr(F, name)(y, *args) is y
        found += [y, *grad_of(torch, y, x)]
    return found


@same
def test_transposed_convolutions_of_no_images(torch: Any) -> Any:
    found = []
    for dims, groups, (stride, pad, dilation, more) in itertools.product(
        (1, 2, 3), (1, 2), ((1, 0, 1, 0), (2, 1, 1, 1), (3, 0, 1, 2))
    ):
        f = getattr(torch.nn.functional, f"conv_transpose{dims}d")
        x = torch.zeros(0, 4, *[5] * dims, requires_grad=True)
        w = torch.ones(4, 6 // groups, *[3] * dims, requires_grad=True)
        b = torch.ones(6, requires_grad=True)
        y = f(x, w, b, stride, pad, more, groups, dilation)
        found += [y, *torch.autograd.grad(y.sum(), (x, w, b))]
    return found


@same
def test_rrelu_draws_torchs_slopes(torch: Any) -> Any:
    torch.manual_seed(3)
    x = leaf(torch, 4, 5)
    y = torch.nn.functional.rrelu(x, 0.1, 0.4, training=True)
    z = torch.rrelu_(x * 1.0, 0.2, 0.3, True)
    w = torch.rrelu(x.double(), training=True)
    return [y, z, w, torch.rrelu(x), *grad_of(torch, y, x), torch.rand(2)]


@same
def test_dropouts_of_channels(torch: Any) -> Any:
    F, x = torch.nn.functional, torch.ones(3, 4, 2, 2, 1)
    torch.manual_seed(0)
    return [
        F.dropout3d(x, 0.4), F.dropout3d(x[0].clone(), 0.4, inplace=True),
        F.feature_alpha_dropout(x, 0.4, training=True), torch.feature_alpha_dropout(x, 0.3, True),
        torch.feature_alpha_dropout_(x.clone(), 0.3, True), F.dropout2d(x[0, 0]),
        F.feature_alpha_dropout(x, 1.0, True), F.feature_alpha_dropout(x, 0.4),
    ]  # fmt: skip


@same
def test_pooling_with_indices(torch: Any) -> Any:
    F = torch.nn.functional
    found = []
    for n in (1, 2, 3):
        x = leaf(torch, 2, 3, *(6, 8, 4)[:n])
        both = getattr(F, f"max_pool{n}d_with_indices")(x, 2, padding=1)
        also = getattr(F, f"max_pool{n}d")(x, 2, None, 1, return_indices=True)
        wide = getattr(F, f"adaptive_max_pool{n}d_with_indices")(x, 3)
        tall = getattr(F, f"adaptive_max_pool{n}d")(x, [2] * n, return_indices=True)
        unpooled = getattr(F, f"max_unpool{n}d")(*getattr(F, f"max_pool{n}d")(
            x, 2, return_indices=True), 2)  # fmt: skip
        mean = getattr(F, f"avg_pool{n}d")(x, 2, None, ceil_mode=True)
        norm = getattr(F, f"lp_pool{n}d")(x.abs() + 1, 2, 2)
        found += [*both, *also, *wide, *tall, unpooled, mean, norm]
        found += [torch.stack(grad_of(torch, both[0], x)), *grad_of(torch, tall[0], x)]
    return [*found, torch.max_pool3d(x, 2), torch.max_pool1d(x[0, 0], 2, None)]


@same
def test_fractional_pooling_takes_its_samples(torch: Any) -> Any:
    F = torch.nn.functional
    x, y = leaf(torch, 2, 3, 7, 6), leaf(torch, 2, 3, 6, 5, 4)
    draws = torch.tensor(np.random.default_rng(0).random((2, 3, 2)), dtype=torch.float32)
    cubes = torch.tensor(np.random.default_rng(1).random((2, 3, 3)), dtype=torch.float32)
    a = F.fractional_max_pool2d_with_indices(x, 2, output_ratio=(0.5, 0.7), _random_samples=draws)
    b = F.fractional_max_pool3d_with_indices(y, (2, 1, 2), (3, 3, 2), _random_samples=cubes)
    c = F.fractional_max_pool2d(x, 2, 4, return_indices=True, _random_samples=draws)
    d = F.fractional_max_pool3d(y, 2, 2, _random_samples=cubes)
    return [*a, *b, *c, d, *grad_of(torch, a[0], x), *grad_of(torch, b[0], y)]


@same
def test_interpolate_in_all_modes(torch: Any) -> Any:
    F, found = torch.nn.functional, []
    x = {n: leaf(torch, 1, 2, *(4, 5, 3)[:n]) for n in (1, 2, 3)}
    for n, mode, extra in (
        (1, "nearest", {}), (2, "nearest", {}), (3, "nearest", {}), (1, "nearest-exact", {}),
        (2, "nearest-exact", {}), (3, "nearest-exact", {}), (1, "area", {}), (2, "area", {}),
        (3, "area", {}), (1, "linear", {}), (1, "linear", {"align_corners": True}),
        (2, "bilinear", {}), (2, "bilinear", {"align_corners": True}),
        (2, "bilinear", {"antialias": True}), (2, "bicubic", {}),
        (2, "bicubic", {"align_corners": True, "antialias": True}),
        (2, "lanczos", {"antialias": True}), (3, "trilinear", {}),
        (3, "trilinear", {"align_corners": True}),
    ):  # fmt: skip
        for size in ({"size": 7}, {"scale_factor": 0.6}, {"scale_factor": (1.7, 2.0, 1.2)[:n]}):
            y = F.interpolate(x[n], mode=mode, **size, **extra)
            found += [y, *grad_of(torch, y, x[n])]
        found.append(F.interpolate(
            x[n], scale_factor=1.45, mode=mode, recompute_scale_factor=True, **extra))  # fmt: skip
    image = x[2]
    return [*found, F.upsample(image, 6), F.upsample_nearest(image, scale_factor=2),
            F.upsample_bilinear(image, 3)]  # fmt: skip


@same
def test_interpolate_to_sizes_that_torch_takes_without_the_scale(torch: Any) -> Any:
    """Of n it makes n and 2n by more kernels than one, of which only some look at the scale."""
    F, found = torch.nn.functional, []
    for n, channels, layout in (
        (1, 1, "contiguous_format"), (2, 1, "contiguous_format"), (3, 1, "contiguous_format"),
        (2, 4, "channels_last"), (2, 3, "channels_last"), (3, 4, "channels_last_3d"),
    ):  # fmt: skip
        for size in ((5, 4, 3), (34, 31, 3)):
            x = leaf(torch, 1, channels, *size[:n])
            for mode in ("nearest", "nearest-exact"):
                for scale in (1.01, 2.01):
                    image = x.contiguous(memory_format=getattr(torch, layout))
                    y = F.interpolate(image, scale_factor=scale, mode=mode)
                    found += [y, *grad_of(torch, y, x)]
    x, pixels = leaf(torch, 1, 2, 4, 5), (leaf(torch, 1, 2, 4, 70) * 255).to(torch.uint8)
    for scale in (1.01, (1.01, 1.7), (2.01, 1.0)):
        for mode, smooth in (
            ("bicubic", False), ("bilinear", False), ("bicubic", True), ("bilinear", True),
            ("lanczos", True),
        ):  # fmt: skip
            y = F.interpolate(x, scale_factor=scale, mode=mode, antialias=smooth)
            found += [y, *grad_of(torch, y, x)]
            found.append(F.interpolate(pixels, scale_factor=scale, mode=mode, antialias=smooth))
    return found


@same
def test_interpolate_refuses(torch: Any) -> Any:
    F = torch.nn.functional
    x, image = torch.zeros(1, 2, 4), torch.zeros(1, 2, 4, 4)
    return [
        failure(attempt)
        for attempt in (
            lambda: F.interpolate(x), lambda: F.interpolate(x, 3, 2.0),
            lambda: F.interpolate(x, (3, 4)), lambda: F.interpolate(x, 3, mode="bilinear"),
            lambda: F.interpolate(image, 3, mode="linear"), lambda: F.interpolate(x, 3, mode="c"),
            lambda: F.interpolate(image, 3, mode="trilinear"), lambda: F.interpolate(x[0], 3),
            lambda: F.interpolate(x, 3, align_corners=True), lambda: F.interpolate(x, 0),
            lambda: F.interpolate(x, 3, recompute_scale_factor=True),
            lambda: F.interpolate(x, 3, antialias=True), lambda: F.interpolate(x, (3.5,)),
            lambda: F.interpolate(image, 3, mode="lanczos"),
            lambda: F.interpolate(image, 3, mode="lanczos", antialias=True, align_corners=True),
        )
    ]  # fmt: skip


@same
def test_grids(torch: Any) -> Any:
    F, found = torch.nn.functional, []
    values = np.array([[[0.8, 0.2, 0.1], [-0.3, 1.1, 0.05]]])
    theta = torch.tensor(values, requires_grad=True)
    volume = torch.tensor(np.eye(3, 4)[None] * 0.9 + 0.07, requires_grad=True)
    for aligned in (False, True):
        grid = F.affine_grid(theta, (1, 2, 3, 4), align_corners=aligned)
        deep = F.affine_grid(volume, [1, 2, 2, 3, 4], align_corners=aligned)
        x = leaf(torch, 1, 2, 5, 4, dtype="float64")
        y = leaf(torch, 1, 2, 3, 4, 3, dtype="float64")
        for mode in ("bilinear", "nearest", "bicubic"):
            for padding in ("zeros", "border", "reflection"):
                out = F.grid_sample(x, grid, mode, padding, aligned)
                found += [out, *grad_of(torch, out, x, theta)]
        found.append(F.grid_sample(y, deep, padding_mode="border", align_corners=aligned))
        found.append(torch.affine_grid_generator(theta, [1, 2, 3, 4], aligned))
        found.append(torch.grid_sampler(x, grid, 0, 0, aligned))
        found.append(torch.grid_sampler_2d(x, grid, 0, 1, aligned))
        found.append(torch.grid_sampler_3d(y, deep, 1, 2, aligned))
    refused = [
        lambda: F.grid_sample(x, grid, "cubic"),
        lambda: F.grid_sample(x, grid, padding_mode="mirror"),
        lambda: F.grid_sample(x, grid[0]), lambda: F.grid_sample(x, deep),
        lambda: F.grid_sample(y, deep, "bicubic"), lambda: F.affine_grid(theta, (1, 2, 3)),
        lambda: F.affine_grid(theta, (1, 2, 3, 4, 5)), lambda: F.affine_grid(theta, (1, 2, 0, 4)),
        lambda: F.affine_grid(theta.long(), (1, 2, 3, 4)),
    ]  # fmt: skip
    return [*found, F.grid_sample(x, grid), *[failure(attempt) for attempt in refused]]


@same
def test_fold_undoes_unfold(torch: Any) -> Any:
    F, x = torch.nn.functional, leaf(torch, 2, 3, 5, 6)
    columns = F.unfold(x, (2, 3), stride=(1, 2))
    back = F.fold(columns, (5, 6), (2, 3), stride=(1, 2))
    return [columns, back, *grad_of(torch, back, x), failure(lambda: F.fold(columns, 4, 2))]


@same
def test_embedding_bags(torch: Any) -> Any:
    F, weight = torch.nn.functional, leaf(torch, 8, 3)
    index, offsets = torch.tensor([1, 2, 4, 5, 4, 3, 2, 7]), torch.tensor([0, 4, 4])
    scale, found = leaf(torch, 8, seed=1), []
    for mode in ("sum", "mean", "max"):
        for extra in ({}, {"padding_idx": 4}, {"include_last_offset": True}):
            starts = torch.tensor([0, 4, 8]) if "include_last_offset" in extra else offsets
            out = F.embedding_bag(index, weight, starts, mode=mode, **extra)
            found += [out, *grad_of(torch, out, weight)]
    out = F.embedding_bag(index, weight, offsets, mode="sum", per_sample_weights=scale)
    found += [out, *grad_of(torch, out, weight, scale)]
    found += torch.embedding_bag(weight, index, offsets, False, 2)
    found += torch.embedding_bag(weight, index, offsets, False, 1, False, None, False, -4)
    found += F.embedding_bag(index.reshape(2, 4), weight, max_norm=1.0)
    with torch.no_grad():
        found.append(torch.embedding_renorm_(weight, index, 0.5, 2.0))
    refused = [
        lambda: F.embedding_bag(index, weight, offsets, mode="median"),
        lambda: F.embedding_bag(index, weight, offsets, mode="max", scale_grad_by_freq=True),
        lambda: F.embedding_bag(index, weight, offsets, mode="mean", per_sample_weights=scale),
        lambda: F.embedding_bag(index, weight, offsets, per_sample_weights=scale[:2]),
        lambda: F.embedding_bag(index, weight, offsets + 1).sum().item(),
        lambda: F.embedding_bag(index, weight[0], offsets),
        lambda: F.embedding_bag(index.reshape(2, 2, 2), weight),
    ]
    return [*found, *[failure(attempt) for attempt in refused]]


@same
def test_ctc_loss(torch: Any) -> Any:
    F, logits = torch.nn.functional, leaf(torch, 9, 3, 5)
    scores = F.log_softmax(logits, -1)
    targets = torch.tensor([[1, 2, 2], [3, 3, 0], [4, 0, 0]])
    joined = torch.tensor([1, 2, 2, 3, 3, 4])
    lengths = torch.tensor([9, 7, 4]), torch.tensor([3, 2, 1])
    found = []
    for reduction in ("none", "mean", "sum"):
        for loss in (
            F.ctc_loss(scores, targets, *lengths, reduction=reduction),
            F.ctc_loss(scores, joined, (9, 7, 4), (3, 2, 1), reduction=reduction),
        ):
            found += [loss, *grad_of(torch, loss, logits)]
    short = torch.tensor([9, 2, 1])
    loss = F.ctc_loss(scores, targets, short, lengths[1], zero_infinity=True)
    found += [loss, *grad_of(torch, loss, logits), torch.ctc_loss(scores, targets, *lengths)]
    refused = [
        lambda: F.ctc_loss(scores, targets, lengths[0] + 1, lengths[1]).item(),
        lambda: F.ctc_loss(scores, targets, lengths[0], lengths[1] + 1).item(),
        lambda: F.ctc_loss(scores, joined, lengths[0], lengths[1] + 1).item(),
        lambda: F.ctc_loss(scores, targets, *lengths, blank=5),
        lambda: F.ctc_loss(scores, targets, lengths[0][:2], lengths[1]),
        lambda: F.ctc_loss(scores, targets, lengths[0].float(), lengths[1]),
    ]
    return [*found, *[failure(attempt) for attempt in refused]]


@same
def test_losses_of_aten_reduce_nothing_unless_told(torch: Any) -> Any:
    a, b, signs = leaf(torch, 3, 4), leaf(torch, 3, 4, seed=1), torch.tensor([1, -1, 1])
    truth = b.detach().sigmoid()
    return [
        torch.kl_div(a, truth), torch.binary_cross_entropy_with_logits(a, truth),
        torch.margin_ranking_loss(a, b, a.sign()), torch.cosine_embedding_loss(a, b, signs, 0.1),
        torch.hinge_embedding_loss(a, a.sign()), torch.triplet_margin_loss(a, b, a.flip(0)),
        torch.kl_div(a, truth, reduction=1), torch.margin_ranking_loss(a, b, a.sign(), 0.1, 2),
    ]  # fmt: skip


@same
def test_margins(torch: Any) -> Any:
    F, x, found = torch.nn.functional, leaf(torch, 4, 3), []
    one, several = torch.tensor([0, 2, 1, 1]), torch.tensor([[0, 2, -1], [1, -1, 0]] * 2)
    truth = torch.tensor(np.eye(4, 3), dtype=torch.float32)
    for reduction in ("none", "mean", "sum"):
        for loss in (
            F.multi_margin_loss(x, one, 2, 0.7, torch.tensor([1.0, 0.5, 2.0]), reduction=reduction),
            F.multilabel_margin_loss(x, several, reduction=reduction),
            F.multilabel_soft_margin_loss(x, truth, reduction=reduction),
            F.triplet_margin_with_distance_loss(
                x, x * 1.1 + 0.2, x.flip(0), swap=True, reduction=reduction,
                distance_function=lambda a, b: (a - b).abs().sum(-1)),
        ):  # fmt: skip
            found += [loss, *grad_of(torch, loss, x)]
    old = F.multi_margin_loss(x, one, size_average=False), F.mse_loss(x, x * 2, reduce=False)
    refused = [
        lambda: F.multi_margin_loss(x, one, p=3), lambda: F.multi_margin_loss(x, one[:2]),
        lambda: F.multi_margin_loss(x, one + 5).item(),
        lambda: F.multilabel_margin_loss(x, several[:2]),
        lambda: F.multilabel_margin_loss(x, several + 9).item(),
        lambda: F.multilabel_soft_margin_loss(x, truth, reduction="median"),
        lambda: F.triplet_margin_with_distance_loss(x, x, x, margin=0),
        lambda: F.triplet_margin_with_distance_loss(x, x, x[0]),
    ]  # fmt: skip
    return [*found, *old, *[failure(attempt) for attempt in refused]]


@same
def test_linear_cross_entropy(torch: Any) -> Any:
    F, x, w, found = torch.nn.functional, leaf(torch, 4, 3), leaf(torch, 5, 3, seed=1), []
    classes, bias = torch.tensor([0, 4, 2, 2]), leaf(torch, 5, seed=2)
    for extra in (
        {}, {"ignore_index": 2}, {"label_smoothing": 0.1}, {"reduction": "none"},
        {"weight": bias.detach().abs()}, {"linear_bias": bias},
        {"options": torch.nn.LinearCrossEntropyOptions(), "linear_bias": bias},
    ):  # fmt: skip
        loss = F.linear_cross_entropy(x, w, classes, **extra)
        found += [loss, *grad_of(torch, loss, x, w)]
    deep = F.linear_cross_entropy(x, leaf(torch, 5, 2, 3), torch.tensor([[0, 4]] * 4))
    shares = F.linear_cross_entropy(x, w, F.softmax(leaf(torch, 4, 5), 1))
    refused = [
        lambda: F.linear_cross_entropy(x[None], w, classes),
        lambda: F.linear_cross_entropy(x, w[0], classes),
        lambda: F.linear_cross_entropy(x, w[:, :2], classes),
        lambda: F.linear_cross_entropy(x, w, classes, linear_bias=bias[:2]),
        lambda: F.linear_cross_entropy(x, w, torch.zeros(4, 5), ignore_index=1),
    ]
    return [*found, deep, shares, *[failure(attempt) for attempt in refused]]


@same
def test_distances_and_channels(torch: Any) -> Any:
    F, x = torch.nn.functional, leaf(torch, 5, 3)
    found = []
    for p in (0.0, 1.0, 1.5, 2.0, float("inf")):
        d = F.pdist(x, p)
        found += [d, *grad_of(torch, d, x)]
    y, w, b = leaf(torch, 6, 2, 3), leaf(torch, 3, 3, 4), leaf(torch, 4)
    z = torch.conv_tbc(y, w, b, 1)
    shuffled = leaf(torch, 2, 6, 3)
    statistics = [torch.zeros(3), torch.ones(3)]
    normed = torch.instance_norm(
        leaf(torch, 2, 3, 4), None, None, *statistics, True, 0.2, 1e-5, False)  # fmt: skip
    return [
        *found, torch.pdist(x), z, F.conv_tbc(y, w, b), *grad_of(torch, z, y, w, b),
        F.channel_shuffle(shuffled, 3), torch.channel_shuffle(shuffled, 2),
        F.native_channel_shuffle(shuffled, 3), torch.native_channel_shuffle(shuffled, 2),
        normed, *statistics, F.local_response_norm(leaf(torch, 2, 4, 3, 2), 3, 0.2),
        F.cosine_similarity(x, x[:1] * 2 + 1, 0), F.pad(x, (1, 2), value=3.0),
        F.layer_norm(x, (3,)), F.rms_norm(x, [3]), F.conv_transpose3d(
            leaf(torch, 1, 2, 2, 2, 2), leaf(torch, 2, 1, 2, 2, 2), stride=2),
        failure(lambda: F.pdist(x[0])), failure(lambda: torch.conv_tbc(y, w[:, :2], b)),
        failure(lambda: F.cosine_similarity(x.long(), x.long())),
    ]  # fmt: skip


@same
def test_kernels_that_torch_lacks_for_integers(torch: Any) -> Any:
    F = torch.nn.functional
    x = torch.arange(16).reshape(1, 4, 4)
    return [
        [failure(lambda f=f: f(x)) for f in (F.glu, F.logsigmoid, F.dropout, F.mish)],
        [failure(lambda f=f: f(x, x)) for f in (F.huber_loss, F.smooth_l1_loss, F.mse_loss)],
        failure(lambda: F.layer_norm(x, (4,)), "not implemented"),
        failure(lambda: F.group_norm(x, 2), "not implemented"),
        failure(lambda: F.softmax(x, 1), "not implemented for"),
        F.dropout(x, training=False),
        F.dropout(x, 0.0),
    ]


@same
def test_batches_of_no_samples(torch: Any) -> Any:
    F = torch.nn.functional
    images = torch.zeros(0, 3, 4, 4, requires_grad=True)
    places = torch.zeros(0, 2, 2, 2)
    sampled = F.grid_sample(images, places, align_corners=False)
    (to_images,) = torch.autograd.grad(sampled.sum(), images)
    attention = torch.nn.MultiheadAttention(4, 2)
    x = torch.zeros(2, 0, 4)
    return sampled, to_images, attention(x, x, x)


@same
def test_attention_refuses_masks_of_integers_and_vectors(torch: Any) -> Any:
    attend = torch.nn.functional.scaled_dot_product_attention
    x = torch.ones(3, 4)
    return [
        failure(lambda: attend(x, x, x, attn_mask=torch.ones(3, 3).int()), "attn_mask dtype"),
        failure(lambda: attend(x[0], x[0], x[0]), "at least 2 dimensional"),
        attend(x.double(), x.double(), x.double(), attn_mask=torch.zeros(3, 3)),
    ]
