"""Our model of the debug tool's sections against its own code (nvdlfw-inspect).

Transformer Engine itself needs CUDA to be imported; which names it gives is read from its source.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fp8scope.export.consumer import CannotRead, Config, Layer
from fp8scope.export.consumers import transformer_engine as ours
from fp8scope.export.matchers import te_debug_sections, te_names
from tests.export.shapes import DOWN0, llama, mixtral, planned

theirs: Any = pytest.importorskip(
    "nvdlfw_inspect.config_manager", reason="nvdlfw-inspect is not installed"
)
MODEL = planned(llama(), "fp8_tensor")
OFF = "DisableQuantizationLayer"
TYPES = ["q_proj", "mlp", "down", "fc1", "all", "model.layers.1", "lm_head", "nothing"]
REGEXES = ["layers.1", r"^model\.lm_head$", "(q|k)_proj", "mlp.*", "fc2", ".*", "proj$", "("]
FEATURES: list[Any] = [{OFF: {"enabled": True}}, {OFF: {"enabled": False}}, {}, None]
NUMBERS: list[Any] = [0, 1, "0-1", "1-3", "all"]


@pytest.fixture(autouse=True)
def _no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its logger wants a folder for files."""
    silent = SimpleNamespace(log_message=lambda *_, **__: None)
    monkeypatch.setattr(theirs, "get_logger", lambda: silent)
    monkeypatch.setattr(theirs, "print_rank_0", lambda *_: None)


class _Registered:
    features = (
        te_debug_sections.DISABLE
        | te_debug_sections.DISABLE_GEMM
        | te_debug_sections.CHANGE
        | te_debug_sections.WATCH
    )


def _answers(data: dict[str, Any], names: list[str]) -> dict[str, bool | str]:
    """Whether each layer is switched off, or what is raised for it; "" alone where at the start."""
    theirs.ConfigManager.reset()
    try:
        theirs.ConfigManager._load_config(data, {"transformer_engine": _Registered})
    except (AssertionError, TypeError, ValueError, re.error) as error:
        return {"": repr(error)}
    found: dict[str, bool | str] = {}
    for name in names:
        try:
            features = theirs.ConfigManager.get_config_for_layer(name).get("transformer_engine", {})
        except (ValueError, IndexError) as error:
            found[name] = repr(error)
        else:
            found[name] = bool(features.get(OFF, {}).get("enabled"))
    return found


@st.composite
def _section(draw: st.DrawFn) -> dict[str, Any]:
    layers: dict[str, Any] = {}
    kinds = draw(st.sets(st.sampled_from(["types", "numbers", "regex", "exact"]), min_size=1))
    if "types" in kinds:
        layers["layer_types"] = draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=2))
    if "numbers" in kinds:
        layers["layer_numbers"] = draw(st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=2))
    if "regex" in kinds and draw(st.booleans()):
        layers["layer_name_regex_pattern"] = draw(st.sampled_from(REGEXES))
    if "exact" in kinds and draw(st.integers(0, 4)) == 0:
        layers["exact_layer_names"] = [f"model.{DOWN0}"]
    enabled = draw(st.sampled_from([True, True, False]))
    section: dict[str, Any] = {"enabled": enabled}
    says_which = draw(st.booleans())
    if layers or says_which:
        section["layers"] = layers
    features = draw(st.sampled_from(FEATURES))
    if features is not None:
        section["transformer_engine"] = features
    return section


def test_sections_agree() -> None:
    """Over 500 pairs of a config and a layer."""
    names = [layer.name for naming in te_names.NAMINGS for layer in te_names.layers(MODEL, naming)]
    seen = {"layers": 0, "off": 0, "raised": 0, "refused": 0}

    @settings(
        max_examples=400,
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.lists(_section(), min_size=1, max_size=2))
    def agrees(sections: list[dict[str, Any]]) -> None:
        data = {f"section {index}": each for index, each in enumerate(sections)}
        answers = _answers(data, names)
        try:
            reading = ours.read(Config("transformer-engine", data, "test"), MODEL, "2.20.2")
        except CannotRead:
            assert "" in answers, data
            seen["refused"] += 1
            return
        naming = next(n for n in te_names.NAMINGS if te_names.layers(MODEL, n) == reading.layers)
        for layer in reading.layers:
            if not te_names.is_engines(MODEL, layer.modules[0], naming):
                continue
            outcome = reading.outcome(layer)
            answer = answers.get(layer.name, answers.get("", ""))
            if isinstance(answer, str):
                assert outcome.treatment is None, (data, layer.name, answer)
                seen["raised"] += 1
            else:
                expected = "bf16" if answer else "fp8_tensor"
                assert outcome.treatment == expected, (data, layer.name, outcome)
                seen["off"] += answer
            seen["layers"] += 1

    agrees()
    assert seen["layers"] > 500
    assert min(seen.values()) > 20, seen


@pytest.mark.parametrize(
    "model",
    [
        planned(llama(), "fp8_tensor", [DOWN0]),
        planned(mixtral(), "fp8_tensor", ["model.layers.1.mlp.experts"]),
    ],
)
def test_written_files_are_parsed_and_switch_off_just_what_is_wanted(model: Any) -> None:
    for form, text in ours.write(model).forms.items():
        layers = te_names.layers(model, form)
        answers = _answers(yaml.safe_load(text.text), [layer.name for layer in layers])
        for layer in layers:
            if te_names.is_engines(model, layer.modules[0], form):
                assert answers[layer.name] == _wants_bf16(layer), (form, layer.name)


def _wants_bf16(layer: Layer) -> bool:
    return all(module.wanted == "bf16" for module in layer.modules)
