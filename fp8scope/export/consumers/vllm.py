"""vLLM: reads lists of FP8 checkpoints, and quantizes a BF16 one while loading it.

Online it scales inputs at run time; weights get one scale, one per output channel, or one per
block. Which layer gets which, its `targets` say by name. Static scales need a checkpoint.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from fp8scope.checkpoint import schemes
from fp8scope.core.modules import WORDS, Model, Treatment
from fp8scope.export.consumer import (
    SAYS,
    CannotExpress,
    CannotRead,
    Config,
    Consumer,
    Document,
    Form,
    Layer,
    Pattern,
    Reading,
)
from fp8scope.export.matchers.lists import algorithm_of, fp8_treatment, listed, quantized_layers
from fp8scope.export.matchers.vllm_compressed import CompressedReading
from fp8scope.export.matchers.vllm_names import names
from fp8scope.export.matchers.vllm_online import SHORTHAND_OF, OnlineReading
from fp8scope.export.matchers.vllm_reading import (
    BLOCK_FP8,
    Fp8Reading,
    MixedReading,
    ModelOptReading,
)
from fp8scope.export.refusals import FINISHED, refuse_online

_LONGEST = 128 * 1024 - 1  # bytes of one argument of a command on Linux
_ALGORITHMS = (*schemes.ALGORITHMS, "NVFP4", "W4A16_NVFP4", "MXFP8", "MIXED_PRECISION")


def _read_modelopt(config: Config, model: Model, _version: str) -> Reading:
    data = config.data
    section = data.get("quantization", data)
    algorithm = algorithm_of(config, section if isinstance(section, Mapping) else {}).upper()
    if algorithm not in _ALGORITHMS:
        raise CannotRead(
            f"vLLM does not know the quant_algo {algorithm} of {config.source}",
            f"one of {', '.join(_ALGORITHMS)}",
        )
    where = "ignore" if section is data and "ignore" in data else "exclude_modules"
    patterns = [Pattern(where, text, "bf16") for text in listed(config, section, where)]
    if algorithm != "MIXED_PRECISION":
        return ModelOptReading(model, patterns, algorithm)
    quantized = _quantized(config, section)
    for name, said in quantized.items():
        says = schemes.algorithm(str(said["quant_algo"]))
        patterns.append(Pattern("quantized_layers", name, says))
    return MixedReading(model, patterns, quantized)


def _quantized(config: Config, section: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    quantized = quantized_layers(config, section)
    blocks = [q for q in quantized.values() if str(q["quant_algo"]).upper() in BLOCK_FP8]
    if len({q.get("group_size", 128) for q in blocks}) > 1:
        raise CannotRead(
            f"{config.source} has blocks of several sizes", "vLLM takes one group_size for all"
        )
    return quantized


def _read_compressed(config: Config, model: Model, _version: str) -> Reading:
    return CompressedReading(config, model)


def _read_fp8(config: Config, model: Model, _version: str) -> Reading:
    data = config.data
    treatment = fp8_treatment(config, "vLLM")
    where = "ignored_layers" if data.get("ignored_layers") else "modules_to_not_convert"
    patterns = [Pattern(where, text, "bf16") for text in listed(config, data, where)]
    experts: Treatment = "other" if data.get("store_dtype") == "mxfp4" else treatment
    return Fp8Reading(model, patterns, treatment, experts)


def _read_online(config: Config, model: Model, _version: str) -> Reading:
    return OnlineReading(config, model)


def write(model: Model) -> Document:
    """The online config, and a script that serves with it. Raises CannotExpress."""
    refuse_online("vLLM", model)
    said = names(model)
    if not said.known:
        raise CannotExpress(
            f"vLLM {CONSUMER.versions[-1]} has no {model.architecture} whose names we know",
            FINISHED,
        )
    data = {"targets": dict(_targets(said.layers)), "ignore": []}
    _check_reading(model, data)
    compact = json.dumps(data, separators=(",", ":"))
    if len(compact.encode()) > _LONGEST:
        raise CannotExpress(
            f"--quantization-config would be {len(compact.encode())} bytes, Linux takes {_LONGEST}",
            FINISHED,
        )
    command = ["vllm", "serve", model.name, "--quantization", "online", "--quantization-config"]
    script = ["#!/bin/sh", f"# vLLM, {SAYS['online config']}", shlex.join([*command, compact]), ""]
    return Document(
        kind="online config",
        forms={
            "json": Form(".json", json.dumps(data, indent=2) + "\n"),
            "shell": Form(".sh", "\n".join(script)),
        },
        config=data,
        use=(f'{shlex.join(command)} "$(cat FILE.json)"',),
    )


def _targets(layers: tuple[Layer, ...]) -> Iterator[tuple[str, str]]:
    """A fused layer by its own name, which goes before its shards' and needs none declared."""
    for layer in layers:
        treatment = _treatment(layer)
        if treatment != "bf16":
            yield layer.name, SHORTHAND_OF[treatment]


def _treatment(layer: Layer) -> Treatment:
    """What all of the layer should run in. Raises CannotExpress where vLLM cannot, online."""
    wanted = {module.wanted or "bf16" for module in layer.modules}
    if len(wanted) > 1:
        words = " and ".join(sorted(WORDS[each] for each in wanted))
        raise CannotExpress(
            f"{layer.name} is one layer in vLLM, wanted in {words}",
            "give all its members the same precision in the plan",
        )
    treatment = wanted.pop()
    if treatment != "bf16" and layer.kind == "lm_head":
        raise CannotExpress(f"vLLM does not quantize {layer.name} online", "keep it in BF16")
    if treatment == "fp8_tensor":
        raise CannotExpress(
            f"vLLM scales inputs at run time online, {layer.name} should have a static scale",
            f"{FINISHED}; or plan with --candidates fp8_token,fp8_block",
        )
    if treatment != "bf16" and treatment not in SHORTHAND_OF:
        raise CannotExpress(f"vLLM cannot make {WORDS[treatment]} of {layer.name}", FINISHED)
    return treatment


def _check_reading(model: Model, data: dict[str, Any]) -> None:
    """Raises CannotExpress where exact names would still go wrong."""
    reading = _read_online(Config("vllm", data, "the config"), model, "")
    for layer in reading.layers:
        outcome, wanted = reading.outcome(layer), layer.modules[0].wanted or "bf16"
        if outcome.treatment != wanted:
            words = WORDS[outcome.treatment] if outcome.treatment else outcome.error
            raise CannotExpress(
                f"vLLM would run {layer.name} in {words}, not in {WORDS[wanted]}", FINISHED
            )


CONSUMER = Consumer(
    name="vllm",
    about="vLLM: FP8 checkpoints, or a BF16 one quantized while loading",
    write=write,
    reads={
        "hf-quant-config": _read_modelopt,
        "compressed-tensors": _read_compressed,
        "vllm": _read_online,
        "fp8": _read_fp8,
    },
    rules={
        "hf-quant-config": "exact names, of fused layers all parts; else any piece of a name,"
        " or a glob over all of it; q, k and v are one layer, as are gate and up",
        "compressed-tensors": "exact names, of fused layers all parts, or re: from the start of a"
        " name, or a class such as Linear; no globs, no parts",
        "vllm": "exact names, of fused layers all parts, globs, or re: from the start of a name",
        "fp8": "exact names alone, of fused layers all parts",
    },
    versions=("0.33.0",),
)
