"""torch.utils._pytree: trees come apart and together as torch's do."""

from __future__ import annotations

import collections
import dataclasses
from importlib import import_module
from typing import Any

from beside_torch import failure, same

Point = collections.namedtuple("Point", "x y")


def pytree(t: Any) -> Any:
    return import_module(f"{t.__name__}.utils._pytree")


def tree() -> Any:
    return {
        "b": [1, (2, 3)], "a": Point(1, collections.OrderedDict(x=None)),
        "d": collections.deque([1], maxlen=3), "e": collections.defaultdict(int, {"q": 1}), "n": {},
    }  # fmt: skip


@same
def test_trees_flatten_and_come_back(t: Any) -> Any:
    p = pytree(t)
    leaves, spec = p.tree_flatten(tree())
    return [
        leaves, repr(spec), p.tree_unflatten(leaves, spec) == tree(), p.treespec_pprint(spec),
        spec == p.tree_structure(tree()), hash(spec) == hash(p.tree_structure(tree())),
        spec.num_leaves, spec.num_nodes, spec.num_children, p.tree_leaves(tree()),
        list(p.tree_iter((1, [2]))), repr(spec.child(0)), len(spec.children()), spec.is_leaf(),
        p.tree_is_leaf(3), p.tree_is_leaf([3]), p.tree_is_leaf([3], is_leaf=lambda x: True),
        p.tree_flatten([(1, 2), 3], is_leaf=lambda x: isinstance(x, tuple))[0],
        repr(p.LeafSpec()), p.arg_tree_leaves(1, (2, 3), k=[4]),
        spec.unflatten(range(7))["b"], spec.flatten_up_to(tree()),
        failure(lambda: p.tree_unflatten([1], spec), "has length 1"),
    ]  # fmt: skip


@same
def test_trees_map(t: Any) -> Any:
    p = pytree(t)
    seen: list[Any] = []
    mixed = {"a": 1, "b": [2.5, "c"]}
    return [
        p.tree_map(lambda x: x * 2, {"a": 1, "b": (2,)}),
        p.tree_map(lambda a, b: (a, b), [1, 2], [(1, 1), {"a": 2}]),
        p.tree_map_(seen.append, [1, (2,)]), seen,
        p.tree_map_only(int, lambda x: -x, mixed),
        p.tree_map_only((int, float), lambda x: -x, mixed),
        p.tree_map_only(lambda x: x == "c", lambda x: "d", mixed),
        p.tree_map_only_(int, seen.append, mixed), seen,
        p.tree_all(bool, [1, 0]), p.tree_any(bool, [1, 0]), p.tree_all_only(int, bool, [1, ""]),
        p.tree_any_only(str, bool, [1, ""]),
        p.tree_map_with_path(lambda path, x: p.keystr(path) + str(x), tree())["b"],
        [p.keystr(path) for path, _ in p.tree_leaves_with_path(tree())],
        [p.key_get(tree(), path) for path, _ in p.tree_flatten_with_path(tree())[0]],
        p._broadcast_to_and_flatten((0, None), p.tree_structure((1, [2, 3]))),
        p._broadcast_to_and_flatten((0, [1]), p.tree_structure((1, [2, 3]))),
        failure(lambda: p.tree_map(lambda a, b: a, [1, 2], [1]), "arity mismatch"),
        failure(lambda: p.tree_map(lambda a, b: a, [1, 2], (1, 2)), "type mismatch"),
        failure(lambda: p.tree_map(lambda a, b: a, {"a": 1}, {"b": 2}), "keys mismatch"),
    ]  # fmt: skip


@same
def test_classes_are_registered(t: Any) -> Any:
    p = pytree(t)

    class Pair:
        def __init__(self, a: Any, b: Any) -> None:
            self.a, self.b = a, b

    def register() -> None:
        p.register_pytree_node(Pair, lambda x: ([x.a, x.b], None), lambda xs, _: Pair(*xs))

    before = p.tree_leaves(Pair(1, 2)).__len__()
    register()

    @dataclasses.dataclass
    class Data:
        x: Any
        y: Any

    p.register_dataclass(Data)
    made = p.tree_map(lambda x: x + 1, [Pair(1, (2,)), Data(3, [4])])
    return [
        before, p.tree_leaves([Pair(1, (2,))]), made[0].a, made[0].b, made[1].x, made[1].y,
        failure(register, "already registered"),
        [p.keystr(k) for k, _ in p.tree_leaves_with_path(Data(1, [2]))],
        failure(lambda: p.tree_leaves_with_path(Pair(1, 2)), "flatten_with_keys_fn"),
        p.is_namedtuple(Point(1, 2)), p.is_namedtuple_class(Point), p.is_namedtuple_instance((1,)),
        p.is_structseq((1,)), p.is_structseq_class(tuple), p.is_structseq_instance(Point(1, 2)),
    ]  # fmt: skip


@same
def test_structures_are_written_as_text(t: Any) -> Any:
    p = pytree(t)
    spec = p.tree_structure({"a": [1, (2,)], "b": collections.OrderedDict(c=3)})
    text = p.treespec_dumps(spec)
    return [
        text, p.treespec_loads(text) == spec,
        failure(lambda: p.treespec_dumps(p.tree_structure(Point(1, 2))), "namedtuple class"),
        failure(lambda: p.treespec_dumps(spec, 9), "Unknown protocol"),
    ]  # fmt: skip
