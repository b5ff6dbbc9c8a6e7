"""`torch` in processes that `farspan run` and its children start: farspan under that name.

Another interpreter that inherits PYTHONPATH, but has no farspan, gets its own torch.
"""

import importlib
import sys
from pathlib import Path

try:
    from farspan._as_torch import install
except ModuleNotFoundError:
    shim = Path(__file__).parents[1]
    sys.path[:] = [folder for folder in sys.path if Path(folder) != shim]
    del sys.modules["torch"]
    importlib.import_module("torch")
else:
    install()
