"""ncu by a stand-in that prints what the real one printed."""

import csv
from pathlib import Path

import pytest

from fp8scope.errors import BadInput, ChildFailed, Fp8scopeError, Missing
from fp8scope.verify import supervise
from fp8scope.verify.launch import Launch
from fp8scope.verify.profilers.ncu import KERNELS, Ncu, find_ncu
from tests.verify.profilers import recorded
from tests.verify.profilers.fake import put_ncu

SM, FP8 = "sm__cycles_active.avg.pct_of_peak_sustained_elapsed", "sm__ops_path_tensor_src_fp8.sum"
FP4 = "sm__ops_path_tensor_src_fp4_fp6_fp8_dst_fp32.sum"  # GB100's
WAVES = "launch__waves_per_multiprocessor"  # of the launch: --query-metrics does not list it


def found(folder: Path, wanted: tuple[str, ...] = (SM, FP8, WAVES), **texts: str | bool) -> Ncu:
    tool = put_ncu(folder / "bin", **texts)  # type: ignore[arg-type]
    return find_ncu(wanted, environment={"PATH": str(tool.parent)}, root=folder)


def profiled(tool: Ncu, folder: Path, script: str = "exit 0") -> Path:
    launch = tool.around(Launch(("sh", "-c", script), folder / "run", marks=True))
    return tool.report(supervise.run(launch.words, launch.folder))


def test_a_run_leaves_a_report_and_its_raw_page(tmp_path: Path) -> None:
    tool = found(tmp_path)
    assert (tool.name, tool.version) == ("ncu", "2024.1.1.0")
    report = profiled(tool, tmp_path, "echo 8 requests")
    assert report == tmp_path / "run/ncu.ncu-rep"
    exported = tool.export(report)
    with exported.open(newline="") as file:
        header, units, kernel = csv.reader(file)  # without what ncu prints before
    assert header[0] == "ID"
    assert units[-2] == "%"
    assert kernel[header.index(FP8)] == "274877906944"


def test_the_command_is_profiled_where_it_is_marked_alone(tmp_path: Path) -> None:
    tool = found(tmp_path)
    launch = Launch(("python", "-m", "x"), tmp_path, marks=True)
    words = tool.around(launch, count=50).words
    assert words == (
        *(str(tmp_path / "bin/ncu"), "--target-processes", "all", "--replay-mode", "kernel"),
        *("--clock-control", "none", "--cache-control", "none", "--nvtx"),
        *("--profile-from-start", "off"),
        *("--kernel-name-base", "demangled", "--kernel-name", KERNELS, "--launch-count", "50"),
        *("--metrics", f"{SM},{FP8},{WAVES}", "--log-file", str(tmp_path / "ncu.log")),
        *("--force-overwrite", "--export", str(tmp_path / "ncu"), "python", "-m", "x"),
    )
    other = tool.around(Launch(("python",), tmp_path)).words
    assert "--profile-from-start" not in other
    assert "--launch-count" not in other


def test_metrics_that_this_ncu_does_not_know_here_are_left_out(tmp_path: Path) -> None:
    tool = found(tmp_path, (SM, FP8, FP4))
    assert tool.metrics == (SM, FP8)
    assert tool.notes == ()
    (note,) = found(tmp_path, (SM, FP4)).notes
    assert note.startswith("ncu 2024.1.1.0 does not count FP8 operations on this GPU")
    with pytest.raises(Missing, match="knows none of the metrics on this GPU"):
        found(tmp_path, (FP4,))


def test_none_is_installed(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"ncu \(Nsight Compute\) is not installed → install nsight"):
        find_ncu((SM,), environment={"PATH": str(tmp_path)}, root=tmp_path)


def test_the_installers_folder_is_looked_in(tmp_path: Path) -> None:
    tool = put_ncu(tmp_path / "opt/nvidia/nsight-compute/2025.3.1")
    assert find_ncu((SM,), environment={"PATH": ""}, root=tmp_path).path == tool


def test_too_old(tmp_path: Path) -> None:
    shown = recorded.NCU_HELP.replace("--kernel-name-base", "--kernel-base")
    with pytest.raises(Missing, match=r"ncu 2024.1.1.0 .* is too old: no --kernel-name-base"):
        found(tmp_path, help_text=shown)


def test_no_driver(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"ncu 2024\.1\.1\.0 finds no NVIDIA driver"):
        found(tmp_path, metrics=recorded.NCU_NO_DRIVER)


@pytest.mark.parametrize(
    ("said", "refusal", "words"),
    [
        (recorded.NCU_NO_PERMISSION, Missing, "may not read the GPU's counters → run as root"),
        (recorded.NCU_TAKEN, Missing, "another tool, such as DCGM, holds them → stop it"),
        (recorded.NCU_LOCKED, Missing, "cannot lock nsight-compute-lock, .*→ let TMPDIR"),
        (recorded.NCU_SANDBOX, Missing, r"\(Failed to initialize the profiler: LibraryNotLoaded\)"),
        (recorded.NCU_NOTHING, BadInput, "ncu profiled no kernel → profile"),
        (recorded.NCU_OTHERS, BadInput, "no kernel of those wanted ran, but wmma_cxx_kernel, wmm"),
        (recorded.NCU_NO_CUDA, BadInput, "the command ended before it used CUDA"),
        ("==ERROR== Failed to find metric sm__x.sum\n", Missing, "Failed to find metric sm__x.sum"),
        ("==ERROR== unrecognised option '--y'.", Missing, "ncu 2024.1.1.0: unrecognised option"),
        ("==ERROR== Unknown fault 9\n", BadInput, r"profiled no kernel \(Unknown fault 9\)"),
    ],
)
def test_each_failure_is_one_clear_line(
    said: str, refusal: type[Fp8scopeError], words: str, tmp_path: Path
) -> None:
    tool = found(tmp_path, said=said, leaves=False)
    with pytest.raises(refusal, match=words) as raised:
        profiled(tool, tmp_path)
    assert "\n" not in str(raised.value)
    assert raised.value.remedy


def test_what_the_child_failed_with_comes_through(tmp_path: Path) -> None:
    tool = found(tmp_path, said=recorded.NCU_CHILD_FAILED, leaves=False)
    with pytest.raises(ChildFailed, match="failed with exit code 3: no such layer"):
        profiled(tool, tmp_path, "echo no such layer >&2; exit 3")


@pytest.mark.parametrize("printed", [recorded.NCU_BAD_REPORT, ""])
def test_a_report_that_cannot_be_read(printed: str, tmp_path: Path) -> None:
    tool = found(tmp_path, export=printed)
    report = profiled(tool, tmp_path)
    with pytest.raises(BadInput, match=r"cannot read .*\((Failed to load report|it holds no ker)"):
        tool.export(report)
    assert not report.with_suffix(".csv").exists()
