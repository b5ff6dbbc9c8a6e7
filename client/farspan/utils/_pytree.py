"""Trees of containers: flatten lists, tuples, dicts and registered classes to leaves, and back.

The interface is torch.utils._pytree's, which libraries use. A class is made a container by
`register_pytree_node`; everything that is none is a leaf. Nothing here knows tensors.
"""

from __future__ import annotations

import functools
import json
from collections import OrderedDict, defaultdict, deque
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ._pytree_parts import (
    GetAttrKey,
    MappingKey,
    NodeDef,
    SequenceKey,
    Text,
    is_namedtuple,
    is_namedtuple_class,
    is_namedtuple_instance,
    is_structseq,
    is_structseq_class,
    is_structseq_instance,
    key_get,
    keystr,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = [
    "Context", "LeafSpec", "PyTree", "PyTreeSpec", "TreeSpec", "is_namedtuple",
    "is_namedtuple_class", "is_namedtuple_instance", "is_structseq", "is_structseq_class",
    "is_structseq_instance", "key_get", "keystr", "register_pytree_node", "tree_all",
    "tree_all_only", "tree_any", "tree_any_only", "tree_flatten", "tree_flatten_with_path",
    "tree_is_leaf", "tree_iter", "tree_leaves", "tree_leaves_with_path", "tree_map", "tree_map_",
    "tree_map_only", "tree_map_only_", "tree_map_with_path", "tree_structure", "tree_unflatten",
    "treespec_dumps", "treespec_loads", "treespec_pprint",
]  # fmt: skip  # fmt: skip

PyTree = Any
Context = Any


# ------------------------------------------------------------------------------------ registry --
SUPPORTED_NODES: dict[Any, NodeDef] = {}
_texts: dict[Any, Text] = {}


def register_pytree_node(
    cls: type,
    flatten_fn: Callable[[Any], tuple[Any, Context]],
    unflatten_fn: Callable[[Any, Context], Any],
    *,
    serialized_type_name: str | None = None,
    to_dumpable_context: Callable[[Context], Any] | None = None,
    from_dumpable_context: Callable[[Any], Context] | None = None,
    flatten_with_keys_fn: Callable[[Any], tuple[list[tuple[Any, Any]], Context]] | None = None,
) -> None:
    """Make `cls` a container. flatten_fn returns (children, context); unflatten_fn takes them."""
    if cls in SUPPORTED_NODES:
        raise ValueError(f"{cls} is already registered as pytree node.")
    if (to_dumpable_context is None) != (from_dumpable_context is None):
        raise ValueError(
            f"Both to_dumpable_context and from_dumpable_context for {cls} must be None or "
            "registered."
        )
    SUPPORTED_NODES[cls] = NodeDef(cls, flatten_fn, unflatten_fn, flatten_with_keys_fn)
    _texts[cls] = Text(serialized_type_name, to_dumpable_context, from_dumpable_context)


_private_register_pytree_node = _register_pytree_node = register_pytree_node


def _deregister_pytree_node(cls: type) -> None:
    del SUPPORTED_NODES[cls], _texts[cls]


def register_dataclass(
    cls: type, *, field_names: list[str] | None = None, drop_field_names: list[str] | None = None,
    serialized_type_name: str | None = None,
) -> None:  # fmt: skip
    """Make a dataclass a container of its fields."""
    dropped = set(drop_field_names or ())
    names = field_names or [f.name for f in fields(cls) if f.init and f.name not in dropped]  # type: ignore[arg-type]

    def flatten(x: Any) -> tuple[list[Any], Context]:
        present = [n for n in names if getattr(x, n) is not None]
        missing = [n for n in names if getattr(x, n) is None]
        return [getattr(x, n) for n in present], [present, missing]

    def unflatten(children: Any, context: Context) -> Any:
        present, missing = context
        return cls(**dict(zip(present, children, strict=True)), **dict.fromkeys(missing))

    def with_keys(x: Any) -> tuple[list[tuple[Any, Any]], Context]:
        children, context = flatten(x)
        keys = map(GetAttrKey, context[0])
        return list(zip(keys, children, strict=True)), context

    register_pytree_node(cls, flatten, unflatten, serialized_type_name=serialized_type_name,
                         flatten_with_keys_fn=with_keys)  # fmt: skip


def _register_namedtuple(cls: Any, *, serialized_type_name: str) -> None:
    """Let a class of named tuples be written as text, under this name."""
    register_pytree_node(
        cls, lambda x: (list(x), cls), lambda xs, _: cls(*xs),
        serialized_type_name=serialized_type_name, to_dumpable_context=lambda _: "null",
        from_dumpable_context=lambda _: cls,
        flatten_with_keys_fn=lambda x: ([(GetAttrKey(n), getattr(x, n)) for n in x._fields], cls),
    )  # fmt: skip


def register_constant(cls: type) -> None:
    """Let values of `cls` be part of the structure: no leaves, compared by ``==``."""
    register_pytree_node(cls, lambda x: ([], x), lambda _, x: x,
                         flatten_with_keys_fn=lambda x: ([], x))  # fmt: skip


def _indexed(items: Iterable[Any]) -> list[tuple[Any, Any]]:
    return [(SequenceKey(i), x) for i, x in enumerate(items)]


def _keyed(mapping: Any) -> list[tuple[Any, Any]]:
    return [(MappingKey(k), v) for k, v in mapping.items()]


def _pairs(keys: Any, values: Any) -> Any:
    return zip(keys, values, strict=True)


def _register_builtins() -> None:
    from collections import namedtuple

    def named_fields(x: Any) -> tuple[list[tuple[Any, Any]], Context]:
        return [(GetAttrKey(n), getattr(x, n)) for n in x._fields], type(x)

    register = register_pytree_node
    register(tuple, lambda x: (list(x), None), lambda xs, _: tuple(xs),
             serialized_type_name="builtins.tuple",
             flatten_with_keys_fn=lambda x: (_indexed(x), None))  # fmt: skip
    register(list, lambda x: (x, None), lambda xs, _: list(xs),
             serialized_type_name="builtins.list",
             flatten_with_keys_fn=lambda x: (_indexed(x), None))  # fmt: skip
    register(dict, lambda x: (list(x.values()), list(x)), lambda xs, keys: dict(_pairs(keys, xs)),
             serialized_type_name="builtins.dict",
             flatten_with_keys_fn=lambda x: (_keyed(x), list(x)))  # fmt: skip
    register(OrderedDict, lambda x: (list(x.values()), list(x)),
             lambda xs, keys: OrderedDict(_pairs(keys, xs)),
             serialized_type_name="collections.OrderedDict",
             flatten_with_keys_fn=lambda x: (_keyed(x), list(x)))  # fmt: skip
    register(defaultdict, lambda x: (list(x.values()), [x.default_factory, list(x)]),
             lambda xs, c: defaultdict(c[0], _pairs(c[1], xs)),
             flatten_with_keys_fn=lambda x: (_keyed(x), [x.default_factory, list(x)]))  # fmt: skip
    register(deque, lambda x: (list(x), x.maxlen), lambda xs, n: deque(xs, maxlen=n),
             serialized_type_name="collections.deque",
             flatten_with_keys_fn=lambda x: (_indexed(x), x.maxlen))  # fmt: skip
    register(namedtuple, lambda x: (list(x), type(x)), lambda xs, cls: cls(*xs),  # type: ignore[arg-type]
             flatten_with_keys_fn=named_fields)  # fmt: skip


_register_builtins()
# By these names libraries make their own mappings containers.
_list_flatten, _list_unflatten, _list_flatten_with_keys = SUPPORTED_NODES[list][1:4]
_tuple_flatten, _tuple_unflatten, _tuple_flatten_with_keys = SUPPORTED_NODES[tuple][1:4]
_dict_flatten, _dict_unflatten, _dict_flatten_with_keys = SUPPORTED_NODES[dict][1:4]
_MAPPINGS = (dict, OrderedDict, defaultdict)
BUILTIN_TYPES = frozenset(SUPPORTED_NODES)


def _get_node_type(tree: Any) -> Any:
    cls = type(tree)
    if cls in SUPPORTED_NODES or not is_namedtuple_class(cls):
        return cls
    from collections import namedtuple

    return namedtuple


def _is_leaf(tree: PyTree, is_leaf: Callable[[PyTree], bool] | None = None) -> bool:
    return tree_is_leaf(tree, is_leaf)


def tree_is_leaf(tree: PyTree, is_leaf: Callable[[PyTree], bool] | None = None) -> bool:
    """Return whether the tree is one leaf."""
    if is_leaf is not None and is_leaf(tree):
        return True
    return _get_node_type(tree) not in SUPPORTED_NODES


# ----------------------------------------------------------------------------------- structure --
class TreeSpec:
    """The structure of a tree: what remains when the leaves are taken out."""

    __slots__ = ("_children", "_context", "num_children", "num_leaves", "num_nodes", "type")

    def __init__(self, type: Any, context: Context, children_specs: list[TreeSpec]) -> None:
        self.type = type
        self._context = context
        self._children = children_specs
        self.num_nodes = 1 + sum(c.num_nodes for c in children_specs)
        self.num_leaves = 1 if type is None else sum(c.num_leaves for c in children_specs)
        self.num_children = len(children_specs)

    @property
    def context(self) -> Context:
        return self._context

    @property
    def children_specs(self) -> list[TreeSpec]:
        return self._children

    def is_leaf(self) -> bool:
        return self.type is None

    def children(self) -> list[TreeSpec]:
        return self._children.copy()

    def child(self, index: int) -> TreeSpec:
        return self._children[index]

    def unflatten(self, leaves: Iterable[Any]) -> PyTree:
        """Return the tree of this structure with these leaves. ValueError if their count is off."""
        leaves = list(leaves)
        if len(leaves) != self.num_leaves:
            raise ValueError(
                f"treespec.unflatten(leaves): `leaves` has length {len(leaves)} but the spec "
                f"refers to a pytree that holds {self.num_leaves} items ({self})."
            )
        return self._build(iter(leaves))

    def _build(self, leaves: Iterator[Any]) -> PyTree:
        if self.type is None:
            return next(leaves)
        children = [child._build(leaves) for child in self._children]
        return SUPPORTED_NODES[self.type].unflatten_fn(children, self._context)

    def flatten_up_to(self, tree: PyTree) -> list[PyTree]:
        """Return the subtrees of `tree` where this structure has leaves. ValueError if unlike."""
        found: list[PyTree] = []
        self._cut(tree, found)
        return found

    def _cut(self, tree: PyTree, found: list[PyTree]) -> None:
        if self.type is None:
            found.append(tree)
            return
        kind = _get_node_type(tree)
        both_map = self.type in _MAPPINGS and kind in _MAPPINGS
        if kind is not self.type and not both_map:
            what = "Node type" if self.type in BUILTIN_TYPES else "Type"
            raise ValueError(f"{what} mismatch; expected {self.type!r}, but got {kind!r}.")
        children, context = SUPPORTED_NODES[kind].flatten_fn(tree)
        children = list(children)
        if len(children) != self.num_children:
            raise ValueError(
                f"Node arity mismatch; expected {self.num_children}, but got {len(children)}."
            )
        if both_map:
            keys = self._context[1] if self.type is defaultdict else self._context
            missing, extra = set(keys) - set(tree), set(tree) - set(keys)
            if missing or extra:
                said = f" missing key(s): {missing};" if missing else ""
                said += f" extra key(s): {extra}" if extra else ""
                raise ValueError(f"Node keys mismatch;{said.rstrip(';')}.")
            children = [tree[k] for k in keys]
        elif self.type is not deque and context != self._context:
            raise ValueError(
                f"Node context mismatch for node type {self.type!r}; expected {self._context!r}, "
                f"but got {context!r}."
            )
        for spec, child in zip(self._children, children, strict=True):
            spec._cut(child, found)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TreeSpec):
            return NotImplemented
        return (
            self.type is other.type
            and self._context == other._context
            and self._children == other._children
        )

    def __hash__(self) -> int:
        context = self._context
        if self.type is defaultdict:
            context = (context[0], tuple(context[1]))
        elif isinstance(context, list):
            context = tuple(context)
        return hash((self.type, context, tuple(self._children)))

    def __repr__(self, indent: int = 0) -> str:
        if self.type is None:
            return "*"
        inner = indent + 2
        children = (",\n" + " " * inner).join(c.__repr__(inner) for c in self._children)
        return f"TreeSpec({self.type.__name__}, {self._context}, [{children}])"


PyTreeSpec = TreeSpec


class LeafSpec(TreeSpec):
    """The structure of a leaf."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(None, None, [])


_LEAF_SPEC = LeafSpec()


def treespec_leaf() -> LeafSpec:
    return _LEAF_SPEC


def treespec_tuple(iterable: Iterable[TreeSpec] = (), /) -> TreeSpec:
    """Return the structure of a tuple of these."""
    return TreeSpec(tuple, None, list(iterable))


def treespec_dict(mapping: Any = (), /, **kwargs: TreeSpec) -> TreeSpec:
    """Return the structure of a dict of these."""
    items = dict(mapping, **kwargs)
    return TreeSpec(dict, list(items), list(items.values()))


# ------------------------------------------------------------------------------------- flatten --
def tree_flatten(
    tree: PyTree, is_leaf: Callable[[PyTree], bool] | None = None
) -> tuple[list[Any], TreeSpec]:
    """Return the leaves in order, and the structure that `tree_unflatten` needs.

    >>> tree_flatten({"a": [1, 2], "b": 3})[0]
    [1, 2, 3]
    """
    leaves: list[Any] = []
    return leaves, _flatten(tree, is_leaf, leaves)


def _flatten(tree: PyTree, is_leaf: Any, leaves: list[Any]) -> TreeSpec:
    kind = _get_node_type(tree)
    node = SUPPORTED_NODES.get(kind)
    if node is None or (is_leaf is not None and is_leaf(tree)):
        leaves.append(tree)
        return _LEAF_SPEC
    children, context = node.flatten_fn(tree)
    return TreeSpec(kind, context, [_flatten(c, is_leaf, leaves) for c in children])


def tree_unflatten(leaves: Iterable[Any], treespec: TreeSpec) -> PyTree:
    """Return the tree of this structure with these leaves."""
    if not isinstance(treespec, TreeSpec):
        raise TypeError(
            "tree_unflatten(leaves, treespec): Expected `treespec` to be instance of TreeSpec but "
            f"got item of type {type(treespec)}."
        )
    return treespec.unflatten(leaves)


def tree_iter(tree: PyTree, is_leaf: Callable[[PyTree], bool] | None = None) -> Iterator[Any]:
    """Yield the leaves in order."""
    if tree_is_leaf(tree, is_leaf):
        yield tree
        return
    for child in SUPPORTED_NODES[_get_node_type(tree)].flatten_fn(tree)[0]:
        yield from tree_iter(child, is_leaf)


def tree_leaves(tree: PyTree, is_leaf: Callable[[PyTree], bool] | None = None) -> list[Any]:
    """Return the leaves in order."""
    return list(tree_iter(tree, is_leaf))


def arg_tree_leaves(*args: PyTree, **kwargs: PyTree) -> list[Any]:
    """Return the leaves of all arguments."""
    return [leaf for a in (*args, *kwargs.values()) for leaf in tree_iter(a)]


def tree_structure(tree: PyTree, is_leaf: Callable[[PyTree], bool] | None = None) -> TreeSpec:
    """Return the structure of a tree."""
    return tree_flatten(tree, is_leaf)[1]


def _with_path(path: tuple[Any, ...], tree: PyTree, is_leaf: Any) -> Iterator[tuple[Any, Any]]:
    if tree_is_leaf(tree, is_leaf):
        yield path, tree
        return
    kind = _get_node_type(tree)
    keyed = SUPPORTED_NODES[kind].flatten_with_keys_fn
    if keyed is None:
        raise ValueError(
            f"Did not find a flatten_with_keys_fn for type: {kind}. Please pass a "
            "flatten_with_keys_fn argument to register_pytree_node."
        )
    for key, child in keyed(tree)[0]:
        yield from _with_path((*path, key), child, is_leaf)


def tree_leaves_with_path(
    tree: PyTree, is_leaf: Callable[[PyTree], bool] | None = None
) -> list[tuple[Any, Any]]:
    """Return (path, leaf) pairs; a path is a tuple of keys."""
    return list(_with_path((), tree, is_leaf))


def tree_flatten_with_path(
    tree: PyTree, is_leaf: Callable[[PyTree], bool] | None = None
) -> tuple[list[tuple[Any, Any]], TreeSpec]:
    """Return (path, leaf) pairs and the structure."""
    return tree_leaves_with_path(tree, is_leaf), tree_structure(tree, is_leaf)


# ----------------------------------------------------------------------------------------- map --
def tree_map(
    func: Callable[..., Any], tree: PyTree, *rests: PyTree,
    is_leaf: Callable[[PyTree], bool] | None = None,
) -> PyTree:  # fmt: skip
    """Return the tree with func(leaf, *what the rests have there) in place of each leaf."""
    leaves, spec = tree_flatten(tree, is_leaf)
    columns = [leaves, *[spec.flatten_up_to(r) for r in rests]]
    return spec.unflatten(map(func, *columns))


def tree_map_(
    func: Callable[..., Any], tree: PyTree, *rests: PyTree,
    is_leaf: Callable[[PyTree], bool] | None = None,
) -> PyTree:  # fmt: skip
    """Call func on each leaf for its effects; return the tree itself."""
    leaves, spec = tree_flatten(tree, is_leaf)
    columns = [leaves, *[spec.flatten_up_to(r) for r in rests]]
    for row in zip(*columns, strict=True):
        func(*row)
    return tree


def tree_map_with_path(
    func: Callable[..., Any], tree: PyTree, *rests: PyTree,
    is_leaf: Callable[[PyTree], bool] | None = None,
) -> PyTree:  # fmt: skip
    """As tree_map; func gets each leaf's path first."""
    pairs, spec = tree_flatten_with_path(tree, is_leaf)
    columns = [[p for p, _ in pairs], [x for _, x in pairs]]
    return spec.unflatten(map(func, *columns, *[spec.flatten_up_to(r) for r in rests]))


def _chooser(types: Any) -> Callable[[Any], bool]:
    if isinstance(types, (type, tuple)) or hasattr(types, "__or__"):
        return lambda x: isinstance(x, types)
    if callable(types):
        return types  # type: ignore[no-any-return]
    raise TypeError("Argument must be a type, a tuple of types, or a callable.")


def map_only(types: Any, /) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Return a decorator that lets a function pass by what is not of these types."""
    chosen = _chooser(types)

    def decorate(func: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @functools.wraps(func)
        def only(x: Any) -> Any:
            return func(x) if chosen(x) else x

        return only

    return decorate


def tree_map_only(
    types: Any, /, func: Callable[[Any], Any], tree: PyTree,
    is_leaf: Callable[[PyTree], bool] | None = None,
) -> PyTree:  # fmt: skip
    """As tree_map, for leaves of these types (or for which `types` is true) only."""
    return tree_map(map_only(types)(func), tree, is_leaf=is_leaf)


def tree_map_only_(
    types: Any, /, func: Callable[[Any], Any], tree: PyTree,
    is_leaf: Callable[[PyTree], bool] | None = None,
) -> PyTree:  # fmt: skip
    return tree_map_(map_only(types)(func), tree, is_leaf=is_leaf)


def tree_all(
    pred: Callable[[Any], bool], tree: PyTree, is_leaf: Callable[[PyTree], bool] | None = None
) -> bool:
    """Return whether pred holds for every leaf."""
    return all(map(pred, tree_iter(tree, is_leaf)))


def tree_any(
    pred: Callable[[Any], bool], tree: PyTree, is_leaf: Callable[[PyTree], bool] | None = None
) -> bool:
    """Return whether pred holds for some leaf."""
    return any(map(pred, tree_iter(tree, is_leaf)))


def tree_all_only(
    types: Any, /, pred: Callable[[Any], bool], tree: PyTree,
    is_leaf: Callable[[PyTree], bool] | None = None,
) -> bool:  # fmt: skip
    return all(pred(x) for x in tree_iter(tree, is_leaf) if isinstance(x, types))


def tree_any_only(
    types: Any, /, pred: Callable[[Any], bool], tree: PyTree,
    is_leaf: Callable[[PyTree], bool] | None = None,
) -> bool:  # fmt: skip
    return any(pred(x) for x in tree_iter(tree, is_leaf) if isinstance(x, types))


def _broadcast_to_and_flatten(
    tree: PyTree, treespec: TreeSpec, is_leaf: Callable[[PyTree], bool] | None = None
) -> list[Any] | None:
    """Return a leaf of `tree`, a prefix of the structure, for each leaf of it; None if unlike."""
    leaves, prefix = tree_flatten(tree, is_leaf)
    full = treespec.unflatten([0] * treespec.num_leaves)
    try:
        parts = prefix.flatten_up_to(full)
    except ValueError:
        return None
    counts = [tree_structure(part).num_leaves for part in parts]
    return [x for x, n in zip(leaves, counts, strict=True) for _ in range(n)]


# ---------------------------------------------------------------------------------------- text --
class _Star:
    def __repr__(self) -> str:
        return "*"


def treespec_pprint(treespec: TreeSpec) -> str:
    """Return the structure as text, with * for leaves."""
    return repr(treespec.unflatten([_Star()] * treespec.num_leaves))


def treespec_dumps(treespec: TreeSpec, protocol: int | None = None) -> str:
    """Return the structure as JSON. NotImplementedError for classes without a name for it."""
    if not isinstance(treespec, TreeSpec):
        raise TypeError(
            "treespec_dumps(treespec, protocol): Expected `treespec` to be instance of TreeSpec "
            f"but got item of type {type(treespec)}."
        )
    if protocol not in (None, 1):
        raise ValueError(f"Unknown protocol {protocol}. Available protocols: [1]")
    return json.dumps((1, _to_json(treespec)))


def _to_json(spec: TreeSpec) -> dict[str, Any]:
    if spec.type is None:
        return {"type": None, "context": None, "children_spec": []}
    text = _texts.get(spec.type, Text(None, None, None))
    if text.name is None and is_namedtuple_class(spec._context):
        raise NotImplementedError(
            f"Can't serialize TreeSpec of namedtuple class {spec._context} because we didn't "
            "register a serializated_type_name. Please register using `_register_namedtuple`."
        )
    if text.name is None:
        raise NotImplementedError(
            f"No registered serialization name for {spec.type} found. Please update your "
            "_register_pytree_node call with a `serialized_type_name` kwarg."
        )
    try:
        context = json.dumps(spec._context) if text.dump is None else text.dump(spec._context)
    except TypeError as e:
        why = "Unable to serialize context. Please make the context json dump-able, or register a "
        raise TypeError(why + "custom serializer using _register_pytree_node.") from e
    return {
        "type": text.name,
        "context": context,
        "children_spec": [*map(_to_json, spec._children)],
    }


def treespec_loads(serialized: str) -> TreeSpec:
    """Return the structure that `treespec_dumps` wrote."""
    protocol, tree = json.loads(serialized)
    if protocol != 1:
        raise ValueError(f"Unknown protocol {protocol}. Available protocols: [1]")
    return _from_json(tree)


def _from_json(tree: dict[str, Any]) -> TreeSpec:
    name = tree["type"]
    if name is None:
        return _LEAF_SPEC
    cls = next((c for c, text in _texts.items() if text.name == name), None)
    if cls is None:
        raise NotImplementedError(f"Deserializing {name} in pytree is not registered.")
    load = _texts[cls].load or json.loads
    return TreeSpec(cls, load(tree["context"]), [_from_json(c) for c in tree["children_spec"]])
