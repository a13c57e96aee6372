"""`browse` from the command line: in a terminal, refused without one, and served."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fp8scope.artefacts.plan_file import write_plan
from fp8scope.plan.make import make_plan
from fp8scope.profile.writer import write_profile
from tests.cli.conftest import Fp8scope
from tests.plan import invented

WAIT = 60.0


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("browse") / "profile [1].h5"
    write_profile(invented.with_nats(invented.profile(), invented.random_nats(1)), path)
    return path


def in_terminal(
    *words: object, keys: Sequence[tuple[str, bytes | signal.Signals]] = ()
) -> tuple[int, str]:
    """Exit code and all that the terminal was sent; each key is pressed (or signal sent)
    once its words were.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-m", "fp8scope", "browse", *map(str, words)]
    running = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(theirs)
    sent, waiting, end = "", list(keys), time.monotonic() + WAIT
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    while time.monotonic() < end:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                sent += decode(os.read(ours, 65536))
            except OSError:  # it ended
                break
        if waiting and waiting[0][0] in sent:
            key = waiting.pop(0)[1]
            if isinstance(key, bytes):
                os.write(ours, key)
            else:
                running.send_signal(key)
    else:
        running.kill()
    os.close(ours)
    assert not waiting, sent[-2000:]
    return running.wait(), sent


def test_a_terminal_shows_it_until_q(profile: Path) -> None:
    code, sent = in_terminal(profile, keys=[("fused groups", b"q")])
    assert code == 0, sent[-2000:]
    assert "Opening" in sent
    assert "Traceback" not in sent
    assert sent.index("Opening") < sent.index("fused groups")


def test_a_plan_of_it(profile: Path, tmp_path: Path) -> None:
    of = invented.with_nats(invented.profile(), invented.random_nats(1))
    path = tmp_path / "plan.json"
    write_plan(*make_plan(of), path)
    keys = [("fused groups", b"M"), ("planned precision", b"q")]
    code, sent = in_terminal(profile, "--plan", path, keys=keys)
    assert code == 0, sent[-2000:]


def other_profile(_: Any) -> Any:
    return invented.with_nats(invented.profile(), invented.random_nats(2))


def other_fine_tune(of: Any) -> Any:
    return replace(of, model=of.model | {"weights_hash": "e" * 64})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (other_profile, "was made from another profile of this model"),
        (other_fine_tune, "another fine-tune: the weights differ"),
    ],
)
def test_a_plan_of_something_else_is_stale(
    change: Any, why: str, profile: Path, tmp_path: Path
) -> None:
    of = change(invented.with_nats(invented.profile(), invented.random_nats(1)))
    path = tmp_path / "plan.json"
    write_plan(*make_plan(of), path)
    code, sent = in_terminal(profile, "--plan", path)
    assert code == 2, sent[-2000:]
    last = " ".join(sent.rpartition("fp8scope: ")[2].split())
    assert why in last
    assert "→ make it again with fp8scope plan" in last


def test_killed_it_leaves_the_terminal_as_it_was(profile: Path) -> None:
    code, sent = in_terminal(profile, keys=[("fused groups", signal.SIGTERM)])
    assert code == 130
    screen, _, after = sent.rpartition("\x1b[?1049l")  # the end of the second screen
    assert "fused groups" in screen
    assert "\x1b[?1000l" in screen  # no mouse any more
    assert "fp8scope: interrupted" in after


def test_ctrl_c_leaves(profile: Path) -> None:
    code, sent = in_terminal(profile, keys=[("fused groups", b"\x03")])
    assert code == 0
    assert "\x1b[?1049l" in sent


def test_what_is_no_profile_is_refused_in_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a profile")
    code, sent = in_terminal(tmp_path / "notes.txt")
    assert code == 2
    assert "not an HDF5 file" in " ".join(sent.rpartition("fp8scope: ")[2].split())
    assert "Traceback" not in sent


def test_a_terminal_without_the_characters_is_refused(
    profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "iso8859-1")
    code, sent = in_terminal(profile)
    assert code == 3
    assert "browse needs a terminal in UTF-8, not iso8859-1" in " ".join(sent.split())
    assert "LC_ALL=C.UTF-8" in sent


def test_without_a_terminal_it_names_analyze(fp8scope: Fp8scope, profile: Path) -> None:
    ran = fp8scope("browse", profile)
    assert ran.code == 2
    assert ran.refusal == (
        f"fp8scope: browse needs a terminal → fp8scope analyze '{profile}' prints what is found"
    )
    assert not ran.out


def test_serving_needs_an_extra(
    fp8scope: Fp8scope, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "textual_serve.server", None)
    ran = fp8scope("browse", profile, "--serve")
    assert ran.code == 3
    assert ran.refusal.endswith("→ pip install 'fp8scope[serve]'")


def test_serving_runs_the_same_command(
    fp8scope: Fp8scope, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = []

    class Server:
        def __init__(self, command: str, **settings: Any) -> None:
            served.append((command, settings))

        def serve(self) -> None:
            served.append(("serving", {}))

    module = type(sys)("textual_serve.server")
    module.Server = Server  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "textual_serve.server", module)
    assert fp8scope("browse", profile, "--serve", "--port", 8123).code == 0
    (command, settings), (last, _) = served
    assert command == f"{sys.executable} -m fp8scope browse '{profile}'"
    assert settings["port"] == 8123
    assert last == "serving"
    assert fp8scope("browse", profile.parent / "none.h5", "--serve").code == 2
    assert len(served) == 2  # refused before anything is served
    assert "--port is for --serve" in fp8scope("browse", profile, "--port", 1).refusal
