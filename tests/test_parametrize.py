"""nn.utils.parametrize, the parametrizations and the older weight and spectral norms."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
from beside_torch import failure, same


def symmetric(t: Any) -> Any:
    class Symmetric(t.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return x.triu() + x.triu(1).mT

        def right_inverse(self, x: Any) -> Any:
            return x.triu()

    return Symmetric()


def plain(t: Any, function: Any) -> Any:
    class Plain(t.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, *x: Any) -> Any:
            return function(*x)

    return Plain()


@same
def test_a_parametrized_weight_is_computed_and_assigned(torch: Any) -> Any:
    P = torch.nn.utils.parametrize
    torch.manual_seed(0)
    m = torch.nn.Linear(3, 3)
    before = m.weight
    P.register_parametrization(m, "weight", symmetric(torch))
    P.register_parametrization(m, "weight", plain(torch, lambda x: 2 * x))
    rows = [
        repr(m),
        type(m).__name__,
        list(m.state_dict()),
        m.parametrizations.weight.original is before,
        P.is_parametrized(m),
        P.is_parametrized(m, "bias"),
        P.is_parametrized(m, "weight"),
        P.type_before_parametrizations(m).__name__,
        m.weight.detach(),
        isinstance(m.parametrizations.weight, P.ParametrizationList),
        len(m.parametrizations.weight),
        failure(lambda: setattr(m, "weight", torch.ones(3, 3)), "does not implement right_inverse"),
    ]
    m(torch.ones(2, 3)).sum().backward()
    rows.append(m.parametrizations.weight.original.grad)
    twin = copy.deepcopy(m)
    with torch.no_grad():
        before.zero_()
    rows += [
        twin.weight.detach(),
        m.weight.detach(),
        m(torch.ones(1, 3)).detach() - m.bias.detach(),
    ]
    with P.cached():
        a, b = m.weight, m.weight
        rows.append(a is b)
    rows.append(m.weight is m.weight)
    P.remove_parametrizations(m, "weight", leave_parametrized=False)
    third = P.register_parametrization(torch.nn.Linear(3, 3), "weight", symmetric(torch))
    P.remove_parametrizations(third, "weight")
    rows += [
        third.weight.detach(),
        isinstance(third.weight, torch.nn.Parameter),
        repr(m),
        m.weight is before,
        list(m.state_dict()),
        failure(lambda: P.remove_parametrizations(m, "weight"), "does not have a parametrization"),
    ]
    return rows


@same
def test_assignment_goes_through_the_right_inverse(torch: Any) -> Any:
    P = torch.nn.utils.parametrize
    m = torch.nn.Linear(3, 3)
    P.register_parametrization(m, "weight", symmetric(torch))
    with torch.no_grad():
        m.weight = torch.arange(9.0).reshape(3, 3)
    m.register_buffer("b", torch.ones(2))
    P.register_parametrization(m, "b", plain(torch, torch.exp))
    return (
        m.weight.detach(),
        m.parametrizations.weight.original.detach(),
        m.b,
        list(m.state_dict()),
        str(m.load_state_dict(m.state_dict())),
        failure(lambda: m.__getstate__(), "only supported through state_dict"),
    )


@same
def test_several_originals(torch: Any) -> Any:
    P = torch.nn.utils.parametrize

    class RankOne(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any, y: Any) -> Any:
            return x.unsqueeze(-1) @ y.unsqueeze(-2)

        def right_inverse(self, z: Any) -> Any:
            return z[:, 0].clone(), (z[0] / z[0, 0]).clone()

    torch.manual_seed(0)
    m, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    P.register_parametrization(m, "weight", RankOne())
    P.transfer_parametrizations_and_params(m, other)
    m(torch.ones(1, 2)).sum().backward()
    with torch.no_grad():
        m.weight = torch.tensor([[2.0, 4.0], [1.0, 2.0], [3.0, 6.0]])
    held = m.parametrizations.weight
    return (
        m.weight.detach(),
        held.original0.detach(),
        held.original1.grad,
        isinstance(held.original0, torch.nn.Parameter),
        list(m.state_dict()),
        other.parametrizations.weight.original0 is held.original0,
        failure(lambda: P.remove_parametrizations(m, "weight", False), "Cannot leave unparam"),
        type(P.remove_parametrizations(m, "weight").weight).__name__,
    )


@same
def test_registration_checks_shapes_and_dtypes(torch: Any) -> Any:
    P = torch.nn.utils.parametrize

    def attempt(function: Any, name: str = "weight", twice: bool = False, **kwargs: Any) -> Any:
        m = torch.nn.Linear(2, 3)
        if twice:
            P.register_parametrization(m, "weight", plain(torch, lambda x: x))
        try:
            P.register_parametrization(m, name, plain(torch, function), **kwargs)
        except Exception as e:
            return f"{type(e).__name__}: {e}"
        return m.weight.shape

    rows = [
        attempt(function, twice=twice)
        for function in (lambda x: x.mT, lambda x: x.double(), lambda x: 3)
        for twice in (False, True)
    ]
    rows.append(attempt(lambda x: x.mT, unsafe=True))
    rows.append(attempt(lambda x: x, name="nothing"))
    return rows, failure(lambda: P.ParametrizationList([], torch.ones(1)), "one or more")


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5), (2, 4, 3)])
@pytest.mark.parametrize("kind", ["matrix_exp", "cayley", "householder", None])
def test_orthogonal_parametrizations(kind: str | None, shape: tuple[int, ...]) -> None:
    @same
    def program(torch: Any) -> Any:
        torch.manual_seed(0)
        m = torch.nn.Module()
        m.weight = torch.nn.Parameter(torch.randn(*shape))
        torch.nn.utils.parametrizations.orthogonal(m, "weight", kind)
        held = m.parametrizations.weight
        with torch.no_grad():
            held.original += 0.3 * torch.linspace(-1, 1, m.weight.numel()).reshape(shape).tril(-1)
        (m.weight * torch.linspace(0, 1, m.weight.numel()).reshape(shape)).sum().backward()
        return repr(m), m.weight.detach(), held.original.grad, list(m.state_dict())

    program()


@same
def test_orthogonal_without_trivialization_and_its_errors(torch: Any) -> Any:
    Z = torch.nn.utils.parametrizations
    torch.manual_seed(0)
    m = Z.orthogonal(torch.nn.Linear(4, 4), orthogonal_map="cayley", use_trivialization=False)
    return (
        m.weight.detach(),
        failure(lambda: setattr(m, "weight", torch.eye(4)), "not possible to assign"),
        failure(lambda: Z.orthogonal(torch.nn.Linear(4, 4), "bias"), "Expected a matrix"),
        failure(lambda: Z.orthogonal(torch.nn.Linear(4, 4), "zz"), "no parameter or buffer"),
        failure(lambda: Z.orthogonal(torch.nn.Linear(4, 4), orthogonal_map="x"), "has to be one"),
    )


@pytest.mark.parametrize("dim", [0, 1, -1, None])
def test_weight_norm_in_both_forms(dim: int | None) -> None:
    @same
    def program(torch: Any) -> Any:
        torch.manual_seed(0)
        x = torch.linspace(-1, 1, 24).reshape(2, 3, 4)
        new = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(3, 2, 2), dim=dim)
        old = torch.nn.utils.weight_norm(torch.nn.Conv1d(3, 2, 2), dim=dim)
        rows = [repr(new), repr(old), list(new.state_dict()), list(old.state_dict())]
        for m in (new, old):
            m(x).pow(2).sum().backward()
            rows.append([[p, p.grad] for p in m.parameters()])
        rows.append(str(new.load_state_dict(old.state_dict())))
        rows += [new(x), failure(lambda: torch.nn.utils.weight_norm(old), "Cannot register two")]
        torch.nn.utils.remove_weight_norm(old)
        torch.nn.utils.parametrize.remove_parametrizations(new, "weight")
        rows += [old(x), new(x), list(old.state_dict()), list(new.state_dict())]
        rows.append(failure(lambda: torch.nn.utils.remove_weight_norm(old), "not found in"))
        return rows

    program()


@same
def test_spectral_norm_in_both_forms(torch: Any) -> Any:
    torch.manual_seed(0)
    nn, utils, Z = torch.nn, torch.nn.utils, torch.nn.utils.parametrizations
    x = torch.linspace(-1, 1, 48).reshape(2, 3, 8)
    rows: list[Any] = []
    for make in (Z.spectral_norm, utils.spectral_norm):
        for layer in (nn.Conv1d(3, 4, 3), nn.ConvTranspose1d(3, 4, 3)):
            m = make(layer, n_power_iterations=2)
            for _ in range(2):
                m(x).pow(2).sum().backward()
            rows.append([repr(m), list(m.state_dict()), m.state_dict(), m.bias.grad])
            rows[-1][2] = list(rows[-1][2].values())
            m.eval()
            rows.append(m(x).detach())
            if make is Z.spectral_norm:
                utils.parametrize.remove_parametrizations(m, "weight")
            else:
                utils.remove_spectral_norm(m)
            rows += [m(x).detach(), list(m.state_dict())]
    vector = nn.Module()
    vector.weight = nn.Parameter(torch.arange(3.0))
    rows.append(Z.spectral_norm(vector).weight.detach())
    linear = utils.spectral_norm(nn.Linear(2, 2))
    rows += [
        failure(lambda: utils.spectral_norm(linear), "Cannot register two"),
        failure(lambda: utils.remove_spectral_norm(nn.Linear(1, 1)), "not found in"),
        failure(lambda: Z.spectral_norm(nn.Linear(1, 1), dim=5), "Dimension out of range"),
        failure(lambda: Z.spectral_norm(nn.Linear(1, 1), n_power_iterations=0), "positive"),
        linear.state_dict()._metadata[""],
    ]
    return rows


@same
def test_parametrized_recurrent_weights(torch: Any) -> Any:
    torch.manual_seed(0)
    m = torch.nn.GRU(3, 4)
    torch.nn.utils.parametrizations.weight_norm(m, "weight_hh_l0")
    out, _ = m(torch.ones(2, 1, 3))
    out.sum().backward()
    return out, [p.grad for p in m.parameters()], list(m.state_dict())


@same
def test_functional_call_puts_everything_back(torch: Any) -> Any:
    stateless = torch.nn.utils.stateless
    torch.manual_seed(0)
    m = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    x = torch.arange(6.0).reshape(3, 2)
    given = {"0.weight": torch.ones(2, 2), "1.running_mean": torch.ones(2)}
    given["0.weight"].requires_grad_()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        out = stateless.functional_call(m, given, x)
    out.pow(2).sum().backward()
    tied = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
    tied[1].weight = tied[0].weight

    class Both(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.parts = tied

        def forward(self, x: Any, scale: float = 1.0) -> Any:
            return self.parts[1](self.parts[0](x)) * scale

    both = Both()
    one = {"parts.0.weight": torch.ones(2, 2)}
    two = {**one, "parts.1.weight": torch.zeros(2, 2)}

    def call(names: Any, **kwargs: Any) -> Any:
        return stateless.functional_call(both, names, (x,), {"scale": 2.0}, **kwargs)

    return (
        out,
        given["0.weight"].grad,
        given["1.running_mean"],
        m[0].weight,
        m[1].running_mean,
        [w.category.__name__ for w in seen],
        call(one),
        call(two, tie_weights=False),
        failure(lambda: call(two), "multiple values for keys"),
        failure(lambda: call(one, strict=True), "Missing key(s)"),
        failure(lambda: call({"zz": x}, strict=True), "Unexpected key(s)"),
        call({"parts.0.zz": x}),
        hasattr(tied[0], "zz"),
        both.parts[0].weight is tied[0].weight,
    )
