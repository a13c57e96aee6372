"""The models of the GPU's benchmark, at a size for a CPU: real checkpoints, and broken as meant."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fp8scope.artefacts.plan_file import read_plan
from fp8scope.checkpoint.doctor.examine import examine
from fp8scope.verify.native.engine import open_engine
from fp8scope.verify.native.prompts import prompts
from tests.bench.gpu_models import TINY, write_bf16, write_fp8
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
