"""The native engine on a GPU. Not yet run on one: nothing here has been measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fp8scope.runtime.fp8.cache import Fp8Cache, KVScales
from fp8scope.traces.precision import precision_of
from fp8scope.traces.reading import read_trace
from fp8scope.verify.native.device import describe
from fp8scope.verify.native.engine import open_engine
from fp8scope.verify.native.generators import Compiled, Eager
from fp8scope.verify.native.prompts import prompts
from fp8scope.verify.native.tagged import run_tagged
from fp8scope.verify.native.timing import timed
from fp8scope.verify.order import Order
from tests import models
from tests.bench.gpu_models import SMALL, write_bf16, write_fp8
from tests.runtime.fp8.reference import normals
from tests.verify.native import engines
from tests.verify.native.test_generators import generated

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # inductor's own
]


@pytest.fixture(scope="module")
def fp8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    return write_fp8(write_bf16(SMALL, folder / "bf16", "cuda"), folder / "fp8")


def ordered(checkpoint: Path, folder: Path, **wishes: object) -> Order:
    order = Order(str(checkpoint), str(folder), "timing", "none", "cuda", 4, 256, 16)
    return replace(order, **wishes)  # type: ignore[arg-type]


def test_compiled_and_recorded(fp8: Path, tmp_path: Path) -> None:
    """Nothing fell back; memory and device are said."""
    order = ordered(fp8, tmp_path)
    engine = open_engine(order)
    found = timed(engine, order, lambda _: None)
    assert (found.compiled, found.cuda_graphs, found.notes) == (True, True, ())
    assert found.speed.peak_memory_bytes
    assert found.speed.tpot_ms is not None
    assert found.speed.tpot_ms.count == 15 * 5
    device = describe(engine.device)
    assert device.sms == 132 or device.name != "NVIDIA H200"


def test_a_graph_makes_the_tokens_that_it_was_recorded_of(fp8: Path, tmp_path: Path) -> None:
    check_graph(ordered(fp8, tmp_path))


def test_a_graph_of_a_wide_window_moves_on(tmp_path: Path) -> None:
    """Its step is recorded once, at the third token of an empty cache."""
    mistral = engines.checkpoint("mistral", sliding_window=512)
    check_graph(ordered(mistral, tmp_path, prompt_len=64))


def check_graph(order: Order) -> None:
    engine = open_engine(order)
    ids = prompts(engine, order)
    compiled = Compiled(engine, order.prompt_len + order.gen_len)
    want = generated(compiled, ids)
    with torch.no_grad():
        compiled.record(len(ids))
    assert compiled.recorded
    for _ in range(2):
        assert torch.equal(generated(compiled, ids), want)


def test_first_tokens_are_those_of_the_eager_model(fp8: Path, tmp_path: Path) -> None:
    """Most: a compiler fuses roundings, and random weights have near ties."""
    order = ordered(fp8, tmp_path, batch=32)
    engine = open_engine(order)
    ids = prompts(engine, order)
    with torch.no_grad():
        same = Eager(engine).prefill(ids) == Compiled(engine, 272).prefill(ids)
    assert same.float().mean() > 0.8


def test_every_linear_is_seen_in_fp8(fp8: Path, tmp_path: Path) -> None:
    order = ordered(fp8, tmp_path, what="tagged", watcher="torch")
    engine = open_engine(order)
    run_tagged(engine, order)
    trace = read_trace(tmp_path / "trace.json")
    assert trace.on_gpu
    seen = {
        kernel.ranges[-1]
        for kernel in trace.kernels
        if kernel.ranges and precision_of(kernel)[0] == "fp8"
    }
    assert seen >= set(engine.in_fp8)
    assert "lm_head" not in seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_cache_rounds_as_on_the_cpu(dtype: torch.dtype) -> None:
    config = models.build("llama").config
    scales = {0: KVScales(0.013, 0.007)}
    keys, values = (3 * normals(2, 2, 5, 12, seed=seed).to(dtype) for seed in (0, 1))
    want = Fp8Cache(scales, config).update(keys, values, 0)
    got = Fp8Cache(scales, config, "cuda").update(keys.cuda(), values.cuda(), 0)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a.cpu(), b)
