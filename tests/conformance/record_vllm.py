"""Records what vLLM's own matchers answer, and what its model classes declare.

    python -m tests.conformance.record_vllm vllm-0.33.0-….whl

The functions are cut out of the wheel by their syntax trees and run with the standard library
only, so neither torch nor vLLM is needed; where vLLM takes its expressions from `regex`, they run
on `re`, which reads the ones used here alike. Writes `tables/vllm-VERSION-*.json` beside this file
and `fp8scope/export/matchers/vllm_models.json`.

A table is {"about": {"vllm", "wheel", "sha256"}, "fused": [maps], "cases": [rows]}. In a row
`fused` is a number of one of these maps, `rules` a mapper as {"regexes", "substrings", "prefixes",
"suffixes"}, each from old to new or null; the answer comes last and may be "raises TYPE" (`error`
is that of an expression). The rows:

    is-layer-skipped     name, entries, fused, match_mode, true or false
    modelopt-excluded    name, entries, fused, true or false
    modelopt-mapped      entries, rules, the entries that vLLM makes of them
    modelopt-mixed       name, {layer: algorithm}, fused, algorithm or null
    should-ignore-layer  name, entries, fused, use_fnmatch, true or false
    find-matched-target  name, class, targets, fused, target or null
    online-targets       name, {pattern: value}, fused, [] or [pattern]
    weights-mapper       name, rules, new name or null
"""

from __future__ import annotations

import ast
import hashlib
import json
import random
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

from tests.conformance.recording import answer, seeded
from tests.conformance.vllm_models import PLACES, declared

LAYERS = "vllm/model_executor/layers/quantization"
UTILS = "vllm/model_executor/models/utils.py"
TABLES = Path(__file__).parent / "tables"
MODELS = Path(__file__).parents[2] / "fp8scope/export/matchers/vllm_models.json"
CASES = 640
LLAMA = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
FUSED: list[dict[str, list[str]]] = [
    {},
    LLAMA,
    {"qkv_proj": ["qkv_proj"], "gate_up_proj": ["gate_up_proj"]},
    {"gate_up_proj": ["gate_proj", "up_proj"], "fused_qkv_a_proj": ["q_a_proj", "kv_a_proj"]},
]
CLASSES = ["QKVParallelLinear", "MergedColumnParallelLinear", "RowParallelLinear", "RoutedExperts"]
ALGORITHMS = ["FP8", "FP8_PER_CHANNEL_PER_TOKEN", "fp8"]
SPECS = ["fp8_per_tensor", "fp8_per_channel"]
Files = Mapping[str, str]


def cut(source: str, *names: str, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Functions and classes of a module, run without its imports."""
    wanted = [node for node in ast.parse(source).body if _name(node) in names]
    assert {_name(node) for node in wanted} == set(names), f"not all of {names} are there"
    return _run(wanted, given or {})


def methods(source: str, of: str, *names: str, given: Mapping[str, Any]) -> Any:
    """A class with no more than the named methods of one of theirs."""
    owner = next(n for n in ast.parse(source).body if _name(n) == of)
    assert isinstance(owner, ast.ClassDef)
    body: list[ast.stmt] = [n for n in owner.body if _name(n) in names]
    assert len(body) == len(names), f"not all of {names} are in {of}"
    kept = ast.ClassDef(of, [], [], body, [])
    return _run([kept], given)[of]


def _run(nodes: list[ast.stmt], given: Mapping[str, Any]) -> dict[str, Any]:
    scope: dict[str, Any] = {
        "re": re,
        "fnmatch": fnmatch,
        "dataclass": dataclass,
        "field": field,
        "replace": replace,
        "MappingProxyType": MappingProxyType,
        "logger": SimpleNamespace(warning_once=lambda *_: None),
        "__name__": __name__,
    } | dict(given)
    future = ast.ImportFrom("__future__", [ast.alias("annotations")], 0)
    module = ast.fix_missing_locations(ast.Module([future, *nodes], []))
    exec(compile(module, "vllm", "exec"), scope)  # noqa: S102
    return scope


def _name(node: ast.stmt) -> str:
    return node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) else ""


def module_names() -> list[str]:
    attention = ["qkv_proj", "o_proj", "q_proj", "fused_qkv_a_proj", "kv_b_proj"]
    mlp = ["gate_up_proj", "down_proj", "gate", "experts", "shared_experts.gate_up_proj"]
    parts = [f"self_attn.{n}" for n in attention] + [f"mlp.{n}" for n in mlp]
    parts.append("block_sparse_moe.experts")
    roots = ["model", "language_model.model", "model.language_model"]
    return [
        *(f"{root}.layers.{i}.{part}" for root in roots for i in (0, 1, 10, 11) for part in parts),
        "lm_head",
        "language_model.lm_head",
        "visual.blocks.1.attn.qkv_proj",
        "vision_tower.encoder.layers.1.self_attn.qkv_proj",
    ]


def shards(name: str) -> list[str]:
    """Names of the parts of what is fused under some map or other."""
    last = name.rsplit(".", 1)[-1]
    parts = next((each[last] for each in (LLAMA, FUSED[3]) if last in each), [])
    return [name.replace(last, part) for part in parts]


def entries(draw: random.Random, name: str) -> list[str]:
    """A list such as people write about a module: names, parents, globs, expressions, shards."""
    parts = shards(name)
    made = [_entry(draw, draw.choice([name, draw.choice(module_names())])) for _ in range(2)]
    choice = draw.random()
    if parts and choice < 0.4:
        made += parts
    elif parts and choice < 0.55:
        made.append(draw.choice(parts))
    elif parts and choice < 0.7:
        made += [f"*.{part.rsplit('.', 1)[-1]}" for part in parts]
    elif parts and choice < 0.8:
        made += [f"re:.*{part.rsplit('.', 1)[-1]}" for part in parts]
    if draw.random() < 0.15:
        made.append(f"{name}.{draw.randrange(3)}.w1")
    draw.shuffle(made)
    return made


def _entry(draw: random.Random, name: str) -> str:
    parts = name.split(".")
    cut_at = draw.randrange(1, len(parts) + 1)
    head, tail = ".".join(parts[:cut_at]), ".".join(parts[-cut_at:])
    ways = [
        name,
        head,
        tail,
        f"{head}*",
        f"{head}.*",
        f"*{tail}",
        f"*.{parts[-1]}*",
        f"re:.*{parts[-1]}$",
        f"re:{re.escape(head)}",
        f"{name}.",
        name[: draw.randrange(3, len(name) + 1)],
        name.removeprefix("model."),
        name.removeprefix("language_model."),
        f"model.{name}",
        parts[-1].replace("proj", "pr?oj"),
        name.replace("layers.1", "layers.[01]"),
    ]
    return "re:[bad" if draw.random() < 0.02 else draw.choice(ways)


def drawn(draw: random.Random) -> tuple[str, list[str], int]:
    """A layer, a list about it, and the number of a fused map."""
    named = module_names()
    name = draw.choice([n for n in named if shards(n)] if draw.random() < 0.4 else named)
    return name, entries(draw, name), draw.choice([0, 1, 1, 1, 2, 3, 3])


def is_layer_skipped(files: Files) -> Iterable[list[Any]]:
    theirs = _skipped(files)
    draw = seeded(1)
    for _ in range(CASES):
        name, listed, fused = drawn(draw)
        mode = draw.choice(["exact", "exact", "substring", "suffix"])
        said = answer(theirs, name, listed, FUSED[fused], match_mode=mode)
        yield [name, listed, fused, mode, said]


def _skipped(files: Files) -> Callable[..., Any]:
    theirs: Callable[..., Any] = cut(files[f"{LAYERS}/utils/quant_utils.py"], "is_layer_skipped")[
        "is_layer_skipped"
    ]
    return theirs


def _modelopt(files: Files, of: str, *names: str) -> Any:
    given = {"is_layer_skipped": _skipped(files)}
    return methods(files[f"{LAYERS}/modelopt.py"], of, *names, given=given)()


def modelopt_excluded(files: Files) -> Iterable[list[Any]]:
    theirs = _modelopt(files, "ModelOptQuantConfigBase", "is_layer_excluded")
    draw = seeded(2)
    for _ in range(CASES):
        name, listed, fused = drawn(draw)
        theirs.exclude_modules, theirs.packed_modules_mapping = listed, FUSED[fused]
        yield [name, listed, fused, answer(theirs.is_layer_excluded, name)]


def modelopt_mapped(files: Files) -> Iterable[list[Any]]:
    theirs = _modelopt(files, "ModelOptQuantConfigBase", "apply_vllm_mapper")
    draw = seeded(3)
    pool = rules(files)
    for _ in range(CASES):
        _, listed, _ = drawn(draw)
        rule = draw.choice(pool)
        theirs.exclude_modules = listed
        theirs.apply_vllm_mapper(mapper(files, rule))
        yield [listed, rule, theirs.exclude_modules]


def modelopt_mixed(files: Files) -> Iterable[list[Any]]:
    names = ["_resolve_quant_algo", "_quantized_layer_prefix_candidates"]
    theirs = _modelopt(files, "ModelOptMixedPrecisionConfig", *names)
    draw = seeded(4)
    for _ in range(CASES):
        name, listed, fused = drawn(draw)
        at, _, last = name.rpartition(".")
        listed += draw.sample([f"{at}.gate_proj", f"{at}.q_proj", f"{name}.0.w1"], 1)
        if last == "qkv_proj" and draw.random() < 0.3:
            swapped = name.replace("language_model.model.", "model.language_model.")
            listed += shards(swapped)
        if draw.random() < 0.6:
            listed = [each for each in listed if not each.startswith("re:") and "*" not in each]
        few = ALGORITHMS[: draw.choice([1, 1, 3])]
        layers = {each: draw.choice(few) for each in listed}
        theirs.quantized_layers = {k: {"quant_algo": v} for k, v in layers.items()}
        theirs.packed_modules_mapping = FUSED[fused]
        yield [name, layers, fused, answer(theirs._resolve_quant_algo, name)]


def should_ignore_layer(files: Files) -> Iterable[list[Any]]:
    theirs = _compressed_tensors(files)["should_ignore_layer"]
    draw = seeded(5)
    for _ in range(CASES):
        name, listed, fused = drawn(draw)
        globs = draw.random() < 0.5
        said = answer(theirs, name, listed, FUSED[fused], use_fnmatch=globs)
        yield [name, listed, fused, globs, said]


def find_matched_target(files: Files) -> Iterable[list[Any]]:
    theirs = _compressed_tensors(files)["find_matched_target"]
    draw = seeded(6)
    for _ in range(CASES):
        name, listed, fused = drawn(draw)
        kind = draw.choice(CLASSES)
        if draw.random() < 0.3:
            some = ["Linear", "RoutedExperts", "re:.*Linear", "RowParallelLinear", "experts"]
            listed.insert(draw.randrange(len(listed) + 1), draw.choice(some))
        layer = type(kind, (), {})()
        yield [name, kind, listed, fused, answer(theirs, name, layer, listed, FUSED[fused])]


def online_targets(files: Files) -> Iterable[list[Any]]:
    given = {"find_matching_patterns": _patterns(files)["find_matching_patterns"]}
    source = files[f"{LAYERS}/online/base.py"]
    theirs = cut(source, "_find_matching_targets", given=given)["_find_matching_targets"]
    draw = seeded(7)
    for _ in range(CASES):
        name, listed, fused = drawn(draw)
        if draw.random() < 0.5:
            listed = shards(name) or [name]
        targets = {each: draw.choice(SPECS[: draw.choice([1, 1, 2])]) for each in listed}
        yield [name, targets, fused, answer(theirs, name, targets, FUSED[fused])]


def _patterns(files: Files) -> dict[str, Any]:
    source = files[f"{LAYERS}/utils/config_utils.py"]
    return cut(source, "find_matching_patterns", "is_equal_or_regex_match")


def _compressed_tensors(files: Files) -> dict[str, Any]:
    names = [
        "should_ignore_layer",
        "find_matched_target",
        "_find_first_match",
        "_match_fused_layer",
    ]
    return cut(files[f"{LAYERS}/compressed_tensors/utils.py"], *names, given=_patterns(files))


def weights_mapper(files: Files) -> Iterable[list[Any]]:
    pool = rules(files)
    draw = seeded(8)
    for _ in range(CASES):
        rule = draw.choice(pool)
        olds = [
            old for kind in ("substrings", "prefixes", "suffixes") for old in rule.get(kind, ())
        ]
        name = draw.choice([*module_names(), "lm_head.weight", "model.visual.blocks.0.attn.qkv"])
        if olds and draw.random() < 0.5:
            name = draw.choice([f"{draw.choice(olds)}{name}", f"{name}{draw.choice(olds)}"])
        yield [name, rule, mapper(files, rule).map_name(name)]


def rules(files: Files) -> list[dict[str, Any]]:
    """Those that model classes declare, and some of them dropping what one of theirs renames."""
    pool = [said["mapper"] for said in declared_once(files)[0].values() if said.get("mapper")]
    draw = seeded(9)
    for rule in list(pool[::4]):
        kind = draw.choice(list(rule))
        old = draw.choice(list(rule[kind]))
        pool.append(rule | {kind: rule[kind] | {old: None}})
    return pool


def mapper(files: Files, rule: Mapping[str, Any]) -> Any:
    """vLLM's own class with those rules."""
    if UTILS not in _cut:
        _cut[UTILS] = cut(files[UTILS], "WeightsMapper")["WeightsMapper"]
    return _cut[UTILS](
        orig_to_new_regex={re.compile(k): v for k, v in rule.get("regexes", {}).items()},
        orig_to_new_substr=rule.get("substrings", {}),
        orig_to_new_prefix=rule.get("prefixes", {}),
        orig_to_new_suffix=rule.get("suffixes", {}),
    )


_cut: dict[str, Any] = {}


def declared_once(files: Files) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    if "declared" not in _cut:
        _cut["declared"] = declared(files)
    found: tuple[dict[str, dict[str, Any]], dict[str, str]] = _cut["declared"]
    return found


MATCHERS = [
    is_layer_skipped,
    modelopt_excluded,
    modelopt_mapped,
    modelopt_mixed,
    should_ignore_layer,
    find_matched_target,
    online_targets,
    weights_mapper,
]


def main(wheel: Path) -> None:
    """Writes the tables of all matchers and what the model classes declare."""
    version = wheel.name.split("-")[1]
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with zipfile.ZipFile(wheel) as archive:
        wanted = (*PLACES, f"{LAYERS}/")
        paths = [p for p in archive.namelist() if p.endswith(".py") and p.startswith(wanted)]
        files = {path: archive.read(path).decode() for path in paths}
    about = {"vllm": version, "wheel": wheel.name, "sha256": sha256}
    for matcher in MATCHERS:
        cases = list(matcher(files))
        path = TABLES / f"vllm-{version}-{matcher.__name__.replace('_', '-')}.json"
        lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
        fused = json.dumps(FUSED)
        path.write_text(
            f'{{"about": {json.dumps(about)}, "fused": {fused},\n"cases": [\n{lines}\n]}}\n'
        )
        print(path.name, len(cases), path.stat().st_size)
    classes, unresolved = declared_once(files)
    counts = {"resolved": len(classes), "unresolved": len(unresolved)}
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in classes.items())
    MODELS.write_text(
        f'{{"about": {json.dumps(about | counts)},\n'
        f'"unresolved": {json.dumps(unresolved)},\n"classes": {{\n{lines}\n}}}}\n'
    )
    print(MODELS.name, counts, MODELS.stat().st_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
