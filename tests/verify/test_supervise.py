"""Real children: trees, deaths and hangs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fp8scope.errors import ChildFailed, Missing
from fp8scope.verify import failures, supervise

# a grandchild with a session of its own, whose parent is gone, and which ignores SIGINT and SIGTERM
ESCAPED = """
trap '' INT TERM
(setsid sh -c 'trap "" INT TERM; echo $$ > escaped; while :; do sleep 0.05; done' &)
echo $$ > child
while :; do sleep 0.05; done
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "_TERMINATE_S", 0.2)


def sh(script: str, folder: Path) -> list[str]:
    return ["sh", "-c", f"cd {folder}; {script}"]


def number_in(path: Path, within_s: float = 5.0) -> int:
    until = time.monotonic() + within_s
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < until, f"{path} was never written"
        time.sleep(0.01)
    return int(path.read_text())


def runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_output_is_kept_and_lines_of_stderr_are_passed_on(tmp_path: Path) -> None:
    lines: list[str] = []
    script = "echo 4 requests; printf 'loading\\r 50%%\\ndone\\n' >&2"
    ended = supervise.run(sh(script, tmp_path), tmp_path / "run", on_line=lines.append)
    assert ended.succeeded
    assert lines == ["loading", " 50%", "done"]  # a bar's carriage returns end lines
    assert ended.stderr_tail == tuple(lines)
    assert (tmp_path / "run/stdout.txt").read_text() == "4 requests\n"
    assert (tmp_path / "run/stderr.txt").read_text() == "loading\n 50%\ndone\n"
    failures.check(ended, "the run")


def test_what_is_added_to_the_environment_reaches_it(tmp_path: Path) -> None:
    ended = supervise.run(
        sh("test $CUDA_VISIBLE_DEVICES = 3", tmp_path),
        tmp_path,
        environment={"CUDA_VISIBLE_DEVICES": "3"},
    )
    assert ended.exit_code == 0


def test_a_hang_ends_with_its_whole_tree(tmp_path: Path) -> None:
    ended = supervise.run(sh(ESCAPED, tmp_path), tmp_path, timeout_s=0.5, grace_s=0.1)
    assert ended.timed_out
    assert not ended.succeeded
    assert not runs(number_in(tmp_path / "child"))
    assert not runs(number_in(tmp_path / "escaped"))
    with pytest.raises(ChildFailed, match=r"the run did not end within [01] s and was stopped"):
        failures.check(ended, "the run")


def test_at_the_time_out_a_profiler_can_finish_its_report(tmp_path: Path) -> None:
    script = "trap 'sleep 0.2; echo whole > report; exit 0' INT; while :; do sleep 0.05; done"
    ended = supervise.run(sh(script, tmp_path), tmp_path, timeout_s=0.3, grace_s=5)
    assert ended.timed_out
    assert ended.exit_code == 0
    assert (tmp_path / "report").read_text() == "whole\n"


def test_what_a_child_leaves_running_is_ended(tmp_path: Path) -> None:
    script = "(setsid sh -c 'echo $$ > left; sleep 60' &) ; while ! test -s left; do :; done"
    ended = supervise.run(sh(script, tmp_path), tmp_path)
    assert ended.succeeded
    assert not runs(number_in(tmp_path / "left"))


def test_other_children_of_ours_are_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "30"], start_new_session=True) as other:
        supervise.run(sh("exit 1", tmp_path), tmp_path)
        assert other.poll() is None
        other.kill()


def test_a_crash_is_told_by_its_signal_and_its_last_line(tmp_path: Path) -> None:
    ended = supervise.run(sh("echo loading weights >&2; kill -SEGV $$", tmp_path), tmp_path)
    assert ended.signal == "SIGSEGV"
    assert ended.exit_code is None
    with pytest.raises(ChildFailed, match=r"the run crashed \(SIGSEGV\): loading weights →"):
        failures.check(ended, "the run")


def test_a_signal_told_by_a_shell_or_profiler_around_it_is_one_too(tmp_path: Path) -> None:
    ended = supervise.run(sh("sh -c 'kill -SEGV $$'; exit $?", tmp_path), tmp_path)
    assert ended.signal == "SIGSEGV"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 137", r"was killed \(SIGKILL\), most likely because memory ran out"),
        ("kill -KILL $$", r"was killed \(SIGKILL\), most likely because memory ran out"),
        # torch 2.9's words
        (
            "echo 'torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 "
            "has a total capacity of 79.11 GiB' >&2; exit 1",
            "ran out of GPU memory: torch.OutOfMemoryError",
        ),
        ("echo 'ValueError: no such layer' >&2; exit 3", "exit code 3: ValueError: no such layer"),
        ("exit 4", "failed with exit code 4 →"),
    ],
)
def test_each_end_has_its_words(script: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match=words):
        failures.check(supervise.run(sh(script, tmp_path), tmp_path), "the run")


def test_the_refusal_that_a_child_left_is_raised_as_it_is(tmp_path: Path) -> None:
    left = '{"what": "CUDA is not here", "remedy": "use --device cpu", "exit_code": 3}'
    script = f"echo '{left}' > error.json; exit 3"
    with pytest.raises(Missing, match="CUDA is not here → use --device cpu"):
        failures.check(supervise.run(sh(script, tmp_path), tmp_path), "the run")


def test_half_a_refusal_is_none(tmp_path: Path) -> None:
    (tmp_path / "error.json").write_text('{"what": "CUDA')
    ended = supervise.run(sh("exit 3", tmp_path), tmp_path)
    with pytest.raises(ChildFailed, match="failed with exit code 3"):
        failures.check(ended, "the run")


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"/no/such/tool cannot be started \(No such file"):
        supervise.run(["/no/such/tool"], tmp_path)


RAISING = """
import sys
from pathlib import Path
from fp8scope.verify import supervise
folder = Path(sys.argv[1])
supervise.run(["sh", "-c", sys.argv[2]], folder / "run", grace_s=0.2)
"""
HANDLING = """
import os, signal, sys
from contextlib import ExitStack
from pathlib import Path
from fp8scope.verify import supervise
folder, cleanup = Path(sys.argv[1]), ExitStack()
def handle(number, frame):
    cleanup.close()
    os._exit(130)
signal.signal(signal.SIGINT, handle)
supervise.run(["sh", "-c", sys.argv[2]], folder / "run", grace_s=0.2, cleanup=cleanup)
"""


@pytest.mark.parametrize("parent", [RAISING, HANDLING])
def test_ctrl_c_ends_the_tree_and_keeps_what_was_written(parent: str, tmp_path: Path) -> None:
    script = f"cd {tmp_path}; echo half >&2; sleep 60 & echo $! > grandchild; echo $$ > child; wait"
    with subprocess.Popen(
        [sys.executable, "-c", parent, str(tmp_path), script], stderr=subprocess.DEVNULL
    ) as process:
        child, grandchild = (number_in(tmp_path / name) for name in ("child", "grandchild"))
        process.send_signal(signal.SIGINT)
        assert process.wait(10) in {130, -signal.SIGINT}
    assert not runs(child)
    assert not runs(grandchild)
    assert (tmp_path / "run/stderr.txt").read_text() == "half\n"


def test_none_of_this_needs_torch() -> None:
    modules = "supervise failures devices nvml profilers.choose engines.native engines.vllm"
    modules += " engines.trtllm engines.command"
    imports = "; ".join(f"import fp8scope.verify.{each}" for each in modules.split())
    subprocess.run(
        [sys.executable, "-c", f"import sys; {imports}; assert 'torch' not in sys.modules"],
        check=True,
    )
