"""Reports of ncu. In `data/ncu`:

- `rtx-a4500.csv`, `rtx-a4500-details.csv`: printed by ncu 2024.1.1 of a report that NVIDIA recorded
  on an RTX A4500 and ships with Nsight Compute (examples/instructionMix/sobelFloat.ncu-rep); the
  details without the lines of its rules.
- `constructed.ncu-rep`: written by `ncu_file.py` to NVIDIA's `.proto` files, its figures invented;
  `constructed.csv` is what ncu 2024.1.1 printed of it. No report of an FP8 GEMM was at hand.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp8scope.errors import BadInput, Missing
from fp8scope.traces.ncu import read_ncu_csv, read_ncu_rep
from fp8scope.traces.ncu_table import in_base_units, number, ranges_of
from fp8scope.traces.precision import precision_of
from fp8scope.traces.trace import Trace
from tests.traces.ncu_file import BF16_GEMM, FP8_GEMM, GATE, Q_PROJ, launches, write_report

DATA = Path(__file__).parent / "data" / "ncu"


def test_a_printed_report_of_a_real_gpu() -> None:
    trace = read_ncu_csv(DATA / "rtx-a4500.csv")
    (kernel,) = trace.kernels
    assert kernel.name == "void Sobel<float>(uchar4 *, uchar4 *, int, int)"
    assert kernel.time_us == pytest.approx(31.872)
    assert kernel.blocks == 64 * 64
    assert kernel.counters["sm_throughput"] == pytest.approx(0.77665, abs=1e-5)
    assert kernel.counters["warps_active"] == pytest.approx(0.83836, abs=1e-5)
    assert kernel.counters["dram_throughput"] == pytest.approx(0.22193, abs=1e-5)
    assert kernel.counters["dram_read_bytes"] == 4_195_712  # printed as 4.195712 Mbyte
    assert kernel.counters["dram_write_bytes"] == 69_376  # printed as 69.376 Kbyte
    assert kernel.counters["sm_active"] == pytest.approx(27911.98 / 30221)
    (device,) = trace.devices
    assert (device.name, device.compute_capability, device.sms) == ("NVIDIA RTX A4500", (8, 6), 56)
    assert device.memory_bytes == 20_937_506_816
    assert trace.serialized
    assert any("does not count the Tensor Cores' operations" in note for note in trace.notes)
    assert any("no kernel lies in a range" in note for note in trace.notes)


def test_the_details_page_tells_the_same() -> None:
    raw, details = (
        read_ncu_csv(DATA / name).kernels[0] for name in ("rtx-a4500.csv", "rtx-a4500-details.csv")
    )
    assert details.name == raw.name
    assert details.time_us == pytest.approx(raw.time_us, rel=1e-3)
    for counter in ("sm_active", "sm_throughput", "dram_throughput", "warps_active"):
        assert details.counters[counter] == pytest.approx(raw.counters[counter], rel=1e-3)


def _check_constructed(trace: Trace) -> None:
    quantize, fp8, bf16 = trace.kernels
    assert (fp8.name, bf16.name) == (FP8_GEMM, BF16_GEMM)
    assert fp8.time_us == pytest.approx(392.416)
    assert quantize.ranges == fp8.ranges == ("prefill", Q_PROJ)  # not those of the default domain
    assert bf16.ranges == ("request 1", "prefill", GATE)  # a start/end range is around the thread's
    assert fp8.counters["fp8_ops"] == 2 * 16384 * 4096 * 4096
    assert fp8.counters["tensor_active"] == pytest.approx(0.785)
    assert fp8.counters["dram_read_bytes"] == 50_331_648
    assert precision_of(fp8)[0] == "fp8"
    assert precision_of(bf16) == ("bf16", "counters: 3.85e+12 operations in BF16")
    assert (trace.devices[0].name, trace.devices[0].sms) == ("NVIDIA H200", 132)
    assert trace.devices[0].compute_capability == (9, 0)


def test_ranges_and_counters_of_a_printed_report() -> None:
    trace = read_ncu_csv(DATA / "constructed.csv")
    _check_constructed(trace)
    assert [kernel.blocks for kernel in trace.kernels] == [16384, 132, 132]


def test_a_report_is_as_its_print(tmp_path: Path) -> None:
    pytest.importorskip("ncu_report", reason="the package ncu_report is not installed")
    _check_constructed(read_ncu_rep(DATA / "constructed.ncu-rep"))
    cut = tmp_path / "cut.ncu-rep"
    cut.write_bytes((DATA / "constructed.ncu-rep").read_bytes()[:900])
    with pytest.raises(BadInput, match=r"is no report of ncu, or holds no kernels"):
        read_ncu_rep(cut)


def test_the_committed_report_is_the_one_of_the_script(tmp_path: Path) -> None:
    write_report(tmp_path / "again.ncu-rep", launches())
    written = (tmp_path / "again.ncu-rep").read_bytes()
    assert written == (DATA / "constructed.ncu-rep").read_bytes()


class FakeAction(dict[str, SimpleNamespace]):
    """As `ncu_report.IAction` is documented: a mapping of metrics, a name, a state of NVTX."""

    NameBase_DEMANGLED = 1

    def name(self, base: int = 0) -> str:
        return FP8_GEMM if base else "mangled"

    def nvtx_state(self) -> dict[int, SimpleNamespace]:
        stack = ["prefill", "model.layers.9.mlp.down_proj", "model.layers.10.mlp"]
        return {
            0: SimpleNamespace(
                name=lambda: "fp8scope",
                push_pop_ranges=lambda: tuple(sorted(stack)),  # by name, as the package does
                push_pop_range=lambda depth: SimpleNamespace(name=lambda: stack[depth]),
                start_end_ranges=lambda: (),
            )
        }


def metric(value: object, unit: str = "") -> SimpleNamespace:
    return SimpleNamespace(value=lambda: value, unit=lambda: unit)


def test_a_report_through_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    action = FakeAction(
        {
            "gpu__time_duration.sum": metric(1500, "ns"),
            "sm__throughput.avg.pct_of_peak_sustained_elapsed": metric(50.0, "%"),
            "launch__grid_size": metric(264),
            "device__attribute_display_name": metric("NVIDIA H100 80GB HBM3 MIG 1g.10gb"),
            "smsp__nothing.sum": metric(None),
            "smsp__not_a_number.sum": metric(float("nan")),
        }
    )
    package = ModuleType("ncu_report")
    package.load_report = lambda path: [[action]]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ncu_report", package)
    trace = read_ncu_rep(tmp_path / "run.ncu-rep")
    (kernel,) = trace.kernels
    assert kernel.time_us == pytest.approx(1.5)
    assert (kernel.name, kernel.blocks) == (FP8_GEMM, 264)
    assert kernel.ranges[-1] == "model.layers.10.mlp"  # the stack's order, not the names'
    assert kernel.counters == {"sm_throughput": 0.5}
    assert trace.devices[0].mig


def test_without_the_package_it_says_how(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ncu_report", None)
    with pytest.raises(Missing, match=r"needs the package ncu_report → .*--page raw > run\.csv"):
        read_ncu_rep(tmp_path / "run.ncu-rep")


def test_what_the_program_and_ncu_print_is_passed_over(tmp_path: Path) -> None:
    lines = (DATA / "constructed.csv").read_text().splitlines()
    around = ["==PROF== Connected to process 4711", '"a line of the program', "done, 3 tokens"]
    path = tmp_path / "run.csv"
    path.write_text(
        "\ufeff" + "\r\n".join([*around, *lines[:3], *around, *lines[3:], "==PROF== x"])
    )
    assert read_ncu_csv(path).kernels == read_ncu_csv(DATA / "constructed.csv").kernels


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("==PROF== Connected\n==WARNING== No kernels were profiled.\n", "ncu profiled no kernels"),
        ("Time (%),Name\n1,a\n", "is no CSV of ncu"),
        ("", "is no CSV of ncu"),
    ],
)
def test_a_csv_without_kernels(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "run.csv"
    path.write_text(text)
    with pytest.raises(BadInput, match=says):
        read_ncu_csv(path)


def test_no_permission_for_counters_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    path.write_text(
        "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU "
        "Performance Counters on the target device 0.\n"
    )
    with pytest.raises(Missing, match=r"not allowed to read the GPU's counters.*as root"):
        read_ncu_csv(path)


def test_a_table_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    path.write_text((DATA / "constructed.csv").read_text()[:-120])
    with pytest.raises(BadInput, match="is cut off"):
        read_ncu_csv(path)
    with pytest.raises(BadInput, match="cannot be read"):
        read_ncu_csv(tmp_path / "absent.csv")


def test_two_gpus_are_two_devices(tmp_path: Path) -> None:
    lines = (DATA / "constructed.csv").read_text().splitlines()
    lines[-1] = lines[-1].replace('"0","9.0"', '"1","9.0"')
    path = tmp_path / "run.csv"
    path.write_text("\n".join(lines))
    trace = read_ncu_csv(path)
    assert [device.index for device in trace.devices] == [0, 1]
    assert [kernel.device for kernel in trace.kernels] == [0, 0, 1]


@pytest.mark.parametrize(
    ("value", "unit", "base"),
    [
        (31.872, "usecond", 31.872e-6), (0.5, "msecond", 5e-4), (31872, "ns", 31872e-9),
        (2, "us", 2e-6), (4.195712, "Mbyte", 4195712), (1.5, "Gbyte/second", 1.5e9),
        (80.5, "%", 0.805), (12.19, "", 12.19), (3, "Kinst", 3000), (7, "furlong", 7),
    ],
)  # fmt: skip
def test_units(value: float, unit: str, base: float) -> None:
    assert in_base_units(value, unit) == pytest.approx(base)


@given(
    st.integers(0, 10**15), st.sampled_from([("", "."), (",", "."), (".", ","), ("\u00a0", ",")])
)
def test_numbers_of_any_locale(thousandths: int, marks: tuple[str, str]) -> None:
    # as ncu prints: six digits behind the point
    group, point = marks
    text = f"{thousandths / 1000:,.6f}".replace(",", "\0").replace(".", point).replace("\0", group)
    assert number(text) == pytest.approx(thousandths / 1000)


@given(st.integers(0, 10**15))
def test_whole_numbers_with_and_without_separators(value: int) -> None:
    assert number(str(value)) == number(f"{value:,}") == value


def test_what_is_no_number() -> None:
    assert number("") is number("no") is number("n/a") is number("(32, 8, 1)") is None
    assert number("12.5 (1; 2; 3)") == 12.5


names = st.text(st.characters(exclude_characters='"\r\n', codec="ascii"), min_size=1).filter(
    lambda name: ":none" not in name and ":RGB" not in name and name == name.strip()
)


@given(st.lists(st.tuples(st.sampled_from(["fp8scope", "<default domain>"]), names), max_size=4))
def test_any_range_comes_back_as_it_was_pushed(stack: list[tuple[str, str]]) -> None:
    tails = ("none:none:none:none:none:none", "none:none:RGB:0xff76b900::invalid handle")
    cell = "1  " + "  ".join(
        f'"{domain}:{name}:{tails[i % 2]}"' for i, (domain, name) in enumerate(stack)
    )
    assert ranges_of(cell) == tuple(stack)
