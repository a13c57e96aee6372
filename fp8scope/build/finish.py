"""What makes a folder of tensors a checkpoint: configs, tokenizer, and the plan that it is of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fp8scope.artefacts.plan import Plan
from fp8scope.artefacts.plan_file import write_plan
from fp8scope.errors import BadModel

CONFIG = "config.json"
METADATA = "hf_quant_config.json"
COPIED = (
    "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "chat_template*", "vocab*", "merges.txt", "*.tiktoken", "spiece.model", "sentencepiece*",
    "preprocessor_config.json", "processor_config.json", "LICENSE*", "NOTICE*",
)  # fmt: skip


CODE = "*.py"


def check_architecture(config: Mapping[str, Any], loaded: str) -> None:
    """Raise BadModel where config.json names other classes than the one that was `loaded`: an
    engine would look for the rest of that model.
    """
    named = config.get("architectures") or [loaded]
    if loaded.lower() not in {str(each).lower() for each in named}:
        what = f"config.json names {', '.join(named)}, and transformers loads it as {loaded}"
        raise BadModel(what, "correct its architectures, and scan it anew")


def write_config(
    source: Path, folder: Path, quantization: Mapping[str, Any], dtype: str, architecture: str
) -> None:
    """config.json: the model's own, word for word, with `quantization_config`, its dtype, and the
    `architecture` that was loaded: engines know the model by that alone.

    Saved anew by transformers it would be in the words of that release, which older engines do not
    all read.
    """
    config = json.loads((source / CONFIG).read_bytes())
    key = "dtype" if "dtype" in config else "torch_dtype"
    config |= {key: dtype, "quantization_config": quantization}
    config["architectures"] = [architecture]
    _write(folder / CONFIG, config)


def write_metadata(folder: Path, nested: Mapping[str, Any]) -> None:
    """hf_quant_config.json."""
    _write(folder / METADATA, nested)


def copy_beside(source: Path, folder: Path) -> list[str]:
    """Tokenizer, generation settings and licence of the model, byte for byte; their names. With the
    code that its configs name (`auto_map`), which is looked for beside them.
    """
    code = (CODE,) if _names_code(source) else ()
    found = {p for pattern in (*COPIED, *code) for p in source.glob(pattern) if p.is_file()}
    for path in sorted(found):
        shutil.copyfile(path, folder / path.name)
    return sorted(path.name for path in found)


def _names_code(source: Path) -> bool:
    configs = (source / CONFIG, source / "tokenizer_config.json")
    return any("auto_map" in json.loads(each.read_bytes()) for each in configs if each.exists())


def put_plan(plan: Plan, factors: Mapping[str, NDArray[Any]], folder: Path) -> None:
    """plan.json, and plan.npz where anything was smoothed: what the checkpoint was made from."""
    write_plan(plan, factors, folder / "plan.json")


def _write(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
