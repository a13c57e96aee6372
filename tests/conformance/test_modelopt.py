"""Our model of ModelOpt's matcher against ModelOpt itself, and what we write in its own parsers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

from fp8scope.core.modules import Model, Treatment
from fp8scope.export.consumer import CannotRead, Config
from fp8scope.export.consumers import hf_quant_config, modelopt
from fp8scope.export.matchers.modelopt_quant_cfg import Entry, entries, word
from fp8scope.export.proof import prove
from tests import models
from tests.export import mixes
from tests.export.shapes import gpt2, llama, mixtral, planned

with warnings.catch_warnings():  # it has not met this version of transformers
    warnings.simplefilter("ignore")
    import modelopt.torch.quantization as mtq
    from modelopt.recipe import load_recipe
    from modelopt.torch.export.convert_hf_config import convert_hf_quant_config_format
    from modelopt.torch.export.quant_utils import get_quantization_format
    from modelopt.torch.quantization.config import QuantizeConfig, normalize_quant_cfg_list
    from modelopt.torch.quantization.conversion import (
        _match_quantizer,
        preserve_quantizer_attributes_context,
        replace_quant_module,
        set_quantizer_by_cfg,
    )
    from modelopt.torch.quantization.nn import QuantModuleRegistry, TensorQuantizer

pytestmark = pytest.mark.filterwarnings(
    "ignore:Passing quant_cfg in the legacy dict format:DeprecationWarning"
)
EXAMPLES = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FAMILIES = ("mixtral", "llama", "gpt2")
EXPORTED: dict[Treatment, str | None] = {  # what the export calls a layer
    "bf16": None,
    "fp8_tensor": "fp8",
    "fp8_token": "fp8_pc_pt",
    "fp8_block": "fp8_pb_wo",
}


def _of(model: nn.Module) -> dict[str, TensorQuantizer]:
    return {n: m for n, m in model.named_modules() if isinstance(m, TensorQuantizer)}


@pytest.fixture(scope="module")
def quantized() -> dict[str, nn.Module]:
    found = {}
    for name in FAMILIES:
        model: nn.Module = models.build(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            replace_quant_module(model)
        found[name] = model
    return found


SHAPES: dict[str, Model] = {"mixtral": mixtral(), "llama": llama(), "gpt2": gpt2()}


def _made(quantizer: TensorQuantizer) -> str:
    if not quantizer.is_enabled:
        return "off"
    return word(
        {
            "num_bits": quantizer.num_bits,
            "axis": quantizer.axis,
            "block_sizes": quantizer.block_sizes,
            "type": "dynamic" if quantizer._dynamic else "static",
        }
    )


PIECES = (
    "model", "layers", "0", "1", "10", "self_attn", "q_proj", "k_proj", "v_proj", "o_proj", "mlp",
    "experts", "gate", "gate_up_proj", "gate_proj", "up_proj", "down_proj", "lm_head", "*", "?",
    "weight_quantizer", "input_quantizer", "output_quantizer", "weight_quantizers", "gate_up_proj_"
    "weight_quantizers.1", "gate_up_proj_weight_quantizer", "down_proj_input_quantizer", "[01]",
    "transformer", "h", "c_fc", "attn", "k_bmm_quantizer", "[kv]_bmm_quantizer", "[!0]", "*proj",
)  # fmt: skip
REAL = tuple(
    name
    for shape in SHAPES.values()
    for layer in modelopt.read(Config("modelopt", {"quant_cfg": []}, ""), shape, "").layers
    for known in [modelopt._quantizers(shape, layer)]
    if known is not None
    for name in sorted(known.aliases)
)


@st.composite
def patterns(draw: st.DrawFn) -> str:
    """Globs of parts, names of quantizers, and such names with a star somewhere."""
    if draw(st.booleans()):
        parts = draw(st.lists(st.sampled_from(PIECES), min_size=1, max_size=5))
        return draw(st.sampled_from((".", "", "*"))).join(parts)
    name = draw(st.sampled_from(REAL))
    start, end = sorted(draw(st.tuples(*[st.integers(0, len(name))] * 2)))
    star = draw(st.sampled_from(("*", "?", "", "*.")))
    return draw(
        st.sampled_from(
            (name, name[:end] + star, star + name[start:], name[:start] + star + name[end:])
        )
    )


FP8: dict[str, Any] = {"num_bits": (4, 3), "axis": None}
CFGS: tuple[Any, ...] = (
    FP8,
    {"num_bits": (4, 3), "axis": 0},
    {"num_bits": (4, 3), "type": "dynamic", "block_sizes": {-1: None}},
    {"num_bits": (4, 3), "block_sizes": {-1: None, "type": "dynamic"}},
    {"num_bits": (4, 3), "block_sizes": {-1: 128, -2: 128}},
    {"num_bits": (4, 3), "type": "dynamic", "block_sizes": {-1: 128}},
    {"num_bits": 8, "axis": None},
    {"num_bits": (4, 3), "axis": None, "type": "dynamic"},
)
PARENTS = (None, None, None, "nn.Linear", "nn.Embedding", "nn.LayerNorm", "Conv1D")


@st.composite
def listed(draw: st.DrawFn) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name in draw(st.lists(patterns(), min_size=1, max_size=6)):
        entry: dict[str, Any] = {"quantizer_name": name}
        if draw(st.booleans()):
            entry["cfg"] = draw(st.sampled_from(CFGS))
        if "cfg" not in entry or draw(st.booleans()):
            entry["enable"] = draw(st.booleans())
        if (parent := draw(st.sampled_from(PARENTS))) is not None:
            entry["parent_class"] = parent
        found.append(entry)
    return found


@settings(EXAMPLES, max_examples=600)
@given(pattern=patterns(), parent=st.sampled_from(PARENTS))
@example("*", "nn.Linear")
@example("*", "Conv1D")
def test_one_pattern_on_every_quantizer(
    quantized: dict[str, nn.Module], pattern: str, parent: str | None
) -> None:
    entry = Entry(pattern, None, False, parent)
    cls = QuantModuleRegistry[parent] if parent else None
    for name, shape in SHAPES.items():
        model, quantizers = quantized[name], _of(quantized[name])
        for layer in modelopt.read(Config("modelopt", {"quant_cfg": []}, ""), shape, "").layers:
            known = modelopt._quantizers(shape, layer)
            if known is None:
                continue
            for each in known.names:
                ours = entry.matches(each) and modelopt._is_for(entry, each, known)
                theirs = _match_quantizer(pattern, each, quantizers[each], cls, model)
                assert ours == theirs, each


@settings(EXAMPLES, max_examples=150)
@given(quant_cfg=listed())
def test_whole_lists(quantized: dict[str, nn.Module], quant_cfg: list[dict[str, Any]]) -> None:
    for name, shape in SHAPES.items():
        with preserve_quantizer_attributes_context(quantized[name]):
            set_quantizer_by_cfg(quantized[name], quant_cfg)
            quantizers = _of(quantized[name])
            reading = modelopt.read(Config("modelopt", {"quant_cfg": quant_cfg}, ""), shape, "")
            for layer in reading.layers:
                known = reading._quantizers[layer.name]  # type: ignore[attr-defined]
                for each in known.names if known else ():
                    ours = reading._state(each, known).word  # type: ignore[attr-defined]
                    assert ours == _made(quantizers[each]), each


def test_layers_have_the_quantizers_that_modelopt_gives_them(
    quantized: dict[str, nn.Module],
) -> None:
    for name, shape in SHAPES.items():
        layers = modelopt.read(Config("modelopt", {"quant_cfg": []}, ""), shape, "").layers
        ours = {
            n
            for layer in layers
            for k in [modelopt._quantizers(shape, layer)]
            if k
            for n in k.names
        }
        theirs = {
            n for n in _of(quantized[name]) if not {"embed", "bmm", "wte", "wpe", "ln_"} & _hints(n)
        }
        if name == "gpt2":  # ours has one linear of its block
            theirs = {n for n in theirs if "h.0.mlp.c_fc" in n or "lm_head" in n}
        assert ours == theirs


def _hints(name: str) -> set[str]:
    return {hint for hint in ("embed", "bmm", "wte", "wpe", "ln_") if hint in name}


@pytest.mark.parametrize("name", mixes.MODELS)
def test_exported_files_in_modelopts_own_parsers(
    name: str, quantized: dict[str, nn.Module], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = mixes.MODELS[name]
    document = modelopt.write(model)
    config = QuantizeConfig(**document.config)
    path = tmp_path / "recipe.yaml"
    path.write_text(document.forms["recipe"].text)
    recipe = load_recipe(path)
    assert recipe.quantize.quant_cfg == config.quant_cfg
    assert recipe.quantize.algorithm == config.algorithm == "max"
    with preserve_quantizer_attributes_context(quantized[name]):
        set_quantizer_by_cfg(quantized[name], document.config["quant_cfg"])
        enabled = {n for n, q in _of(quantized[name]).items() if q.is_enabled}
        formats = {
            n: get_quantization_format(m)
            for n, m in quantized[name].named_modules()
            if hasattr(m, "weight_quantizer")
        }
    proof = prove(modelopt.read(Config("modelopt", document.config, ""), model, ""))
    assert proof.holds
    assert {n for n in enabled if "bmm" not in n} == set(_wanted(model))
    caches = {n.rpartition(".")[2] for n in enabled if "bmm" in n}
    for layer in modelopt.read(Config("modelopt", {"quant_cfg": []}, ""), model, "").layers:
        if layer.kind != "experts" and layer.modules[0].kind != "router":
            wanted = layer.modules[0].wanted
            assert formats[layer.name] == (EXPORTED[wanted] if wanted else None), layer.name
    assert caches == ({"k_bmm_quantizer", "v_bmm_quantizer"} if model.kv_cache == "fp8" else set())


def _wanted(model: Model) -> Iterator[str]:
    for layer in modelopt.read(Config("modelopt", {"quant_cfg": []}, ""), model, "").layers:
        known = modelopt._quantizers(model, layer)
        if known is not None and layer.modules[0].wanted not in {"bf16", None}:
            yield from known.weights
            if layer.modules[0].wanted != "fp8_block":
                yield known.input


@pytest.mark.parametrize(
    ("preset", "treatment"),
    [
        ("FP8_DEFAULT_CFG", "fp8_tensor"),
        ("FP8_PER_CHANNEL_PER_TOKEN_CFG", "fp8_token"),
        ("FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG", "fp8_block"),
    ],
)
def test_its_presets_are_read_without_complaint(preset: str, treatment: Treatment) -> None:
    data = getattr(mtq, preset)
    with_cache = {**data, "quant_cfg": [*data["quant_cfg"], *mtq.FP8_KV_CFG["quant_cfg"]]}
    for shape in (llama(), mixtral(), gpt2()):
        model = planned(shape, treatment)
        proof = prove(modelopt.read(Config("modelopt", _plain(with_cache), preset), model, ""))
        assert proof.holds, proof.faults


def _plain(data: Any) -> Any:
    """Entries as people write them: the presets hold pydantic models."""
    if hasattr(data, "model_dump"):
        return _plain(data.model_dump(exclude_unset=True))
    if isinstance(data, dict):
        return {key: _plain(value) for key, value in data.items()}
    return [_plain(each) for each in data] if isinstance(data, list) else data


RAW: tuple[Any, ...] = (
    {"*": {"enable": False}, "*weight_quantizer": FP8},
    {"default": {"enable": False}, "nn.Linear": {"*": {**FP8, "enable": True}}},
    [{"*": {"enable": False}}, {"nn.Linear": {"*input_quantizer": FP8, "*": {"enable": False}}}],
    [{"quantizer_name": "*", "cfg": {}, "enable": False}],
    [{"quantizer_name": "*"}],
    [{"quantizer_name": "*", "cfg": {}}],
    [{"quantizer_name": "*", "cfg": {"num_bit": 8}}],
    [{"quantizer_name": "*", "enabled": True}],
    [{"*": {}}],
    [{"a": {"enable": True}, "b": {"enable": True}}],
    "fp8",
)


@pytest.mark.parametrize("raw", RAW, ids=range(len(RAW)))
def test_every_way_of_writing_entries(raw: Any) -> None:
    try:
        theirs = [
            (e.quantizer_name, e.parent_class, e.enable, e.cfg is None)
            for e in normalize_quant_cfg_list(raw)
        ]
    except Exception:  # whatever it raises, ours must refuse
        with pytest.raises(CannotRead):
            entries({"quant_cfg": raw}, "x")
        return
    ours = [(e.name, e.parent, e.enable, e.cfg is None) for e in entries({"quant_cfg": raw}, "x")]
    assert ours == theirs


@pytest.mark.parametrize(
    "model",
    [
        planned(llama(), "fp8_tensor"),
        planned(mixtral(), "fp8_tensor"),
        planned(llama(), "fp8_token"),
        mixes.LLAMA,
        mixes.MIXTRAL,
    ],
    ids=["llama", "mixtral", "per-token", "mixed", "mixed-mixtral"],
)
@pytest.mark.filterwarnings("ignore:Unsupported quantization algorithm 'FP8_PB_WO'")
def test_metadata_becomes_flat_as_modelopt_makes_it_flat(model: Model) -> None:
    forms = hf_quant_config.write(model).forms
    theirs = convert_hf_quant_config_format(json.loads(forms["nested"].text))
    ours = json.loads(forms["flat"].text)
    for key in (
        "quant_method",
        "quant_algo",
        "ignore",
        "quantized_layers",
        "kv_cache_scheme",
        "producer",
    ):
        assert ours.get(key) == theirs.get(key), key
