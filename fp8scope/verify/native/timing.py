"""The timing pass: how long a prefill and the steps after it take, when nothing watches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fp8scope.artefacts.verdict import Percentiles, Speed
from fp8scope.errors import one_line
from fp8scope.verify.native.clock import clock_of
from fp8scope.verify.native.engine import Engine
from fp8scope.verify.native.generators import (
    Compiled,
    Eager,
    Generator,
    routes_on_cpu,
    stays_in_place,
)
from fp8scope.verify.native.prompts import prompts
from fp8scope.verify.order import Order

Tell = Callable[[str], None]
_WINDOW = "its cache does not keep every token in place, so that it runs eagerly"
_ROUTING = "the tokens of FP8 experts are counted on the CPU, so that it runs eagerly"


@dataclass(frozen=True)
class Timed:
    """What came of it; `notes` say what was asked for and did not work."""

    speed: Speed
    compiled: bool
    cuda_graphs: bool
    notes: tuple[str, ...]


@torch.no_grad()
def timed(engine: Engine, order: Order, tell: Tell) -> Timed:
    """Run the order's load `repeats` times after a warm-up of one."""
    ids, notes = prompts(engine, order), list[str]()
    if engine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    generator = _warm(engine, order, ids, tell, notes)
    first: list[float] = []
    steps: list[float] = []
    whole: list[float] = []
    for number in range(order.repeats):
        tell(f"prefill {number + 1}/{order.repeats}")
        spans = _run(generator, order, ids, engine.device)
        first, steps, whole = [*first, spans[0]], steps + spans[1:], [*whole, sum(spans)]
    speed = _speed(order, first, steps, whole)
    if engine.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
        speed = speed.model_copy(update={"peak_memory_bytes": peak})
    compiled = isinstance(generator, Compiled)
    graphs = isinstance(generator, Compiled) and generator.recorded
    return Timed(speed, compiled, graphs, tuple(notes))


def _run(generator: Generator, order: Order, ids: Tensor, device: torch.device) -> list[float]:
    """Milliseconds of the prefill, then of every step."""
    clock = clock_of(device)
    clock.mark()
    token = generator.prefill(ids)
    clock.mark()
    for _ in range(order.gen_len - 1):
        token = generator.decode(token)
        clock.mark()
    return clock.spans_ms()


def _warm(engine: Engine, order: Order, ids: Tensor, tell: Tell, notes: list[str]) -> Generator:
    """The fastest way that works here, run once."""
    on_cuda = engine.device.type == "cuda"
    wanted = on_cuda if order.compile is None else order.compile
    if wanted and not stays_in_place(engine, order.prompt_len + order.gen_len):
        wanted = False
        notes.append(_WINDOW)
    if wanted and routes_on_cpu(engine):
        wanted = False
        notes.append(_ROUTING)
    if wanted:
        tell("compiling")
        compiled = _compiled(engine, order, ids, notes)
        if compiled is not None:
            return compiled
    tell("warming up")
    eager = Eager(engine)
    _run(eager, order, ids, engine.device)
    return eager


def _compiled(engine: Engine, order: Order, ids: Tensor, notes: list[str]) -> Compiled | None:
    try:
        compiled = Compiled(engine, order.prompt_len + order.gen_len)
        _run(compiled, order, ids, engine.device)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers raise whatever they like
        notes.append(f"torch.compile failed, so that it runs eagerly: {one_line(error)}")
        return None
    if engine.device.type == "cuda" and order.gen_len > 1:
        _record(compiled, order, notes)
        _run(compiled, order, ids, engine.device)
    return compiled


def _record(compiled: Compiled, order: Order, notes: list[str]) -> None:
    try:
        compiled.record(order.batch)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # what cannot be recorded says so in many ways
        notes.append(f"decode could not be recorded as a CUDA graph: {one_line(error)}")


def _speed(order: Order, first: list[float], steps: list[float], whole: list[float]) -> Speed:
    batch = order.batch
    return Speed(
        ttft_ms=_percentiles(first),
        tpot_ms=_percentiles(steps) if steps else None,
        latency_ms=_percentiles(whole),
        tokens_per_s=1e3 * batch * order.gen_len / float(np.mean(whole)),
        prefill_tokens_per_s=1e3 * batch * order.prompt_len / float(np.mean(first)),
        decode_tokens_per_s=1e3 * batch / float(np.mean(steps)) if steps else None,
    )


def _percentiles(found: list[float]) -> Percentiles:
    p50, p95 = np.percentile(found, [50, 95])
    return Percentiles(p50=float(p50), p95=float(p95), mean=float(np.mean(found)), count=len(found))
