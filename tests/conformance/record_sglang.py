"""Records what SGLang's own matchers answer, and what its model classes declare.

    python -m tests.conformance.record_sglang sglang-0.5.23-….whl

The functions are cut out of the wheel by their syntax trees and run with the standard library
only, so neither torch nor SGLang is needed. Writes `tables/sglang-VERSION-*.json` beside this file
and `fp8scope/export/matchers/sglang_models.json`.
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
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

from tests.conformance.recording import answer, seeded
from tests.conformance.sglang_models import declared

QUANTIZATION = "sglang/srt/layers/quantization"
TABLES = Path(__file__).parent / "tables"
MODELS = Path(__file__).parents[2] / "fp8scope/export/matchers/sglang_models.json"
CASES = 640
FUSED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
FUSED_MAPS: list[dict[str, list[str]]] = [
    {},
    FUSED,
    {"fused_qkv_a_proj_with_mqa": ["q_a_proj", "kv_a_proj_with_mqa"]},
]
CLASSES = ["QKVParallelLinear", "MergedColumnParallelLinear", "RowParallelLinear", "FusedMoE"]


def cut(source: str, *names: str) -> dict[str, Any]:
    """Functions, classes and constants of a module, run without its imports."""
    tree = ast.parse(source)
    wanted = [node for node in tree.body if _name(node) in names]
    assert {_name(node) for node in wanted} == set(names), f"not all of {names} are there"
    scope: dict[str, Any] = {
        "re": re,
        "lru_cache": lru_cache,
        "dataclass": dataclass,
        "field": field,
        "MappingProxyType": MappingProxyType,
    }
    future = ast.ImportFrom("__future__", [ast.alias("annotations")], 0)
    module = ast.fix_missing_locations(ast.Module([future, *wanted], []))
    exec(compile(module, "sglang", "exec"), scope)  # noqa: S102
    return scope


def _name(node: ast.stmt) -> str:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id
    return ""


def method(source: str, of: str, name: str) -> Callable[..., Any]:
    """One method of a class, as a plain function, with what else it needs of the module."""
    tree = ast.parse(source)
    owner = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == of)
    body = next(n for n in owner.body if isinstance(n, ast.FunctionDef) and n.name == name)
    body.decorator_list = []
    needed = {"is_layer_excluded": ["_compile_exclusion_pattern"]}.get(name, [])
    scope = cut(source, *needed)
    scope["logger"] = SimpleNamespace(warning=lambda *_: None)
    future = ast.ImportFrom("__future__", [ast.alias("annotations")], 0)
    module = ast.fix_missing_locations(ast.Module([future, body], []))
    exec(compile(module, "sglang", "exec"), scope)  # noqa: S102
    found: Callable[..., Any] = scope[name]
    return found


def module_names() -> list[str]:
    attention = ["qkv_proj", "o_proj", "q_proj", "fused_qkv_a_proj_with_mqa", "kv_b_proj"]
    mlp = ["gate_up_proj", "down_proj", "gate", "experts", "shared_experts.gate_up_proj"]
    parts = [f"self_attn.{n}" for n in attention] + [f"mlp.{n}" for n in mlp]
    parts.append("block_sparse_moe.experts")
    roots = ["model", "language_model.model", "model.language_model"]
    return [
        *(f"{root}.layers.{i}.{part}" for root in roots for i in (0, 1, 10, 11) for part in parts),
        "lm_head",
        "language_model.lm_head",
        "visual.blocks.1.attn.qkv_proj",
    ]


def entries(draw: random.Random, name: str, prefix: str = "") -> list[str]:
    """A list such as people write about a module: names, parents, globs, expressions, shards."""
    last = name.rsplit(".", 1)[-1]
    parts = FUSED.get(last, ["q_a_proj", "kv_a_proj_with_mqa"] if last.startswith("fused") else [])
    shards = [name.replace(last, shard) for shard in parts]
    made = [_entry(draw, draw.choice([name, draw.choice(module_names())])) for _ in range(2)]
    choice = draw.random()
    if shards and choice < 0.5:
        made += shards
    elif shards and choice < 0.65:
        made.append(draw.choice(shards))
    elif shards and choice < 0.75:
        made += [f"*.{shard}" for shard in parts]
    if draw.random() < 0.15:
        made.append(f"{name}.{draw.randrange(3)}.w1")
    draw.shuffle(made)
    return [f"{prefix}{entry}" for entry in made]


def _entry(draw: random.Random, name: str) -> str:
    parts = name.split(".")
    cut_at = draw.randrange(1, len(parts) + 1)
    head, tail = ".".join(parts[:cut_at]), ".".join(parts[-cut_at:])
    return draw.choice(
        [
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
            f"model.{name}",
            parts[-1].replace("proj", "pr?oj"),
            "[bad",
        ]
    )


def is_layer_skipped(files: Mapping[str, str]) -> Iterable[list[Any]]:
    names = ["_module_path_match", "_FALLBACK_FUSED_SHARDS", "is_layer_skipped"]
    theirs = cut(files[f"{QUANTIZATION}/utils.py"], *names)["is_layer_skipped"]
    draw = seeded(1)
    for _ in range(CASES):
        name, fused = draw.choice(module_names()), draw.randrange(len(FUSED_MAPS))
        listed = entries(draw, name)
        yield [
            name,
            listed,
            fused,
            answer(theirs, name, listed, FUSED_MAPS[fused]),
        ]


def is_layer_excluded(files: Mapping[str, str]) -> Iterable[list[Any]]:
    source = files[f"{QUANTIZATION}/modelopt_quant.py"]
    theirs = method(source, "ModelOptQuantConfig", "is_layer_excluded")
    draw = seeded(2)
    for _ in range(CASES):
        name = draw.choice(module_names())
        listed = entries(draw, name)
        config = SimpleNamespace(exclude_modules=listed)
        yield [name, listed, answer(theirs, config, name)]


def should_ignore_layer(files: Mapping[str, str]) -> Iterable[list[Any]]:
    theirs = _compressed_tensors(files)["should_ignore_layer"]
    draw = seeded(3)
    for _ in range(CASES):
        name, fused = draw.choice(module_names()), draw.randrange(len(FUSED_MAPS))
        listed = entries(draw, name)
        yield [
            name,
            listed,
            fused,
            answer(theirs, name, listed, FUSED_MAPS[fused]),
        ]


def find_matched_target(files: Mapping[str, str]) -> Iterable[list[Any]]:
    theirs = _compressed_tensors(files)["find_matched_target"]
    draw = seeded(4)
    for _ in range(CASES):
        name, fused = draw.choice(module_names()), draw.randrange(len(FUSED_MAPS))
        kind = draw.choice(CLASSES)
        listed = entries(draw, name)
        if draw.random() < 0.3:
            listed.append(draw.choice(["Linear", "FusedMoE", "re:.*Linear", "RowParallelLinear"]))
        layer = type(kind, (), {})()
        yield [
            name,
            kind,
            listed,
            fused,
            answer(theirs, name, layer, listed, FUSED_MAPS[fused]),
        ]


def _compressed_tensors(files: Mapping[str, str]) -> dict[str, Any]:
    return cut(
        files[f"{QUANTIZATION}/compressed_tensors/utils.py"],
        "should_ignore_layer",
        "check_equal_or_regex_match",
        "find_matched_target",
        "_find_first_match",
        "_is_equal_or_regex_match",
        "_match_fused_layer",
    )


def fp8_normalisation(files: Mapping[str, str]) -> Iterable[list[Any]]:
    """`Fp8Config.from_config` with a stand-in for the class, which keeps what it is given."""
    theirs = method(files[f"{QUANTIZATION}/fp8.py"], "Fp8Config", "from_config")
    base = files[f"{QUANTIZATION}/base_config.py"]

    from_keys = method(base, "QuantizationConfig", "get_from_keys")
    from_keys_or = method(base, "QuantizationConfig", "get_from_keys_or")
    from_keys_or.__globals__["QuantizationConfig"] = SimpleNamespace(get_from_keys=from_keys)

    class Kept(SimpleNamespace):
        get_from_keys = staticmethod(from_keys)
        get_from_keys_or = staticmethod(from_keys_or)

    draw = seeded(5)
    for _ in range(CASES):
        listed = entries(draw, draw.choice(module_names()))
        key = draw.choice(["ignored_layers", "modules_to_not_convert"])
        config = {"quant_method": "fp8", "activation_scheme": "dynamic", key: listed}
        if draw.random() < 0.1:
            config["ignored_layers"] = []
        yield [config, theirs(Kept, config).ignored_layers]


def weights_mapper(files: Mapping[str, str]) -> Iterable[list[Any]]:
    scope = cut(files["sglang/srt/models/utils.py"], "WeightsMapper")
    rules = [m["mapper"] for m in declared(files).values() if m.get("mapper")]
    draw = seeded(6)
    for _ in range(CASES):
        rule = draw.choice(rules)
        name = draw.choice(
            [*module_names(), "model.visual.blocks.0.attn.qkv", "model.block_sparse_moe.gate"]
        )
        theirs = scope["WeightsMapper"](
            orig_to_new_substr=rule["substrings"],
            orig_to_new_prefix=rule["prefixes"],
            orig_to_new_suffix=rule["suffixes"],
        )
        yield [name, rule, theirs.apply_list([name])]


MATCHERS = [
    is_layer_skipped,
    is_layer_excluded,
    should_ignore_layer,
    find_matched_target,
    fp8_normalisation,
    weights_mapper,
]


def main(wheel: Path) -> None:
    """Writes the tables of all matchers and what the model classes declare."""
    version = wheel.name.split("-")[1]
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with zipfile.ZipFile(wheel) as archive:
        paths = [p for p in archive.namelist() if p.endswith(".py") and p.startswith("sglang/srt/")]
        files = {path: archive.read(path).decode() for path in paths}
    about = {"sglang": version, "wheel": wheel.name, "sha256": sha256}
    TABLES.mkdir(exist_ok=True)
    for matcher in MATCHERS:
        cases = list(matcher(files))
        path = TABLES / f"sglang-{version}-{matcher.__name__.replace('_', '-')}.json"
        lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
        path.write_text(
            f'{{"about": {json.dumps(about)}, "fused": {json.dumps(FUSED_MAPS)},\n'
            f'"cases": [\n{lines}\n]}}\n'
        )
        print(path.name, len(cases), path.stat().st_size)
    classes = declared(files)
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in classes.items())
    MODELS.write_text(f'{{"about": {json.dumps(about)},\n"classes": {{\n{lines}\n}}}}\n')
    print(MODELS.name, len(classes), MODELS.stat().st_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
