"""What a group must compute and read in a pass, and how long its GPU would take at best."""

from __future__ import annotations

from dataclasses import dataclass

from fp8scope.artefacts.verdict import PhaseName, Realized
from fp8scope.core.gpus import Gpu
from fp8scope.core.roofline import GemmShape, Roofline, Workload
from fp8scope.judge.expected import ExpectedGroup

_CANDIDATES = {"fp8_tensor_dynamic": "fp8_tensor"}
_TIMED = {"fp8_tensor", "fp8_token", "fp8_block", "bf16"}


@dataclass(frozen=True)
class Work:
    """`flops` = Σ 2·m·k·n. At the peak rates of the GPU, in what it ran in: µs of the arithmetic,
    of all bytes, and of those of the weights alone; None where the GPU is not known.
    """

    flops: float
    compute_us: float | None = None
    memory_us: float | None = None
    weights_us: float | None = None

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            _sum(self.compute_us, other.compute_us),
            _sum(self.memory_us, other.memory_us),
            _sum(self.weights_us, other.weights_us),
        )

    def over(self, devices: int) -> Work:
        """The share of each, where so many divide it."""
        return Work(
            self.flops / devices,
            *(
                None if us is None else us / devices
                for us in (self.compute_us, self.memory_us, self.weights_us)
            ),
        )


@dataclass(frozen=True)
class Bench:
    """On what and under which load work is done. `gpu` is None where its rates are not known."""

    gpu: Gpu | None
    load: Workload | None
    experts_per_token: int

    def work(self, group: ExpectedGroup, phase: PhaseName, ran: Realized) -> Work | None:
        """None where nobody knows how many tokens went through: no load, no phases, or the output
        layer in prefill, which engines give all tokens or the last ones.
        """
        if self.load is None or phase == "all":
            return None
        tokens = self.load.batch * (self.load.context if phase == "prefill" else 1)
        if phase == "prefill" and any(shape.sampled for shape in group.gemms):
            return None
        parts = [self._one(shape, group.stored, ran, tokens) for shape in group.gemms]
        return sum(parts[1:], parts[0])

    def _one(self, shape: GemmShape, stored: str, ran: Realized, tokens: int) -> Work:
        chosen = min(self.experts_per_token, shape.experts) if shape.experts else 1
        flops = 2.0 * tokens * chosen * shape.in_features * shape.out_features
        if self.gpu is None:
            return Work(flops)
        rate = "fp8" if ran == "fp8" and self.gpu.has_fp8 else "bf16"
        compute = flops / self.gpu.tflops[rate] / 1e6
        candidate = _CANDIDATES.get(stored, stored)
        if candidate not in _TIMED:
            return Work(flops, compute)
        roofline = Roofline(self.gpu, Workload(), self.experts_per_token)
        weights = roofline.weights_read(shape, candidate, tokens) / self.gpu.bandwidth_gb_s / 1e3
        return Work(flops, compute, roofline.gemm(shape, candidate, tokens).memory_us, weights)


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other
