"""nn.utils beside torch's: clipping, vectors, fusions, layouts; nn.init to the bit."""

from __future__ import annotations

import warnings
from typing import Any

import farspan
import pytest
import torch as oracle
from beside_torch import failure, leaf, same


def with_grads(t: Any, *values: list[float]) -> list[Any]:
    made = []
    for value in values:
        p = t.nn.Parameter(t.zeros(len(value)))
        p.grad = t.tensor(value)
        made.append(p)
    return made


@pytest.mark.parametrize("norm", [2.0, 1, 3.5, 0, float("inf"), -float("inf"), "inf"])
def test_gradients_are_clipped_by_any_norm(norm: Any) -> None:
    @same
    def program(torch: Any) -> Any:
        utils, rows = torch.nn.utils, []
        for limit in (0.5, 100.0):
            params = with_grads(torch, [1.0, -2.0, 3.0], [0.5])
            params.append(torch.nn.Parameter(torch.ones(2)))
            rows.append(utils.clip_grad_norm_(params, limit, norm))
            rows.append([p.grad for p in params])
        (one,) = with_grads(torch, [3.0, 4.0])
        rows.append(utils.clip_grad_norm_(one, 1.0, norm, foreach=False))
        rows.append(utils.get_total_norm([p.grad for p in params[:2]], norm))
        return rows

    program()


@same
def test_clipping_in_its_other_forms(torch: Any) -> Any:
    utils = torch.nn.utils
    params = with_grads(torch, [1.0, -2.0, 3.0], [0.5])
    utils.clip_grad_value_(params, 0.75)
    rows: list[Any] = [[p.grad for p in params]]
    utils.clip_grads_with_norm_(params, 1.0, torch.tensor(4.0))
    rows.append([p.grad for p in params])
    rows.append(utils.get_total_norm(params[0].grad))
    rows.append(utils.get_total_norm([]))
    (bad,) = with_grads(torch, [float("nan")])
    rows.append(
        failure(lambda: utils.clip_grad_norm_(bad, 1.0, error_if_nonfinite=True), "non-finite")
    )
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        rows.append(utils.clip_grad_norm(params, 0.1))
        rows.append(utils.clip_grad_norm_((p for p in ()), 0.1))
    return rows, [(w.category.__name__, str(w.message)) for w in seen]


@same
def test_parameters_as_a_vector_and_back(torch: Any) -> Any:
    utils = torch.nn.utils
    m = torch.nn.Linear(2, 3)
    vector = utils.parameters_to_vector(m.parameters())
    utils.vector_to_parameters(torch.arange(9.0), m.parameters())
    m(torch.ones(1, 2)).sum().backward()
    return (
        vector.shape,
        m.weight,
        m.bias,
        m.weight.grad,
        failure(lambda: utils.vector_to_parameters([1.0], m.parameters()), "expected torch.Tensor"),
    )


@same
def test_batch_norms_are_fused(torch: Any) -> Any:
    nn, utils, rows = torch.nn, torch.nn.utils, []
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 72).reshape(2, 4, 3, 3)
    for make, transpose, affine in (
        (nn.Conv2d, False, True),
        (nn.Conv2d, False, False),
        (nn.ConvTranspose2d, True, True),
    ):
        conv, bn = make(4, 2, 2, bias=affine), nn.BatchNorm2d(2, affine=affine)
        bn(conv(x))
        both = nn.Sequential(conv, bn).eval()
        fused = utils.fuse_conv_bn_eval(conv, bn, transpose)
        rows.append([both(x), fused(x), repr(fused), [p.requires_grad for p in fused.parameters()]])
    linear, bn1 = nn.Linear(4, 3), nn.BatchNorm1d(3)
    rows.append(failure(lambda: utils.fuse_linear_bn_eval(linear, bn1), "only for eval"))
    wide = nn.BatchNorm1d(2).eval()
    rows.append(failure(lambda: utils.fuse_linear_bn_eval(linear.eval(), wide), "num_features"))
    bn1(linear(torch.arange(8.0).reshape(2, 4)))
    rows.append(utils.fuse_linear_bn_eval(linear.eval(), bn1.eval())(torch.ones(1, 4)))
    w, b = torch.ones(3, 4), torch.ones(3)
    rows.append(list(utils.fuse_conv_bn_weights(w, None, b, b, 1e-5, None, None)))
    rows.append(list(utils.fuse_linear_bn_weights(w, None, b, b, 1e-5, b, b)))
    return rows


@same
def test_weights_change_their_layout(torch: Any) -> Any:
    utils, rows = torch.nn.utils, []
    m = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 2), torch.nn.ConvTranspose2d(3, 2, 2))
    before = [p.detach().clone() for p in m.parameters()]
    for layout in (torch.channels_last, torch.contiguous_format):
        rows.append(utils.convert_conv2d_weight_memory_format(m, layout) is m)
        rows.append([p.stride() for p in m.parameters()])
    rows.append([bool((a == b).all()) for a, b in zip(before, m.parameters(), strict=True)])
    return rows


@same
def test_modules_without_initialization(torch: Any) -> Any:
    torch.manual_seed(3)
    m = torch.nn.utils.skip_init(torch.nn.Linear, 3, 2, bias=False)
    skip = torch.nn.utils.skip_init
    return (
        m.weight.shape,
        m.weight.requires_grad,
        torch.rand(2),  # nothing was drawn
        failure(lambda: skip(torch.nn.ReLU), "must support a 'device' arg"),
        failure(lambda: skip(dict), "Expected a Module"),
    )


def test_pruning_says_that_it_is_not_here() -> None:
    from farspan.nn.utils import prune

    with pytest.raises(NotImplementedError, match="register_parametrization"):
        prune.l1_unstructured(farspan.nn.Linear(1, 1), "weight", 1)


def test_quantized_layers_say_that_they_are_not_here() -> None:
    with pytest.raises(AttributeError, match="quantization is not part"):
        _ = farspan.nn.quantized
    assert not hasattr(farspan.nn, "qat")


FILLS: dict[str, Any] = {
    "uniform_": lambda i, x: i.uniform_(x, -1, 2),
    "normal_": lambda i, x: i.normal_(x, 1.0, 0.5),
    "trunc_normal_": lambda i, x: i.trunc_normal_(x, 0.5, 1.0, -1, 1),
    "trunc_normal_ far": lambda i, x: i.trunc_normal_(x, 0.0, 1.0, 1.5, 2.0),
    "constant_": lambda i, x: i.constant_(x, 0.25),
    "ones_": lambda i, x: i.ones_(x),
    "zeros_": lambda i, x: i.zeros_(x),
    "eye_": lambda i, x: i.eye_(x),
    "xavier_uniform_": lambda i, x: i.xavier_uniform_(x, gain=2.0),
    "xavier_normal_": lambda i, x: i.xavier_normal_(x),
    "kaiming_uniform_": lambda i, x: i.kaiming_uniform_(x, mode="fan_out", nonlinearity="relu"),
    "kaiming_normal_": lambda i, x: i.kaiming_normal_(x, a=0.1),
    "sparse_": lambda i, x: i.sparse_(x, 0.4),
    "uniform": lambda i, x: i.uniform(x),
    "normal": lambda i, x: i.normal(x),
    "constant": lambda i, x: i.constant(x, 3),
    "eye": lambda i, x: i.eye(x),
    "xavier_uniform": lambda i, x: i.xavier_uniform(x),
    "xavier_normal": lambda i, x: i.xavier_normal(x),
    "kaiming_uniform": lambda i, x: i.kaiming_uniform(x),
    "kaiming_normal": lambda i, x: i.kaiming_normal(x),
    "sparse": lambda i, x: i.sparse(x, 0.2),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("name", FILLS)
def test_initializers_are_torchs_to_the_bit(name: str, dtype: str) -> None:
    if dtype == "bfloat16" and name.startswith("orthogonal"):
        pytest.skip("torch has no QR decomposition of bfloat16")
    results = []
    for lib in (oracle, farspan):
        lib.manual_seed(5)
        x = lib.empty(7, 5, dtype=getattr(lib, dtype))
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            out = FILLS[name](lib.nn.init, x)
        assert out is x
        results.append((x.double().tolist(), [(w.category, str(w.message)) for w in seen]))
    assert results[0] == results[1]


@same
def test_initializers_through_the_library(torch: Any) -> Any:
    init, rows = torch.nn.init, []
    for fill in (
        init.uniform_, init.normal_, init.trunc_normal_, init.ones_, init.zeros_, init.eye_,
        init.xavier_uniform_, init.xavier_normal_, init.kaiming_uniform_, init.kaiming_normal_,
        init.orthogonal_, init.uniform, init.normal, init.eye, init.xavier_uniform,
        init.xavier_normal, init.kaiming_uniform, init.kaiming_normal, init.orthogonal,
    ):  # fmt: skip
        torch.manual_seed(1)
        rows.append(fill(torch.empty(4, 6)))
        rows.append(fill(torch.empty(6, 4)))
    for filled in (init.constant_, init.constant, init.sparse_, init.sparse):
        torch.manual_seed(1)
        rows.append(filled(torch.empty(5, 4), 0.5))
    for dirac in (init.dirac_, init.dirac):
        rows += [dirac(torch.empty(4, 2, 3)), dirac(torch.empty(4, 2, 3, 3), 2)]
        rows.append(dirac(torch.empty(2, 3, 1, 2, 3)))
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(9)
    for fill in (
        init.uniform_, init.normal_, init.trunc_normal_, init.xavier_uniform_,
        init.xavier_normal_, init.kaiming_uniform_, init.kaiming_normal_, init.orthogonal_,
    ):  # fmt: skip
        rows.append(fill(torch.empty(3, 4), generator=generator))
    rows.append(init.sparse_(torch.empty(3, 4), 0.5, generator=generator))
    rows.append(init.orthogonal_(torch.empty(3, 2, 2), gain=2.0))
    return rows


@same
def test_gains_fans_and_refusals(torch: Any) -> Any:
    init = torch.nn.init
    names = "linear conv1d conv_transpose3d sigmoid tanh relu selu leaky_relu".split()
    x = torch.empty(2, 0)
    return (
        [init.calculate_gain(n) for n in names],
        init.calculate_gain("leaky_relu", 0.3),
        failure(lambda: init.calculate_gain("nothing"), "Unsupported nonlinearity"),
        failure(lambda: init.calculate_gain("leaky_relu", "x"), "not a valid number"),
        init._calculate_fan_in_and_fan_out(torch.empty(2, 3, 4)),
        init._calculate_correct_fan(torch.empty(2, 3, 4), "fan_out"),
        failure(lambda: init.xavier_uniform_(torch.empty(3)), "fewer than 2 dimensions"),
        failure(lambda: init.kaiming_normal_(torch.empty(3, 3), mode="x"), "not supported"),
        failure(lambda: init.eye_(torch.empty(3)), "2 dimensions"),
        failure(lambda: init.dirac_(torch.empty(3)), "3, 4, or 5"),
        failure(lambda: init.dirac_(torch.empty(3, 1, 1), 2), "divisible by groups"),
        failure(lambda: init.orthogonal_(torch.empty(3)), "2 or more"),
        failure(lambda: init.sparse_(torch.empty(3), 0.5), "2 dimensions"),
        init.kaiming_uniform_(x).shape,
        leaf(torch, 2).requires_grad,
        init.ones_(leaf(torch, 2)).requires_grad,
    )
