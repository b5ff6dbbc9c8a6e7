"""Fast kernels of CPU workers: oneDNN where its library is there, and compiled optimizer steps.

Each module has a function `register(registry)`. Read onednn.py for the library, conv.py first of
the rest.
"""

from __future__ import annotations

from .. import Registry


def overrides() -> tuple[Registry, str]:
    """Return the kernels this machine can run, and why those of oneDNN are missing ("" if not)."""
    from . import onednn

    found: Registry = {}
    missing = onednn.available()
    if not missing:
        from . import conv, norm, optim, pointwise, pool, product, softmax

        for module in (conv, norm, optim, pointwise, pool, product, softmax):
            module.register(found)
    from .loops import rows, steps

    rows.register(found)
    steps.register(found)
    return found, missing
