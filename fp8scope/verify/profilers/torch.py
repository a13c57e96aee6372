"""torch.profiler: the child profiles itself, and leaves a trace of Chrome's format."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

from fp8scope.errors import BadInput, Missing
from fp8scope.verify import failures
from fp8scope.verify.launch import Launch
from fp8scope.verify.order import TORCH_TRACE
from fp8scope.verify.supervise import Ended


@dataclass(frozen=True)
class Torch:
    """torch.profiler, as a profiler around a command that uses it by itself."""

    version: str
    notes: tuple[str, ...] = ()
    name: str = field(default="torch", init=False)

    def around(self, launch: Launch) -> Launch:
        """The launch as it is."""
        return launch

    def report(self, ended: Ended) -> Path:
        """trace.json of our child, or the trace that an engine left, of several the largest.

        Raises BadInput where there is none, and what the child itself failed with.
        """
        failures.check(ended, "the profiled run")
        ours = ended.folder / TORCH_TRACE
        patterns = ("*.pt.trace.json", "*.pt.trace.json.gz", f"{TORCH_TRACE}.gz")
        others = [path for pattern in patterns for path in ended.folder.rglob(pattern)]
        found = [ours] if ours.exists() else sorted(others, key=lambda path: path.stat().st_size)
        if not found:
            what = f"the run left no trace of torch.profiler in {ended.folder}"
            raise BadInput(what, "see what it printed there")
        return found[-1]

    def export(self, report: Path) -> Path:
        """The report: it is read as it is."""
        return report


def find_torch() -> Torch:
    """Raises Missing where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise Missing("torch is not installed", "pip install torch")
    return Torch(importlib.metadata.version("torch"))
