"""Small random models with plans of theirs, in any mix of precisions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from fp8scope.artefacts.plan import Plan
from fp8scope.build.files import file_shapes
from fp8scope.observe.applied import Applied
from fp8scope.observe.scan import Scan, ScanOptions, Subject
from fp8scope.plan.make import make_plan
from fp8scope.plan.settings import PlanSettings
from fp8scope.runtime.loading import model_identity
from fp8scope.runtime.structure import discover
from tests import models
from tests.observe import scans
from tests.observe.quantized_models import TRANSPOSED, Prepared, gpt_oss
from tests.plan import invented

ALL_FP8 = PlanSettings(max_bf16_share=0, candidates=("fp8_tensor",))


@cache
def prepared(name: str, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> Prepared:
    """A model, scanned, whose structure knows its files; shared: do not change it."""
    model: Any = gpt_oss() if name == TRANSPOSED else models.build(name, **changes)
    model.to(dtype)
    identity = model_identity("small", model, "", None)
    structure = discover(model, file_shapes(model))
    subject = Subject(model, None, model.config.to_dict(), identity, structure, scans.calibration())
    return Prepared(model, Scan(subject, ScanOptions("standard", 1, keep_every=1e9)).run())


@cache
def all_fp8(name: str, **changes: Any) -> Plan:
    """Everything per tensor, and the KV cache where it is known; lm_head and routers in BF16."""
    profile = invented.with_nats(copy.deepcopy(prepared(name, **changes).profile), lambda _: 0.001)
    cache: Literal["fp8", "bf16"] = "fp8" if profile.structure.kv_layers else "bf16"
    return make_plan(profile, replace(ALL_FP8, kv_cache=cache))[0]


def mixed(plan: Plan, precisions: Mapping[str, str], *, cache: str = "fp8") -> Plan:
    """The same with other precisions for groups whose name holds the key, and for the caches."""
    data = plan.model_dump(mode="json")
    for group in data["groups"]:
        for part, precision in precisions.items():
            if part in group["name"]:
                group |= {"precision": precision}
                if precision != "fp8_tensor":
                    group |= {"scales": []}
    for each in data["kv_cache"]:
        each["precision"] = cache
    bf16 = {n for g in data["groups"] if g["precision"] == "bf16" for n in g["members"]}
    data["ignore"] = [module["name"] for module in data["modules"] if module["name"] in bf16]
    return Plan.model_validate(data)


def fake_quantized(what: Prepared, plan: Plan, ids: Tensor) -> Tensor:
    """Logits of the model as the plan's terms quantize it."""
    applied = Applied(what.model, what.gemms, what.caches, cached=bool(what.caches))
    with applied.terms(plan.terms()):
        return applied.logits(ids)


def sqnr_db(got: Tensor, want: Tensor) -> float:
    got, want = got.double(), want.double()
    return float(10 * torch.log10((want**2).sum() / ((got - want) ** 2).sum()))
