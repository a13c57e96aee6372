"""From transformers' `config.model_type` to the family that describes it."""

from __future__ import annotations

from typing import Any

from fp8scope.runtime.families.deepseek import DEEPSEEK
from fp8scope.runtime.families.family import Family
from fp8scope.runtime.families.gemma import GEMMA
from fp8scope.runtime.families.gpt2 import GPT2
from fp8scope.runtime.families.gpt_neox import GPT_NEOX
from fp8scope.runtime.families.llama import LLAMA
from fp8scope.runtime.families.moe import LLAMA_MOE
from fp8scope.runtime.families.opt import OPT
from fp8scope.runtime.families.phi3 import PHI3

FAMILIES = (LLAMA, LLAMA_MOE, GEMMA, PHI3, GPT_NEOX, GPT2, OPT, DEEPSEEK)
BY_MODEL_TYPE = {model_type: family for family in FAMILIES for model_type in family.model_types}


def family_of(config: Any) -> Family | None:
    """The family of a transformers text config, or None if it is not known by name."""
    family = BY_MODEL_TYPE.get(getattr(config, "model_type", ""))
    return family if family is not None and family.supports(config) else None
