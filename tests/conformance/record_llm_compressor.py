"""Record what llm-compressor makes of recipes, into tables/llm-compressor-VERSION.json.

It requires another transformers than ours, so it runs in an environment of its own:

    python -m venv llmc
    llmc/bin/pip install llmcompressor==0.14.0.1
    llmc/bin/python tests/conformance/record_llm_compressor.py

It parses every recipe and applies its modifiers to a small Mixtral whose experts it has taken
apart. The recipes are made up from a seed; those in export/golden, which we wrote, come last.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "export" / "golden"
CASES = 600
EXPRESSIONS = (
    ".*", r".*\.down_proj$", ".*self_attn", r"model\.layers\.1", r"model\.layers\.[01]\.mlp.*",
    "lm_head", ".*gate", r"(?!.*lm_head).*", "^model.*proj$", "down_proj", ".*experts.*", "Linear",
    r"^model\.layers\.0\.mlp\.experts\.\d+\.(gate|up)_proj$", ".*block_sparse_moe.*", "([",
)  # fmt: skip
WORDS = ("Linear", "Linear", "Module", "linear", "lm_head", "q_proj", "*down_proj", "gate")
PRESETS = ("FP8", "FP8", "FP8_DYNAMIC", "FP8_BLOCK", "fp8", "W8A8", "UNQUANTIZED", "FP8_TENSOR")
FLOAT8 = {"num_bits": 8, "type": "float"}
SCHEMES: tuple[dict[str, Any], ...] = (
    {"weights": FLOAT8, "input_activations": FLOAT8},
    {"weights": FLOAT8, "input_activations": {**FLOAT8, "dynamic": True}},
    {"weights": FLOAT8, "input_activations": {**FLOAT8, "strategy": "token", "dynamic": True}},
    {"weights": {**FLOAT8, "strategy": "channel"}},
    {
        "weights": {**FLOAT8, "strategy": "channel"},
        "input_activations": {**FLOAT8, "strategy": "token", "dynamic": True},
    },
    {"weights": {**FLOAT8, "strategy": "block"}},
    {"weights": FLOAT8, "input_activations": {**FLOAT8, "strategy": "token"}},
)


def _target(rng: random.Random, names: list[str]) -> str:
    name = rng.choice(names)
    cut = rng.randrange(len(name))
    return rng.choice(
        (
            name,
            name,
            rng.choice(WORDS),
            "re:" + rng.choice(EXPRESSIONS),
            f"re:{name[:cut]}.*",
            f"re:.*{name[cut:]}",
            name[cut:],
            name.replace("mlp.experts", "block_sparse_moe.experts"),
        )
    )


def _modifier(rng: random.Random, names: list[str]) -> dict[str, Any]:
    def listed(least: int) -> list[str]:
        return [_target(rng, names) for _ in range(rng.randint(least, 4))]

    found: dict[str, Any] = {}
    if rng.random() < 0.7:
        found["ignore"] = listed(0)
    how = rng.random()
    if how < 0.35:
        found["scheme"] = rng.choice(PRESETS)
    elif how < 0.7:
        found["scheme"] = {rng.choice(PRESETS): listed(1) for _ in range(rng.randint(1, 3))}
    elif how < 0.92:
        groups = {f"group_{n}": {"targets": listed(1)} for n in range(rng.randint(1, 2))}
        found["config_groups"] = {n: {**g, **rng.choice(SCHEMES)} for n, g in groups.items()}
    if rng.random() < 0.5:
        found["targets"] = rng.choice((listed(1), _target(rng, names)))
    if rng.random() < 0.03:
        found["ignored"] = ["lm_head"]
    return found


def _recipe(rng: random.Random, names: list[str]) -> dict[str, Any]:
    recipe: dict[str, Any] = {}
    for _ in range(rng.choice((1, 1, 1, 2))):
        stage = rng.choice(("quant_stage", "quant_stage", "other_stage", "quant"))
        group = rng.choice(("quant_modifiers", "quant_modifiers", "more_modifiers", "modifier"))
        kind = rng.choice(("QuantizationModifier",) * 5 + ("GPTQModifier", "QuantModifier"))
        recipe.setdefault(stage, {}).setdefault(group, {})[kind] = _modifier(rng, names)
    return recipe


def _model() -> Any:
    from llmcompressor.modeling.moe.linearize import linearize_moe
    from transformers import AutoModelForCausalLM, MixtralConfig

    config = MixtralConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        dtype="float32",
    )
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return linearize_moe(model)


def _outcome(model: Any, text: str, names: list[str]) -> Any:
    """By what a module is quantized to, the numbers of `names`; or that the recipe is refused."""
    from llmcompressor.recipe import Recipe

    tree = copy.deepcopy(model)
    try:
        for modifier in Recipe.create_instance(text).modifiers:
            if not modifier.has_config():
                raise ValueError("nothing is said")  # as on_initialize does
            modifier.resolved_config.kv_cache_scheme = None  # a matter of attention, not of linears
            modifier.initialize_quantization(tree)
    except Exception as error:  # whatever it is, the recipe is refused
        return {"error": type(error).__name__}
    found: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        if words := _words(getattr(tree.get_submodule(name), "quantization_scheme", None)):
            found.setdefault(words, []).append(number)
    return {"quantized": found}


def _words(scheme: Any) -> str:
    if scheme is None or scheme.weights is None:
        return ""
    return "; ".join(map(_arguments, (scheme.weights, scheme.input_activations)))


def _arguments(found: Any) -> str:
    if found is None:
        return "none"
    when = "dynamic" if found.dynamic else "static"
    kind, how = (getattr(each, "value", each) for each in (found.type, found.strategy))
    return f"{kind}{found.num_bits} {how} {when}"


def _texts(names: list[str]) -> Iterator[str]:
    rng = random.Random(0)  # noqa: S311
    for _ in range(CASES):
        yield yaml.safe_dump(_recipe(rng, names), sort_keys=False)
    for path in sorted(GOLDEN.glob("llm-compressor-*.yaml")):
        yield path.read_text()


def main() -> None:
    """Write the table."""
    model = _model()
    linears = {"Linear", "MixtralTopKRouter"}
    names = [n for n, m in model.named_modules() if type(m).__name__ in linears]
    cases = [{"recipe": text, **_outcome(model, text, names)} for text in _texts(names)]
    for case in cases[CASES:]:
        case["sha256"] = hashlib.sha256(case.pop("recipe").encode()).hexdigest()
    found = {
        "llmcompressor": version("llmcompressor"),
        "compressed-tensors": version("compressed-tensors"),
        "transformers": version("transformers"),
        "names": names,
        "cases": cases,
    }
    path = HERE / "tables" / f"llm-compressor-{version('llmcompressor')}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(_lines(found))
    sys.stderr.write(f"{path}: {len(cases)} recipes\n")


def _lines(found: dict[str, Any]) -> str:
    """JSON with a line for each case."""
    cases = ",\n".join(json.dumps(case) for case in found.pop("cases"))
    return f'{json.dumps(found)[:-1]}, "cases": [\n{cases}\n]}}\n'


if __name__ == "__main__":
    main()
