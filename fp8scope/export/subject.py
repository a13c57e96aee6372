"""What is checked: a plan, a checkpoint folder, or a config that somebody wrote.

Only config files and the headers of safetensors are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fp8scope.artefacts.plan import FORMAT
from fp8scope.artefacts.plan_file import read_plan
from fp8scope.checkpoint.hub import is_hub_id, read_remote
from fp8scope.checkpoint.inventory import Inventory, read_inventory
from fp8scope.checkpoint.linears import linears
from fp8scope.checkpoint.listing import INDEX, SINGLE
from fp8scope.checkpoint.planned import planned_model
from fp8scope.core.modules import Model, Module
from fp8scope.errors import BadInput, one_line
from fp8scope.export.consumer import CannotRead, Config

CONFIG = "config.json"
METADATA = "hf_quant_config.json"
PLAN = "plan.json"
MOST_VALUES = 2_000_000


@dataclass(frozen=True)
class Subject:
    """A model, what it should run in, and the configs that a consumer would find.

    `says`: where `model`'s `wanted` comes from, for people (`plan.json says`); empty where nobody
    said. `configs` by the file they came from; none of a plan, which has its own made.
    """

    model: Model
    configs: Mapping[str, Config]
    says: str


def read_subject(path: Path, model: str | None) -> Subject:
    """Read what `path` is; where it is a config, with the modules of `model`: a folder, a plan or a
    hub id, of which only config and headers are fetched.

    Raises BadInput and what reading plans and checkpoints raises.
    """
    if path.is_dir():
        return _checkpoint(path, model)
    data = _parsed(path)
    if _is_plan(data):
        return Subject(planned_model(read_plan(path)), {}, f"{path.name} says")
    home = str(path.parent) if model is None and _has_weights(path.parent) else model
    if home is None:
        what = f"{path} is a config, which does not say what modules the model has"
        raise BadInput(what, "give the model's folder or its plan with --model")
    quantization = data.get("quantization_config", data) if isinstance(data, dict) else data
    form = recognised(quantization, path)
    _refuse_endless(quantization, path)
    config = Config(form, quantization, str(path))
    describes_weights = model is None and path.name in {CONFIG, METADATA}
    known, says = _modules(home, trust_tensors=describes_weights)
    return Subject(known, {path.name: config}, says)


def recognised(data: Any, path: Path) -> str:
    """Which form of config this is. Raises CannotRead for none that we know."""
    if isinstance(data, list) and all(isinstance(entry, str) for entry in data):
        return "list"
    if isinstance(data, dict):
        for form, is_it in _FORMS.items():
            if is_it(data):
                _refuse_foreign(form, data, path)
                return form
    what = f"{path} holds no quantization config that fp8scope knows"
    raise CannotRead(what, f"it reads {', '.join(_FORMS)}, plans and checkpoints")


def _refuse_foreign(form: str, data: Mapping[str, Any], path: Path) -> None:
    method = data.get("quant_method")
    if form == "hf-quant-config" and method and not str(method).lower().startswith("modelopt"):
        what = f"quant_method of {path} is {method!r}, and the keys are ModelOpt's"
        raise CannotRead(what, "say modelopt: vLLM takes no other method for these keys")


def _method(*names: str) -> Callable[[dict[str, Any]], bool]:
    return lambda data: str(data.get("quant_method", "")).lower() in names


_FORMS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "hf-quant-config": lambda d: (
        "quant_algo" in d or isinstance(d.get("quantization"), dict) or _method("modelopt")(d)
    ),
    "compressed-tensors": lambda d: _method("compressed-tensors")(d) or "config_groups" in d,
    "torchao": _method("torchao"),
    "fp8": _method("fp8"),
    "transformers": lambda d: "modules_to_not_convert" in d,
    "modelopt": lambda d: "quant_cfg" in d or "quantize" in d,
    "llm-compressor": lambda d: any("Modifier" in key for key in _keys(d)),
    "transformer-engine": lambda d: "transformer_engine" in _keys(d),
    "trtllm": lambda d: "quant_config" in d or "kv_cache_config" in d,
    "vllm": lambda d: bool({"targets", "linear", "moe"} & set(d)),
}


def _refuse_endless(data: Any, path: Path) -> None:
    """Raises CannotRead for aliases of YAML that hold themselves or unfold to millions of values:
    whatever reads a config walks through all of it.
    """
    left, count = [data], 0
    while left:
        part = left.pop()
        count += 1
        if count > MOST_VALUES:
            what = f"{path} unfolds to over {MOST_VALUES:,} values by its aliases"
            raise CannotRead(what, "write out what they stand for")
        if isinstance(part, dict | list):
            left += part.values() if isinstance(part, dict) else part


def _keys(data: Any) -> set[str]:
    """Every key, at any depth; an alias of YAML, which may hold itself, is looked into once."""
    keys: set[str] = set()
    seen: set[int] = set()
    left = [data]
    while left:
        part = left.pop()
        if not isinstance(part, dict | list) or id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            keys.update(map(str, part))
        left += part.values() if isinstance(part, dict) else part
    return keys


def _checkpoint(folder: Path, model: str | None) -> Subject:
    config = _object(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    found = {}
    if isinstance(own := config.get("quantization_config"), dict):
        path = folder / CONFIG
        found[CONFIG] = Config(recognised(own, path), own, f"quantization_config of {path}")
    if (folder / METADATA).is_file():
        metadata = _object(folder / METADATA)
        path = folder / METADATA
        found[METADATA] = Config(recognised(metadata, path), metadata, str(path))
    if not found:
        what = f"{folder} has no quantization_config in {CONFIG}, and no {METADATA}"
        raise BadInput(what, "give a quantized checkpoint, a plan or a config")
    if model is not None and not Path(model).is_file():
        what = f"{folder} is a checkpoint, which has its own modules"
        raise BadInput(what, "leave out --model, or give the plan that it was built from")
    known, says = _modules(model or str(folder), trust_tensors=True)
    return Subject(known, found, says)


def _modules(home: str, *, trust_tensors: bool) -> tuple[Model, str]:
    """The modules of a plan, a folder or a hub id, and who says what they should run in.

    A folder's own plan says it, else its tensors where they are what the config is about.
    """
    path = Path(home)
    if path.is_file():
        if not _is_plan(_parsed(path)):
            raise BadInput(f"{path} is no plan", "give the model's folder or its plan with --model")
        return planned_model(read_plan(path)), f"{path.name} says"
    if trust_tensors and (path / PLAN).is_file():
        return planned_model(read_plan(path / PLAN)), f"{path / PLAN} says"
    if path.is_dir():
        config, inventory = _object(path / CONFIG), read_inventory(path)
    elif is_hub_id(home) and not path.parent.is_dir():
        config, inventory = read_remote(home)
    else:
        raise BadInput(f"there is no {home}", "give a folder, a plan or a hub id with --model")
    found = linears(inventory, config)
    model = Model(
        name=path.name or home,
        architecture=_architecture(config),
        model_type=str(config.get("model_type", "")),
        modules=found,
        others=_others(inventory, found),
        kv_cache="fp8" if any(name.endswith(".k_scale") for name in inventory.shapes()) else "bf16",
    )
    if not found:
        raise BadInput(f"{home} holds no linear layers", "give the folder of a language model")
    if not trust_tensors:
        return model.with_wanted(lambda _: None), ""
    return model, f"the tensors of {home} say"


def _others(inventory: Inventory, known: Iterable[Module]) -> frozenset[str]:
    """The modules of all tensors that are no linears'."""
    owners = {tensor.name.rpartition(".")[0] for tensor in inventory.tensors}
    return frozenset(owners - {module.name for module in known})


def _architecture(config: Mapping[str, Any]) -> str:
    """The first that is named; "" where none is."""
    listed = config.get("architectures")
    return str(listed[0]) if isinstance(listed, list) and listed else ""


def _has_weights(folder: Path) -> bool:
    return (folder / SINGLE).is_file() or (folder / INDEX).is_file()


def _is_plan(data: Any) -> bool:
    return isinstance(data, dict) and data.get("format") == FORMAT


def _object(path: Path) -> dict[str, Any]:
    data = _parsed(path)
    if not isinstance(data, dict):
        raise BadInput(f"{path}: not a JSON object", "check the file")
    return data


def _parsed(path: Path) -> Any:
    """JSON, YAML, or lines of names."""
    if path.suffix in {".py", ".sh"}:
        raise BadInput(f"{path} is a script, which is not read", "check its JSON or YAML form")
    try:
        text = path.read_text()
    except FileNotFoundError as error:
        raise BadInput(f"there is no {path}", "check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read ({one_line(error)})", "check the file") from error
    if path.suffix == ".txt":
        lines = (line.strip() for line in text.splitlines())
        return [line for line in lines if line and not line.startswith("#")]
    try:
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise BadInput(f"{path} is neither JSON nor YAML ({one_line(error)})", "mend it") from error
