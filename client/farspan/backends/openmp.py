"""torch.backends.openmp: the client has no threads of it."""


def is_available() -> bool:
    """Return False."""
    return False
