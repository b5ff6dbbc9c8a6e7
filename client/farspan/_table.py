"""Where the op table's functions and methods stand for type checkers and editors.

The stub beside this file, `_table.pyi`, is generated from the table and lists them with their
signatures. At run time they are made at first use: see `_methods.bind_methods` and `core/call.py`.
"""


class TableMethods:
    """Methods of Tensor that come from the table."""
