"""Reported cases: each diagnosed in one sentence, and what is offered instead proven."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fp8scope.export.checking import Checked, check
from fp8scope.export.intent import EXCLUSIONS
from tests.export import checkpoints
from tests.export.reported import CASES, VERSIONS, Case
from tests.export.reported_models import qwen3_moe

CONFIGS = Path(__file__).parent / "cases"


def _config(name: str) -> Path:
    (path,) = CONFIGS.glob(f"{name}.*")
    return path


def _checked(case: Case, folder: Path) -> Checked:
    """As the reporter had it: in the checkpoint, or a recipe and the model that it is for."""
    path, version = _config(case.name), VERSIONS[case.consumer]
    if case.is_recipe:
        model = checkpoints.write(folder, case.architecture, case.stored)
        return check(path, case.consumer, version=version, model=str(model))
    quantization = json.loads(path.read_text())
    checkpoints.write(folder, case.architecture, case.stored, quantization)
    return check(folder, case.consumer, version=version)


def _listed(data: Any) -> tuple[str, ...] | None:
    """The one list of exclusions, at whatever depth."""
    if not isinstance(data, Mapping):
        return None
    for key, value in data.items():
        found = tuple(value) if key in EXCLUSIONS else _listed(value)
        if found is not None:
            return found
    return None


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}-{case.consumer}")
def test_one_sentence_says_what_is_wrong(case: Case, tmp_path: Path) -> None:
    checked = _checked(case, tmp_path)
    sentences = [fault.sentence for fault in checked.proof.faults]
    assert sentences == ([case.says] if case.says else [])
    assert tuple(row.layer.name for row in checked.proof.differences) == case.differ
    assert checked.proof.holds is (not case.says)
    offered = checked.corrected
    assert (_listed(offered.config) if offered is not None else None) == case.lists


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.lists], ids=lambda c: f"{c.name}-{c.consumer}"
)
def test_what_is_offered_is_right(case: Case, tmp_path: Path) -> None:
    """Taken from the document's own text, as a person would, and checked beside the tensors."""
    checked = _checked(case, tmp_path / "broken")
    assert checked.corrected is not None
    form = checked.corrected.forms.get("json") or next(iter(checked.corrected.forms.values()))
    mended = tmp_path / f"mended{form.suffix}"
    mended.write_text(form.text)
    model = str(tmp_path / "broken")
    again = check(mended, case.consumer, version=VERSIONS[case.consumer], model=model)
    assert again.proof.holds, [fault.sentence for fault in again.proof.faults]
    runs = {row.layer.name: row.outcome.treatment for row in again.proof.rows}
    wanted = {row.layer.name: row.wanted for row in checked.proof.rows}
    assert runs == wanted


def test_where_no_list_helps_it_says_why(tmp_path: Path) -> None:
    """vllm#11790: of one fused layer, q_proj was left in BF16."""
    case = next(case for case in CASES if case.says and case.lists is None)
    assert _checked(case, tmp_path).why_not == (
        "engines run as one: model.layers.0.self_attn.k_proj (FP8 per token), "
        "model.layers.0.self_attn.q_proj (BF16) → give both the same precision"
    )


def test_patterns_of_experts_that_are_called_otherwise(tmp_path: Path) -> None:
    """Model-Optimizer#2411: "99.2% of the intended quantization silently disappears"."""
    model = checkpoints.write(tmp_path, "Qwen3MoeForCausalLM", qwen3_moe("bf16"))
    checked = check(_config("Model-Optimizer-2411"), "modelopt", model=str(model))
    assert [fault.sentence for fault in checked.proof.faults] == [
        f"quant_cfg “*mlp.experts.linear_fc1*{side}_quantizer*” matches nothing"
        for side in ("weight", "input")
    ]
    runs = [row.outcome.treatment for row in checked.proof.rows]
    assert (runs.count("fp8_tensor"), runs.count("bf16")) == (8, len(runs) - 8)
