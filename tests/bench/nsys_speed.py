"""How long does an export of nsys with many kernels take to read? Rows constructed, ranges nested.

    python tests/bench/nsys_speed.py [--kernels 200000]

Steps of 100 ranges in ranges, two kernels in each; as many CUDA calls launched nothing.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from fp8scope.traces.nsys import read_nsys
from tests.traces.nsys_file import FP8, Filled

LINEARS, PER_LINEAR = 100, 2
NAMES = ("decode", "model.layers.0.mlp", "model.layers.0.mlp.up_proj")


def fill(file: Filled, steps: int) -> None:
    thread, kernel = file.process + 3, file.string(FP8)
    step, module, linear = (file.string(name) for name in NAMES)
    ranges: list[tuple[int, ...]] = []
    calls: list[tuple[int, ...]] = []
    kernels: list[tuple[int, ...]] = []
    for start in range(10**9, 10**9 + steps * 10**6, 10**6):
        ranges.append((start, start + 900_000, step))
        for inner in range(start + 100, start + 100 + LINEARS * 8000, 8000):
            ranges += [(inner, inner + 7000, module), (inner + 10, inner + 6900, linear)]
            for call in range(inner + 1000, inner + 1000 + PER_LINEAR * 2000, 2000):
                calls += [(call, call + 900, 2 * len(kernels)), (call + 950, call + 990, -1)]
                kernels.append((call + 3000, call + 4000, 2 * len(kernels), file.process, kernel))
    named, called = "start, end, textId", "start, end, correlationId"
    same = (59, 1, thread)
    file.many("NVTX_EVENTS", f"{named}, eventType, domainId, globalTid", ranges, same)
    file.many("CUPTI_ACTIVITY_KIND_RUNTIME", f"{called}, globalTid", calls, (thread,))
    file.many("CUPTI_ACTIVITY_KIND_KERNEL", f"{called}, globalPid, demangledName", kernels)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--kernels", type=int, default=200_000)
    kernels = arguments.parse_args().kernels
    with tempfile.TemporaryDirectory() as folder:
        with Filled(Path(folder)) as file:
            fill(file, kernels // (LINEARS * PER_LINEAR))
        wall, processor = time.perf_counter(), time.process_time()
        trace = read_nsys(file.path)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        size = file.path.stat().st_size / 2**20
    if {kernel.ranges for kernel in trace.kernels} != {NAMES}:
        raise SystemExit("kernels are not where they were launched")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{len(trace.kernels)} kernels, {len(trace.ranges)} ranges, {size:.0f} MiB")
    print(f"{wall:.1f} s, of which {processor:.1f} s of a core; at most {peak:.0f} MiB")


if __name__ == "__main__":
    main()
