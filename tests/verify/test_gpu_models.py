"""The models of the GPU's benchmark, at a size for a CPU: real checkpoints, and broken as meant."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fp8scope.artefacts.plan_file import read_plan
from fp8scope.checkpoint.doctor.examine import examine
from fp8scope.traces.record import Load
from fp8scope.verify.native.engine import open_engine
from fp8scope.verify.native.prompts import prompts
from tests.bench.gpu_models import TINY, write_bf16, write_fp8
from tests.bench.gpu_verify import BY_WEIGHT, LEFT, by_weight_alone, catches, verdict_of
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
def test_a_layer_left_behind_is_found(bf16: Path, tmp_path: Path) -> None:
    broken = write_fp8(bf16, tmp_path / "broken", left=(LEFT,))
    verdict = verdict_of(broken, None, LOAD, tmp_path / "reports", "cpu")
    assert catches(verdict, LEFT)
    (group,) = (group for group in verdict.groups if group.name == LEFT)
    assert (group.planned, group.stored, group.realized) == ("fp8_tensor", "bf16", "bf16")


@pytest.mark.slow
def test_a_layer_by_its_weight_alone_is_found(bf16: Path, tmp_path: Path) -> None:
    """Stored in FP8 as planned; what ran says otherwise."""
    good = write_fp8(bf16, tmp_path / "good")
    verdict = by_weight_alone(good, LOAD, tmp_path / "reports", "cpu")
    assert catches(verdict, BY_WEIGHT)
    (group,) = (group for group in verdict.groups if group.name == BY_WEIGHT)
    assert group.stored == "fp8_tensor"
    assert group.realized in {"weight_only", "bf16"}
