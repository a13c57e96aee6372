"""What vLLM quantizes while it loads a BF16 checkpoint: `--quantization-config`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fp8scope.core.modules import Model, Treatment
from fp8scope.export.consumer import CannotRead, Config, Layer, Outcome, Pattern
from fp8scope.export.matchers import vllm_match as match
from fp8scope.export.matchers.lists import listed
from fp8scope.export.matchers.vllm_reading import BF16, VLLMReading

# what a shorthand makes of linears and of experts; None where it says nothing of them
SHORTHANDS: Mapping[str, tuple[Treatment | None, Treatment | None]] = {
    "fp8_per_tensor": ("fp8_tensor_dynamic", "fp8_tensor_dynamic"),
    "fp8_per_block": ("fp8_block", "fp8_block"),
    "fp8_per_channel": ("fp8_token", "fp8_token"),
    "mxfp8": ("other", "other"),
    "mxfp4": ("other", "other"),
    "int8_per_channel_weight_only": (None, "other"),
    "nvfp4_per_token": (None, "other"),
}
SHORTHAND_OF: Mapping[Treatment, str] = {
    "fp8_tensor_dynamic": "fp8_per_tensor",
    "fp8_block": "fp8_per_block",
    "fp8_token": "fp8_per_channel",
}
# names of weight formats: what becomes of linears and of experts, None where vLLM raises
_WEIGHTS: Mapping[str, tuple[Treatment | None, Treatment | None]] = {
    "fp8_per_tensor_static": ("fp8_tensor_dynamic", "fp8_tensor_dynamic"),
    "fp8_per_tensor_dynamic": (None, None),
    "fp8_per_token": (None, None),
    "fp8_per_channel_static": ("fp8_token", "fp8_token"),
    "fp8_per_block_static": ("fp8_block", "fp8_block"),
    "fp8_per_block_dynamic": (None, None),
    "mxfp8": ("other", "other"),
    "mxfp4": (None, None),
    "nvfp4_per_token": (None, None),
    "int8_per_channel_static": (None, "other"),
    "int8_per_group_32": (None, None),
    "int4_per_group_32": ("bf16", "bf16"),
}
_FIELDS = {"linear", "moe", "ignore", "targets"}
_ATTENTION = ("qkv_proj", "o_proj")


class OnlineReading(VLLMReading):
    """Either `targets` name what is quantized, or `linear` and `moe` say it of all."""

    def __init__(self, config: Config, model: Model) -> None:
        """Raises CannotRead where vLLM does not take the config."""
        data = config.data
        if unknown := sorted(set(data) - _FIELDS):
            raise CannotRead(
                f"{config.source} has {', '.join(unknown)}, which vLLM does not take",
                f"an online config has {', '.join(sorted(_FIELDS))}",
            )
        self.targets = _targets(config)
        self.linear, self.moe = (_spec(config, field) for field in ("linear", "moe"))
        if self.targets is None and self.linear is None and self.moe is None:
            raise CannotRead(f"{config.source} asks for nothing", "give it targets")
        if self.targets is not None and (self.linear or self.moe):
            raise CannotRead(
                f"{config.source} has targets beside linear or moe", "vLLM takes one or the other"
            )
        self.ignored = listed(config, data, "ignore")
        patterns = [Pattern("ignore", text, "bf16") for text in self.ignored]
        for text, scheme in (self.targets or {}).items():
            patterns.append(Pattern("targets", text, _of_any(scheme)))
        super().__init__(model, patterns)

    def _outcome(self, layer: Layer) -> Outcome:
        if self.targets is not None:
            return self._targeted(layer, self.targets)
        said = self.moe if layer.kind == "experts" else self.linear
        ignored = match.is_ignored(layer.name, self.ignored, self.names.fused, wildcards=True)
        if layer.kind == "lm_head" or said is None or ignored:
            return BF16
        return said

    def _targeted(self, layer: Layer, targets: Mapping[str, str]) -> Outcome:
        fused = self.names.fused
        ignored = match.is_ignored(layer.name, self.ignored, fused, wildcards=True)
        target = match.online_target(layer.name, targets, fused)
        if ignored and target is not None:
            return Outcome(None, f"ignore and target {target!r} both match it")
        if error := self._attention_error(layer, targets):
            return Outcome(None, error)
        if target is None:
            return BF16
        if layer.kind == "lm_head":
            return Outcome(None, f"target {target!r} matches it, and vLLM quantizes no head online")
        treatment = SHORTHANDS[targets[target]][layer.kind == "experts"]
        if treatment is None:
            return Outcome(None, f"{targets[target]} of target {target!r} is only for experts")
        return Outcome(treatment)

    def _attention_error(self, layer: Layer, targets: Mapping[str, str]) -> str:
        """The attention beside linears is asked for too, and no target may match it."""
        parent, _, last = layer.name.rpartition(".")
        if last not in _ATTENTION:
            return ""
        found = match.online_target(f"{parent}.attn", targets, {})
        return f"target {found!r} also matches {parent}.attn, which is no linear" if found else ""

    def _hits(self, pattern: Pattern, name: str) -> bool:
        if pattern.where == "ignore":
            return match.is_ignored(name, [pattern.text], self.names.fused, wildcards=True)
        return match.online_target(name, {pattern.text: ""}, self.names.fused) is not None


def _of_any(scheme: str) -> Treatment:
    return next(treatment for treatment in SHORTHANDS[scheme] if treatment is not None)


def _targets(config: Config) -> dict[str, str] | None:
    targets = config.data.get("targets")
    if targets is None:
        return None
    if not isinstance(targets, dict):
        raise CannotRead(f"targets of {config.source} is no object", "names and their schemes")
    for name, scheme in targets.items():
        if not isinstance(scheme, str) or scheme not in SHORTHANDS:
            raise CannotRead(
                f"{scheme!r} of target {name!r} in {config.source} is no scheme of vLLM",
                f"one of {', '.join(SHORTHANDS)}",
            )
        try:
            re.compile(name.removeprefix("re:") if name.startswith("re:") else "")
        except re.error as error:
            raise CannotRead(
                f"target {name!r} in {config.source} is no regular expression: {error}", "mend it"
            ) from None
    return targets


def _spec(config: Config, field: str) -> Outcome | None:
    """What `linear` or `moe` makes of its layers; None where it says nothing."""
    said, of_experts = config.data.get(field), field == "moe"
    if said is None:
        return None
    if isinstance(said, str) and said in SHORTHANDS:
        treatment = SHORTHANDS[said][of_experts]
        if treatment is None:
            raise CannotRead(f"{said} in {config.source} is only for experts", "write it in moe")
        return Outcome(treatment)
    spec = {"weight": said} if isinstance(said, str) else said
    if not isinstance(spec, Mapping) or set(spec) - {"weight", "activation"}:
        raise CannotRead(f"{field} of {config.source} is no scheme", f"{', '.join(SHORTHANDS)}")
    for part in spec.values():
        if part is not None and part not in _WEIGHTS:
            raise CannotRead(
                f"{part!r} in {field} of {config.source} is no format of vLLM",
                f"one of {', '.join(_WEIGHTS)}",
            )
    return _made(spec.get("weight"), spec.get("activation"), of_experts=of_experts)


def _made(weight: Any, activation: Any, *, of_experts: bool) -> Outcome:
    treatment = "bf16" if weight is None else _WEIGHTS[weight][of_experts]
    if treatment is None:
        return Outcome(None, f"vLLM cannot quantize weights to {weight} while loading")
    if activation is not None and treatment != "bf16":
        return Outcome(None, f"vLLM chooses the activations itself, and takes no {activation}")
    return Outcome(treatment)
