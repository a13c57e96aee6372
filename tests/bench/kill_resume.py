"""SIGKILL `fp8scope scan` at random moments, resume, and compare with the uninterrupted scan.

    python tests/bench/kill_resume.py --kills 30

A server that has imported torch forks a child per run, so that a run costs a second. Half of the
kills come at a random time of the scan's life, half in a phase picked at random (loading, batches,
the second pass, writing a partial, writing the profile), so that the short phases are hit as well.
Partials are written after every batch. Prints JSON; exits 1 if an array differs.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from fp8scope.cli.app import main as fp8scope
from fp8scope.observe import scan
from fp8scope.profile import partial, writer
from fp8scope.profile.reader import read_profile
from fp8scope.runtime import loading, structure, text  # noqa: F401  (imported before the fork)
from tests.observe.scans import arrays

PHASES = ("loading", "weights", "batches", "second pass", "partial", "profile", "end")
END = PHASES.index("end")  # the profile is in place: nothing left to resume
WORDS = ["scan", "demo", "--samples", "9", "--seq-len", "24", "--batch-tokens", "24"]
WORDS += ["--keep-every", "0", "--alphas", "0.5"]


class Child:
    """One run of the command in a forked process that says in which phase it is."""

    def __init__(self, output: Path, *, resume: bool) -> None:
        self.phase = mmap.mmap(-1, 1)
        self.started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(output, resume)
        self.status: int | None = None

    def _run(self, output: Path, resume: bool) -> None:
        import torch

        torch.set_num_threads(1)
        log = os.open(output.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        self._report_phases()
        sys.argv = ["fp8scope", *WORDS, "-o", str(output), *(["--resume"] if resume else [])]
        code = 0
        try:
            fp8scope()
        except SystemExit as done:
            code = int(done.code or 0)
        finally:
            sys.stdout.flush()
            os._exit(code)

    def _report_phases(self) -> None:
        module: Any = scan
        partials: Any = partial
        weights: Any = module.record_weights
        forward: Any = module.Scan._forward
        second: Any = module.Scan._second_pass
        write: Any = writer.write_profile
        module._Clock.due = lambda _: True
        module.record_weights = self._in("weights", weights)
        module.Scan._forward = self._in("batches", forward)
        module.Scan._second_pass = self._in("second pass", second)
        partials.write_profile = self._in("partial", write)
        writer.write_profile = self._in("profile", write)

    def _in(self, name: str, call: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            before, self.phase[0] = self.phase[0], PHASES.index(name)
            result = call(*args, **kwargs)
            self.phase[0] = END if name == "profile" else before
            return result

        return wrapped

    def ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if pid else None
        return self.status is not None

    def wait_until(self, when: Any) -> bool:
        """True if `when()` came true before the child ended."""
        while not self.ended():
            if when():
                return True
            time.sleep(0.0005)
        return False

    def kill(self) -> str | None:
        """The phase in which the kill found it; None if the scan was done."""
        found = self.phase[0]
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return None if found == END else PHASES[found]


def kill_somewhere(child: Child, life: float, chance: random.Random) -> str | None:
    """Kill at a random moment; the phase, or None if the child was done before."""
    if chance.random() < 0.5:
        moment = child.started + chance.uniform(0, life)
        hit = child.wait_until(lambda: time.monotonic() >= moment)
        return child.kill() if hit else None
    phase = chance.randrange(END)
    visits = chance.randrange(6) if PHASES[phase] == "partial" else 0
    for _ in range(visits):
        child.wait_until(lambda: child.phase[0] == phase)
        child.wait_until(lambda: child.phase[0] != phase)
    if not child.wait_until(lambda: child.phase[0] == phase):
        return None
    moment = time.monotonic() + chance.uniform(0, 0.06)
    return child.kill() if child.wait_until(lambda: time.monotonic() >= moment) else None


def finish(output: Path, *, resume: bool) -> float:
    """Run to the end; seconds."""
    child = Child(output, resume=resume)
    child.wait_until(lambda: False)
    if child.status != 0:
        raise SystemExit((output.parent / "log").read_text())
    return time.monotonic() - child.started


def trial(output: Path, life: float, kills: int, chance: random.Random) -> list[str]:
    """One scan, killed up to `kills` times and resumed until it is whole; phases of the kills."""
    found: list[str] = []
    while len(found) < kills and not output.exists():
        phase = kill_somewhere(Child(output, resume=bool(found)), life, chance)
        if phase is None:
            break
        found.append(phase)
    finish(output, resume=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("options", nargs="*", help="of every scan, after --")
    arguments = parser.parse_args()
    WORDS.extend(arguments.options)
    chance, phases = random.Random(arguments.seed), Counter[str]()  # noqa: S311
    trials = equal = leftovers = 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole" / "p.h5"
        whole.parent.mkdir()
        life = finish(whole, resume=False)
        want = arrays(read_profile(whole))
        while phases.total() < arguments.kills:
            output = Path(folder) / str(trials) / "p.h5"
            output.parent.mkdir()
            most = min(chance.choice((1, 1, 1, 2, 3)), arguments.kills - phases.total())
            phases.update(trial(output, life, most, chance))
            trials += 1
            got = arrays(read_profile(output))
            same = got.keys() == want.keys() and all(
                got[name].tobytes() == array.tobytes() for name, array in want.items()
            )
            equal += same
            leftovers += sum(
                ".tmp" in p.name or "partial" in p.name for p in output.parent.iterdir()
            )
    print(
        json.dumps(
            {
                "kills, each followed by --resume": phases.total(),
                "scans": trials,
                "equal": equal,
                "by phase": dict(phases),
                "arrays": len(want),
                "files left behind": leftovers,
                "seconds uninterrupted": round(life, 2),
            },
            indent=2,
        )
    )
    sys.exit(equal != trials)


if __name__ == "__main__":
    main()
