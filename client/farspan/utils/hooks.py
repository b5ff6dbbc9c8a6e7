"""RemovableHandle: what every ``register_…_hook`` returns."""

from __future__ import annotations

import copy
import itertools
import weakref
from collections.abc import MutableMapping
from typing import Any

__all__ = ["RemovableHandle"]

_ids = itertools.count()


class RemovableHandle:
    """A registration that ``remove()`` (or leaving a ``with`` block) takes back.

    tables: the dictionaries that hold the hook or a flag of it under ``handle.id``. They are
    referenced weakly, so a handle never keeps a module alive; removing twice does nothing.
    """

    def __init__(self, *tables: MutableMapping[int, Any]) -> None:
        self.id = next(_ids)
        self._tables = [weakref.ref(table) for table in tables]

    @property
    def hooks_dict_ref(self) -> Any:
        """The weak reference to the dictionary of the hook."""
        return self._tables[0]

    @property
    def extra_dict_ref(self) -> tuple[Any, ...]:
        """The weak references to the dictionaries of its flags."""
        return tuple(self._tables[1:])

    def remove(self) -> None:
        for reference in self._tables:
            table = reference()
            if table is not None:
                table.pop(self.id, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> RemovableHandle:
        """Return the handle of the copied registration, in the copies of the tables."""
        tables = [
            table for table in (reference() for reference in self._tables) if table is not None
        ]
        copied = RemovableHandle(*(copy.deepcopy(table, memo) for table in tables))
        copied.id = self.id
        return copied

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()
