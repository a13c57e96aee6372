"""The tagged pass: one prefill and a few steps, eagerly, every module in a range of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from fp8scope.artefacts.atomic import temporary_path
from fp8scope.errors import CannotWrite
from fp8scope.traces.trace import DECODE, PREFILL
from fp8scope.verify.native.engine import Engine
from fp8scope.verify.native.generators import Eager
from fp8scope.verify.native.prompts import prompts
from fp8scope.verify.native.tags import Marker, Nvtx, TorchRanges, tags
from fp8scope.verify.order import TORCH_TRACE, Order


@torch.no_grad()
def run_tagged(engine: Engine, order: Order) -> None:
    """Run it; with the watcher torch trace.json is in the order's folder then."""
    ids, eager = prompts(engine, order), Eager(engine)
    eager.decode(eager.prefill(ids))
    _wait(engine)
    markers: list[Marker] = [Nvtx()]
    if order.watcher == "torch":
        markers.append(TorchRanges())
    with ExitStack() as stack:
        phase = stack.enter_context(tags(engine.model, engine.structure, markers))
        stack.enter_context(_watched(engine, order))
        with phase(PREFILL):
            token = eager.prefill(ids)
            _wait(engine)
        for _ in range(order.decode_steps):
            with phase(DECODE):
                token = eager.decode(token)
                _wait(engine)


def _wait(engine: Engine) -> None:
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)


@contextmanager
def _watched(engine: Engine, order: Order) -> Iterator[None]:
    """What nsys and ncu capture lies between two calls; torch.profiler is started here."""
    if order.watcher == "torch":
        activities = [ProfilerActivity.CPU]
        if engine.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        with profile(activities=activities, record_shapes=True) as profiler:
            yield
        _export(profiler, Path(order.folder) / TORCH_TRACE)
    elif engine.device.type == "cuda":
        with torch.cuda.profiler.profile():
            yield
    else:
        yield


def _export(profiler: Any, path: Path) -> None:
    temporary = temporary_path(path)
    try:
        profiler.export_chrome_trace(str(temporary))
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        what = f"cannot write {path}: {error}"
        raise CannotWrite(what, "make room there, or choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)
