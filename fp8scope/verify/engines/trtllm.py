"""TensorRT-LLM: `trtllm-bench throughput` with streaming, on prompts of our making.

Its report_json (ReportUtility.get_statistics_dict) holds TTFT and TPOT per request, in ms.
"""

from __future__ import annotations

import importlib.metadata
import json
import random
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fp8scope.artefacts.verdict import Percentiles, Speed
from fp8scope.errors import BadInput, Missing
from fp8scope.traces.record import Device, Load, RunRecord
from fp8scope.verify.engines.engine import Task
from fp8scope.verify.launch import Launch
from fp8scope.verify.order import TORCH_TRACE, Watcher

INSTALL = (
    "pip install tensorrt-llm, or run in nvcr.io/nvidia/tensorrt-llm/release, or take "
    "--engine native"
)
_REPORT, _PROMPTS, _OPTIONS = "report.json", "prompts.jsonl", "options.yaml"
_WORDS = 10_000
"""Token ids of made-up prompts lie below: vocabularies are larger."""


class Trtllm:
    """trtllm-bench as it is on PATH, with its PyTorch backend."""

    def _command(self) -> str:
        found = shutil.which("trtllm-bench")
        if found is None:
            raise Missing("TensorRT-LLM is not installed (no trtllm-bench)", INSTALL)
        return found

    def version(self) -> str:
        """Of the package; empty where it belongs to another Python."""
        self._command()
        try:
            return importlib.metadata.version("tensorrt_llm")
        except importlib.metadata.PackageNotFoundError:
            return ""

    def check(self, task: Task, watchers: Collection[Watcher]) -> None:
        """Raises Missing where it is not installed."""
        self._command()

    def timing(self, task: Task, folder: Path) -> tuple[Launch, ...]:
        """`repeats` batches one after the other."""
        words = self._bench(task, folder, task.load.gen_len, task.repeats)
        words = (*words, "--warmup", str(task.load.batch))
        return (Launch((*words, *task.options), folder, task.environment),)

    def tagged(self, task: Task, watcher: Watcher, folder: Path) -> Launch:
        """The first iterations of one batch: its prefill and a few decode steps, without CUDA
        graphs and with TensorRT-LLM's own ranges per layer.
        """
        words = self._bench(task, folder, 1 + task.decode_steps, 1)
        options = {"enable_layerwise_nvtx_marker": True, "cuda_graph_config": None}
        # JSON is YAML
        (folder / _OPTIONS).write_text(json.dumps(options), encoding="utf-8")
        environment = {
            **task.environment,
            "TLLM_PROFILE_START_STOP": f"0-{task.decode_steps}",
            "TLLM_LLMAPI_ENABLE_NVTX": "1",
        }
        if watcher == "torch":
            environment["TLLM_TORCH_PROFILE_TRACE"] = str(folder.absolute() / TORCH_TRACE)
        words = (*words, "--warmup", "0", "--extra_llm_api_options", str(folder / _OPTIONS))
        return Launch((*words, *task.options), folder, environment, watcher in {"nsys", "ncu"})

    def _bench(self, task: Task, folder: Path, gen_len: int, batches: int) -> tuple[str, ...]:
        folder.mkdir(parents=True, exist_ok=True)
        write_prompts(folder / _PROMPTS, task.load, gen_len, batches)
        batch = str(task.load.batch)
        return (
            *(self._command(), "--model", task.checkpoint, *_local(task.checkpoint)),
            *("throughput", "--backend", "pytorch", "--streaming"),
            *("--dataset", str(folder / _PROMPTS), "--report_json", str(folder / _REPORT)),
            *("--concurrency", batch, "--max_batch_size", batch),
        )

    def telling(self, line: str) -> str:
        """All of it."""
        return line

    def record(self, task: Task, folder: Path, device: Device) -> RunRecord:
        """Of the report."""
        report = read_report(folder / _REPORT)
        engine = report.get("engine", {})
        kv_cache = engine.get("kv_cache_dtype")
        return RunRecord(
            engine="trtllm",
            engine_version=str(engine.get("version") or self.version()),
            checkpoint=task.checkpoint,
            device=device,
            load=task.load,
            speed=speed_of(report, task.load),
            cuda_graphs=True,
            kv_cache="fp8" if str(kv_cache).upper() == "FP8" else None,
            notes=(f"TensorRT-LLM calls the checkpoint {engine.get('quantization')}",),
        )


def _local(checkpoint: str) -> tuple[str, ...]:
    return ("--model_path", checkpoint) if Path(checkpoint).is_dir() else ()


def write_prompts(path: Path, load: Load, gen_len: int, batches: int) -> None:
    """A request per line, of random ids, as trtllm-bench reads them. The same for every run."""
    draw = random.Random(0)  # noqa: S311
    lines = (
        json.dumps(
            {
                "task_id": number,
                "input_ids": [draw.randrange(_WORDS) for _ in range(load.prompt_len)],
                "output_tokens": gen_len,
            }
        )
        for number in range(load.batch * batches)
    )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_report(path: Path) -> dict[str, Any]:
    """report_json. Raises BadInput."""
    try:
        report = json.loads(path.read_bytes())
        report["performance"]["system_output_throughput_tok_s"]
    except OSError as error:
        what = f"trtllm-bench left no {path.name} ({error.strerror})"
        raise BadInput(what, f"see what it printed in {path.parent}") from error
    except (ValueError, KeyError, TypeError) as error:
        what = f"{path} is not what trtllm-bench --report_json writes"
        raise BadInput(what, "run it again, with TensorRT-LLM 0.17 or newer") from error
    return dict(report)


def speed_of(report: Mapping[str, Any], load: Load) -> Speed:
    """Of the report's own percentiles, over requests."""
    performance = report["performance"]
    streaming = report.get("streaming_metrics", {})
    count = int(report.get("request_info", {}).get("num_requests", load.batch))
    ttft = _percentiles(streaming.get("ttft_percentiles"), count)
    tpot = _percentiles(streaming.get("tpot_percentiles"), count)
    return Speed(
        ttft_ms=ttft,
        tpot_ms=tpot,
        latency_ms=_percentiles(performance.get("request_latency_percentiles_ms"), count),
        tokens_per_s=_positive(performance["system_output_throughput_tok_s"]),
        prefill_tokens_per_s=load.batch * load.prompt_len * 1e3 / ttft.mean if ttft else None,
        decode_tokens_per_s=load.batch * 1e3 / tpot.mean if tpot else None,
    )


def _percentiles(data: Mapping[str, Any] | None, count: int) -> Percentiles | None:
    p50, p95 = (_positive((data or {}).get(name)) for name in ("p50", "p95"))
    mean = _positive((data or {}).get("average")) or p50
    if p50 is None or p95 is None or mean is None:
        return None
    return Percentiles(p50=p50, p95=p95, mean=mean, count=count)


def _positive(value: object) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and value > 0 else None  # type: ignore[operator,arg-type]
