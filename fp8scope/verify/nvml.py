"""NVML's GPM metrics, sampled while something runs: how busy a whole GPU is, without a profiler.

From Hopper on, and without root. The samples are of the device, whoever uses it, on a clock of
their own. Whatever stands in the way is told in a sentence, never raised.
"""

from __future__ import annotations

import importlib
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from fp8scope.errors import one_line
from fp8scope.traces.trace import Counter, Sampled

_COUNTERS: Mapping[str, Counter] = {
    "NVML_GPM_METRIC_SM_UTIL": "sm_active",
    "NVML_GPM_METRIC_SM_OCCUPANCY": "warps_active",
    "NVML_GPM_METRIC_ANY_TENSOR_UTIL": "tensor_active",
    "NVML_GPM_METRIC_DRAM_BW_UTIL": "dram_throughput",
}
"""All in percent."""


@dataclass
class Samples:
    """What was sampled, whole when the sampling has ended. `notes`: what could not be."""

    sampled: tuple[Sampled, ...] = ()
    notes: list[str] = field(default_factory=list)


@contextmanager
def sampling(uuid: str, *, interval_s: float = 0.05) -> Iterator[Samples]:
    """Sample the GPU of this UUID (nvidia-smi -L) until the end of the block."""
    samples = Samples()
    nvml = _module(samples)
    sampler = _sampler(nvml, uuid, samples) if nvml is not None else None
    if sampler is None:
        yield samples
        return
    stop = threading.Event()
    thread = threading.Thread(target=sampler.run, args=(stop, interval_s), daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join(10)
        samples.sampled = sampler.sampled()


def busiest(sampled: Sequence[Sampled]) -> tuple[str, ...]:
    """One sentence: each metric where it was highest over a second; none without samples. The
    loading and the compiling around what is timed are left out by that.
    """
    words = {
        "sm_active": "SMs active",
        "tensor_active": "tensor cores active",
        "dram_throughput": "DRAM bandwidth",
    }
    found = [
        f"{words[each.counter]} {_best_second(each):.0%}"
        for each in sampled
        if each.counter in words and each.values
    ]
    if not found:
        return ()
    return (f"NVML, in the busiest second of the timed run: {', '.join(found)}",)


def _best_second(series: Sampled) -> float:
    """The highest mean over the samples of a second."""
    times, values = series.times_us, series.values
    means, start = [], 0
    for end in range(len(times)):
        while times[end] - times[start] > 1e6:
            start += 1
        means.append(sum(values[start : end + 1]) / (end + 1 - start))
    whole = [mean for mean, time in zip(means, times, strict=True) if time - times[0] >= 1e6]
    return max(whole or means[-1:])


def _module(samples: Samples) -> ModuleType | None:
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        samples.notes.append(
            "NVML was not read: nvidia-ml-py is not installed (pip install 'fp8scope[nsight]')"
        )
        return None


def _sampler(nvml: Any, uuid: str, samples: Samples) -> _Sampler | None:
    """None, with a note, where this GPU has no GPM metrics, or is divided."""
    try:
        nvml.nvmlInit()  # for as long as the process lives: others may use it as well
        device = nvml.nvmlDeviceGetHandleByUUID(uuid)
        name = nvml.nvmlDeviceGetName(device)
        if _is_divided(nvml, device):
            words = f"NVML was not sampled: {name} is divided (MIG), and its metrics are of it all"
        elif not nvml.nvmlGpmQueryDeviceSupport(device).isSupportedDevice:
            words = f"NVML has no GPM metrics of {name}: they come with Hopper"
        else:
            return _Sampler(nvml, device, nvml.nvmlDeviceGetIndex(device), samples)
    except nvml.NVMLError as error:
        words = _why(nvml, error)
    samples.notes.append(words)
    return None


def _is_divided(nvml: Any, device: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(device)[0] == nvml.NVML_DEVICE_MIG_ENABLE)
    except nvml.NVMLError_NotSupported:  # GPUs that cannot be divided
        return False


def _why(nvml: Any, error: Exception) -> str:
    if isinstance(error, nvml.NVMLError_LibraryNotFound | nvml.NVMLError_DriverNotLoaded):
        return "NVML was not read: there is no NVIDIA driver"
    if isinstance(error, nvml.NVMLError_NoPermission):
        return "NVML was not read: no permission for GPM metrics"
    if isinstance(error, nvml.NVMLError_NotSupported | nvml.NVMLError_FunctionNotFound):
        return "NVML was not read: this GPU or its driver has no GPM metrics"
    return f"NVML was not read ({one_line(error)})"


class _Sampler:
    def __init__(self, nvml: Any, device: Any, index: int, samples: Samples) -> None:
        self._nvml, self._device, self._index, self._samples = nvml, device, index, samples
        self._times_us: list[float] = []
        self._values: dict[Counter, list[float]] = {counter: [] for counter in _COUNTERS.values()}

    def run(self, stop: threading.Event, interval_s: float) -> None:
        """Read until `stop`: a metric is what happened between two readings."""
        nvml = self._nvml
        pair: list[Any] = []
        try:
            pair += [nvml.nvmlGpmSampleAlloc(), nvml.nvmlGpmSampleAlloc()]
            start = time.monotonic()
            nvml.nvmlGpmSampleGet(self._device, pair[0])
            while not stop.wait(interval_s):
                nvml.nvmlGpmSampleGet(self._device, pair[1])
                self._keep((time.monotonic() - start) * 1e6, *pair)
                pair.reverse()
        except nvml.NVMLError as error:
            self._samples.notes.append(_why(nvml, error))
        finally:
            for sample in pair:
                with suppress(nvml.NVMLError):
                    nvml.nvmlGpmSampleFree(sample)

    def _keep(self, at_us: float, older: Any, newer: Any) -> None:
        nvml = self._nvml
        request = nvml.c_nvmlGpmMetricsGet_t()
        request.version = nvml.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = len(_COUNTERS)
        request.sample1, request.sample2 = older, newer
        for place, name in enumerate(_COUNTERS):
            request.metrics[place].metricId = getattr(nvml, name)
        nvml.nvmlGpmMetricsGet(request)
        self._times_us.append(at_us)
        for place, counter in enumerate(_COUNTERS.values()):
            metric = request.metrics[place]
            good = metric.nvmlReturn == nvml.NVML_SUCCESS and math.isfinite(metric.value)
            self._values[counter].append(metric.value / 100 if good else math.nan)

    def sampled(self) -> tuple[Sampled, ...]:
        """A series per metric that was read at least once, without the moments that were not."""
        series = []
        for counter, values in self._values.items():
            both = [
                (t, v) for t, v in zip(self._times_us, values, strict=True) if not math.isnan(v)
            ]
            if both:
                times, rates = zip(*both, strict=True)
                series.append(Sampled(counter, self._index, times, rates))
        return tuple(series)
