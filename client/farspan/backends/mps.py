"""torch.backends.mps: Apple's GPUs are no devices of farspan."""


def is_available() -> bool:
    """Return False."""
    return False


def is_built() -> bool:
    """Return False."""
    return False


def is_macos_or_newer(major: int, minor: int) -> bool:
    """Return False: no worker runs on macOS."""
    return False
