"""What holds a group, or a whole phase, up: arithmetic, memory, or neither.

- *compute*: more FLOP per byte than the GPU's ridge (roofline: Williams, Waterman, Patterson, CACM
  52(4), 2009), and the SMs busier than memory.
- *memory*: DRAM at 60% of its bandwidth or more, and tensor cores less busy than that. 60% is where
  Nsight Compute's Speed of Light section stops speaking of latency (Kernel Profiling Guide, rule
  SOLBottleneck).
- *launch*: neither. Latencies, too few blocks for the SMs, or gaps between kernels: where they fill
  less than half of the time that a pass takes without a profiler, the GPU waits for launches
  (overhead-bound in the words of He, Making Deep Learning Go Brrrr, 2022). The half is our own
  choice.
"""

from __future__ import annotations

from dataclasses import dataclass

from fp8scope.artefacts.verdict import Bound

HIGH, HALF = 0.6, 0.5


@dataclass(frozen=True)
class Signs:
    """Rates; None was not measured. `compute`: busiest of SMs, tensor cores, and what is achieved
    of the peak; `memory`: of DRAM, and what is achieved. `intensity`: FLOP per byte over the ridge.
    `filled`: time of kernels over that of the pass.
    """

    compute: float | None
    memory: float | None
    intensity: float | None = None
    filled: float | None = None


def bound(signs: Signs) -> Bound:
    """By the rules above; unknown where too little was measured."""
    if signs.filled is not None and signs.filled < HALF:
        return "launch"
    compute, memory = signs.compute, signs.memory
    if compute is None or memory is None:
        return "unknown"
    above = signs.intensity is None or signs.intensity >= 1
    below = signs.intensity is None or signs.intensity < 1
    if above and compute > memory and compute >= HIGH:
        return "compute"
    if memory >= HIGH and memory > compute and below:
        return "memory"
    if max(compute, memory) >= HIGH:  # the sheet and the counters disagree: counters were there
        return "compute" if compute > memory else "memory"
    return "launch"
