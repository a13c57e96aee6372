"""SGLang: reads lists of FP8 checkpoints, and quantizes a BF16 one while loading it.

Online it makes a scale per output channel of a linear's weight and one per token of its input, on
NVIDIA GPUs from Ada on; experts get one scale per weight. What stays is named by an environment
variable. Mixes and static scales need a checkpoint.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

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
    Outcome,
    Pattern,
    Reading,
)
from fp8scope.export.matchers import sglang_match as match
from fp8scope.export.matchers.lists import algorithm_of, fp8_treatment, listed, quantized_layers
from fp8scope.export.matchers.sglang_compressed import CompressedReading
from fp8scope.export.matchers.sglang_names import names
from fp8scope.export.matchers.sglang_reading import Fp8Reading, ModelOptReading
from fp8scope.export.refusals import refuse_online

VARIABLE = "SGLANG_FP8_IGNORED_LAYERS"
_LONGEST = 128 * 1024 - 1  # bytes of one environment variable on Linux, its name included
_ONLINE: tuple[Treatment, Treatment] = ("fp8_token", "fp8_tensor_dynamic")


class _Whole(ModelOptReading):
    """All layers meet the same fate, and nobody reads the lists."""

    def __init__(self, model: Model, fate: Outcome) -> None:
        self.fate = fate
        super().__init__(model, ())

    def outcome(self, layer: Layer) -> Outcome:
        return self.fate


def _read_modelopt(config: Config, model: Model, _version: str) -> Reading:
    flat = config.data.get("quant_algo") is not None
    section = config.data if flat else config.data.get("quantization")
    section = section if isinstance(section, Mapping) else {}
    algorithm = algorithm_of(config, section)
    where = "ignore" if flat else "exclude_modules"
    patterns = [Pattern(where, text, "bf16") for text in listed(config, section, where)]
    if algorithm == "FP8":
        return ModelOptReading(model, patterns)
    return _Whole(model, _without_fp8(config, algorithm, section, flat=flat))


def _without_fp8(
    config: Config, algorithm: str, section: Mapping[str, Any], *, flat: bool
) -> Outcome:
    if algorithm == "MIXED_PRECISION":
        has_any = section.get("quantized_layers")
        layers = quantized_layers(config, section).values() if has_any else ()
        if any(each["quant_algo"].upper() in {"NVFP4", "W4A16_NVFP4"} for each in layers):
            return Outcome("other")
        return Outcome(
            None, "SGLang takes MIXED_PRECISION without NVFP4 for W4AFP8 and cannot load it"
        )
    if "FP4" in algorithm or algorithm == "MXFP8":
        return Outcome("other")
    if flat:
        return Outcome(None, f"SGLang's ModelOpt reader takes only FP8, not {algorithm}")
    return Outcome(
        "bf16", note=f"SGLang does not know {algorithm} and loads the weights as unquantized"
    )


def _read_compressed(config: Config, model: Model, _version: str) -> Reading:
    return CompressedReading(config, model)


def _read_fp8(config: Config, model: Model, _version: str) -> Reading:
    data = config.data
    treatment = fp8_treatment(config, "SGLang")
    where = "ignored_layers" if "ignored_layers" in data else "modules_to_not_convert"
    patterns = [Pattern(where, text, "bf16") for text in listed(config, data, where)]
    return Fp8Reading(model, patterns, (treatment, treatment), serialized=True)


def _read_online(config: Config, model: Model, _version: str) -> Reading:
    if config.data.get("quantization") != "fp8":
        raise CannotRead(
            f"{config.source} does not ask for --quantization fp8", f"only that reads {VARIABLE}"
        )
    entries = listed(config, config.data, "ignored_layers")
    patterns = [Pattern(VARIABLE, text, "bf16") for text in entries]
    return Fp8Reading(model, patterns, _ONLINE, serialized=False)


def write(model: Model) -> Document:
    """A shell script that starts the server. Raises CannotExpress."""
    for layer in names(model).layers:
        _check(layer)
    refuse_online("SGLang", model)
    kept_names = _kept(model)
    data = {"quantization": "fp8", "ignored_layers": kept_names}
    _check_reading(model, data)
    command = ["python", "-m", "sglang.launch_server", "--model-path", model.name]
    command += ["--quantization", "fp8"]
    kept = f"{VARIABLE}={shlex.quote(','.join(kept_names))}"
    if len(kept.encode()) > _LONGEST:
        raise CannotExpress(
            f"{VARIABLE} would be {len(kept.encode())} bytes, Linux takes {_LONGEST}",
            "build a checkpoint and use --to compressed-tensors",
        )
    launch = shlex.join(command)
    head = ["#!/bin/sh", f"# SGLang, {SAYS['online config']}"]
    head.append(f"# {VARIABLE} names what stays BF16")
    text = "\n".join([*head, f"export {kept}", launch, ""])
    return Document(
        kind="online config",
        forms={"shell": Form(".sh", text)},
        config=data,
        use=("sh FILE.sh",),
    )


def _check(layer: Layer) -> None:
    """Raises CannotExpress where SGLang cannot run the layer in what is wanted."""
    wanted = {module.wanted or "bf16" for module in layer.modules}
    if len(wanted) > 1:
        raise CannotExpress(
            f"{layer.name} is one layer in SGLang, wanted in {' and '.join(_words(wanted))}",
            "give all its members the same precision in the plan",
        )
    treatment = wanted.pop()
    if treatment == "bf16":
        return
    quantizable = layer.kind != "lm_head" and layer.modules[0].kind != "router"
    if not quantizable:
        raise CannotExpress(
            f"SGLang does not quantize {layer.name} while loading", "keep it in BF16"
        )
    if treatment == _ONLINE[layer.kind == "experts"]:
        return
    nearest = "hf-quant-config" if treatment == "fp8_tensor" else "compressed-tensors"
    why = f"SGLang cannot make {WORDS[treatment]} of {layer.name} while loading it"
    mixes = "; --to compressed-tensors can mix" if nearest == "hf-quant-config" else ""
    raise CannotExpress(why, f"build a checkpoint and use --to {nearest}{mixes}")


def _words(treatments: set[Treatment]) -> list[str]:
    return sorted(WORDS[treatment] for treatment in treatments)


def _kept(model: Model) -> list[str]:
    """An entry for each name that the matcher asks about a layer that stays in BF16.

    A class may rename entries to what no layer is called; a shorter dotted end then goes through.
    """
    said = names(model)
    kept_names = []
    for layer in said.layers:
        if (layer.modules[0].wanted or "bf16") != "bf16":
            continue
        shards = () if layer.kind == "experts" else match.shards(layer.name, said.online)
        for name in shards or (layer.name,):
            parts = name.split(".")
            ends = (".".join(parts[start:]) for start in range(len(parts)))
            fitting = (e for e in ends if any(match.on_path(n, name) for n in said.listed([e])))
            kept_names.append(next(fitting, name))
    return kept_names


def _check_reading(model: Model, data: dict[str, Any]) -> None:
    """Raises CannotExpress where a list of exact names would still go wrong."""
    reading = _read_online(Config("sglang", data, "the list"), model, "")
    for layer in reading.layers:
        outcome = reading.outcome(layer)
        if outcome.treatment != (layer.modules[0].wanted or "bf16"):
            raise CannotExpress(
                f"SGLang renames lists of {model.architecture} so that none can keep {layer.name}",
                "build a checkpoint and use --to compressed-tensors",
            )


CONSUMER = Consumer(
    name="sglang",
    about="SGLang: FP8 checkpoints, or a BF16 one quantized while loading",
    write=write,
    reads={
        "hf-quant-config": _read_modelopt,
        "compressed-tensors": _read_compressed,
        "fp8": _read_fp8,
        "sglang": _read_online,
    },
    rules={
        "hf-quant-config": "runs of whole dotted parts, or globs over a whole name or one part of"
        " it; experts only by the name that ends in experts",
        "compressed-tensors": "exact names or dotted ends, or re: from the start of a name; most"
        " model classes know no parts of qkv_proj and gate_up_proj, so these are to be named",
        "fp8": "runs of whole dotted parts, of fused layers of every part",
        "sglang": "runs of whole dotted parts, of fused layers of every part",
    },
    versions=("0.5.23",),
)
