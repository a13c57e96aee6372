"""Verify on a GPU: an 8B-shaped Llama of random weights in FP8 beside BF16, and two broken builds.

    python -m tests.bench.gpu_verify [--small] [--folder DIR]

Writes the checkpoints (35 GB; `--small`: 0.2 GB, to try the way through), runs `verify` on the good
one with its baseline and on one whose plan says FP8 of a layer that lies in BF16, and judges a
tagged run in which one layer's FP8 weights are multiplied in BF16. FP8 and BF16 are compiled in the
same way, one after the other. Exit code 1 where a goal is missed: native FP8 prefill at least 1.4
times as fast as BF16, SMs active at least 75% in its GEMMs, every planned group seen in FP8, both
faults caught. Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from fp8scope.artefacts.verdict import Speed, Verdict
from fp8scope.traces.record import Load
from fp8scope.verify.api import judge_reports, verify_checkpoint
from fp8scope.verify.order import RUN, TORCH_TRACE, Order
from fp8scope.verify.wanted import Wanted, Where
from tests.bench.gpu_models import LLAMA_8B, SMALL, Shape, write_bf16, write_fp8

LOAD = Load(batch=8, prompt_len=2048, gen_len=128)
SPEEDUP, SM_ACTIVE = 1.4, 0.75
LEFT, BY_WEIGHT = "model.layers.1.mlp.down_proj", "model.layers.0.self_attn.o_proj"


@dataclass(frozen=True)
class Found:
    """What was judged of each build."""

    good: Verdict
    left_behind: Verdict
    by_weight: Verdict


def verified(shape: Shape, load: Load, folder: Path, where: Where, device: str) -> Found:
    """Make the checkpoints in `folder` and run all three. `device`: "cuda" or "cpu"."""
    bf16 = write_bf16(shape, folder / "bf16", device)
    good = write_fp8(bf16, folder / "fp8")
    broken = write_fp8(bf16, folder / "broken", left=(LEFT,))
    return Found(
        verdict_of(good, bf16, load, folder / "good", where),
        verdict_of(broken, None, load, folder / "left_behind", where),
        by_weight_alone(good, load, folder / "by_weight", device),
    )


def verdict_of(
    checkpoint: Path, baseline: Path | None, load: Load, folder: Path, where: Where
) -> Verdict:
    """`verify`, its reports in `folder`."""
    folder.mkdir()
    wanted = Wanted(
        checkpoint,
        None if baseline is None else str(baseline),
        where=where,
        batch=load.batch,
        prompt_len=load.prompt_len,
        gen_len=load.gen_len,
    )
    with ExitStack() as cleanup:
        return verify_checkpoint(wanted, folder, tell=_tell, cleanup=cleanup)


def by_weight_alone(checkpoint: Path, load: Load, folder: Path, device: str) -> Verdict:
    """The tagged pass with one linear by its weight alone, as a profiler's report from elsewhere:
    the record, which would confess, is not given.
    """
    folder.mkdir()
    order = Order(
        str(checkpoint), str(folder), "tagged", "torch", device, load.batch, load.prompt_len,
        load.gen_len, weight_only=(BY_WEIGHT,),
    )  # fmt: skip
    order.write(folder / "order.json")
    words = [sys.executable, "-m", "fp8scope.verify.child", str(folder / "order.json")]
    subprocess.run(words, check=True)
    assert (folder / RUN).exists()
    return judge_reports(checkpoint, [folder / TORCH_TRACE])


def missed(found: Found) -> Iterator[str]:
    """The goals that were not reached, in sentences."""
    good = found.good
    if good.fp8_share != 1:
        yield f"FP8 was seen on {good.in_fp8} groups of {good.expected}"
    ratio = good.speedup["prefill"].measured
    if ratio is None or ratio < SPEEDUP:
        yield f"prefill is {ratio} times as fast as BF16, not {SPEEDUP}"
    active = good.hardware["prefill"].sm_active if "prefill" in good.hardware else None
    if active is None or active < SM_ACTIVE:
        yield f"SMs were active {active} of the time, not {SM_ACTIVE}"
    for verdict, fault in ((found.left_behind, LEFT), (found.by_weight, BY_WEIGHT)):
        if not catches(verdict, fault):
            yield f"{fault} does not run in FP8, and was not found: {verdict.summary}"


def catches(verdict: Verdict, fault: str) -> bool:
    """Whether a gate fails, and that group alone is named."""
    wrong = {group.name for group in verdict.groups if group.judged == "not_as_planned"}
    return wrong == {fault} and any(gate.outcome == "failed" for gate in verdict.gates)


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--folder", type=Path, help="on a disk with 35 GB; a temporary one else")
    arguments = parser.parse_args()
    shape = SMALL if arguments.small else LLAMA_8B
    with TemporaryDirectory(dir=arguments.folder) as folder:
        found = verified(shape, LOAD, Path(folder), "cuda", "cuda")
    _print(found)
    faults = list(missed(found))
    print("\n".join(faults) or "every goal is reached")
    sys.exit(bool(faults))


def _print(found: Found) -> None:
    good = found.good
    print(good.summary)
    print(f"compiled: {good.ran.compiled}, CUDA graphs: {good.ran.cuda_graphs}, {good.ran.gpu}")
    for name, speed in (("FP8", good.speed), ("BF16", good.baseline_speed)):
        print(f"{name:>5}: {_said(speed)}")
    for phase, hardware in good.hardware.items():
        print(f"{phase:>8}: {hardware.model_dump(exclude_none=True)}")
    for line in (*good.notes, *good.unseen):
        print("note:", line)
    print("left behind:", found.left_behind.summary)
    print("by weight:", found.by_weight.summary)


def _said(speed: Speed | None) -> str:
    if speed is None or speed.ttft_ms is None or speed.tpot_ms is None:
        return "not measured"
    return (
        f"TTFT {speed.ttft_ms.p50:.1f} ms (p95 {speed.ttft_ms.p95:.1f}), "
        f"TPOT {speed.tpot_ms.p50:.2f} ms (p95 {speed.tpot_ms.p95:.2f}), "
        f"{speed.tokens_per_s or 0:.0f} tokens/s"
    )


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
