"""ATen schema lines: parsing, and the generated binders that turn a call into a command.

The line is torch's, verbatim (native_functions.yaml). From it follow the argument kinds, which
arguments are tensors, Python numbers or static, and what is written (`(a!)`) or aliased (`(a)`).
`core/op.py` reads this; `protos/generate.py` writes the binders into `core/_binders.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from .errors import BadValueError

#: Schema type -> kind. A kind is one letter, then `[]` for a list, then `?` if None is allowed.
_LETTERS: Final = {
    "Tensor": "T", "Scalar": "S", "float": "f", "int": "i", "SymInt": "i", "bool": "b", "str": "s",
    "ScalarType": "d", "Device": "D", "Layout": "L", "MemoryFormat": "M", "Generator": "G",
}  # fmt: skip
MISSING: Final = object()  # the default of an argument that has none


@dataclass(frozen=True, slots=True)
class Arg:
    """One argument of a schema."""

    name: str
    kind: str  # e.g. "T", "T?", "T[]", "T?[]", "S", "i[]", "i[]?", "d?"
    default: Any = MISSING
    keyword_only: bool = False
    written: bool = False  # marked (a!)
    size: int | None = None  # of a fixed-size list: one int may stand for all

    @property
    def is_tensor(self) -> bool:
        return self.kind[0] == "T"

    @property
    def is_number(self) -> bool:
        """Whether it travels in the column of scalars."""
        return self.kind[0] in "Sf"


@dataclass(frozen=True, slots=True)
class Schema:
    """A parsed schema line."""

    line: str
    namespace: str
    name: str  # with the overload: "add.Tensor"
    args: tuple[Arg, ...]
    returns: tuple[str, ...]  # kinds
    return_names: tuple[str, ...] = ()  # of several results, where torch names them

    @property
    def base(self) -> str:
        return self.name.partition(".")[0]

    @property
    def overload(self) -> str:
        return self.name.partition(".")[2] or "default"

    @property
    def identifier(self) -> str:
        """A Python identifier for the overload: ``add_Tensor``."""
        return self.name.replace(".", "_")


_LINE: Final = re.compile(r"(?:(\w+)::)?([\w.]+)\((.*)\) -> (.*)")
_TYPE: Final = re.compile(r"(\w+)(\([^)]*\))?(\?)?(?:\[(\d*)\](\?)?)?")


def parse(line: str) -> Schema:
    """Return the parsed schema. BadValueError if the line is not one."""
    match = _LINE.fullmatch(line.strip())
    if match is None:
        raise BadValueError(f"not a schema: {line!r}")
    namespace, name, inside, result = match.groups()
    args: list[Arg] = []
    keyword_only = False
    for text in _split(inside):
        if text == "*":
            keyword_only = True
            continue
        args.append(_parse_arg(text, keyword_only))
    returns = _split(result[1:-1]) if result.startswith("(") else [result]
    kinds = tuple(_parse_kind(_type_of(r))[0] for r in returns if r)
    names = tuple(r.rpartition(" ")[2] for r in returns if " " in r and r[-1] not in ")]")
    return Schema(line, namespace or "aten", name, tuple(args), kinds, names)


def _type_of(result: str) -> str:
    """Return the type of a result, which may have a name: ``Tensor(a!) values``."""
    return re.sub(r" (?=\w+$)\w+", "", result) if not result.endswith((")", "]")) else result


def _split(text: str) -> list[str]:
    """Split at commas outside of brackets and quotes."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "([") - (c in ")]")
        if c == "," and not depth:
            parts.append(text[start:i].strip())
            start = i + 1
    parts.append(text[start:].strip())
    return [p for p in parts if p]


def _parse_kind(text: str) -> tuple[str, bool, int | None]:
    match = _TYPE.fullmatch(text)
    if match is None or match[1] not in _LETTERS:
        raise BadValueError(f"not a schema type: {text!r}")
    letter, alias, inner, size, outer = match.groups()
    kind = _LETTERS[letter] + (inner or "")
    if size is not None:
        kind += "[]" + (outer or "")
    return kind, bool(alias and "!" in alias), int(size) if size else None


def _parse_arg(text: str, keyword_only: bool) -> Arg:
    head, equals, default = text.partition("=")  # a default may have spaces: [1, 1]
    declared, _, name = head.rpartition(" ")
    kind, written, size = _parse_kind(declared)
    value = _parse_default(default, kind) if equals else MISSING
    return Arg(name, kind, value, keyword_only, written, size)


def _parse_default(text: str, kind: str) -> Any:
    if kind[0] == "d":  # torch's own number of a type: what the op makes when none is asked for
        return None
    constants = {"None": None, "True": True, "False": False, "contiguous_format": 0, "Mean": 1}
    if text in constants:
        return constants[text]
    if text[0] in "'\"":
        return text[1:-1]
    if text[0] == "[":
        return tuple(_parse_default(p, kind[0]) for p in _split(text[1:-1]))
    number = float(text) if re.search(r"[.e]", text) else int(text)
    if "[]" in kind:
        return (number,)
    return float(number) if kind[0] == "f" else number


# ------------------------------------------------------------------------------------- binders --
# A binder takes the schema's arguments and returns (tensors, static, scalars): what travels as ids,
# what selects kernel and metadata rule, and the Python numbers. One line a schema, no loops for
# ops without lists, because every eager op pays for it.
_STATIC: Final = {
    "T?": "{0} is not None", "T[]": "len({0})", "T?[]": "tuple([x is not None for x in {0}])",
    "i": "c.integer({0})", "i?": "c.integer_or_none({0})", "b": "c.boolean({0})",
    "b?": "c.boolean_or_none({0})", "s": "c.string({0})", "s?": "c.string_or_none({0})",
    "d": "c.dtype({0})", "d?": "c.dtype_or_none({0})", "D": "c.device({0})",
    "D?": "c.device_or_none({0})", "L?": "c.layout({0})", "M": "c.memory_format({0})",
    "M?": "c.memory_format({0})", "G?": "c.generator({0})", "b[]": "tuple({0})",
    "i[]": "c.integers({0})", "i[]?": "c.integers_or_none({0})",
}  # fmt: skip


def binder_source(schema: Schema) -> str:
    """Return the source of the binder function of `schema`."""
    params: list[str] = []
    tensors: list[str] = []
    static: list[str] = []
    starred = False
    numbers = any(a.is_number for a in schema.args)
    column = "column" if any(a.name == "n" for a in schema.args) else "n"
    for a in schema.args:
        if a.keyword_only and not starred:
            params.append("*")
            starred = True
        name = _safe(a.name)
        default = "" if a.default is MISSING else f"={a.default!r}"
        params.append(name + default)
        if a.is_tensor:
            tensors.append(
                {"T": f"{name},", "T?": f"*(() if {name} is None else ({name},)),",
                 "T[]": f"*{name},"}.get(
                    a.kind, f"*[x for x in {name} if x is not None],"
                )
            )  # fmt: skip
        if a.kind == "T":
            continue
        if a.is_number:
            how = {"S": "scalar", "f": "number"}[a.kind[0]] + ("s" if "[]" in a.kind else "")
            given = "None" if a.default is MISSING else repr(a.default)
            static.append(f"c.{how}({name}, {given}, {column})")
        elif "[]" in a.kind and a.size and a.kind[0] == "i":
            static.append(f"c.integers({name}, {a.size})" if a.kind == "i[]"
                          else f"c.integers_or_none({name}, {a.size})")  # fmt: skip
        else:
            static.append(_STATIC[a.kind].format(name))
    head = f"def {schema.identifier}({', '.join(params)}):\n"
    packed_tensors = f"({' '.join(tensors)})"
    packed_static = f"({', '.join(static)},)" if static else "()"
    if numbers:
        return (
            f"{head}    {column} = []\n    s = {packed_static}\n"
            f"    return {packed_tensors}, s, tuple({column})\n"
        )
    return f"{head}    return {packed_tensors}, {packed_static}, ()\n"


def _safe(name: str) -> str:
    return name + "_" if name in ("from", "lambda", "def") else name
