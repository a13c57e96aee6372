"""SGLang's names: of its modules, and what its model classes declare about lists.

The declarations are recorded from its wheel (`sglang_models.json`, see `tests/conformance`); which
prefix a wrapper class builds its parts under is written here, as its constructor has it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from fp8scope.core.modules import Model
from fp8scope.export.consumer import Layer
from fp8scope.export.matchers.fused_layers import USUAL, fused_layers
from fp8scope.export.matchers.sglang_match import Fused, Mapper

# prefixes of names in the files, and those that the class builds the same modules under
_LANGUAGE_MODEL = {
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "lm_head": "language_model.lm_head",
}
_QWEN_VL = {"model.language_model.": "model.", "model.visual.": "visual."}
_PREFIXES: dict[str, dict[str, str]] = {
    "LlavaForConditionalGeneration": _LANGUAGE_MODEL,
    "Mistral3ForConditionalGeneration": _LANGUAGE_MODEL,
    "Gemma3ForConditionalGeneration": _LANGUAGE_MODEL,
    "Llama4ForConditionalGeneration": _LANGUAGE_MODEL,
    "KimiVLForConditionalGeneration": _LANGUAGE_MODEL,
    "Qwen2VLForConditionalGeneration": _QWEN_VL,
    "Qwen2_5_VLForConditionalGeneration": _QWEN_VL,
}
# classes that add this to their map while they are built, where queries are compressed
_LATENT = ("Deepseek", "Glm4MoeLite", "GlmMoeDsa", "LongcatFlash")
# classes that hand their map to the quantization config, which online has none otherwise
_TELLS = {
    "DeepseekV2ForCausalLM",
    "DeepseekV3ForCausalLM",
    "DeepseekV32ForCausalLM",
    "Qwen3NextForCausalLM",
    "Qwen3_5ForCausalLM",
    "Qwen3_5MoeForCausalLM",
}
_LATENT_FUSED = {"fused_qkv_a_proj_with_mqa": ("q_a_proj", "kv_a_proj_with_mqa")}


@dataclass(frozen=True)
class Names:
    """What an architecture's class brings: its layers, its fused map, how it renames lists.

    `online` is the map that is known where a BF16 checkpoint is quantized while loading.
    `plain_head`: it never quantizes its head, whatever a list says.
    """

    layers: tuple[Layer, ...]
    fused: Fused
    online: Fused
    mapper: Mapper
    plain_head: bool

    def listed(self, entries: Sequence[str]) -> list[str]:
        """Entries of a list as the matcher will see them."""
        renamed = (self.mapper.name(entry) for entry in entries)
        return [name for name in renamed if name is not None]


def names(model: Model) -> Names:
    """An architecture that SGLang does not have is taken for one that declares nothing."""
    said = _classes().get(model.architecture, {})
    fused: dict[str, Sequence[str]] = dict(said.get("fused", {}))
    if model.architecture.startswith(_LATENT) and _compresses(model):
        fused |= _LATENT_FUSED
    return Names(
        layers=fused_layers(model.modules, _rename(model.architecture), {**USUAL, **fused}),
        fused=fused,
        online=fused if model.architecture in _TELLS else {},
        mapper=Mapper(**said.get("mapper", {})),
        plain_head=said.get("plain_head", False),
    )


def _compresses(model: Model) -> bool:
    return any(module.name.endswith(".q_a_proj") for module in model.modules)


def _rename(architecture: str) -> Callable[[str], str]:
    prefixes = _PREFIXES.get(architecture, {})

    def rename(name: str) -> str:
        for old, new in prefixes.items():
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name

    return rename


@lru_cache(maxsize=1)
def _classes() -> Mapping[str, Any]:
    text = files(__package__).joinpath("sglang_models.json").read_text()
    classes: Mapping[str, Any] = json.loads(text)["classes"]
    return classes
