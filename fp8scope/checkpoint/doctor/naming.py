"""Names of tensors that differ by a prefix from those that a model has."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from fp8scope.checkpoint.doctor.contents import ASIDE, LAYER, Contents
from fp8scope.checkpoint.doctor.diagnosis import Fault
from fp8scope.checkpoint.doctor.phrases import many, verb

LAYERS = "model.layers"
# text models whose layers every engine looks for under `model.layers`
TEXT_MODELS = {
    "LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "Qwen2ForCausalLM",
    "Qwen3ForCausalLM", "Phi3ForCausalLM", "Gemma2ForCausalLM",
}  # fmt: skip
RENAME = "rename the tensors: engines do not find them, or refuse them"


def prefix_faults(contents: Contents) -> Iterator[Fault]:
    """Layers of a well-known text model that do not lie where it has them; where there is a plan,
    that knows better.
    """
    if contents.architecture not in TEXT_MODELS or (contents.folder / "plan.json").exists():
        return
    stacks: dict[str, list[str]] = {}
    for name in contents.tensors:
        if (found := LAYER.match(name)) and not ASIDE.search(name):
            stacks.setdefault(found["stack"], []).append(name)
    odd = [name for stack, names in stacks.items() if stack != LAYERS for name in names]
    if odd:
        what = f"{many(odd, 'tensor')} {verb(odd, 'lies', 'lie')} under "
        what += f"{' and '.join(stack for stack in stacks if stack != LAYERS)}, "
        what += f"and {contents.architecture} has its layers under {LAYERS}"
        yield Fault("tensor-prefix", "warning", what, RENAME, tuple(odd))


def prefixes(real: Sequence[str], wanted: Collection[str]) -> tuple[str, str] | None:
    """What `real` names of layers begin with and what instead makes all of them `wanted` ones, such
    as ("", "model."); None where no prefix does.
    """
    for other in wanted if real else ():
        here, there = _heads(real[0], other)
        if here != there and all(
            each.startswith(here) and there + each.removeprefix(here) in wanted for each in real
        ):
            return here, there
    return None


def _heads(name: str, other: str) -> tuple[str, str]:
    """What is before the part that two names end with alike; ("", "") if that has no layer."""
    own, others = name.split("."), other.split(".")
    same = 0
    while same < min(len(own), len(others)) and own[-1 - same] == others[-1 - same]:
        same += 1
    tail = ".".join(own[len(own) - same :])
    if not LAYER.match(f"{tail}."):
        return "", ""
    return name.removesuffix(tail), other.removesuffix(tail)
