"""What the native engine says of its run."""

from __future__ import annotations

import torch

from fp8scope.artefacts.verdict import Speed
from fp8scope.traces.record import Load, RunRecord
from fp8scope.verify.native.device import describe
from fp8scope.verify.native.engine import Engine
from fp8scope.verify.native.timing import Timed
from fp8scope.verify.order import Order


def record_of(engine: Engine, order: Order, timed: Timed | None) -> RunRecord:
    """The record of a pass; `timed` is None of the tagged one, whose times are a profiler's."""
    timed = timed or Timed(Speed(), compiled=False, cuda_graphs=False, notes=())
    return RunRecord(
        engine="native",
        engine_version=f"torch {torch.__version__}",
        checkpoint=order.checkpoint,
        device=describe(engine.device),
        load=Load(batch=order.batch, prompt_len=order.prompt_len, gen_len=order.gen_len),
        speed=timed.speed,
        held=dict(engine.held),
        runs_fp8=engine.in_fp8,
        compiled=timed.compiled,
        cuda_graphs=timed.cuda_graphs,
        kv_cache=engine.kv_cache,
        notes=(*engine.notes, *timed.notes),
    )
