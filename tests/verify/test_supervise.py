"""Real children: trees, deaths and hangs."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fp8scope.errors import ChildFailed, Missing
from fp8scope.verify import failures, supervise
from fp8scope.verify.follow import Follower

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
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


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
    ended = supervise.run(sh(ESCAPED, tmp_path), tmp_path, timeout_s=1, grace_s=0.1)
    assert ended.timed_out
    assert not ended.succeeded
    assert not runs(number_in(tmp_path / "child"))
    assert not runs(number_in(tmp_path / "escaped"))
    with pytest.raises(ChildFailed, match=r"the run did not end within 1 s and was stopped"):
        failures.check(ended, "the run")


def test_what_a_child_says_of_being_stopped_is_not_why(tmp_path: Path) -> None:
    script = (
        "trap 'echo fp8scope: interrupted >&2; exit 130' INT; echo prefill >&2; sleep 60 & wait"
    )
    ended = supervise.run(sh(script, tmp_path), tmp_path, timeout_s=1, grace_s=5)
    with pytest.raises(ChildFailed, match=r"and was stopped: prefill →"):
        failures.check(ended, "the run")


def test_at_the_time_out_a_profiler_can_finish_its_report(tmp_path: Path) -> None:
    script = "trap 'sleep 0.2; echo whole > report; exit 0' INT; while :; do sleep 0.05; done"
    ended = supervise.run(sh(script, tmp_path), tmp_path, timeout_s=1, grace_s=5)
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


def test_a_second_ctrl_c_waits_for_nothing(tmp_path: Path) -> None:
    script = f"cd {tmp_path}; {ESCAPED}"
    parent = HANDLING.replace("grace_s=0.2", "grace_s=60")
    with subprocess.Popen([sys.executable, "-c", parent, str(tmp_path), script]) as process:
        child, escaped = (number_in(tmp_path / name) for name in ("child", "escaped"))
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        assert runs(child)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    until = time.monotonic() + 5
    while (runs(child) or runs(escaped)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not runs(child)
    assert not runs(escaped)


def test_none_of_this_needs_torch() -> None:
    modules = "supervise failures devices nvml profilers.choose engines.native engines.vllm"
    modules += " engines.trtllm engines.command"
    imports = "; ".join(f"import fp8scope.verify.{each}" for each in modules.split())
    subprocess.run(
        [sys.executable, "-c", f"import sys; {imports}; assert 'torch' not in sys.modules"],
        check=True,
    )


@given(
    st.lists(st.sampled_from(["é", "x", " ", "\n", "\r", "→", "\udcff"]), max_size=30),
    st.integers(1, 5),
)
@settings(max_examples=40, deadline=None)
def test_however_it_is_written_each_line_comes_once(parts: list[str], size: int) -> None:
    data = "".join(parts).encode("utf-8", "surrogateescape")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "growing")
        path.touch()
        lines: list[str] = []
        follower = Follower(path, lines.append, keep=3)
        follower.start()
        with path.open("ab", buffering=0) as file:
            for start in range(0, len(data), size):  # also in the middle of a character
                file.write(data[start : start + size])
        follower.stop(5)
    whole = data.decode("utf-8", "replace").replace("\r", "\n").split("\n")
    assert lines == [line.rstrip() for line in whole if line.strip()]
    assert list(follower.tail) == lines[-3:]
