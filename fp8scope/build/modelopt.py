"""ModelOpt at work: a folded model quantized as planned, with the plan's scales, and exported.

ModelOpt obeys globs over quantizers, and says nothing of one that matches none; without text to
calibrate on it turns static input scales into dynamic ones, as silently. So no text is shown and
no glob trusted: quantizers are put in place by exact names, every scale is set here, and before
anything is exported each quantizer is asked what it is, and compared with the plan.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fp8scope.artefacts.plan import Cache, Plan
from fp8scope.build.scales import Static
from fp8scope.checkpoint.linears import BLOCK
from fp8scope.core.formats import E4M3
from fp8scope.errors import BadInput, Missing, one_line
from fp8scope.export.checking import export_plan
from fp8scope.runtime.experts import named_experts

WITHOUT = "plan it in BF16 (--exclude), or build with --format compressed-tensors"


@contextmanager
def modelopt_at_work() -> Iterator[None]:
    """ModelOpt tells its progress on stdout, which is for data, and warns of what is not used."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), _silent_logs():
        warnings.simplefilter("ignore")
        try:
            import modelopt.torch.export
            import modelopt.torch.quantization  # noqa: F401
        except ImportError as error:
            what = f"ModelOpt cannot be imported ({one_line(error)})"
            raise Missing(what, "pip install -c constraints.txt nvidia-modelopt") from error
        yield


@contextmanager
def _silent_logs() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def quantize(model: nn.Module, plan: Plan, scales: Mapping[str, tuple[Static, ...]]) -> None:
    """Put ModelOpt's quantizers into `model`, in place, with the scales of `static_scales`.

    Raises BadInput for what ModelOpt cannot quantize as planned, naming it.
    """
    with modelopt_at_work():
        import modelopt.torch.quantization as mtq

        listed = export_plan(plan, "modelopt").config["quant_cfg"]
        with _failure_named("quantize"):
            mtq.quantize(model, {"quant_cfg": listed, "algorithm": None})
        wanted = _wanted(model, plan)
        _leave_other_caches(model, wanted)
        _check(_enabled(model), wanted)
        for name, quantizer in wanted.items():
            _set_amax(model.get_submodule(name), quantizer, scales)


def export(model: nn.Module, folder: Path, max_shard_bytes: int) -> None:
    """Write the quantized model to `folder`. It is of no more use then: its weights are codes."""
    architecture = type(model).__name__
    config: Any = model.config
    if not getattr(config, "architectures", None):  # without one, nothing is exported
        config.architectures = [architecture]
    with modelopt_at_work():
        from modelopt.torch.export import export_hf_checkpoint

        # In bf16 it divides by the scale in bf16, and rounds twice: a code in thirty is another.
        # What is not quantized keeps its dtype.
        with warnings.catch_warnings(record=True) as caught, _failure_named("export"):
            warnings.simplefilter("always")
            export_hf_checkpoint(model, torch.float32, folder, max_shard_size=max_shard_bytes)
    _check_names([str(warning.message) for warning in caught])


@contextmanager
def _failure_named(doing: str) -> Iterator[None]:
    """It asserts, and fails anywhere inside, at models that it does not know."""
    try:
        yield
    except (
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        why = one_line(error) or type(error).__name__
        what = f"ModelOpt cannot {doing} this model ({why})"
        raise BadInput(what, "build with --format compressed-tensors") from error


def _check_names(warned: list[str]) -> None:
    """Where it cannot give tensors the names of the files, it warns and writes its own."""
    why = next((text for text in warned if "reverse weight conversion skipped" in text), None)
    if why is not None:
        reason = why.partition("(")[2].rpartition(")")[0]
        what = f"ModelOpt cannot write these tensors by the names of the model's files ({reason})"
        raise BadInput(what, "plan experts per tensor, or build with --format compressed-tensors")


@dataclass(frozen=True)
class _Quantizer:
    """One that the plan wants. `of` is the runtime name of its linear, `weight` its weight [out,
    in] where it is one of weights; `amax` is given where nothing follows from a plan's scales.
    """

    of: str
    kind: str  # what `_word` says of it
    weight: torch.Tensor | None = None
    expert: int = 0
    amax: float | None = None


_INPUTS = {"fp8_tensor": "tensor", "fp8_smooth": "tensor", "fp8_token": "token"}
_WEIGHTS = {"fp8_tensor": "tensor", "fp8_smooth": "tensor", "fp8_token": "channel"}
_WEIGHTS |= {"fp8_block": "block"}


def _wanted(model: nn.Module, plan: Plan) -> dict[str, _Quantizer]:
    stacks = {name: e for e in named_experts(model).values() for name in (e.first, e.last)}
    found: dict[str, _Quantizer] = {}
    for group in plan.groups:
        for name in group.members if group.precision != "bf16" else ():
            stack = f"{name}_" if name in stacks else f"{name}."
            weight, inputs = _WEIGHTS[group.precision], _INPUTS.get(group.precision)
            if inputs:
                found[f"{stack}input_quantizer"] = _Quantizer(name, inputs)
            if name in stacks:
                matrices = stacks[name].stacks()[name]
                for expert, matrix in enumerate(matrices):
                    quantizer = _Quantizer(name, weight, matrix, expert)
                    found[f"{name}_weight_quantizers.{expert}"] = quantizer
            else:
                matrix = model.get_submodule(name).get_parameter("weight")
                found[f"{name}.weight_quantizer"] = _Quantizer(name, weight, matrix)
            if weight == "block" and max(matrix.shape) <= BLOCK:
                size = "×".join(map(str, matrix.shape))
                what = f"ModelOpt writes no block scale of {name}, which at {size} is one block"
                raise BadInput(what, "plan it per token or per tensor, or exclude it")
    for cache in plan.kv_cache:
        if cache.precision == "fp8":
            found.update(_of_cache(cache))
    return found


def _of_cache(cache: Cache) -> Iterator[tuple[str, _Quantizer]]:
    if cache.v_scale is None or cache.k_scale is None:
        what = f"ModelOpt has no quantizer for the latent that {cache.attention} caches"
        raise BadInput(what, "plan with --kv-cache bf16")
    for letter, scale in (("k", cache.k_scale), ("v", cache.v_scale)):
        amax = scale * E4M3.max
        name = f"{cache.attention}.{letter}_bmm_quantizer"
        yield name, _Quantizer(cache.attention, "tensor", amax=amax)


def _leave_other_caches(model: nn.Module, wanted: Mapping[str, Any]) -> None:
    """Globs for the KV cache also meet attention without one, as in a vision tower."""
    for name in _enabled(model):
        if name.endswith("_bmm_quantizer") and name not in wanted:
            quantizer: Any = model.get_submodule(name)
            quantizer.disable()


def _enabled(model: nn.Module) -> dict[str, str]:
    from modelopt.torch.quantization.nn import TensorQuantizer

    return {
        name: _word(module)
        for name, module in model.named_modules()
        if isinstance(module, TensorQuantizer) and module.is_enabled
    }


def _word(quantizer: Any) -> str:
    if quantizer.num_bits != (4, 3):
        return f"{quantizer.num_bits} bits"
    sizes = quantizer.block_sizes
    if quantizer._dynamic:
        return "token" if sizes == {-1: None} else "dynamic"
    if sizes:
        return "block" if sizes == {-1: 128, -2: 128} else f"blocks of {sizes}"
    return {None: "tensor", 0: "channel"}.get(quantizer.axis, f"axis {quantizer.axis}")


def _check(enabled: Mapping[str, str], wanted: Mapping[str, _Quantizer]) -> None:
    for name, quantizer in wanted.items():
        if enabled.get(name) != quantizer.kind:
            is_so = f"made it {enabled[name]}" if name in enabled else "has none"
            what = f"ModelOpt should quantize {name} per {quantizer.kind}, and {is_so}"
            raise BadInput(what, WITHOUT)
    for name in enabled:
        if name not in wanted:
            raise BadInput(f"ModelOpt quantizes {name}, which the plan does not", WITHOUT)


def _set_amax(module: Any, quantizer: _Quantizer, scales: Mapping[str, tuple[Static, ...]]) -> None:
    """In float32: what ModelOpt finds itself is rounded to the model's dtype."""
    if quantizer.kind == "token":
        return
    amax = quantizer.amax
    if amax is None and quantizer.kind == "tensor":
        static = scales[quantizer.of][quantizer.expert]
        amax = E4M3.max * (static.input if quantizer.weight is None else static.weight)
    if amax is not None:
        module.amax = torch.tensor(amax, dtype=torch.float32)
        return
    module.disable_quant()
    module.enable_calib()
    module(quantizer.weight)
    module.load_calib_amax()
    module.enable_quant()
    module.disable_calib()
