"""Which profilers run around a verification, and what nobody here can measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from fp8scope.errors import Missing
from fp8scope.verify.devices import Present
from fp8scope.verify.launch import Launch
from fp8scope.verify.order import Pass, Watcher
from fp8scope.verify.profilers.ncu import find_ncu
from fp8scope.verify.profilers.nsys import find_nsys
from fp8scope.verify.profilers.torch import find_torch
from fp8scope.verify.supervise import Ended

Asked = Literal["auto", "nsys", "ncu", "torch"]


class Profiler(Protocol):
    """What wraps a command, finds its own report, and makes it readable."""

    @property
    def name(self) -> str:
        """As `Watcher` spells it."""

    @property
    def version(self) -> str:
        """Its own."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What it cannot do here, in sentences."""

    def around(self, launch: Launch) -> Launch:
        """The launch under the profiler."""

    def report(self, ended: Ended) -> Path:
        """Its report; raises a refusal where there is none."""

    def export(self, report: Path) -> Path:
        """The report in a form that `traces.reading` knows."""


@dataclass(frozen=True)
class Choice:
    """The passes to run, in order, each with its watcher; the profilers by name; and what they
    leave unseen, in sentences.
    """

    passes: tuple[tuple[Pass, Watcher], ...]
    profilers: Mapping[Watcher, Profiler]
    unseen: tuple[str, ...]


@dataclass(frozen=True)
class Finders:
    """How profilers are found; each raises Missing."""

    nsys: Callable[[], Profiler] = find_nsys
    ncu: Callable[[], Profiler] = find_ncu
    torch: Callable[[], Profiler] = find_torch

    @classmethod
    def of(cls, gpu: Present | None) -> Finders:
        """For this GPU: nsys samples it alone, and ncu is asked for its chip's counters."""
        if gpu is None:
            return cls()
        capability = gpu.compute_capability or (0, 0)  # one that is not known is asked for all
        return cls(
            lambda: find_nsys(device=gpu.index),
            lambda: find_ncu(compute_capability=capability),
        )


_NO_COUNTERS = (
    "hardware counters were not read: FP8 is judged by kernel names, and SM and tensor activity "
    "per kernel are not known"
)
_NO_TIMELINE = "no timeline was recorded: times of groups are those of kernels that ncu ran alone"
_NO_SAMPLES = "SM activity over time was not sampled: torch.profiler does not"


def choose(asked: Asked, *, cuda: bool, finders: Finders | None = None) -> Choice:
    """`auto` takes the best that is here: nsys, else torch, for the timeline; ncu for counters. On
    a CPU only torch sees anything.

    Raises Missing where a profiler that was asked for by name is not there, or sees nothing here.
    """
    finders = finders or Finders()
    picked = _Picked()
    if asked in {"nsys", "ncu"} and not cuda:
        what = f"--profiler {asked} sees kernels of a GPU, and there is none here"
        raise Missing(what, "take --profiler torch, or run this on a machine with a GPU")
    if not cuda:
        picked.take("torch", finders.torch)
    elif asked == "auto":
        if not picked.attempt("nsys", finders.nsys):
            picked.take("torch", finders.torch)
            picked.unseen.append(_NO_SAMPLES)
        if not picked.attempt("ncu", finders.ncu):
            picked.unseen.append(_NO_COUNTERS)
    else:
        picked.take(asked, getattr(finders, asked))
        picked.unseen += {
            "nsys": [_NO_COUNTERS],
            "ncu": [_NO_TIMELINE],
            "torch": [_NO_COUNTERS, _NO_SAMPLES],
        }[asked]
    passes: list[tuple[Pass, Watcher]] = [("timing", "none")]
    passes += [("tagged", watcher) for watcher in picked.profilers]
    return Choice(tuple(passes), picked.profilers, tuple(picked.unseen))


@dataclass
class _Picked:
    profilers: dict[Watcher, Profiler] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)

    def take(self, name: Watcher, find: Callable[[], Profiler]) -> None:
        self.profilers[name] = found = find()
        self.unseen += found.notes

    def attempt(self, name: Watcher, find: Callable[[], Profiler]) -> bool:
        try:
            self.take(name, find)
        except Missing as error:
            self.unseen.append(f"{name} was not used: {error.what} → {error.remedy}")
            return False
        return True
