"""What vLLM's model classes declare about names, read from their syntax trees.

Of each architecture in vLLM's registry: `fused` (packed_modules_mapping, as layers of its text part
find it), `adds` (what a constructor puts into it where the quantization config still sees that),
`mapper` (the renaming half of its hf_to_vllm_mapper, be it empty), `then` (that of its text part's
class, which renames what the first one made), `inside` (that of the class of `model`, which renames
weights only), `text` ("config" where config.json names the text part's class) and `plain` (last
names of heads and routers that are built without a quantization config).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

MODELS = "vllm/model_executor/models/"
PLACES = (MODELS, "vllm/models/")
_RULES = {
    "orig_to_new_regex": "regexes",
    "orig_to_new_substr": "substrings",
    "orig_to_new_prefix": "prefixes",
    "orig_to_new_suffix": "suffixes",
}
_NOT_RENAMES = {"orig_to_new_stacked", "orig_to_new_renaming"}
_BUILDERS = ("MoE", "MoeBlock", "Moe", "Model", "ForCausalLM", "DecoderLayer")
_TEXT = ("text", "llm", "wrapped_model")  # in what a class calls the config of its text part
_GATES = ("gate", "router", "shared_expert_gate")

Entry = tuple[str, ast.ClassDef]


class Unresolved(Exception):
    """A declaration that is computed when vLLM runs."""


class _Classes:
    def __init__(self, files: Mapping[str, str]) -> None:
        self.trees = {p: ast.parse(s) for p, s in files.items() if p.startswith(PLACES)}
        self.by_name: dict[str, list[Entry]] = {}
        self.imports = {path: _imports(path, tree) for path, tree in self.trees.items()}
        for path, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    self.by_name.setdefault(node.name, []).append((path, node))

    def find(self, name: str, path: str) -> Entry | None:
        """The class of that name: in the same file, where it is imported from, or anywhere."""
        found = self.by_name.get(name.rsplit(".", 1)[-1], [])
        source = self.imports.get(path, {}).get(name, "")
        for start in (path, *_paths(source)):
            here = [each for each in found if each[0] == start]
            if here:
                return here[0]
        package = source.rsplit(".", 1)[0].replace(".", "/") if source else ""
        return next((e for e in found if package and e[0].startswith(package)), None) or next(
            iter(found), None
        )

    def registered(self, module: str, name: str) -> Entry | None:
        """The class that the registry names; of a package, in NVIDIA's half of it."""
        if not module.startswith("vllm."):
            return self.find(name, f"{MODELS}{module}.py")
        package = module.replace(".", "/")
        named = {name, *_originals(self.trees.get(f"{package}/__init__.py"), name)}
        found = [
            e for n in sorted(named) for e in self.by_name.get(n, []) if e[0].startswith(package)
        ]
        return next((e for e in found if "/nvidia/" in e[0]), next(iter(found), None))

    def lineage(self, path: str, node: ast.ClassDef) -> Iterator[Entry]:
        yield path, node
        for base in node.bases:
            parent = self.find(ast.unparse(base), path)
            if parent is not None and parent[1] is not node:
                yield from self.lineage(*parent)

    def inherits(self, entry: Entry, base: str) -> bool:
        return any(node.name == base for _, node in self.lineage(*entry))

    def attribute(self, entry: Entry, name: str) -> Any:
        """A class attribute's value, inherited or not; None where there is none."""
        for where, node in self.lineage(*entry):
            for statement in node.body:
                value = _assigned(statement, name)
                if value is not None:
                    return self.value(where, value)
        return None

    def value(self, path: str, node: ast.expr) -> Any:
        match node:
            case ast.Attribute():
                owner = self.find(ast.unparse(node.value), path)
                found = None if owner is None else self.attribute(owner, node.attr)
                if found is None:
                    raise Unresolved(ast.unparse(node))
            case ast.BinOp(op=ast.BitOr()):
                found = _merged(self.value(path, node.left), self.value(path, node.right))
            case ast.Call(func=ast.Name("WeightsMapper")):
                found = self.rules(path, node)
            case ast.Call(func=ast.Name("replace")):
                found = self.value(path, node.args[0]) | self.rules(path, node)
            case ast.Name():
                found = self.constant(path, node.id)
            case ast.Subscript():
                found = self.value(path, node.value)[_plain(node.slice)]
            case ast.Dict():
                found = {}
                for key, each in zip(node.keys, node.values, strict=True):
                    value = self.value(path, each)
                    found |= value if key is None else {_plain(key): value}
            case _:
                found = _plain(node)
        return found

    def constant(self, path: str, name: str) -> Any:
        """What a module assigns to a name, or imports it from."""
        for where in (path, *_paths(self.imports.get(path, {}).get(name, ""))):
            for statement in self.trees[where].body if where in self.trees else ():
                value = _assigned(statement, name)
                if value is not None:
                    return self.value(where, value)
        raise Unresolved(name)

    def rules(self, path: str, call: ast.Call) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for keyword in call.keywords:
            if keyword.arg in _RULES:
                found[_RULES[keyword.arg]] = self.value(path, keyword.value)
            elif keyword.arg not in _NOT_RENAMES:
                raise Unresolved(ast.unparse(call))
        return found

    def text(self, entry: Entry) -> tuple[Entry | None, bool]:
        """The class of the text part where the quantization config meets it too; whether it is
        config.json that names it.
        """
        for where, node in self.lineage(*entry):
            for call in (c for c in ast.walk(node) if isinstance(c, ast.Call)):
                if ast.unparse(call.func) != "init_vllm_registered_model":
                    continue
                named = _named(call)
                config = ast.unparse(named.get("hf_config", ast.Constant("")))
                if "architectures" in named:
                    try:
                        return self.find(_plain(named["architectures"])[0], where), False
                    except Unresolved:
                        return None, True
                if any(word in config for word in _TEXT):
                    return None, True
            built = _built(node, "self.language_model", "self.llm")
            part = self.find(built, where) if built else None
            if part is not None and self.inherits(part, "SupportsQuant"):
                return part, False
        return None, False

    def inside(self, entry: Entry) -> Entry | None:
        """The class of `model`, where the constructor names it."""
        for where, node in self.lineage(*entry):
            built = _built(node, "self.model")
            if built:
                return self.find(built, where)
        return None

    def adds(self, entry: Entry) -> dict[str, list[str]]:
        """What constructors put into the fused map once the class is registered with it."""
        if self.inherits(entry, "SupportsQuant"):
            return {}  # the quantization config has a copy by then
        found: dict[str, list[str]] = {}
        for _, node in self.lineage(*entry):
            for statement in ast.walk(node):
                if not isinstance(statement, ast.Assign):
                    continue
                target = statement.targets[0]
                if isinstance(target, ast.Subscript) and ast.unparse(target.value) in {
                    "self.packed_modules_mapping",
                    "cls.packed_modules_mapping",
                }:
                    found.setdefault(_plain(target.slice), _plain(statement.value))
        return found

    def plain(self, entry: Entry) -> list[str]:
        """Last names of routers and heads that are built without a quantization config, by the
        nearest file that builds any of that name.
        """
        given: dict[str, bool] = {}
        for where in self._files(entry):
            here: dict[str, bool] = {}
            for node in ast.walk(self.trees[where]):
                if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
                    continue
                name = ast.unparse(node.targets[0]).removeprefix("self.")
                maker = ast.unparse(node.value.func).rsplit(".", 1)[-1]
                linear = maker.endswith("Linear") and name in _GATES
                if linear or (maker == "ParallelLMHead" and name == "lm_head"):
                    here[name] = here.get(name, False) or _has_config(node.value)
            given = here | given
        return sorted(name for name, quantized in given.items() if not quantized)

    def _files(self, entry: Entry) -> list[str]:
        """Its own file, those of its bases and of its text part, and those that it imports from."""
        text, by_config = self.text(entry)
        own = [where for each in (entry, text) if each for where, _ in self.lineage(*each)]
        imported = [
            path
            for where in own
            for name, source in self.imports[where].items()
            if name.endswith(_BUILDERS) and not by_config
            for path in _paths(source)
        ]
        return [path for path in dict.fromkeys([*own, *imported]) if path in self.trees]


def _imports(path: str, tree: ast.Module) -> dict[str, str]:
    """By name that a file imports: the dotted module it comes from."""
    package = path.removesuffix(".py").split("/")[:-1]
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            found |= {alias.asname or alias.name: source for alias in node.names}
    return found


def _merged(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    """Of two mappers each kind of rule; of anything else what the right one has, then the left."""
    if set(left) | set(right) <= set(_RULES.values()):
        return {kind: left.get(kind, {}) | right.get(kind, {}) for kind in left | right}
    return left | right


def _originals(tree: ast.Module | None, name: str) -> list[str]:
    """What a package imports under that name."""
    nodes = [n for n in ast.walk(tree or ast.Module([], [])) if isinstance(n, ast.ImportFrom)]
    return [alias.name for node in nodes for alias in node.names if alias.asname == name]


def _paths(source: str) -> tuple[str, ...]:
    path = source.replace(".", "/")
    return (f"{path}.py", f"{path}/__init__.py") if source else ()


def _plain(node: ast.expr) -> Any:
    """A literal, in which a compiled expression counts as its text."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) in {"re.compile", "regex.compile"}:
        return _plain(node.args[0])
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict.fromkeys":
        return dict.fromkeys(*(_plain(each) for each in node.args))
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise Unresolved(ast.unparse(node)) from error


def _assigned(statement: ast.stmt, name: str) -> ast.expr | None:
    if isinstance(statement, ast.Assign) and any(
        isinstance(t, ast.Name) and t.id == name for t in statement.targets
    ):
        return statement.value
    if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == name:
        return statement.value
    return None


def _named(call: ast.Call) -> dict[str, ast.expr]:
    """Keywords of a call, and of the `with_hf_config` that it may be given instead of them."""
    named: dict[str, ast.expr] = {}
    for each in ast.walk(call):
        if isinstance(each, ast.Call) and ast.unparse(each.func).endswith(".with_hf_config"):
            named |= {"hf_config": each.args[0]} if each.args else {}
            named |= {k.arg: k.value for k in each.keywords if k.arg}
    return named | {k.arg: k.value for k in call.keywords if k.arg}


def _built(node: ast.ClassDef, *names: str) -> str | None:
    """The class that is called for the first that is assigned of some attributes."""
    for each in ast.walk(node):
        if not isinstance(each, ast.Assign) or not isinstance(each.value, ast.Call):
            continue
        if ast.unparse(each.targets[0]) in names:
            return ast.unparse(each.value.func)
    return None


def _has_config(call: ast.Call) -> bool:
    given = [k.value for k in call.keywords if k.arg == "quant_config"]
    given += [a for a in call.args if ast.unparse(a).endswith("quant_config")]
    return any(not isinstance(value, ast.Constant) for value in given)


def _registry(source: str) -> dict[str, tuple[str, str]]:
    """Architecture → (module, class), in the order in which vLLM merges its tables."""
    found: dict[str, tuple[str, str]] = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            name = ast.unparse(statement.targets[0])
            if name.endswith("_MODELS") and name not in {
                "_VLLM_MODELS",
                "_PREVIOUSLY_SUPPORTED_MODELS",
                "_OOT_SUPPORTED_MODELS",
            }:
                pairs = zip(statement.value.keys, statement.value.values, strict=True)
                # what is spread into a table is repeated from the ones before it
                found |= {ast.literal_eval(k): ast.literal_eval(v) for k, v in pairs if k}
    return found


def declared(files: Mapping[str, str]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What each architecture declares, and why some could not be read: computed at run time, or
    run by the Transformers backend.
    """
    classes = _Classes(files)
    found: dict[str, dict[str, Any]] = {}
    unresolved: dict[str, str] = {}
    for name, (module, owner) in sorted(_registry(files[f"{MODELS}registry.py"]).items()):
        entry = classes.registered(module, owner)
        if module == "transformers" or entry is None:
            unresolved[name] = "the Transformers backend" if entry else "no such class"
            continue
        try:
            found[name] = _declared(classes, entry)
        except Unresolved as error:
            unresolved[name] = f"computed: {' '.join(str(error).split())[:80]}"
    return found, unresolved


def _declared(classes: _Classes, entry: Entry) -> dict[str, Any]:
    fused = classes.attribute(entry, "packed_modules_mapping") or {}
    adds, then = classes.adds(entry), None
    text, by_config = classes.text(entry)
    if text is not None:
        parts = classes.attribute(text, "packed_modules_mapping")
        updates = classes.inherits(text, "SupportsQuant")
        # a class without SupportsQuant puts its own map in the place of what was there
        fused = fused if parts is None else {**(fused if updates else {}), **parts}
        adds, then = classes.adds(text), _renames(classes, text)
    fused = {**fused, **_told(classes, text or entry)}
    inside = classes.inside(entry)
    mapper, weights = _renames(classes, entry), _renames(classes, inside) if inside else None
    said = {
        "fused": fused or None,
        "adds": adds or None,
        "mapper": mapper,
        "then": then,
        "inside": weights if weights and weights != mapper else None,
        "text": "config" if by_config else None,
        "plain": classes.plain(entry) or None,
    }
    return {key: value for key, value in said.items() if value is not None}


def _told(classes: _Classes, entry: Entry) -> dict[str, list[str]]:
    """The map of the class of `model` where that one tells the quantization config of it."""
    inside = classes.inside(entry)
    if inside is None or not classes.inherits(inside, "SupportsQuant"):
        return {}
    return classes.attribute(inside, "packed_modules_mapping") or {}


def _renames(classes: _Classes, entry: Entry) -> dict[str, Any] | None:
    mapper = classes.attribute(entry, "hf_to_vllm_mapper")
    if mapper is None:
        return None
    kept = {
        kind: {old: new for old, new in rules.items() if new is not None}
        for kind, rules in mapper.items()
    }
    return {kind: rules for kind, rules in kept.items() if rules}
