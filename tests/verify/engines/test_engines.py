"""Commands of engines, and what is read of what they leave.

CONSTRUCTED: vLLM's JSON, after vllm/benchmarks/latency.py of v0.13 and later; TensorRT-LLM's
report, after ReportUtility.get_statistics_dict of 1.0 and later. No engine ran.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fp8scope.errors import BadInput, Missing
from fp8scope.traces.record import Device, Load
from fp8scope.verify.engines import engine, trtllm, vllm
from fp8scope.verify.engines.command import Command
from fp8scope.verify.engines.engine import Engine, Task
from fp8scope.verify.engines.native import Native
from fp8scope.verify.engines.trtllm import Trtllm
from fp8scope.verify.engines.vllm import Vllm
from fp8scope.verify.order import RUN, Order

H200 = Device(kind="cuda", name="NVIDIA H200", compute_capability=(9, 0))
TASK = Task("/models/8b-fp8", Load(batch=8, prompt_len=2048, gen_len=65), options=("--tp", "1"))


def after(words: tuple[str, ...], option: str) -> str:
    return words[words.index(option) + 1]


def on_path(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, said: str = "") -> str:
    tool = folder / name
    tool.write_text(f"#!/bin/sh\necho '{said}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return str(tool)


class TestNative:
    """A child of ours."""

    ORDER = Order("", "", "timing", "none", "cuda", 1, 1, 1, seed=7)

    def test_each_pass_has_its_order(self, tmp_path: Path) -> None:
        native = Native(self.ORDER)
        (timing,) = native.timing(TASK, tmp_path / "timing")
        tagged = native.tagged(TASK, "nsys", tmp_path / "tagged")
        assert timing.words[:3] == (sys.executable, "-m", "fp8scope.verify.child")
        assert (timing.marks, tagged.marks) == (False, True)
        order = Order.read(Path(tagged.words[-1]))
        assert (order.what, order.watcher, order.seed) == ("tagged", "nsys", 7)
        assert (order.checkpoint, order.batch) == ("/models/8b-fp8", 8)
        assert (order.prompt_len, order.gen_len) == (2048, 65)
        assert order.folder == str(tmp_path / "tagged")

    def test_its_record_is_read(self, tmp_path: Path) -> None:
        record = (
            Command(("true",)).record(TASK, tmp_path, H200).model_copy(update={"engine": "native"})
        )
        (tmp_path / RUN).write_text(record.model_dump_json())
        assert Native(self.ORDER).record(TASK, tmp_path, H200) == record
        hidden = record.device.model_copy(update={"driver": ""})  # as in a container
        (tmp_path / RUN).write_text(record.model_copy(update={"device": hidden}).model_dump_json())
        known = H200.model_copy(update={"driver": "580.65.06"})
        found = Native(self.ORDER).record(TASK, tmp_path, known).device
        assert found.driver == "580.65.06"
        (tmp_path / RUN).write_text('{"format": "fp8scope-run", "version": 1}')
        with pytest.raises(BadInput, match=r"run.json is no run of this release \(engine: Field"):
            Native(self.ORDER).record(TASK, tmp_path, H200)


class TestCommand:
    """Any words."""

    def test_it_is_run_as_it_is(self, tmp_path: Path) -> None:
        command = Command(("sh", "-c", "exit 0"))
        assert command.version() == ""
        assert command.timing(TASK, tmp_path) == ()
        launch = command.tagged(TASK, "nsys", tmp_path)
        assert launch.words == ("sh", "-c", "exit 0", "--tp", "1")
        assert not launch.marks
        record = command.record(TASK, tmp_path, H200)
        assert record.speed.tokens_per_s is None
        assert "profiled from start to end" in record.notes[0]

    def test_what_it_cannot_do(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="needs a command after --"):
            Command(())
        with pytest.raises(Missing, match="the command /no/serve is not there"):
            Command(("/no/serve",)).version()
        with pytest.raises(Missing, match=r"torch\.profiler cannot be put around a command"):
            Command(("sh",)).tagged(TASK, "torch", tmp_path)


class TestVllm:
    """vllm bench latency."""

    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(Missing, match="vLLM is not installed → pip install vllm"):
            Vllm().version()

    def test_one_token_and_all_of_them(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        tool = on_path("vllm", tmp_path, monkeypatch)
        first, whole = Vllm().timing(TASK, tmp_path)
        assert first.words[:3] == (tool, "bench", "latency")
        assert after(first.words, "--output-len") == "1"
        assert after(whole.words, "--output-len") == "65"
        for launch in (first, whole):
            assert after(launch.words, "--model") == "/models/8b-fp8"
            assert after(launch.words, "--input-len") == "2048"
            assert after(launch.words, "--batch-size") == "8"
            assert after(launch.words, "--tp") == "1"
            assert after(launch.words, "--output-json").startswith(str(launch.folder))
        one = Task("m", Load(batch=1, prompt_len=8, gen_len=1))
        assert len(Vllm().timing(one, tmp_path)) == 1

    def test_under_a_profiler(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        on_path("vllm", tmp_path, monkeypatch, "INFO 11-21 platform cuda\n0.13.0")
        nsys = Vllm().tagged(TASK, "nsys", tmp_path)
        assert json.loads(after(nsys.words, "--profiler-config")) == {"profiler": "cuda"}
        assert {"--enforce-eager", "--profile", "--enable-layerwise-nvtx-tracing"} < set(nsys.words)
        assert nsys.environment["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
        assert nsys.marks
        torch = Vllm().tagged(TASK, "torch", tmp_path)
        config = json.loads(after(torch.words, "--profiler-config"))
        assert (config["profiler"], config["torch_profiler_dir"]) == ("torch", str(tmp_path))
        assert not torch.marks

    def test_one_that_is_too_old_for_that(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        on_path("vllm", tmp_path, monkeypatch, "0.9.2")
        with pytest.raises(Missing, match=r"vLLM 0\.9\.2 has no --profiler-config"):
            Vllm().tagged(TASK, "nsys", tmp_path)

    def test_its_speed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        on_path("vllm", tmp_path, monkeypatch, "0.13.0")
        for name, seconds in (("first_token", [0.2, 0.2, 0.2]), ("whole", [0.84, 0.84, 1.48])):
            left = {"avg_latency": 0.2, "std_latency": 0.0, "latencies": seconds, "percentiles": {}}
            (tmp_path / name).mkdir()
            (tmp_path / name / "latency.json").write_text(json.dumps(left))
        record = Vllm().record(TASK, tmp_path, H200)
        speed = record.speed
        assert record.engine_version == "0.13.0"
        assert speed.ttft_ms is not None
        assert speed.tpot_ms is not None
        assert speed.ttft_ms.p50 == pytest.approx(200)
        assert speed.tpot_ms.p50 == pytest.approx(10)  # (840 - 200) ms / 64 steps
        assert speed.tpot_ms.p95 == pytest.approx(19)
        assert speed.prefill_tokens_per_s == pytest.approx(8 * 2048 / 0.2)
        assert speed.tokens_per_s == pytest.approx(8 * 65 * 3 / 3.16)

    def test_what_it_did_not_leave(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"vLLM left no latency.json \(No such file"):
            vllm.read_latencies(tmp_path / "latency.json")
        (tmp_path / "latency.json").write_text('{"avg_latency": 1}')
        with pytest.raises(BadInput, match="is not what vllm bench latency writes"):
            vllm.read_latencies(tmp_path / "latency.json")


def trtllm_report() -> dict[str, Any]:
    def stats(p50: float) -> dict[str, float]:
        other = {"p90": 1.1, "p95": 1.2, "p99": 1.3, "minimum": 0.9, "maximum": 1.3}
        return {"p50": p50, "average": p50 * 1.05, **{k: p50 * v for k, v in other.items()}}

    return {
        "engine": {
            "model": "8b-fp8",
            "version": "1.2.0",
            "backend": "Pytorch",
            "dtype": "bfloat16",
            "kv_cache_dtype": "FP8",
            "quantization": "FP8",
        },
        "machine": {"name": "NVIDIA H200", "memory.total": 139.8, "clocks.mem": 3.2},
        "request_info": {"num_requests": 40, "avg_num_concurrent_requests": 7.9},
        "performance": {
            "system_output_throughput_tok_s": 812.5,
            "request_latency_percentiles_ms": stats(640.0),
        },
        "streaming_metrics": {"ttft_percentiles": stats(160.0), "tpot_percentiles": stats(7.5)},
    }


class TestTrtllm:
    """trtllm-bench throughput."""

    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(Missing, match=r"TensorRT-LLM is not installed \(no trtllm-bench\)"):
            Trtllm().version()

    def test_its_prompts_and_its_command(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        tool = on_path("trtllm-bench", tmp_path, monkeypatch)
        (launch,) = Trtllm().timing(TASK, tmp_path / "timing")
        assert launch.words[:3] == (tool, "--model", "/models/8b-fp8")
        assert "--model_path" not in launch.words  # no folder: a name on the hub
        assert "--streaming" in launch.words
        assert after(launch.words, "--concurrency") == "8"
        prompts = Path(after(launch.words, "--dataset")).read_text().splitlines()
        requests = [json.loads(line) for line in prompts]
        assert len(requests) == 8 * TASK.repeats
        assert [each["task_id"] for each in requests] == list(range(40))
        assert {len(each["input_ids"]) for each in requests} == {2048}
        assert {each["output_tokens"] for each in requests} == {65}
        local = Task(str(tmp_path), Load(batch=1, prompt_len=4, gen_len=2))
        (launch,) = Trtllm().timing(local, tmp_path / "local")
        assert after(launch.words, "--model_path") == str(tmp_path)

    def test_under_a_profiler(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        on_path("trtllm-bench", tmp_path, monkeypatch)
        nsys = Trtllm().tagged(TASK, "nsys", tmp_path)
        assert nsys.environment["TLLM_PROFILE_START_STOP"] == "0-4"
        assert nsys.marks
        assert len(Path(after(nsys.words, "--dataset")).read_text().splitlines()) == 8
        options = json.loads(Path(after(nsys.words, "--extra_llm_api_options")).read_text())
        assert options == {"enable_layerwise_nvtx_marker": True, "cuda_graph_config": None}
        torch = Trtllm().tagged(TASK, "torch", tmp_path)
        assert torch.environment["TLLM_TORCH_PROFILE_TRACE"] == str(tmp_path / "trace.json")

    def test_its_speed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        on_path("trtllm-bench", tmp_path, monkeypatch)
        (tmp_path / "report.json").write_text(json.dumps(trtllm_report()))
        record = Trtllm().record(TASK, tmp_path, H200)
        assert (record.engine_version, record.kv_cache) == ("1.2.0", "fp8")
        assert record.notes == ("TensorRT-LLM calls the checkpoint FP8",)
        ttft, tpot = record.speed.ttft_ms, record.speed.tpot_ms
        assert ttft is not None
        assert tpot is not None
        assert (ttft.p50, ttft.p95, ttft.mean, ttft.count) == (160, 192, 168, 40)
        assert (tpot.p50, record.speed.tokens_per_s) == (7.5, 812.5)

    def test_without_streaming_the_first_token_is_not_known(self) -> None:
        report = trtllm_report()
        del report["streaming_metrics"]
        speed = trtllm.speed_of(report, TASK.load)
        assert speed.ttft_ms is None
        assert speed.prefill_tokens_per_s is None
        assert speed.tokens_per_s == 812.5

    @pytest.mark.parametrize("text", ["", "{}", '{"performance": {}}', "[1]"])
    def test_what_is_no_report(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(BadInput, match="is not what trtllm-bench --report_json writes"):
            trtllm.read_report(tmp_path / "report.json")
        with pytest.raises(BadInput, match=r"trtllm-bench left no other.json"):
            trtllm.read_report(tmp_path / "other.json")


def test_times_that_are_not_times_have_no_percentiles() -> None:
    assert engine.percentiles([]) is None
    assert engine.percentiles([1.0, -0.5]) is None  # a difference of two noisy runs
    assert engine.percentiles([float("nan")]) is None


ENGINES: tuple[Engine, ...] = (Native(TestNative.ORDER), Vllm(), Trtllm(), Command(("true",)))
"""mypy holds them against the protocol."""
