"""Modules: the same seed gives torch's weights, outputs, gradients, reprs and messages."""

from __future__ import annotations

import copy
from typing import Any

import farspan as ft
import pytest
import torch
from parity import assert_same, error_of, randn, seeded, to_ft, to_torch

LAYERS: dict[str, Any] = {
    "linear": (lambda t: t.nn.Linear(6, 4), (5, 6)),
    "linear without bias": (lambda t: t.nn.Linear(6, 4, bias=False), (2, 5, 6)),
    "linear 3d": (lambda t: t.nn.Linear(6, 4), (2, 5, 6)),
    "linear 1d": (lambda t: t.nn.Linear(6, 4), (6,)),
    "linear double": (lambda t: t.nn.Linear(6, 4, dtype=t.float64), (5, 6)),
    "identity": (lambda t: t.nn.Identity(3, some="thing"), (2, 3)),
    "flatten": (lambda t: t.nn.Flatten(), (2, 3, 4)),
    "unflatten": (lambda t: t.nn.Unflatten(1, (2, 3)), (2, 6, 4)),
    "conv1d": (lambda t: t.nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9)),
    "conv2d": (lambda t: t.nn.Conv2d(3, 5, (3, 2), padding=(1, 2), dilation=2), (2, 3, 9, 8)),
    "conv2d same": (lambda t: t.nn.Conv2d(3, 4, 4, padding="same"), (2, 3, 7, 7)),
    "conv2d unbatched": (lambda t: t.nn.Conv2d(3, 4, 3, bias=False), (3, 7, 7)),
    "conv2d reflect": (
        lambda t: t.nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
        (1, 2, 5, 5),
    ),
    "conv2d circular": (
        lambda t: t.nn.Conv2d(2, 3, 3, padding=2, padding_mode="circular"),
        (1, 2, 5, 5),
    ),
    "batchnorm1d": (lambda t: t.nn.BatchNorm1d(4), (6, 4)),
    "batchnorm1d 3d": (lambda t: t.nn.BatchNorm1d(4, affine=False), (3, 4, 5)),
    "batchnorm2d": (lambda t: t.nn.BatchNorm2d(3), (4, 3, 5, 5)),
    "batchnorm2d cumulative": (lambda t: t.nn.BatchNorm2d(3, momentum=None), (4, 3, 5, 5)),
    "batchnorm2d untracked": (
        lambda t: t.nn.BatchNorm2d(3, track_running_stats=False),
        (4, 3, 5, 5),
    ),
    "layernorm": (lambda t: t.nn.LayerNorm(6), (3, 5, 6)),
    "layernorm 2d": (lambda t: t.nn.LayerNorm((5, 6), bias=False), (3, 5, 6)),
    "groupnorm": (lambda t: t.nn.GroupNorm(2, 6), (3, 6, 4)),
    "rmsnorm": (lambda t: t.nn.RMSNorm(6), (3, 6)),
    "maxpool1d": (lambda t: t.nn.MaxPool1d(3, stride=2), (2, 3, 9)),
    "maxpool2d": (lambda t: t.nn.MaxPool2d(3, 2, padding=1), (2, 3, 9, 8)),
    "maxpool2d ceil": (lambda t: t.nn.MaxPool2d((2, 3), ceil_mode=True), (2, 3, 9, 8)),
    "avgpool1d": (lambda t: t.nn.AvgPool1d(3, padding=1), (2, 3, 9)),
    "avgpool2d": (lambda t: t.nn.AvgPool2d(2, count_include_pad=False, padding=1), (2, 3, 8, 8)),
    "adaptiveavgpool1d": (lambda t: t.nn.AdaptiveAvgPool1d(4), (2, 3, 9)),
    "adaptiveavgpool2d": (lambda t: t.nn.AdaptiveAvgPool2d((3, None)), (2, 3, 9, 8)),
    "adaptivemaxpool1d": (lambda t: t.nn.AdaptiveMaxPool1d(4), (2, 3, 9)),
    "adaptivemaxpool2d": (lambda t: t.nn.AdaptiveMaxPool2d(3), (2, 3, 9, 8)),
    "relu": (lambda t: t.nn.ReLU(), (3, 4)),
    "relu6": (lambda t: t.nn.ReLU6(), (3, 4)),
    "elu": (lambda t: t.nn.ELU(1.5), (3, 4)),
    "celu": (lambda t: t.nn.CELU(1.5), (3, 4)),
    "selu": (lambda t: t.nn.SELU(), (3, 4)),
    "gelu": (lambda t: t.nn.GELU(), (3, 4)),
    "gelu tanh": (lambda t: t.nn.GELU(approximate="tanh"), (3, 4)),
    "silu": (lambda t: t.nn.SiLU(), (3, 4)),
    "mish": (lambda t: t.nn.Mish(), (3, 4)),
    "hardtanh": (lambda t: t.nn.Hardtanh(-0.5, 0.7), (3, 4)),
    "hardsigmoid": (lambda t: t.nn.Hardsigmoid(), (3, 4)),
    "hardswish": (lambda t: t.nn.Hardswish(), (3, 4)),
    "hardshrink": (lambda t: t.nn.Hardshrink(), (3, 4)),
    "softshrink": (lambda t: t.nn.Softshrink(0.3), (3, 4)),
    "leakyrelu": (lambda t: t.nn.LeakyReLU(0.2), (3, 4)),
    "prelu": (lambda t: t.nn.PReLU(4), (3, 4)),
    "sigmoid": (lambda t: t.nn.Sigmoid(), (3, 4)),
    "tanh": (lambda t: t.nn.Tanh(), (3, 4)),
    "logsigmoid": (lambda t: t.nn.LogSigmoid(), (3, 4)),
    "softplus": (lambda t: t.nn.Softplus(2.0, 10.0), (3, 4)),
    "softsign": (lambda t: t.nn.Softsign(), (3, 4)),
    "tanhshrink": (lambda t: t.nn.Tanhshrink(), (3, 4)),
    "threshold": (lambda t: t.nn.Threshold(0.1, 20), (3, 4)),
    "glu": (lambda t: t.nn.GLU(), (3, 4)),
    "softmax": (lambda t: t.nn.Softmax(dim=1), (3, 4)),
    "softmin": (lambda t: t.nn.Softmin(dim=0), (3, 4)),
    "log_softmax": (lambda t: t.nn.LogSoftmax(dim=-1), (3, 4)),
    "softmax2d": (lambda t: t.nn.Softmax2d(), (2, 3, 4, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_layer_equals_torch(name: str, training: bool) -> None:
    build, shape = LAYERS[name]
    mine, theirs = seeded(build)
    assert repr(mine) == repr(theirs)
    assert_same(mine.state_dict(), theirs.state_dict())
    dtype = torch.float64 if "double" in name else torch.float32
    x = randn(*shape, dtype=dtype).requires_grad_()
    y = to_ft(x)
    outputs = [module.train(training)(value) for module, value in ((mine, y), (theirs, x))]
    assert_same(outputs[0], outputs[1])
    weights = randn(*outputs[1].shape, seed=1, dtype=dtype)
    (outputs[0] * to_ft(weights)).sum().backward()
    (outputs[1] * weights).sum().backward()
    assert_same(y.grad, x.grad)
    for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert_same(one.grad, other.grad, rtol=1e-4, atol=1e-5)
    assert_same(mine.state_dict(), theirs.state_dict())  # running statistics


@pytest.mark.parametrize("cls", ["ReLU", "ReLU6", "ELU", "SiLU", "Hardtanh", "LeakyReLU", "Mish"])
def test_inplace_activation_equals_torch(cls: str) -> None:
    grads = []
    for api in (ft, torch):
        x = randn(3, 4) if api is torch else to_ft(randn(3, 4))
        x.requires_grad_()
        y = x * 2
        getattr(api.nn, cls)(inplace=True)(y)
        y.sum().backward()
        grads.append((y.detach(), x.grad))
    assert_same(grads[0], grads[1])


def test_bilinear_and_embedding_equal_torch() -> None:
    mine, theirs = seeded(lambda t: t.nn.Bilinear(3, 4, 5))
    a, b = randn(2, 6, 3), randn(2, 6, 4, seed=1)
    assert_same(mine(to_ft(a), to_ft(b)), theirs(a, b))
    mine, theirs = seeded(lambda t: t.nn.Embedding(10, 4, padding_idx=-2))
    assert repr(mine) == repr(theirs)
    index = torch.tensor([[1, 8, 3], [8, 1, 1]])
    one, other = mine(to_ft(index)), theirs(index)
    assert_same(one, other)
    (one * one).sum().backward()
    (other * other).sum().backward()
    assert_same(mine.weight.grad, theirs.weight.grad)


def test_embedding_max_norm_rescales_the_rows_it_reads() -> None:
    mine, theirs = seeded(lambda t: t.nn.Embedding(10, 4, max_norm=1.0))
    index = torch.tensor([1, 3, 1])
    assert_same(mine(to_ft(index)), theirs(index))
    assert_same(mine.weight, theirs.weight)


@pytest.mark.parametrize("cls", ["Dropout", "Dropout1d", "Dropout2d", "AlphaDropout"])
def test_dropout_draws_torchs_mask(cls: str) -> None:
    shape = {"Dropout1d": (3, 8, 5), "Dropout2d": (3, 8, 5, 5)}.get(cls, (7, 9))
    x = randn(*shape)
    mine, theirs = seeded(lambda t: getattr(t.nn, cls)(0.4)(x if t is torch else to_ft(x)))
    assert_same(mine, theirs)
    assert repr(getattr(ft.nn, cls)(0.4)) == repr(getattr(torch.nn, cls)(0.4))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_first": True},
        {"bias": False},
        {"add_bias_kv": True, "add_zero_attn": True},
        {"kdim": 6, "vdim": 10},
    ],
    ids=str,
)
@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention_equals_torch(options: dict[str, Any], need_weights: bool) -> None:
    mine, theirs = seeded(lambda t: t.nn.MultiheadAttention(8, 2, **options))
    assert repr(mine) == repr(theirs)
    assert_same(mine.state_dict(), theirs.state_dict())
    q, k, v = (
        randn(5, 5, 8),
        randn(5, 5, options.get("kdim", 8)),
        randn(5, 5, options.get("vdim", 8)),
    )
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
    padding = torch.zeros(5, 5, dtype=torch.bool)
    padding[1, 3:] = True
    results = []
    for module, move in ((mine, to_ft), (theirs, lambda x: x)):
        out, weights = module(
            move(q),
            move(k),
            move(v),
            key_padding_mask=move(padding),
            attn_mask=move(hidden),
            need_weights=need_weights,
        )
        out.sum().backward()
        results.append([out, weights, [p.grad for p in module.parameters()]])
    assert_same(results[0], results[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm_first", [True, False])
def test_transformer_encoder_equals_torch(norm_first: bool) -> None:
    def build(t: Any) -> Any:
        layer = t.nn.TransformerEncoderLayer(
            8, 2, 16, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first
        )
        return t.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    mine, theirs = seeded(build)
    assert repr(mine) == repr(theirs)
    x = randn(3, 5, 8)
    assert_same(mine(to_ft(x)), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm_first", [True, False])
def test_transformer_equals_torch(norm_first: bool) -> None:
    mine, theirs = seeded(lambda t: t.nn.Transformer(8, 2, 1, 2, 16, 0.0, norm_first=norm_first))
    assert repr(mine) == repr(theirs)
    assert_same(mine.state_dict(), theirs.state_dict())
    src, tgt = randn(4, 3, 8), randn(5, 3, 8)
    results = []
    for api, module in ((ft, mine), (torch, theirs)):
        mask = api.nn.Transformer.generate_square_subsequent_mask(5)
        x, y = to_ft([src, tgt]) if api is ft else [src, tgt]
        results.append(module(x, y, tgt_mask=mask))
    assert_same(results[0], results[1], rtol=1e-4, atol=1e-5)


INITS: dict[str, Any] = {
    "uniform_": ((-1, 2), (5, 6)),
    "normal_": ((1, 2), (5, 6)),
    "constant_": ((3,), (5, 6)),
    "ones_": ((), (5, 6)),
    "zeros_": ((), (5, 6)),
    "eye_": ((), (5, 6)),
    "dirac_": ((2,), (4, 3, 3, 3)),
    "xavier_uniform_": ((2.0,), (5, 6, 3)),
    "xavier_normal_": ((), (5, 6)),
    "kaiming_uniform_": ((0.1, "fan_out"), (5, 6)),
    "kaiming_normal_": ((0, "fan_in", "relu"), (5, 6)),
    "trunc_normal_": ((0, 1, -1, 1), (50, 6)),
    "trunc_normal_ tail": ((0, 1, 1.5, 2), (50, 6)),
    "orthogonal_": ((2.0,), (4, 6)),
    "sparse_": ((0.3,), (10, 4)),
}


@pytest.mark.parametrize("name", INITS)
def test_initializer_draws_torchs_values(name: str) -> None:
    args, shape = INITS[name]
    mine, theirs = seeded(lambda t: getattr(t.nn.init, name.split()[0])(t.empty(shape), *args))
    assert_same(mine, theirs)


def test_gain_and_fans() -> None:
    for name in ("linear", "conv2d", "sigmoid", "tanh", "relu", "selu", "leaky_relu"):
        assert ft.nn.init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    with pytest.raises(ValueError, match="Unsupported nonlinearity"):
        ft.nn.init.calculate_gain("other")
    with pytest.raises(ValueError, match="fewer than 2 dimensions"):
        ft.nn.init.xavier_uniform_(ft.empty(3))


# ---- the module tree -----------------------------------------------------------------------


def _net(t: Any) -> Any:
    class Net(t.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = t.nn.Sequential(
                t.nn.Linear(4, 8), t.nn.BatchNorm1d(8), t.nn.ReLU(), t.nn.Linear(8, 3)
            )
            self.scale = t.nn.Parameter(t.ones(3))
            self.register_buffer("offset", t.zeros(3))
            self.register_buffer("cache", t.zeros(2), persistent=False)
            self.heads = t.nn.ModuleList([t.nn.Linear(3, 3) for _ in range(3)])
            self.named = t.nn.ModuleDict({"a": t.nn.Tanh(), "b": t.nn.Linear(3, 1)})

        def forward(self, x: Any) -> Any:
            x = self.body(x) * self.scale + self.offset
            for head in self.heads:
                x = head(x)
            return self.named["b"](self.named["a"](x))

    return Net()


def test_module_tree_names_and_repr_equal_torch() -> None:
    mine, theirs = seeded(_net)
    assert repr(mine) == repr(theirs)
    for walk in ("named_parameters", "named_buffers", "named_modules", "named_children"):
        assert [n for n, _ in getattr(mine, walk)()] == [n for n, _ in getattr(theirs, walk)()]
    assert list(mine.state_dict()) == list(theirs.state_dict())
    assert_same(mine.state_dict(), theirs.state_dict())
    x = randn(5, 4)
    assert_same(mine(to_ft(x)), theirs(x))


def test_state_dict_travels_both_ways() -> None:
    mine, _ = seeded(_net, seed=1)
    _, theirs = seeded(_net, seed=2)
    mine.load_state_dict(to_ft(theirs.state_dict()))
    assert_same(mine.state_dict(), theirs.state_dict())
    mine, _ = seeded(_net, seed=3)
    theirs.load_state_dict(to_torch(mine.state_dict()))
    assert_same(mine.state_dict(), theirs.state_dict())


@pytest.mark.parametrize(
    "change",
    [
        lambda state, zeros: state.pop("scale"),
        lambda state, zeros: state.update({"other.x": zeros(2), "scalee": zeros(1)}),
        lambda state, zeros: state.update({"scale": zeros(4)}),
        lambda state, zeros: state.update({"heads.0.weight": "text"}),
        lambda state, zeros: (state.pop("body.0.bias"), state.update({"body.9.x": zeros(1)})),
    ],
)
def test_load_state_dict_reports_as_torch_does(change: Any) -> None:
    messages = []
    for module, api in zip(seeded(_net), (ft, torch), strict=True):
        state = dict(module.state_dict())
        change(state, api.zeros)
        error = error_of(lambda module=module, state=state: module.load_state_dict(state))
        assert type(error) is RuntimeError
        messages.append(str(error))
        keys = error_of(lambda module=module: module.load_state_dict([1]))
        assert isinstance(keys, TypeError)
    assert messages[0] == messages[1]


def test_load_state_dict_without_strict_returns_what_did_not_match() -> None:
    mine, theirs = seeded(_net)
    results = []
    for module, api in ((mine, ft), (theirs, torch)):
        state = dict(module.state_dict())
        del state["scale"]
        state["extra"] = api.zeros(1)
        results.append(repr(module.load_state_dict(state, strict=False)))
        assert (
            repr(module.load_state_dict(module.state_dict())) == "<All keys matched successfully>"
        )
    assert results[0] == results[1]


def test_members_are_found_by_path_as_in_torch() -> None:
    mine, theirs = seeded(_net)
    assert repr(mine.get_submodule("heads.1")) == repr(theirs.get_submodule("heads.1"))
    assert mine.get_parameter("body.0.weight") is mine.body[0].weight
    assert mine.get_buffer("body.1.running_mean") is mine.body[1].running_mean
    for call in (
        lambda m: m.get_submodule("heads.7"),
        lambda m: m.get_submodule("scale"),
        lambda m: m.get_parameter("offset"),
        lambda m: m.get_buffer("scale"),
    ):
        errors = [error_of(lambda m=m, call=call: call(m)) for m in (mine, theirs)]
        assert type(errors[0]) is type(errors[1]) and str(errors[0]) == str(errors[1])


def test_extra_state_is_saved_and_loaded() -> None:
    class Counting(ft.nn.Module):
        count = 0

        def get_extra_state(self) -> dict[str, int]:
            return {"count": self.count}

        def set_extra_state(self, state: dict[str, int]) -> None:
            self.count = state["count"]

    module = ft.nn.Sequential(Counting())
    module[0].count = 3
    twin = ft.nn.Sequential(Counting())
    twin.load_state_dict(module.state_dict())
    assert twin[0].count == 3 and list(module.state_dict()) == ["0._extra_state"]
    with pytest.raises(RuntimeError, match=r'Missing key.*"0._extra_state"'):
        twin.load_state_dict({})


def test_setattr_follows_torch() -> None:
    for api in (ft, torch):
        module = api.nn.Linear(2, 2)
        with pytest.raises(TypeError, match="as parameter 'weight'"):
            module.weight = api.zeros(2, 2)
        module.bias = None
        assert module.bias is None and "bias" in module._parameters
        module.child = api.nn.ReLU()
        with pytest.raises(TypeError, match="as child module 'child'"):
            module.child = 3
        module.child = api.nn.Parameter(api.zeros(1))
        assert "child" not in module._modules and "child" in module._parameters
        module.register_buffer("state", api.zeros(1))
        module.state = api.ones(2)
        assert "state" in module._buffers and list(module.state.shape) == [2]
        with pytest.raises(TypeError, match="as buffer 'state'"):
            module.state = 3
        module.other = api.nn.Buffer(api.zeros(1), persistent=False)
        assert "other" in dict(module.named_buffers()) and "other" not in module.state_dict()
        del module.state
        assert not hasattr(module, "state")
        with pytest.raises(AttributeError, match="object has no attribute 'nothing'"):
            _ = module.nothing
        with pytest.raises(KeyError, match="already exists"):
            module.register_parameter("forward", None)
        with pytest.raises(KeyError, match="t contain"):
            module.add_module("a.b", api.nn.ReLU())


def test_assignment_before_init_is_an_error() -> None:
    class Early(ft.nn.Module):
        def __init__(self) -> None:
            self.weight = ft.nn.Parameter(ft.zeros(1))

    with pytest.raises(AttributeError, match=r"cannot assign parameters before Module.__init__"):
        Early()


def test_forward_is_required() -> None:
    class Empty(ft.nn.Module):
        pass

    with pytest.raises(NotImplementedError, match='missing the required "forward" function'):
        Empty()(1)


def test_hooks_see_and_replace() -> None:
    module, seen = ft.nn.Linear(2, 2), []
    first = module.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    second = module.register_forward_hook(lambda m, args, out: seen.append(out) or out + 1)
    x = ft.ones(1, 2)
    expected = module.forward(x * 2) + 1
    assert_same(module(x), to_torch(expected))
    first.remove()
    second.remove()
    assert_same(module(x), to_torch(module.forward(x)))
    assert len(seen) == 1
    with module.register_forward_hook(lambda m, a, kw, out: kw, with_kwargs=True):
        assert module(input=x).keys() == {"input"}
    called = []
    module.register_forward_hook(lambda m, a, out: called.append(1), always_call=True)
    with pytest.raises(RuntimeError):
        module(ft.ones(1, 5))
    assert called == [1]


def test_train_eval_apply_and_requires_grad() -> None:
    module = ft.nn.Sequential(ft.nn.Linear(2, 2), ft.nn.Dropout())
    assert not module.eval()[1].training and module.train()[1].training
    visited: list[str] = []
    module.apply(lambda m: visited.append(type(m).__name__))
    assert visited == ["Linear", "Dropout", "Sequential"]
    module.requires_grad_(False)
    assert not any(p.requires_grad for p in module.parameters())


def test_dtype_moves_keep_parameters_and_leave_integers() -> None:
    module = ft.nn.BatchNorm1d(3)
    weight = module.weight
    module.double()
    assert module.weight is weight and weight.dtype == ft.float64 and weight.requires_grad
    assert module.num_batches_tracked.dtype == ft.int64
    assert module.to("cpu", ft.float32).running_mean.dtype == ft.float32
    assert module.to(ft.zeros(1, dtype=ft.float64)).weight.dtype == ft.float64
    with pytest.raises(TypeError, match="only accepts floating point"):
        module.to(ft.int64)


def test_zero_grad_and_deepcopy_are_independent() -> None:
    module = ft.nn.Linear(2, 2)
    twin = copy.deepcopy(module)
    module(ft.ones(1, 2)).sum().backward()
    assert module.weight.grad is not None and twin.weight.grad is None
    assert type(twin.weight) is ft.nn.Parameter and twin.weight is not module.weight
    with ft.no_grad():
        twin.weight.zero_()
    assert float(module.weight.abs().sum()) > 0
    module.zero_grad(set_to_none=False)
    assert float(module.weight.grad.abs().sum()) == 0
    module.zero_grad()
    assert module.weight.grad is None


def test_shared_modules_are_listed_once() -> None:
    shared = ft.nn.Linear(2, 2)
    module = ft.nn.Sequential(shared, ft.nn.ReLU(), shared)
    assert len(list(module.parameters())) == 2
    assert len(list(module.named_parameters(remove_duplicate=False))) == 4
    assert list(module.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_parameter_is_a_leaf_that_shares_storage() -> None:
    data = ft.zeros(3)
    param = ft.nn.Parameter(data)
    assert isinstance(param, ft.Tensor) and param.is_leaf and param.requires_grad
    assert not ft.nn.Parameter(ft.zeros(2, dtype=ft.int64), requires_grad=False).requires_grad
    with ft.no_grad():
        param.add_(1)
    assert data.tolist() == [1, 1, 1]
    assert type(param * 2) is ft.Tensor
    assert repr(param) == repr(torch.nn.Parameter(torch.ones(3)))


def test_containers_follow_torch() -> None:
    def build(t: Any) -> list[Any]:
        seq = t.nn.Sequential(t.nn.Linear(2, 2), t.nn.ReLU(), t.nn.Linear(2, 2))
        seq.insert(1, t.nn.Tanh())
        seq.append(t.nn.ELU())
        del seq[0]
        more = [t.nn.ReLU(), t.nn.Tanh()]
        items = t.nn.ModuleList([t.nn.ReLU()]).extend(more[:1]) + t.nn.ModuleList(more[1:])
        items.insert(0, t.nn.ReLU())
        params = t.nn.ParameterList([t.zeros(2), t.nn.Parameter(t.ones(3)), "text"])
        named = t.nn.ModuleDict([("x", t.nn.ReLU())])
        named.update({"y": t.nn.Tanh()})
        return [seq, seq[1:], seq * 2, items, items[1:], params, named, t.nn.ModuleList()]

    mine, theirs = seeded(build)
    assert [repr(m) for m in mine] == [repr(t) for t in theirs]
    assert [list(m.state_dict()) for m in mine] == [list(t.state_dict()) for t in theirs]
    for api in (ft, torch):
        with pytest.raises(IndexError, match="index 5 is out of range"):
            api.nn.Sequential(api.nn.ReLU())[5]
        params = api.nn.ParameterDict({"b": api.zeros(1), "a": api.ones(2)})
        assert list(params.keys()) == ["a", "b"] and "a" in params
        assert isinstance(params["a"], api.nn.Parameter) and len(list(params.parameters())) == 2
        assert len(params.pop("a")) == 2 and list(params) == ["b"]


def test_clip_grad_norm_equals_torch() -> None:
    results = []
    for module, api in zip(seeded(_net), (ft, torch), strict=True):
        x = randn(5, 4)
        (module(to_ft(x) if api is ft else x) ** 2).sum().backward()
        total = api.nn.utils.clip_grad_norm_(module.parameters(), 0.5)
        after = api.nn.utils.get_total_norm([p.grad for p in module.parameters()])
        api.nn.utils.clip_grad_value_(module.parameters(), 0.05)
        vector = api.nn.utils.parameters_to_vector(p.grad for p in module.parameters())
        results.append([total, after, vector])
    assert_same(results[0], results[1], rtol=1e-4, atol=1e-5)
