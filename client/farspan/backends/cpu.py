"""torch.backends.cpu: what the processor of a worker can do is the worker's to know."""


def get_cpu_capability() -> str:
    """Return "DEFAULT": the client computes nothing."""
    return "DEFAULT"
