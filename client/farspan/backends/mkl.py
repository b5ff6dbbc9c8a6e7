"""torch.backends.mkl: workers multiply with OpenBLAS."""


def is_available() -> bool:
    """Return False."""
    return False
