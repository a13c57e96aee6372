"""nsys by a stand-in that prints what the real one printed."""

import sqlite3
from pathlib import Path

import pytest

from fp8scope.errors import BadInput, ChildFailed, Fp8scopeError, Missing
from fp8scope.verify import supervise
from fp8scope.verify.launch import Launch
from fp8scope.verify.profilers.nsys import Nsys, find_nsys
from tests.verify.profilers import recorded
from tests.verify.profilers.fake import put_nsys


def found(folder: Path, device: int = 1, **texts: str) -> Nsys:
    tool = put_nsys(folder / "bin", **texts)
    return find_nsys({"PATH": str(tool.parent)}, device, root=folder / "root")


def profiled(tool: Nsys, folder: Path, script: str = "exit 0", *, marks: bool = True) -> Path:
    launch = tool.around(Launch(("sh", "-c", script), folder / "run", marks=marks))
    return tool.report(supervise.run(launch.words, launch.folder))


def test_a_run_leaves_a_report_and_its_export(tmp_path: Path) -> None:
    source = tmp_path / "made.sqlite"
    with sqlite3.connect(source) as made:
        made.execute("CREATE TABLE META_DATA_EXPORT (name TEXT, value TEXT)")
    made.close()
    tool = found(tmp_path, export=f'cp {source} "$out"')
    assert (tool.name, tool.version) == ("nsys", "2023.4.4.54")
    report = profiled(tool, tmp_path, "echo 8 requests")
    assert report == tmp_path / "run/nsys.nsys-rep"
    assert "8 requests" in (tmp_path / "run/stdout.txt").read_text()
    exported = tool.export(report)
    assert exported == tmp_path / "run/nsys.sqlite"
    with sqlite3.connect(exported) as read:
        assert read.execute("SELECT count(*) FROM META_DATA_EXPORT").fetchone() == (0,)
    read.close()


def test_the_command_is_captured_where_it_marks_itself(tmp_path: Path) -> None:
    tool = found(tmp_path)
    marked = tool.around(Launch(("python", "-m", "x"), tmp_path, {"A": "1"}, marks=True))
    assert marked.words == (
        *(str(tmp_path / "bin/nsys"), "profile", "--trace=cuda,nvtx", "--sample=none"),
        *("--cpuctxsw=none", "--cuda-graph-trace=node", "--trace-fork-before-exec=true"),
        *("--capture-range=cudaProfilerApi", "--capture-range-end=stop"),
        *("--gpu-metrics-device=1", "--force-overwrite=true", f"--output={tmp_path / 'nsys'}"),
        *("python", "-m", "x"),
    )
    assert marked.environment == {"A": "1"}
    whole = tool.around(Launch(("python",), tmp_path))
    assert not [word for word in whole.words if word.startswith("--capture")]


@pytest.mark.parametrize(
    ("help_text", "option"),
    [
        (recorded.NSYS_HELP, "--gpu-metrics-device=1"),
        (recorded.NSYS_HELP_2024, "--gpu-metrics-devices=cuda-visible"),
    ],
)
def test_the_option_for_metrics_is_spelled_as_this_release_spells_it(
    help_text: str, option: str, tmp_path: Path
) -> None:
    assert found(tmp_path, help_text=help_text).metrics == option


@pytest.mark.parametrize(
    ("gpus", "device", "words"),
    [
        (recorded.NSYS_GPUS, 0, "nsys does not support it on this GPU"),
        (recorded.NSYS_NO_GPU, 0, "nsys does not support it on this GPU"),
        (recorded.NSYS_NO_PERMISSION, 0, "no permission for counters; run as root"),
        (recorded.NSYS_TAKEN, 0, "another tool, such as DCGM, holds the counters"),
    ],
)
def test_where_metrics_cannot_be_had_the_rest_is_still_recorded(
    gpus: str, device: int, words: str, tmp_path: Path
) -> None:
    tool = found(tmp_path, device, gpus=gpus)
    assert tool.metrics is None
    assert words in tool.notes[0]
    assert profiled(tool, tmp_path).exists()


def test_an_nsys_without_metrics_at_all(tmp_path: Path) -> None:
    shown = recorded.NSYS_HELP.replace("--gpu-metrics-device=", "--gpu-nothing=")
    assert "does not sample GPU metrics" in found(tmp_path, help_text=shown).notes[0]


def test_none_is_installed(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"nsys \(Nsight Systems\) is not installed → install nsight"):
        find_nsys({"PATH": str(tmp_path)}, root=tmp_path)


def test_the_newest_in_the_installers_folder_is_taken(tmp_path: Path) -> None:
    for version in ("2023.4.4", "2025.1.3", "2024.10.1"):
        put_nsys(tmp_path / f"opt/nvidia/nsight-systems/{version}/bin")
    tool = find_nsys({"PATH": ""}, root=tmp_path)
    assert "2025.1.3" in str(tool.path)


def test_the_one_in_nsight_computes_folder_is_passed_over(tmp_path: Path) -> None:
    beside = put_nsys(tmp_path / "nsight-compute/2025.3.1/host/target-linux-x64")
    with pytest.raises(Missing, match=r"the only nsys here, .* is part of Nsight Compute"):
        find_nsys({"PATH": str(beside.parent)}, root=tmp_path)
    whole = put_nsys(tmp_path / "opt/nvidia/nsight-systems/2025.3.1/bin")
    assert find_nsys({"PATH": str(beside.parent)}, root=tmp_path).path == whole


def test_nsys_named_by_its_variable(tmp_path: Path) -> None:
    tool = put_nsys(tmp_path / "elsewhere")
    assert find_nsys({"NSYS": str(tool), "PATH": ""}, root=tmp_path).path == tool
    with pytest.raises(Missing, match="NSYS=/no/nsys cannot be executed"):
        find_nsys({"NSYS": "/no/nsys"}, root=tmp_path)


def test_too_old(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"nsys 2023.4.4.54 .* is too old: no --capture-range-end"):
        found(tmp_path, help_text=recorded.NSYS_HELP_OLD)


def test_one_that_does_not_run(tmp_path: Path) -> None:
    broken = tmp_path / "nsys"
    broken.write_text("#!/no/such/shell\n")
    broken.chmod(0o755)
    with pytest.raises(Missing, match="nsys does not work"):
        find_nsys({"PATH": str(tmp_path)}, root=tmp_path)


@pytest.mark.parametrize(
    ("said", "leaves", "refusal", "words"),
    [
        (recorded.NSYS_EMPTY, "", BadInput, "captured nothing: the command did not call cudaProf"),
        (
            recorded.NSYS_NO_IMPORTER,
            ".qdstrm",
            Missing,
            r"wrote nsys.qdstrm and no report: the imp",
        ),
        (recorded.NSYS_ILLEGAL, "", Missing, "Illegal --gpu-metrics-device arguments"),
        (recorded.NSYS_UNKNOWN, "", Missing, "unrecognised option"),
        ("Insufficient privilege, see https://…/ERR_NVGPUCTRPERM", "", Missing, "may not read"),
    ],
)
def test_each_failure_is_one_clear_line(
    said: str, leaves: str, refusal: type[Fp8scopeError], words: str, tmp_path: Path
) -> None:
    tool = found(tmp_path, said=said, leaves=leaves)
    with pytest.raises(refusal, match=words) as raised:
        profiled(tool, tmp_path)
    assert "\n" not in str(raised.value)
    assert raised.value.remedy


def test_what_the_child_failed_with_comes_through(tmp_path: Path) -> None:
    tool = found(tmp_path, said=recorded.NSYS_EMPTY, leaves="")
    with pytest.raises(ChildFailed, match="failed with exit code 3: no such layer"):
        profiled(tool, tmp_path, "echo no such layer >&2; exit 3")
    left = '{"what": "no GPU", "remedy": "get one", "exit_code": 3}'
    with pytest.raises(Missing, match="no GPU → get one"):
        profiled(tool, tmp_path, f"echo '{left}' > {tmp_path}/run/error.json; exit 3")


@pytest.mark.parametrize("printed", recorded.NSYS_TRUNCATED)
def test_a_truncated_report(printed: str, tmp_path: Path) -> None:
    tool = found(tmp_path, export=f"echo '{printed}'; exit 1")
    with pytest.raises(BadInput, match=rf"cannot export .*\({printed}\)"):
        tool.export(profiled(tool, tmp_path))
