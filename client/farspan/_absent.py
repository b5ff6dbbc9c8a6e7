"""Names of torch's sparse tensors and of dtypes that farspan has not, for programs that compare.

``x.dtype == torch.uint16`` and ``x.layout == torch.sparse_coo`` are False; making such a tensor
raises UnsupportedError. Nothing in the package looks here before a program names one.
"""

from __future__ import annotations

from typing import Any

from ._creation import layout
from .core.call import unsupported
from .core.dtype import COMPLEX_KIND, FLOAT_KIND, INT_KIND, DType

_SIZES = {
    INT_KIND: {
        "qint8": 1, "quint8": 1, "qint32": 4, "quint4x2": 1, "quint2x4": 1,
        **{f"{sign}int{n}": 1 for sign in ("", "u") for n in range(1, 8)},
    },
    FLOAT_KIND: {
        f"float{kind}": 1
        for kind in ("8_e4m3fn", "8_e4m3fnuz", "8_e5m2", "8_e5m2fnuz", "8_e8m0fnu", "4_e2m1fn_x2")
    },
    COMPLEX_KIND: {"complex32": 4},
}  # fmt: skip
_C_NAMES = {"complex32": "ComplexHalf"}  # of the others: the name with a capital letter
_ABSENT = -1  # the code of types that no tensor has
_LAYOUTS = ("sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc", "jagged")

NAMES: dict[str, Any] = {
    name: DType(_ABSENT, name, kind, size, _C_NAMES.get(name, name.capitalize()))
    for kind, sizes in _SIZES.items()
    for name, size in sizes.items()
}
NAMES["chalf"] = NAMES["complex32"]
NAMES |= {name: layout(name) for name in _LAYOUTS}
NAMES |= {
    f"sparse_{kind}_tensor": unsupported(
        f"sparse_{kind}_tensor", "farspan has no sparse tensors; its tensors are strided"
    )
    for kind in ("coo", "csr", "csc", "bsr", "bsc", "compressed")
}
for _name in ("PyTorchFileReader", "PyTorchFileWriter"):
    NAMES[_name] = unsupported(_name, "files are read by torch.load and written by torch.save")
