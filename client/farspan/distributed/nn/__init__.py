"""torch.distributed.nn: its collectives under their names, so that libraries import."""

from .functional import *  # noqa: F403
from .functional import __all__ as __all__
