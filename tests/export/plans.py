"""Plans of the shapes, as files: what a plan says elsewhere is that of a small golden one."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from fp8scope.artefacts.plan import Plan
from fp8scope.core.modules import Model, Module

SMALL = Path(__file__).parents[1] / "plan/golden/small.json"
_NUMBER = re.compile(r"(?<=experts\.)\d+")


def plan_of(model: Model, *, folded: bool = False) -> Plan:
    """A plan in which every module runs in what `model` wants of it."""
    data: dict[str, Any] = json.loads(SMALL.read_text())
    data["model"] |= {"name": model.name, "architecture": model.architecture}
    data["model"]["model_type"] = model.model_type
    parts: dict[str, list[Module]] = defaultdict(list)
    for module in model.modules:
        parts[module.runtime].append(module)
    data["modules"] = [_linear(runtime, modules) for runtime, modules in parts.items()]
    data["groups"] = _groups(model, data["groups"][0]["evidence"])
    bf16 = {m.runtime for m in model.modules if m.wanted in {None, "bf16"}}
    data["ignore"] = [each["name"] for each in data["modules"] if each["name"] in bf16]
    if not folded:
        data |= {"folds": [], "factors": None}
    data["kv_cache"] = []
    return Plan.model_validate(data)


def write(plan: Plan, path: Path) -> Path:
    path.write_text(plan.model_dump_json())
    return path


def _linear(runtime: str, modules: list[Module]) -> dict[str, Any]:
    first = modules[0]
    shards = tuple(dict.fromkeys(_NUMBER.sub("{}", module.name) for module in modules))
    stacked = first.kind == "expert"
    return {
        "name": runtime,
        "group": first.group,
        "in_features": first.in_features,
        "out_features": first.out_features * (len(shards) if stacked else 1),
        "experts": len(modules) // len(shards) if stacked else 0,
        "bias": False,
        "transposed": False,
        "checkpoint_weight": None if stacked else f"{first.name}.weight",
        "checkpoint_shards": [f"{shard}.weight" for shard in shards] if stacked else [],
        "tied_to": None,
    }


def _groups(model: Model, evidence: dict[str, Any]) -> list[dict[str, Any]]:
    found: dict[str, list[Module]] = defaultdict(list)
    for module in model.modules:
        found[module.group].append(module)
    return [
        {
            "name": name,
            "members": list(dict.fromkeys(module.runtime for module in modules)),
            "precision": modules[0].wanted or "bf16",
            "decided": modules[0].kind not in {"router", "lm_head"},
            "reason": "asked for",
            "evidence": evidence,
        }
        for name, modules in found.items()
    ]
