"""farspan.func: transforms of functions - vmap, grad, vjp, jvp, Jacobians, functional modules."""

from ._vmap import vmap

__all__ = ["vmap"]
