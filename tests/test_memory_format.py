"""Memory formats: what is laid out with its channels innermost, and what of it results keep."""

from beside_torch import failure, same


def strides(*tensors):
    return [tuple(s for s, n in zip(t.stride(), t.shape, strict=True) if n > 1) for t in tensors]


@same
def test_conversions_lay_out_what_they_return(torch):
    last, plain = torch.channels_last, torch.contiguous_format
    x = torch.arange(48.0).reshape(2, 3, 2, 4)
    y = x.to(memory_format=last)
    made = [
        y, x.contiguous(memory_format=last), x.to(torch.float64, memory_format=last),
        y.to(torch.float64), y.to(torch.float64, memory_format=plain), y.clone(), y.double(),
        y.clone(memory_format=plain), y.double(memory_format=plain), x.float(memory_format=last),
        x.half(memory_format=last), x.cpu(memory_format=last), x.to("cpu", memory_format=last),
        x.to(x.double(), memory_format=last), torch.ones_like(y), torch.ones_like(x),
        torch.zeros_like(y, memory_format=plain), torch.full_like(x, 1, memory_format=last),
        x[None].to(memory_format=torch.channels_last_3d), y.relu(), y + 1, x + y, y + x,
    ]  # fmt: skip
    kept = [y.to(memory_format=last) is y, x.to(memory_format=plain) is x, x.float() is x]
    kept += [x.mT.to(memory_format=plain).is_contiguous(), y.to(memory_format=plain) is y]
    asked = [t.is_contiguous(memory_format=last) for t in (x, y, x[0], y[:, :, :1], x[:, :1])]
    errors = [
        failure(lambda: x[0].to(memory_format=last), "required rank 4"),
        failure(lambda: x.mT.contiguous(memory_format=torch.preserve_format), "preserve memory"),
    ]
    return strides(*made, torch.empty_like(y)), made, kept, asked, errors


@same
def test_gradients_pass_a_change_of_layout(torch):
    x = torch.arange(48.0, requires_grad=True)
    y = x.reshape(2, 3, 2, 4).to(memory_format=torch.channels_last)
    (y * y).sum().backward()
    return x.grad


@same(rtol=1e-3, atol=1e-4)
def test_a_model_and_its_input_in_channels_last(torch):
    nn = torch.nn
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    model = model.to(memory_format=torch.channels_last)
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(108.0).reshape(4, 3, 3, 3).sin())
        model[0].bias.zero_()
    y = model(torch.arange(216.0).reshape(2, 3, 6, 6).cos().to(memory_format=torch.channels_last))
    y.square().sum().backward()
    return strides(model[0].weight, y), y, model[0].weight.grad


@same
def test_normalizations_and_shuffles_keep_channels_innermost_or_make_c_order(torch):
    F = torch.nn.functional
    base = torch.arange(240.0).reshape(2, 8, 3, 5)
    last = base.to(memory_format=torch.channels_last)
    found = []
    for x in (base, base.mT, last, base.permute(1, 0, 2, 3), base[:, :, ::2], last[:, :, ::2]):
        one, zero = torch.ones(x.shape[1]), torch.zeros(x.shape[1])
        found += [
            F.batch_norm(x, zero.clone(), one.clone(), one, zero, True),
            F.batch_norm(x, zero, one), F.group_norm(x, 2), F.rms_norm(x, x.shape[2:]),
            F.channel_shuffle(x, 2), F.pixel_unshuffle(x[..., :2, :2], 2),
        ]  # fmt: skip
    found += [F.pixel_shuffle(base, 2), F.pixel_shuffle(last, 2)]
    rows = torch.arange(24.0).reshape(2, 3, 4).mT
    found += [F.batch_norm(rows, None, None, training=True), F.rms_norm(rows, (3,))]
    cubes = torch.arange(64.0).reshape(2, 4, 2, 2, 2).to(memory_format=torch.channels_last_3d)
    found += [F.group_norm(cubes, 2), F.channel_shuffle(cubes, 2)]
    return strides(*found), [x.sin() for x in found[4::6]]


@same
def test_what_is_joined_or_flipped_keeps_a_layout_that_all_share(torch):
    x = torch.arange(240.0).reshape(2, 8, 3, 5)
    y = x.to(memory_format=torch.channels_last)
    found = [torch.cat(pair, 1) for pair in ((y, y), (y, x), (x, x), (x.mT, x.mT), (y,))]
    found += [x.flip(1), y.flip(1), x.mT.flip(0, 2), x[:, ::2].flip(1), torch.fliplr(y)]
    return strides(*found), found


@same
def test_shuffling_one_group_copies(torch):
    x = torch.zeros(1, 2, 2, 2)
    F = torch.nn.functional
    for y in (F.channel_shuffle(x, 1), F.pixel_shuffle(x, 1), F.pixel_unshuffle(x, 1)):
        y.add_(1)
    return x


@same
def test_the_last_pair_of_sizes_that_differ_is_named(torch):
    return failure(lambda: torch.ones(2, 3) + torch.ones(3, 2), "tensor a (3)", "dimension 1")
