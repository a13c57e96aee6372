"""GPM sampling on a GPU of paper: NVML's own structures, errors and constants, and answers of ours.

The module is the real pynvml with the functions that need a driver replaced; their names and
arguments are checked against it.
"""

import inspect
import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import pynvml
import pytest

from fp8scope.verify.nvml import Samples, sampling

UUID = "GPU-5f2c3a1e"


class Gpu:
    """What the driver would say. Percentages by metric id; each sample is a number of its own."""

    def __init__(self) -> None:
        self.percent = {2: 82.0, 3: 31.5, 5: 64.0, 10: 55.0}  # SM, occupancy, any tensor, DRAM
        self.name = "NVIDIA H200"
        self.divided, self.supported = False, True
        self.fails: dict[str, int] = {}
        self.taken = 0
        self.freed = 0

    def nvmlInit(self) -> None:  # noqa: N802
        self._fail("nvmlInit")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        assert uuid == UUID
        return "handle"

    def nvmlDeviceGetName(self, handle: str) -> str:  # noqa: N802
        return self.name

    def nvmlDeviceGetIndex(self, handle: str) -> int:  # noqa: N802
        return 3

    def nvmlDeviceGetMigMode(self, device: str) -> list[int]:  # noqa: N802
        self._fail("nvmlDeviceGetMigMode")
        return [int(self.divided), int(self.divided)]

    def nvmlGpmQueryDeviceSupport(self, device: str) -> SimpleNamespace:  # noqa: N802
        self._fail("nvmlGpmQueryDeviceSupport")
        return SimpleNamespace(isSupportedDevice=int(self.supported))

    def nvmlGpmSampleAlloc(self) -> Any:  # noqa: N802
        return pynvml.c_nvmlGpmSample_t()

    def nvmlGpmSampleGet(self, device: str, gpmSample: Any) -> Any:  # noqa: N802, N803
        self.taken += 1
        if self.taken > 2:
            self._fail("nvmlGpmSampleGet")
        return gpmSample

    def nvmlGpmMetricsGet(self, metricsGet: Any) -> Any:  # noqa: N802, N803
        assert metricsGet.version == pynvml.NVML_GPM_METRICS_GET_VERSION
        for metric in metricsGet.metrics[: metricsGet.numMetrics]:
            known = metric.metricId in self.percent
            metric.nvmlReturn = 0 if known else pynvml.NVML_ERROR_NOT_SUPPORTED
            metric.value = self.percent.get(metric.metricId, 0)
        return metricsGet

    def nvmlGpmSampleFree(self, gpmSample: Any) -> None:  # noqa: N802, N803
        self.freed += 1

    def _fail(self, function: str) -> None:
        if function in self.fails:
            raise pynvml.NVMLError(self.fails[function])


FUNCTIONS = [name for name in vars(Gpu) if name.startswith("nvml")]


def watched(gpu: Gpu, monkeypatch: pytest.MonkeyPatch, until: int = 6) -> Samples:
    module = ModuleType("pynvml")
    vars(module).update(vars(pynvml))
    vars(module).update({name: getattr(gpu, name) for name in FUNCTIONS})
    monkeypatch.setitem(sys.modules, "pynvml", module)
    with sampling(UUID, interval_s=0.002) as samples:
        end = time.monotonic() + 2
        while gpu.taken < until and not samples.notes and time.monotonic() < end:
            time.sleep(0.001)
    return samples


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "nvmlInit"])
def test_the_paper_gpu_takes_what_pynvml_takes(name: str) -> None:
    real = list(inspect.signature(getattr(pynvml, name)).parameters)
    assert len(inspect.signature(getattr(Gpu(), name)).parameters) == len(real)


def test_rates_over_time_of_the_gpu_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu()
    samples = watched(gpu, monkeypatch)
    assert samples.notes == []
    rates = {each.counter: each for each in samples.sampled}
    assert {counter: each.values[0] for counter, each in rates.items()} == {
        "sm_active": 0.82,
        "warps_active": 0.315,
        "tensor_active": 0.64,
        "dram_throughput": 0.55,
    }
    active = rates["sm_active"]
    assert active.device == 3
    assert len(active.values) >= 4
    assert active.times_us[0] > 0
    assert list(active.times_us) == sorted(active.times_us)
    assert gpu.freed == 2


def test_a_metric_that_this_gpu_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu()
    gpu.percent = {2: 82.0}
    assert [each.counter for each in watched(gpu, monkeypatch).sampled] == ["sm_active"]


def test_what_stands_in_the_way_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    old = Gpu()
    old.name, old.supported = "NVIDIA A100-SXM4-80GB", False
    divided = Gpu()
    divided.divided = True
    told = [*watched(old, monkeypatch).notes, *watched(divided, monkeypatch).notes]
    assert told == [
        "NVML has no GPM metrics of NVIDIA A100-SXM4-80GB: they come with Hopper",
        "NVML was not sampled: NVIDIA H200 is divided (MIG), and its metrics are of it all",
    ]


@pytest.mark.parametrize(
    ("function", "code", "words"),
    [
        ("nvmlInit", pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "there is no NVIDIA driver"),
        ("nvmlInit", pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "there is no NVIDIA driver"),
        ("nvmlGpmQueryDeviceSupport", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, "no GPM metrics"),
        ("nvmlGpmSampleGet", pynvml.NVML_ERROR_NO_PERMISSION, "no permission for GPM metrics"),
        ("nvmlGpmSampleGet", pynvml.NVML_ERROR_GPU_IS_LOST, "(GPU is lost)"),
    ],
)
def test_errors_are_sentences(
    function: str, code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu()
    gpu.fails = {function: code}
    (note,) = watched(gpu, monkeypatch).notes
    assert note.startswith("NVML was not read")
    assert words in note


def test_a_gpu_that_cannot_be_divided_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu()
    gpu.fails = {"nvmlDeviceGetMigMode": pynvml.NVML_ERROR_NOT_SUPPORTED}
    samples = watched(gpu, monkeypatch)
    assert samples.notes == []
    assert samples.sampled


def test_what_was_read_before_a_failure_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu()
    gpu.fails = {"nvmlGpmSampleGet": pynvml.NVML_ERROR_GPU_IS_LOST}
    samples = watched(gpu, monkeypatch)
    assert len(samples.sampled) == 4
    assert gpu.freed == 2


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with sampling(UUID) as samples:
        pass
    assert "pip install 'fp8scope[nsight]'" in samples.notes[0]


def test_on_a_machine_without_a_gpu_the_real_package_says_so() -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        with sampling(UUID) as samples:
            pass
        assert samples.notes == ["NVML was not read: there is no NVIDIA driver"]
    else:
        pytest.skip("this machine has a GPU")
