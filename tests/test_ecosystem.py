"""Other libraries work on farspan's tensors: scikit-learn, SciPy, array-api-compat, einops.

Each finds them by the array API standard, or by einops' own list of backends; none is patched.
What they return is compared with what they return for numpy's arrays.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import farspan
import farspan.array_api as xp
import numpy as np
import pytest

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(40, 5)), RNG.normal(size=(40, 5))
V = RNG.uniform(0.1, 0.9, 50)


def close(ours: Any, theirs: Any, tolerance: float = 1e-9) -> None:
    if isinstance(theirs, (tuple, list)):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            close(a, b, tolerance)
    else:
        np.testing.assert_allclose(np.asarray(ours), theirs, rtol=tolerance, atol=tolerance / 100)


# --------------------------------------------------------------------------------- scikit-learn --
@pytest.fixture
def sklearn(session: Any) -> Iterator[Any]:
    sklearn = pytest.importorskip("sklearn")
    with sklearn.config_context(array_api_dispatch=True):
        yield sklearn


@pytest.fixture(params=["tensor", "array"])
def make(request: Any) -> Any:
    """Return a way to bring values into the session: as a plain tensor, and as an array."""
    kind = {"tensor": farspan.tensor, "array": xp.asarray}[request.param]
    return lambda values: kind(np.array(values))


def test_linear_discriminant_analysis_of_iris(sklearn: Any, make: Any) -> None:
    from sklearn.datasets import load_iris
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    x, y = load_iris(return_X_y=True)
    theirs = LinearDiscriminantAnalysis().fit(x, y)
    ours = LinearDiscriminantAnalysis().fit(make(x), make(y))
    assert isinstance(ours.coef_, farspan.Tensor)
    close(ours.transform(make(x)), theirs.transform(x))
    close(ours.predict(make(x)), theirs.predict(x))
    close(ours.predict_proba(make(x)), theirs.predict_proba(x))


@pytest.mark.parametrize("solver", ["full", "covariance_eigh"])
def test_principal_components_of_digits(sklearn: Any, make: Any, solver: str) -> None:
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    x = load_digits().data[:600]
    theirs = PCA(8, svd_solver=solver).fit(x)
    ours = PCA(8, svd_solver=solver).fit(make(x))
    assert isinstance(ours.components_, farspan.Tensor)
    close(ours.explained_variance_, theirs.explained_variance_)
    close(ours.transform(make(x)), theirs.transform(x), 1e-7)
    close(ours.inverse_transform(ours.transform(make(x))),
          theirs.inverse_transform(theirs.transform(x)), 1e-7)  # fmt: skip


def test_preprocessing_ridge_and_metrics(sklearn: Any, make: Any) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.metrics import accuracy_score, mean_squared_error, r2_score
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    for scaler in (StandardScaler, MinMaxScaler):
        ours = scaler().fit_transform(make(A))
        assert isinstance(ours, farspan.Tensor)
        close(ours, scaler().fit_transform(A))
    target = A @ np.arange(5.0) + B[:, 0]
    close(Ridge(solver="svd").fit(make(A), make(target)).coef_,
          Ridge(solver="svd").fit(A, target).coef_)  # fmt: skip
    labels = make(np.array([0, 1, 1, 0]))
    assert accuracy_score(labels, make(np.array([0, 1, 0, 0]))) == 0.75
    assert mean_squared_error(make(A), make(B)) == pytest.approx(mean_squared_error(A, B))
    assert r2_score(make(A), make(B)) == pytest.approx(r2_score(A, B))


# ---------------------------------------------------------------------------------------- SciPy --
SCIPY = """
special: expit(V) logit(V) gammaln(V) erf(V) ndtr(V) i0(V) xlogy(V,V) entr(V) rel_entr(V,V)
special: logsumexp(A,axis=0) softmax(A,axis=1) log_softmax(A,axis=1) betainc(V,V,V) gamma(V)
fft: fft(A,axis=0) rfft(V) fftn(A) irfft(fft(V)) dct(V) fftshift(A) hfft(V) fht(V,0.1,0.5)
stats: zscore(A) skew(A) kurtosis(A) moment(A,3) variation(A) sem(A) gmean(A*A) hmean(A*A)
stats: entropy(V) ttest_ind(A,B).pvalue ttest_1samp(A,0.).statistic pearsonr(A,B,axis=0).statistic
stats: normaltest(A).pvalue jarque_bera(A,axis=0).pvalue bartlett(A,B,axis=0).pvalue rankdata(V)
stats: circmean(V) boxcox_llf(0.5,V) quantile(V,0.3) f_oneway(A,B).pvalue mannwhitneyu(A,B).pvalue
signal: fftconvolve(V,V) hilbert(V) detrend(A,axis=0) resample(V,25)
cluster.vq: whiten(A) vq(A,B)[0] vq(A,B)[1]
integrate: trapezoid(V) cumulative_trapezoid(V)
spatial.transform: Rotation.from_rotvec(A[:,:3]).as_matrix()
ndimage: gaussian_filter(A,1.0)
"""


def scipy_results() -> None:
    """Compare every expression of the table; runs in a process of its own, in which SciPy obeys."""
    import importlib

    session = farspan.connect(os.environ["ADDRESS"], token=os.environ.get("TOKEN"))
    ours = {n: xp.asarray(v.copy()) for n, v in {"A": A, "B": B, "V": V}.items()}
    theirs = {"A": A, "B": B, "V": V}
    warnings.simplefilter("ignore")
    for line in SCIPY.strip().splitlines():
        module, _, expressions = line.partition(": ")
        names = vars(importlib.import_module(f"scipy.{module}"))
        for expression in expressions.split(" "):
            found = eval(expression, dict(names), ours)
            assert type(found) is xp.Array, (expression, type(found))
            close(found, eval(expression, dict(names), theirs))
    session.close()


@pytest.mark.parametrize("kind", ["local", "grpc"])
def test_scipy_computes_with_arrays(kind: str, request: Any) -> None:
    pytest.importorskip("scipy")
    environment = dict(os.environ, SCIPY_ARRAY_API="1", ADDRESS="local:")
    if kind == "grpc":
        environment["ADDRESS"], environment["TOKEN"] = request.getfixturevalue("service")
    code = "import test_ecosystem; test_ecosystem.scipy_results()"
    here = os.path.dirname(__file__)
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=here, check=True, timeout=120)


# ----------------------------------------------------------------------------- array-api-compat --
@pytest.mark.usefixtures("session")
def test_array_api_compat_knows_arrays_by_the_standard_alone() -> None:
    compat = pytest.importorskip("sklearn.externals.array_api_compat")
    for x in (farspan.ones(2, 3), xp.ones((2, 3)), farspan.nn.Parameter(farspan.ones(2, 3))):
        assert compat.is_array_api_obj(x)
        assert compat.array_namespace(x, x) is xp
        assert compat.device(x) is x.device and compat.size(x) == 6
        assert compat.to_device(x, "cpu").device is x.device
    assert compat.is_array_api_strict_namespace(xp) is False and compat.is_numpy_array(x) is False


# --------------------------------------------------------------------------------------- einops --
@pytest.fixture
def einops(session: Any) -> Any:
    return pytest.importorskip("einops")


def test_einops_on_tensors(einops: Any, make: Any) -> None:
    a = np.arange(24.0).reshape(2, 3, 4)
    x = make(a)
    close(einops.rearrange(x, "a b c -> c (a b)"), einops.rearrange(a, "a b c -> c (a b)"))
    for how in ("min", "max", "sum", "mean", "prod"):
        close(einops.reduce(x, "a b c -> b", how), einops.reduce(a, "a b c -> b", how))
    for how in ("any", "all"):
        close(einops.reduce(x > 3, "a b c -> a c", how), einops.reduce(a > 3, "a b c -> a c", how))
    repeated = "a b c -> a (b r) c"
    close(einops.repeat(x, repeated, r=3), einops.repeat(a, repeated, r=3))
    sums = "a b c, d b c -> a d"
    close(einops.einsum(x, x, sums), einops.einsum(a, a, sums))
    packed, shapes = einops.pack([x, x[:, 0]], "a * c")
    close(packed, einops.pack([a, a[:, 0]], "a * c")[0])
    close(einops.unpack(packed, shapes, "a * c")[1], a[:, 0])
    close(einops.rearrange([x[0], x[1]], "b h w -> h (b w)"),
          einops.rearrange([a[0], a[1]], "b h w -> h (b w)"))  # fmt: skip
    assert einops.parse_shape(x, "a _ c") == {"a": 2, "c": 4}
    close(einops.asnumpy(x), a)
    with pytest.raises(einops.EinopsError):
        einops.rearrange(x, "a b -> b a")


def test_gradients_flow_through_einops(einops: Any) -> None:
    x = farspan.ones(2, 3, 4, requires_grad=True)
    y = einops.reduce(einops.rearrange(x, "a b c -> (a c) b") ** 2, "n b -> b", "mean")
    y.sum().backward()
    assert x.grad is not None
    close(x.grad, np.full((2, 3, 4), 2 / 8, "float32"), 1e-6)


@pytest.mark.parametrize(
    "imports",
    [
        "import farspan, einops",
        "import einops, farspan",
        "import farspan; farspan.ones(1); import einops",
    ],
)
def test_einops_may_be_imported_before_or_after(imports: str) -> None:
    pytest.importorskip("einops")
    code = f"{imports}\nassert einops.rearrange(farspan.ones(2, 3), 'a b -> b a').shape == (3, 2)"
    code += "\nimport sys\nassert not any('farspan' in type(f).__module__ for f in sys.meta_path)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
