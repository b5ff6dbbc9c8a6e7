"""torch.utils._foreach_utils: grouping lists of tensors, for optimizers of other libraries."""

from __future__ import annotations

from typing import Any


def _get_foreach_kernels_supported_devices() -> list[str]:
    """Return the kinds of devices on which ``torch._foreach_*`` take whole lists at once: none."""
    return []


def _get_fused_kernels_supported_devices() -> list[str]:
    """Return the kinds of devices with fused optimizers, as torch's."""
    return ["cuda", "xpu", "hpu", "mps", "mtia", "cpu"]


def _device_has_foreach_support(device: Any) -> bool:
    """Return False: a list is taken one by one."""
    return False


def _group_tensors_by_device_and_dtype(
    tensorlistlist: list[list[Any]], with_indices: bool = False
) -> dict[tuple[Any, Any], tuple[list[list[Any]], list[int]]]:
    """Return, for each device and dtype in the first list, the tensors of all lists, and where.

    Entries of the other lists stand beside those of the first; None is one. The places are given
    if asked for.
    """
    groups: dict[tuple[Any, Any], tuple[list[list[Any]], list[int]]] = {}
    for i, row in enumerate(zip(*[x for x in tensorlistlist if x], strict=True)):
        key = (row[0].device, row[0].dtype)
        lists, places = groups.setdefault(key, ([[] for _ in tensorlistlist], []))
        entries = iter(row)
        for found, column in zip(lists, tensorlistlist, strict=True):
            if column:
                found.append(next(entries))
        if with_indices:
            places.append(i)
    return groups
