"""nn.Module, its parameters and containers, beside torch's: names, states, errors, copies."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import farspan
import pytest
import torch as oracle
from beside_torch import failure, same


def message(action: Any) -> str:
    """Return the class and whole text of what `action` raises."""
    try:
        action()
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return "nothing was raised"


def net(t: Any) -> Any:
    t.manual_seed(0)
    return t.nn.Sequential(t.nn.Linear(3, 4), t.nn.BatchNorm1d(4), t.nn.Linear(4, 2))


@same
def test_submodules_are_found_and_set_by_path(torch: Any) -> Any:
    m = torch.nn.Module()
    m.a = net(torch)
    m.set_submodule("a.2", torch.nn.Tanh())
    m.set_submodule("new", torch.nn.ReLU())
    m.set_submodule("a.0", torch.nn.Linear(1, 1), strict=True)
    m.x = 3
    return (
        repr(m),
        repr(m.get_submodule("a.1")),
        failure(lambda: m.set_submodule("", torch.nn.ReLU()), "without a target name"),
        failure(lambda: m.set_submodule("a.9", torch.nn.ReLU(), strict=True), "no attribute `9`"),
        failure(lambda: m.set_submodule("x", torch.nn.ReLU()), "is not an nn.Module"),
        failure(lambda: m.set_submodule("y", 3), "is not an nn.Module, found"),
        failure(lambda: m.get_submodule("a.7"), "has no attribute `7`"),
        failure(lambda: m.get_parameter("a.1.running_mean"), "is not an nn.Parameter"),
        m.get_parameter("a.1.weight").shape,
        m.get_buffer("a.1.running_mean"),
        failure(lambda: m.get_buffer("a.1.weight"), "is not a buffer"),
    )


@same
def test_names_with_and_without_duplicates(torch: Any) -> Any:
    shared = torch.nn.Linear(2, 2)
    m = torch.nn.ModuleDict({"a": shared, "b": shared})
    m["c"] = torch.nn.Linear(2, 2)
    m["c"].weight = shared.weight
    m["c"].register_buffer("kept", torch.ones(1))
    m["c"].register_buffer("lost", torch.ones(1), persistent=False)
    m["c"].plain = torch.nn.Buffer(torch.zeros(2), persistent=False)
    return [
        [n for n, _ in m.named_modules(remove_duplicate=flag, prefix="p")]
        + [n for n, _ in m.named_parameters(remove_duplicate=flag, prefix="p")]
        + [n for n, _ in m.named_buffers(remove_duplicate=flag)]
        for flag in (True, False)
    ] + [
        list(m.state_dict()),
        [n for n, _ in m.named_children()],
        len(list(m.children())),
        len(list(m.modules(remove_duplicate=False))),
        [n for n, _ in m.named_parameters(recurse=False)],
        len(list(m.buffers())),
    ]


@same
def test_registration_refuses_what_torch_refuses(torch: Any) -> Any:
    m = torch.nn.Linear(2, 2)
    p = torch.nn.Parameter(torch.ones(1))
    actions: list[Any] = [
        lambda: m.register_parameter("a.b", p),
        lambda: m.register_parameter("", p),
        lambda: m.register_parameter("forward", p),
        lambda: m.register_parameter(3, p),
        lambda: m.register_parameter("w", 3),
        lambda: m.register_buffer("a.b", None),
        lambda: m.register_buffer("", None),
        lambda: m.register_buffer("forward", None),
        lambda: m.register_buffer(3, None),
        lambda: m.register_buffer("w", 3),
        lambda: m.register_parameter("w", m.weight * 1),
        lambda: setattr(m, "bias", torch.ones(2, dtype=torch.int64)),
        lambda: m.add_module("a.b", m),
        lambda: m.add_module("", m),
        lambda: m.add_module("forward", m),
        lambda: m.add_module("w", 3),
        lambda: m.register_module("w", "x"),
        lambda: setattr(m, "weight", 3),
        lambda: torch.nn.Module(3),
        lambda: torch.nn.Module(a=3),
        lambda: torch.nn.Module()(3),
        lambda: m.nothing,
        lambda: delattr(m, "nothing"),
        lambda: m.train("yes"),
        lambda: m.to(torch.int64),
    ]
    return [message(a) for a in actions]


@same
def test_load_state_dict_tells_all_that_is_wrong(torch: Any) -> Any:
    m = net(torch)
    state = dict(net(torch).state_dict())
    state["0.weight"] = torch.zeros(3, 3)
    state["2.bias"] = 5
    state["9.x"] = torch.zeros(1)
    del state["1.weight"]
    loose = dict(net(torch).state_dict())
    del loose["0.bias"]
    loose["y"] = torch.zeros(1)
    words = message(lambda: m.load_state_dict(state)).replace("farspan", "torch")
    return (
        words,
        str(m.load_state_dict(loose, strict=False)),
        m.load_state_dict(loose, strict=False)._asdict(),
        message(lambda: m.load_state_dict(3)),
        str(m.load_state_dict(net(torch).state_dict())),
    )


@same
def test_assign_takes_the_tensors_themselves(torch: Any) -> Any:
    m, other = net(torch), net(torch).double()
    m[0].weight.requires_grad_(False)
    state = other.state_dict()
    given = torch.nn.Parameter(torch.ones(2, 4))
    state["2.weight"] = given
    m.load_state_dict(state, assign=True)
    return (
        [(str(p.dtype), p.requires_grad, type(p).__name__) for p in m.parameters()],
        m[2].weight is given,
        str(m[1].running_mean.dtype),
        m[1].running_mean is state["1.running_mean"],
    )


@same
def test_extra_state_travels(torch: Any) -> Any:
    class Counter(torch.nn.Module):  # type: ignore[misc, name-defined]
        count = 3

        def get_extra_state(self) -> Any:
            return {"count": self.count}

        def set_extra_state(self, state: Any) -> None:
            self.count = state["count"]

    m = torch.nn.Sequential(Counter(), torch.nn.Linear(1, 1))
    state = m.state_dict()
    state["0._extra_state"] = {"count": 7}
    m.load_state_dict(state)
    plain = torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Linear(1, 1))
    return (
        list(state),
        m[0].count,
        message(lambda: plain.load_state_dict(state)),
        message(lambda: m.load_state_dict(plain.state_dict())),
        failure(torch.nn.Module().get_extra_state),
        failure(lambda: torch.nn.Module().set_extra_state(1)),
    )


@same
def test_positional_arguments_of_state_dict_are_deprecated(torch: Any) -> Any:
    m = torch.nn.Linear(1, 1)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        into: dict[str, Any] = {}
        m.state_dict(into, "x.", True)
    return list(into), into["x.weight"] is m.weight, [w.category.__name__ for w in seen]


@same
def test_dtypes_devices_and_layouts(torch: Any) -> Any:
    m = net(torch)
    rows = []
    for change in ("half", "bfloat16", "double", "float", "cpu"):
        getattr(m, change)()
        rows.append([str(v.dtype) for v in m.state_dict().values()])
    m.type(torch.float64)
    rows.append([str(v.dtype) for v in m.state_dict().values()])
    m.to(torch.float32).to("cpu", torch.float64).to(torch.ones(1))
    m(torch.ones(2, 3)).sum().backward()
    m.to(torch.float64)
    rows.append([str(p.grad.dtype) for p in m.parameters()])
    conv = torch.nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last)
    rows.append([conv.weight.stride(), conv.bias.stride()])
    empty = m.to_empty(device="cpu")
    rows.append([empty is m, m[0].weight.shape, m[0].weight.requires_grad])
    m.requires_grad_(False)
    rows.append([p.requires_grad for p in m.parameters()])
    return rows, m.share_memory() is m, m.eval().training, m.train()[1].training


@same
def test_copies_are_independent(torch: Any) -> Any:
    m = net(torch)
    m(torch.ones(2, 3)).sum().backward()
    deep, shallow = copy.deepcopy(m), copy.copy(m)
    with torch.no_grad():
        m[0].weight.zero_()
    shallow.extra = torch.nn.Parameter(torch.ones(1))
    state = m.__getstate__()
    fresh = torch.nn.Sequential.__new__(torch.nn.Sequential)
    fresh.__setstate__({k: v for k, v in state.items() if not k.endswith("_hooks")})
    return (
        deep[0].weight,
        deep[0].weight.grad is None,
        shallow[0].weight,
        "extra" in dict(m.named_parameters()),
        hasattr(fresh, "_forward_pre_hooks_with_kwargs"),
    )


@same
def test_parameters_and_buffers_as_objects(torch: Any) -> Any:
    p = torch.nn.Parameter(torch.ones(2, 2), requires_grad=False)
    b = torch.nn.Buffer(torch.zeros(2))
    q = copy.deepcopy(p)
    m = torch.nn.Module()
    m.b, m.p = b, p
    m.b = torch.ones(2)
    empty = torch.nn.Parameter()
    twice = torch.nn.Parameter(p)
    return (
        repr(p),
        repr(torch.nn.parameter.Parameter(torch.ones(1))),
        isinstance(q, torch.nn.Parameter),
        q.requires_grad,
        isinstance(b, torch.nn.Buffer),
        isinstance(b, torch.Tensor),
        isinstance(p.data, torch.nn.Parameter),
        list(m.state_dict()),
        m.b,
        empty.shape,
        twice.requires_grad,
        isinstance(p * 1, torch.nn.Parameter),
        failure(lambda: torch.nn.Parameter(torch.ones(2, dtype=torch.int64))),
        torch.nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False),
    )


@same
def test_sequential_as_a_list(torch: Any) -> Any:
    nn = torch.nn
    m = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    m.append(nn.Tanh()).extend([nn.Sigmoid()])
    m.insert(1, nn.Identity())
    m[-1] = nn.Softplus()
    popped = m.pop(0)
    del m[1:2]
    both = m + nn.Sequential(nn.ReLU())
    both += nn.Sequential(nn.ELU())
    thrice = nn.Sequential(nn.ReLU()) * 3
    thrice *= 2
    return (
        repr(m),
        repr(popped),
        repr(both),
        len(thrice),
        repr(2 * nn.Sequential(nn.ReLU())),
        repr(m[:2]),
        len(m),
        [repr(x) for x in m],
        "0" in dir(m),
        failure(lambda: m[9], "out of range"),
        failure(lambda: m + 3),
        failure(lambda: m * "a"),
        failure(lambda: m * 0),
        failure(lambda: m.insert(0, 3)),
        failure(lambda: m.insert(99, nn.ReLU())),
    )


@same
def test_module_list_and_dict_as_containers(torch: Any) -> Any:
    nn = torch.nn
    a = nn.ModuleList([nn.Linear(1, 1) for _ in range(3)])
    a.append(nn.ReLU())
    a.extend([nn.Tanh()])
    a.insert(0, nn.Identity())
    a += [nn.ELU()]
    a[1] = nn.SELU()
    del a[2]
    d = nn.ModuleDict([["x", nn.ReLU()], ["y", nn.Linear(1, 1)]])
    d.update({"z": nn.Tanh()})
    d.update(nn.ModuleDict({"w": nn.ELU()}))
    popped = d.pop("x")
    c = nn.Container(a=nn.ReLU(), b=nn.Tanh())
    return (
        repr(a),
        repr(a.__add__([nn.GELU()])),
        repr(a[1:]),
        repr(a.pop(0)),
        len(a),
        repr(d),
        repr(popped),
        "x" in d,
        "y" in d,
        list(d),
        list(d.keys()),
        [repr(v) for v in d.values()],
        [k for k, _ in d.items()],
        repr(c),
        failure(lambda: a(3)),
        failure(lambda: d["nothing"]),
        failure(lambda: d.update(3), "should be called with an iterable"),
        failure(lambda: d.update([["a"]]), "has length 1; 2 is required"),
        failure(lambda: a.extend(3)),
        failure(lambda: a[9]),
        d.clear(),
        len(d),
    )


@same
def test_parameter_list_and_dict_as_containers(torch: Any) -> Any:
    nn = torch.nn
    a = nn.ParameterList([torch.ones(2), nn.Parameter(torch.zeros(1))])
    a.append(torch.ones(3))
    a.extend([torch.ones(1), "text"])
    a += [torch.zeros(2, 2)]
    a[0] = torch.zeros(4)
    d = nn.ParameterDict({"x": torch.ones(2), "a": nn.Parameter(torch.zeros(1))})
    d["n"] = 3
    d.setdefault("m", torch.ones(1))
    e = d.copy()
    e.update({"q": torch.ones(2)})
    f = d | {"r": torch.ones(1)}
    f |= {"s": torch.ones(1)}
    g = d.fromkeys(["u", "v"], torch.ones(1))
    return (
        repr(a),
        len(a),
        [type(x).__name__ for x in a],
        repr(a[1:3]),
        list(a.state_dict()),
        repr(d),
        list(d.keys()),
        list(reversed(d)),
        list(e),
        list(f),
        list(g),
        "x" in d,
        d.get("zz"),
        d.get("zz", 3),
        [k for k, _ in d.items()],
        len(list(d.values())),
        repr(d.pop("n")),
        d.popitem()[0],
        list(d.state_dict()),
        failure(lambda: a(1)),
        failure(lambda: d(1)),
        failure(lambda: d["zz"]),
        failure(lambda: a.extend(3)),
        failure(lambda: a[99]),
        d.clear(),
        len(d),
        failure(lambda: d.__setitem__(3, torch.ones(1))),
    )


@same
def test_lazy_modules_take_the_size_of_their_first_input(torch: Any) -> Any:
    nn = torch.nn
    torch.manual_seed(0)
    rows = []
    makers: list[Any] = [
        (lambda: nn.LazyLinear(3), (2, 5)),
        (lambda: nn.LazyLinear(3, bias=False), (5,)),
        (lambda: nn.LazyConv1d(4, 2), (2, 3, 6)),
        (lambda: nn.LazyConv2d(4, 2, padding=1, groups=3 - 2), (3, 6, 6)),
        (lambda: nn.LazyConvTranspose1d(4, 2), (2, 3, 6)),
        (lambda: nn.LazyConvTranspose2d(4, 2, output_padding=0, bias=False), (2, 3, 6, 6)),
        (lambda: nn.LazyBatchNorm1d(), (3, 4)),
        (lambda: nn.LazyBatchNorm2d(affine=False), (3, 4, 2, 2)),
        (lambda: nn.LazyInstanceNorm1d(), (3, 4, 5)),
        (lambda: nn.LazyInstanceNorm2d(track_running_stats=False), (3, 4, 5, 2)),
    ]
    for make, shape in makers:
        m = make()
        before = [repr(m), list(m.state_dict()), m.has_uninitialized_params()]
        x = torch.arange(int(torch.ones(shape).sum())).reshape(shape).float().sin()
        out = m(x)
        rows.append([before, repr(m), type(m).__name__, out.detach(), list(m.state_dict())])
    lazy = nn.LazyLinear(2)
    twin = copy.deepcopy(lazy)
    twin(torch.ones(1, 3))
    lazy(torch.ones(1, 4))
    rows.append([repr(lazy), repr(twin), len(lazy._forward_pre_hooks), len(twin.state_dict())])
    return rows


@same
def test_uninitialized_parameters_refuse_to_be_used(torch: Any) -> Any:
    nn = torch.nn
    p = nn.UninitializedParameter(dtype=torch.float64)
    b = nn.UninitializedBuffer()
    parameter = torch.nn.parameter
    rows = [
        repr(p),
        repr(b),
        p.requires_grad,
        b.requires_grad,
        str(p.dtype),
        failure(lambda: p.shape, "Can't access the shape"),
        failure(lambda: p + 1, "Attempted to use an uninitialized parameter"),
        failure(lambda: p.sum(), "Attempted to use an uninitialized parameter"),
        failure(p.share_memory_, "Can't share memory"),
        parameter.is_lazy(p),
        parameter.is_lazy(nn.Parameter(torch.ones(1))),
        isinstance(p, nn.Parameter),
        p.is_floating_point(),
    ]
    q = copy.deepcopy(p)
    p.materialize((2, 3))
    b.materialize((4,), dtype=torch.float16)
    nn.init.ones_(p)
    rows += [p.detach(), p.requires_grad, type(p).__name__, str(b.dtype), b.shape]
    lazy = nn.LazyLinear(2)
    lazy.half()
    full = nn.Linear(3, 2)
    rows += [
        type(q).__name__,
        str(lazy.weight.dtype),
        failure(lambda: full.load_state_dict(lazy.state_dict()), "Can't access the shape"),
        str(lazy.float().load_state_dict(full.state_dict())),
        lazy.weight.shape,
        failure(lambda: nn.LazyConv2d(2, 2)(torch.ones(3, 3)), "Expected 3D (unbatched) or 4D"),
    ]

    class Never(torch.nn.modules.lazy.LazyModuleMixin, nn.Linear):  # type: ignore[misc, name-defined]
        pass

    never = Never(2, 2)
    rows.append(failure(lambda: never(torch.ones(2, 2)), "initialize_parameters is not"))
    return rows


@same
def test_sync_batch_norm_is_batch_norm_without_a_group(torch: Any) -> Any:
    nn = torch.nn
    torch.manual_seed(0)
    m = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm1d(2)))
    made = nn.SyncBatchNorm.convert_sync_batchnorm(m)
    x = torch.linspace(-1, 1, 16).reshape(2, 2, 2, 2)
    return (
        repr(made),
        made[0] is m[0],
        made[1](made[0](x)),
        made[1].running_mean,
        failure(lambda: nn.SyncBatchNorm(2)(torch.ones(2))),
        list(nn.SyncBatchNorm(2).state_dict()),
    )


@same
def test_data_parallel_passes_through(torch: Any) -> Any:
    torch.manual_seed(0)
    m = torch.nn.DataParallel(torch.nn.Linear(2, 2))
    x = torch.ones(3, 2)
    out = m(x)
    out.sum().backward()
    state = m.state_dict()
    names = list(state)
    torch.nn.modules.utils.consume_prefix_in_state_dict_if_present(state, "module.")
    return (
        out,
        names,
        list(state),
        list(state._metadata),
        m.module.weight.grad,
        failure(lambda: torch.nn.parallel.DistributedDataParallel(m)) != "nothing was raised",
    )


@same
def test_factory_kwargs_are_checked(torch: Any) -> Any:
    f = torch.nn.factory_kwargs
    return (
        f(None),
        f({"device": "cpu"}),
        f({"factory_kwargs": {"dtype": 3}, "device": 1}),
        message(lambda: f({"x": 1})),
        message(lambda: f({"dtype": 1, "factory_kwargs": {"dtype": 3}})),
    )


@same
def test_torchs_module_paths_lead_to_the_layers(torch: Any) -> Any:
    import importlib

    nn, rows = torch.nn, []
    for path, names in {
        "conv": "Conv1d Conv2d ConvTranspose2d _ConvNd",
        "batchnorm": "BatchNorm1d BatchNorm2d SyncBatchNorm _BatchNorm",
        "module": "Module register_module_forward_hook",
        "linear": "Linear Identity NonDynamicallyQuantizableLinear",
        "rnn": "RNNBase LSTM GRUCell RNNCellBase",
        "container": "Sequential ModuleList ParameterDict",
        "activation": "ReLU MultiheadAttention",
        "normalization": "LayerNorm",
        "transformer": "TransformerEncoderLayer",
        "loss": "CrossEntropyLoss",
        "pooling": "MaxPool2d",
        "lazy": "LazyModuleMixin",
        "utils": "_pair _single _triple _quadruple _ntuple",
        "sparse": "Embedding",
        "dropout": "Dropout",
        "distance": "CosineSimilarity",
        "padding": "ZeroPad2d",
        "instancenorm": "InstanceNorm2d",
        "flatten": "Flatten",
        "fold": "Unfold",
        "upsampling": "Upsample",
        "pixelshuffle": "PixelShuffle",
    }.items():
        module = importlib.import_module(f"{torch.__name__}.nn.modules.{path}")
        for name in names.split():
            found = getattr(module, name)
            rows.append((path, found.__name__, getattr(nn, name, found) is found))
    utils = nn.modules.utils
    rows += [utils._pair(3), utils._pair([1, 2]), utils._reverse_repeat_tuple((1, 2), 2)]
    rows += [utils._list_with_default([None, 3], [5, 6, 7]), nn.modules.Linear is nn.Linear]
    bn = nn.modules.batchnorm._BatchNorm
    rows += [isinstance(nn.BatchNorm2d(1), bn), isinstance(nn.InstanceNorm2d(1), bn)]
    return rows


MODULES: dict[str, Any] = {
    "transformer": lambda n: n.Transformer(8, 2, 1, 1, 16),
    "encoder": lambda n: n.TransformerEncoder(n.TransformerEncoderLayer(8, 2, 16), 2),
    "attention": lambda n: n.MultiheadAttention(8, 2, add_bias_kv=True, kdim=4),
    "lstm": lambda n: n.LSTM(3, 4, 2, bidirectional=True, proj_size=2),
    "gru": lambda n: n.GRU(3, 4, bias=False),
    "cells": lambda n: n.ModuleList([n.RNNCell(2, 3), n.GRUCell(2, 3), n.LSTMCell(2, 3)]),
    "norms": lambda n: n.ModuleList(
        [n.BatchNorm2d(3), n.LayerNorm(3), n.GroupNorm(1, 3), n.InstanceNorm1d(3, affine=True)]
    ),
    "spectral": lambda n: n.utils.spectral_norm(n.Linear(3, 4)),
    "parametrized": lambda n: n.utils.parametrizations.weight_norm(n.Conv1d(2, 3, 2)),
}


@pytest.mark.parametrize("name", MODULES)
def test_states_travel_both_ways(name: str) -> None:
    mine, theirs = MODULES[name](farspan.nn), MODULES[name](oracle.nn)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    ours, others = mine.state_dict()._metadata, theirs.state_dict()._metadata
    assert ours == others
    there = {k: oracle.tensor(v.numpy()) for k, v in mine.state_dict().items()}
    assert str(theirs.load_state_dict(there)) == "<All keys matched successfully>"
    back = {k: farspan.tensor(v.numpy() + 1) for k, v in theirs.state_dict().items()}
    assert str(mine.load_state_dict(back)) == "<All keys matched successfully>"
    for key, value in mine.state_dict().items():
        assert (value.numpy() == theirs.state_dict()[key].numpy() + 1).all()


@same
def test_the_smaller_namespaces(torch: Any) -> Any:
    nn = torch.nn
    x = torch.arange(32.0).reshape(1, 2, 4, 4).sin()
    w = torch.arange(16.0).reshape(2, 2, 2, 2).cos()
    g = torch.arange(18.0).reshape(1, 2, 3, 3)
    short = torch.arange(8.0).reshape(1, 2, 4)
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        attended = nn.functional.scaled_dot_product_attention(short, short, short)
    module = nn.modules.module
    return (
        nn.grad.conv2d_input(x.shape, w, g),
        nn.grad.conv2d_weight(x, w.shape, g),
        nn.grad.conv1d_input(short.shape, w[0], torch.ones(1, 2, 2), stride=2),
        nn.grad.conv1d_weight(short, (2, 2, 3), torch.ones(1, 2, 4), padding=1),
        attended,
        [int(getattr(nn.attention.SDPBackend, n)) for n in ("MATH", "CUDNN_ATTENTION", "ERROR")],
        failure(lambda: nn.attention.sdpa_kernel(3).__enter__()),
        module._addindent("a\nb\n\nc", 3),
        repr(module._IncompatibleKeys(["a"], [])),
        hasattr(nn.common_types, "_size_2_t"),
        nn.Module.dump_patches,
        nn.Module().call_super_init,
    )


@pytest.mark.skipif(not hasattr(farspan.nn, "Conv3d"), reason="needs the layers of three dims")
def test_lazy_modules_of_three_dimensions() -> None:
    @same
    def program(torch: Any) -> Any:
        nn = torch.nn
        torch.manual_seed(0)
        x = torch.arange(2 * 3 * 4 * 4 * 4).reshape(2, 3, 4, 4, 4).float().sin()
        rows = []
        for m in (
            nn.LazyConv3d(2, 2),
            nn.LazyConvTranspose3d(2, 2),
            nn.LazyBatchNorm3d(),
            nn.LazyInstanceNorm3d(),
        ):
            before = repr(m)
            rows.append([before, m(x).detach(), repr(m), list(m.state_dict())])
        conv = nn.utils.convert_conv3d_weight_memory_format(
            nn.Conv3d(3, 2, 2), torch.channels_last_3d
        )
        weight = conv.weight
        g = torch.ones(2, 2, 3, 3, 3)
        return (
            rows,
            conv.weight.stride(),
            conv(x),
            nn.grad.conv3d_input(x.shape, weight, g),
            nn.grad.conv3d_weight(x, weight.shape, g),
        )

    program()


def test_hooks_of_modules_on_two_devices(session: Any) -> None:
    log: list[Any] = []
    net = farspan.nn.Sequential(farspan.nn.Linear(2, 2), farspan.nn.LSTM(2, 3).to("cpu:1"))
    net[0].register_forward_hook(lambda mod, args, out: out.to("cpu:1"))
    net[0].register_full_backward_hook(lambda mod, gi, go: log.append((str(go[0].device), gi)))
    net[1].register_full_backward_pre_hook(lambda mod, go: (go[0] * 0, None))
    lengths = [3, 1]
    x = farspan.ones(2, 3, 2)
    out, _ = net(x)
    packed = farspan.nn.utils.rnn.pack_padded_sequence(out, lengths, batch_first=True)
    packed.data.sum().backward()
    assert log == [("cpu:1", (None,))]
    assert net[0].weight.grad is not None and not net[0].weight.grad.any()
    assert net[1].weight_hh_l0.grad is not None and str(packed.data.device) == "cpu:1"
