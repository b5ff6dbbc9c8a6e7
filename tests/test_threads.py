"""How many threads a primitive gets follows from its sizes, and nobody else's number changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from farspan_worker import kernels

pytestmark = pytest.mark.skipif(bool(kernels.missing()), reason="oneDNN is not installed")

_SAY = """
import json
import numpy as np
from farspan_worker.kernels.cpu import onednn, product
assert not onednn.available()
most = onednn.lib().max_threads
rng = np.random.default_rng(0)
said = {"threads": most(), "right": []}
for n in (8, 64, 700):
    a, b = rng.standard_normal((2, n, n), np.float32)
    said["right"].append(bool(np.allclose(product.multiply(a, b), a @ b, 1e-3, 1e-3)))
    x = onednn.plain((n, n))
    said[str(n)] = onednn.Kind("matmul", x, x, None, x).alone
try:
    with onednn._Alone(True):
        inside = most()
        raise KeyError
except KeyError:
    said["inside"], said["after"] = inside, most()
print(json.dumps(said))
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_small_primitives_run_on_the_calling_thread(threads: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SAY], env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        text=True, capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    said = json.loads(done.stdout)
    assert all(said["right"])
    assert said["threads"] == said["after"] == threads
    assert said["inside"] == 1
    assert [said["8"], said["64"], said["700"]] == [threads > 1, threads > 1, False]
