"""The models of the GPU's benchmark, at a size for a CPU: real checkpoints, and broken as meant."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fp8scope.artefacts.plan_file import read_plan
from fp8scope.artefacts.verdict import Group, Verdict
from fp8scope.checkpoint.doctor.examine import examine
from fp8scope.traces.record import Load
from fp8scope.verify.native.engine import open_engine
from fp8scope.verify.native.prompts import prompts
from tests.bench.gpu_models import TINY, write_bf16, write_fp8
from tests.bench.gpu_verify import BY_WEIGHT, LEFT, missed, verified
from tests.runtime.fp8.reference import db
from tests.verify.native import engines

BROKEN = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bf16(TINY, tmp_path_factory.mktemp("models") / "bf16")


def test_both_run_and_are_close(bf16: Path) -> None:
    """All linears but lm_head in FP8; logits as near as FP8 is."""
    fp8 = write_fp8(bf16, bf16.parent / "fp8")
    order = engines.order(fp8)
    built, plain = open_engine(order), open_engine(engines.order(bf16, baseline=True))
    assert len(built.in_fp8) == 14
    assert built.kv_cache == "bf16"
    ids = prompts(built, order)
    with torch.no_grad():
        logits = [engine.model(input_ids=ids).logits for engine in (built, plain)]
    assert 15 < db(*logits) < 45
    plan = read_plan(fp8 / "plan.json")
    assert {group.precision for group in plan.groups} == {"fp8_tensor", "bf16"}
    diagnosis = examine(fp8)
    assert diagnosis.healthy, diagnosis


def test_one_layer_was_left_behind(bf16: Path) -> None:
    """In BF16, and plan and metadata do not say so."""
    broken = write_fp8(bf16, bf16.parent / "broken", left=(BROKEN,))
    engine = open_engine(engines.order(broken))
    assert len(engine.in_fp8) == 13
    assert BROKEN not in engine.held
    plan = read_plan(broken / "plan.json")
    assert plan.ignore == ("lm_head",)


LOAD = Load(batch=2, prompt_len=16, gen_len=3)


@pytest.mark.slow
def test_the_way_through_on_a_cpu(tmp_path: Path) -> None:
    """All three are run and judged; goals that only a GPU reaches are said to be missed."""
    found = verified(TINY, LOAD, tmp_path, "cpu", "cpu")
    faults = "\n".join(missed(found))
    assert found.gemms_us.keys() == {"torch"}
    assert found.gemms_us["torch"] > 0
    assert "FP8 was seen on" not in faults
    assert "does not run in FP8, and was not found" not in faults
    assert "counters tell of 0 groups, and " in faults
    assert "ncu timed nothing beside torch" in faults
    assert "NVML was not sampled" in faults
    left, alone = group_of(found.left_behind, LEFT), group_of(found.by_weight, BY_WEIGHT)
    assert (left.planned, left.stored, left.realized) == ("fp8_tensor", "bf16", "bf16")
    assert alone.stored == "fp8_tensor"  # as planned; what ran says otherwise
    assert alone.realized in {"weight_only", "bf16"}


def group_of(verdict: Verdict, name: str) -> Group:
    (found,) = (group for group in verdict.groups if group.name == name)
    return found
