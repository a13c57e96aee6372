"""Is `fp8scope browse` quick on a 70B model? Seconds to the first paint, and ms of every key.

    python -m tests.bench.browse [PROFILE] [--starts 5]

Without a profile, one of 80 blocks with the shapes of Llama-3-70B is invented (`plan_speed`). The
browser runs in a pseudo-terminal of 160×50, as a person has it: a paint is seen when its characters
arrive, and a key is answered when they say something that only this key can have said. Keys are
pressed once while the profile is still being read in the background, and once after.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import select
import signal
import statistics
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

COLUMNS, LINES = 160, 50
FIRST_PAINT, KEY = 1.0, 50.0  # the goals: seconds, ms
PATIENCE = 180.0
TIMES = 12

ENTER, ESCAPE = "\r", "\x1b"
DOWN, PAGE_DOWN, HOME = "\x1b[B", "\x1b[6~", "\x1b[H"
ANSI = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")

HEATMAP = r"nats, log"
UNREAD = r"sites read|looking at"
"""What the line at the bottom says while something is being read."""
NAME = r"(model\.layers\.\d+[\w.]+|lm_head) "
"""The full name under the overview's heatmap."""
CURSOR = r"\x1b\[1;[\d;]*m[ !•]? ?((?:layers\.\d+|lm_head)[^\x1b]*)"
"""The row of the table of sites that the cursor is on: the bold one."""
MEASURE = r"(KL in [\w ]+|\w+ SQNR|underflow|amax/rms of .*y|headroom|scales .*p|planned \w+)   "
ORDER, FILTER = r"sites by ([^;]+);", r"sites by [^;]+; (.+?)\s\s"
SCALE = r"([+−][\d.]+ octaves)"
CHANGE = r"((?:layers\.\d+|lm_head)[\w.]* [^→\n]{3,60} → [^\n,;]+)"


@dataclass(frozen=True)
class Key:
    """`answer` is what the screen says of it, another text after every press."""

    name: str
    typed: str
    answer: str
    raw: bool = False
    """Whether `answer` is of characters with their colours."""
    times: int = TIMES


SCREENS: Mapping[str, tuple[str, str, tuple[Key, ...]]] = {
    "overview": (
        f"21{HOME}",
        r"lm_head",
        (
            Key("down", DOWN, NAME),
            Key("page down", PAGE_DOWN, NAME, times=2),
            Key("n", "n", NAME),
            Key("d", "d", r"48;2;(16;20;26|250;250;250)m", raw=True, times=6),
            Key(
                "m",
                "m",
                MEASURE,
            ),
        ),
    ),
    "sites": (
        f"2{HOME}",
        r"sites by",
        (
            Key("down", DOWN, CURSOR, raw=True),
            Key("page down", PAGE_DOWN, CURSOR, raw=True, times=2),
            Key("s", "s", ORDER),
            Key("r", "r", ORDER),
            Key("f", "f", FILTER),
            Key("x", "x", FILTER),
        ),
    ),
    "layer": (
        f"1{ENTER}",
        r"underflow  body SQNR",
        (
            Key("]", "]", SCALE),
            Key("}", "}", SCALE),
            Key("o", "o", r"(E4M3|E5M2|INT8|INT4|E2M1), scale"),
            Key("n", "n", r"(layers\.\d+[\w.]+)(?:, of|\s)"),
        ),
    ),
    "plan": (
        "3",
        r"bits  ",
        (
            Key("down", DOWN, r"((?:layers\.\d+|lm_head)[\w.]*) (?:FP8|BF16|smoothed)"),
            Key("space", " ", CHANGE),
            Key("u", "u", r"(undone: \S.{70})", times=6),
            Key("o", "o", r"rows by (\w[\w ]*)"),
        ),
    ),
}
"""How to get to each, what it then shows, and its keys."""


class Terminal:
    """The browser in a pseudo-terminal."""

    def __init__(self, profile: Path) -> None:
        self.started = time.perf_counter()
        self.process, self.file = pty.fork()
        if self.process == 0:
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
            words = [sys.executable, "-m", "fp8scope", "browse", str(profile)]
            os.execv(sys.executable, words)  # noqa: S606  (our own command)
        size = struct.pack("HHHH", LINES, COLUMNS, 0, 0)
        fcntl.ioctl(self.file, termios.TIOCSWINSZ, size)
        self.text, self.reading = "", True

    def read(self, seconds: float) -> str:
        """What comes within so many seconds, at once when something comes."""
        ready, _, _ = select.select([self.file], [], [], seconds)
        found = os.read(self.file, 1 << 16).decode(errors="replace") if ready else ""
        self.text = (self.text + found)[-(1 << 18) :]
        lines = re.findall(r"3 plan (.{0,60})", ANSI.sub("", self.text[-len(found) - 2000 :]))
        self.reading = bool(re.search(UNREAD, lines[-1])) if lines else self.reading
        return found

    def wait(self, pattern: str, seconds: float = PATIENCE) -> float:
        """Seconds of the clock at which this was painted."""
        found, end = "", time.perf_counter() + seconds
        while not re.search(pattern, ANSI.sub("", found)):
            if time.perf_counter() > end:
                raise TimeoutError(f"never painted: {pattern}")
            found += self.read(0.5)
        return time.perf_counter()

    def quiet(self) -> None:
        """Until nothing comes any more for a while, or it never ends."""
        end = time.perf_counter() + 0.5
        while self.read(0.1) and time.perf_counter() < end:
            pass

    def press(self, key: Key, seconds: float = 3.0) -> float | None:
        """ms until it is answered; None if it never was."""
        before = self._matches(key, self.text)[-1:]
        seen, start = "", time.perf_counter()
        os.write(self.file, key.typed.encode())
        while time.perf_counter() < start + seconds:
            seen += self.read(0.2)
            if any(match not in before for match in self._matches(key, seen)):
                return 1e3 * (time.perf_counter() - start)
        return None

    @staticmethod
    def _matches(key: Key, text: str) -> list[str]:
        return re.findall(key.answer, text if key.raw else ANSI.sub("", text), re.MULTILINE)

    @property
    def cpu(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End it."""
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.file)


def keys(terminal: Terminal, *, reading: bool) -> Iterator[tuple[str, str, list[float], int]]:
    """Screen, key, ms of each press, and how many were not answered; while it reads, or after."""
    for screen, (way, shown, wanted) in SCREENS.items():
        os.write(terminal.file, way.encode())
        terminal.wait(shown)
        for key in wanted:
            found: list[float | None] = []
            for _ in range(key.times):
                terminal.quiet()
                if reading and not terminal.reading:
                    break
                found.append(terminal.press(key))
            answered = [ms for ms in found if ms is not None]
            yield screen, key.name, answered, len(found) - len(answered)


def table(rows: Iterator[tuple[str, str, list[float], int]], when: str) -> None:
    """One line for each key, as it is measured."""
    print(f"\n{when}; load {os.getloadavg()[0]:.1f}")
    print(f"{'screen':10}{'key':12}{'times':>6}{'p50':>8}{'p95':>8}{'max':>8}   ms")
    every: list[float] = []
    for screen, key, found, missed in rows:
        every += found
        said = f"   {missed} not answered" if missed else ""
        print(f"{screen:10}{key:12}{len(found):>6}{figures(found)}{said}", flush=True)
    slow = sum(ms > KEY for ms in every)
    print(f"{'all':22}{len(every):>6}{figures(every)}   {slow} above {KEY:.0f} ms")


def figures(found: list[float]) -> str:
    """p50, p95 and the largest."""
    if not found:
        return ""
    ranked = sorted(found)
    p95 = ranked[min(len(ranked) - 1, round(0.95 * len(ranked)))]
    return f"{statistics.median(ranked):8.1f}{p95:8.1f}{ranked[-1]:8.1f}"


def starts(profile: Path, times: int) -> None:
    """Seconds from the start of Python to the frame, and to the heatmap."""
    frames, heatmaps, cpu = [], [], []
    for _ in range(times):
        terminal = Terminal(profile)
        frames.append(terminal.wait("Opening") - terminal.started)
        heatmaps.append(terminal.wait(HEATMAP) - terminal.started)
        cpu.append(terminal.cpu)
        terminal.close()
    print(f"load {os.getloadavg()[0]:.1f}; {times} starts, seconds: least, median, most")
    for name, found in (("first frame", frames), ("heatmap", heatmaps), ("its CPU", cpu)):
        print(f"{name:12}{min(found):6.2f}{statistics.median(found):6.2f}{max(found):6.2f}")
    print(f"goal: {FIRST_PAINT} s")


def main() -> None:
    """Start it some times, and press keys."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("profile", type=Path, nargs="?")
    parser.add_argument("--starts", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        profile = given.profile
        if profile is None:
            from fp8scope.profile.writer import write_profile
            from tests.bench import plan_speed

            profile = Path(folder) / "70b.h5"
            write_profile(plan_speed.profile(plan_speed.structure(80)), profile, compression=1)
        starts(profile, given.starts)
        terminal = Terminal(profile)
        terminal.wait(HEATMAP)
        table(keys(terminal, reading=True), "while the profile is read")
        while terminal.reading:
            terminal.read(0.5)
        print(f"all is read {time.perf_counter() - terminal.started:.0f} s after the start")
        table(keys(terminal, reading=False), "after")
        terminal.close()


if __name__ == "__main__":
    main()
