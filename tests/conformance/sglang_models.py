"""What SGLang's model classes declare about names, read from their syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

MODELS = "sglang/srt/models/"
_RULES = {
    "orig_to_new_substr": "substrings",
    "orig_to_new_prefix": "prefixes",
    "orig_to_new_suffix": "suffixes",
}


class _Classes:
    def __init__(self, files: Mapping[str, str]) -> None:
        self.trees = {p: ast.parse(s) for p, s in files.items() if p.startswith(MODELS)}
        self.by_name: dict[str, list[tuple[str, ast.ClassDef]]] = {}
        for path, tree in self.trees.items():
            for node in tree.body:
                if isinstance(node, ast.ClassDef):
                    self.by_name.setdefault(node.name, []).append((path, node))

    def find(self, name: str, path: str) -> tuple[str, ast.ClassDef] | None:
        """The class of that name: in the module that is named, else in the same file."""
        module, _, last = name.rpartition(".")
        found = self.by_name.get(last, [])
        place = f"{MODELS}{module}.py" if module else path
        here = [each for each in found if each[0] == place]
        return next(iter(here or found), None)

    def lineage(self, path: str, node: ast.ClassDef) -> Iterator[tuple[str, ast.ClassDef]]:
        yield path, node
        for base in node.bases:
            parent = self.find(ast.unparse(base), path)
            if parent is not None and parent[1] is not node:
                yield from self.lineage(*parent)

    def attribute(self, path: str, node: ast.ClassDef, name: str) -> Any:
        """A class attribute's value, inherited or not; None where it is not there or not plain."""
        for where, each in self.lineage(path, node):
            for statement in each.body:
                value = _assigned(statement, name)
                if value is not None:
                    return self.value(where, value)
        return None

    def value(self, path: str, node: ast.expr) -> Any:
        if isinstance(node, ast.Attribute):
            owner = self.find(ast.unparse(node.value), path)
            return None if owner is None else self.attribute(*owner, node.attr)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            left, right = self.value(path, node.left), self.value(path, node.right)
            return left and right and {kind: left[kind] | right[kind] for kind in left}
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "WeightsMapper":
            rules: dict[str, Any] = {kind: {} for kind in _RULES.values()}
            return rules | {_RULES[str(k.arg)]: ast.literal_eval(k.value) for k in node.keywords}
        try:
            return ast.literal_eval(node)
        except ValueError:
            return None

    def head_is_quantized(self, path: str, node: ast.ClassDef) -> bool:
        """Whether `ParallelLMHead` is given the quantization config, as far as one can see."""
        for _, each in self.lineage(path, node):
            heads = [
                call
                for call in ast.walk(each)
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "ParallelLMHead"
            ]
            if heads:
                given = [k.value for h in heads for k in h.keywords if k.arg == "quant_config"]
                return any(not isinstance(v, ast.Constant) for v in given)
        return True


def _assigned(statement: ast.stmt, name: str) -> ast.expr | None:
    if isinstance(statement, ast.Assign) and any(
        isinstance(t, ast.Name) and t.id == name for t in statement.targets
    ):
        return statement.value
    if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == name:
        return statement.value
    return None


def _entries(tree: ast.Module) -> list[str]:
    for statement in tree.body:
        value = _assigned(statement, "EntryClass")
        if isinstance(value, ast.List | ast.Tuple):
            return [ast.unparse(each) for each in value.elts]
        if value is not None:
            return [ast.unparse(value)]
    return []


def declared(files: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """By architecture: its fused map, its renaming of lists, and `plain_head` where its head is
    never quantized. Classes that declare none of these are named with nothing.
    """
    classes = _Classes(files)
    found: dict[str, dict[str, Any]] = {}
    for path, tree in classes.trees.items():
        for name in _entries(tree):
            entry = classes.find(name, path)
            if entry is None:
                continue
            fused = classes.attribute(*entry, "packed_modules_mapping")
            if not all(isinstance(s, str) for shards in (fused or {}).values() for s in shards):
                fused = None  # pairs, which only the class's own loader reads
            mapper = classes.attribute(*entry, "hf_to_sglang_mapper")
            said = {
                "fused": fused,
                "mapper": mapper,
                "plain_head": not classes.head_is_quantized(*entry),
            }
            found[name] = {key: value for key, value in said.items() if value}
    return dict(sorted(found.items()))
