"""Predicted time of a GEMM, and of what an engine's step spends on a group or on the KV cache.

A kernel takes as long as its arithmetic at the GPU's peak rate, or as its bytes at the peak
bandwidth, whichever is longer (roofline: Williams, Waterman, Patterson, CACM 52(4), 2009). No
efficiency factors: it is a lower bound. Plans use its ratios, as if real kernels fell short of it
alike in each precision. Launches, attention's arithmetic and communication between GPUs are
left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from math import ceil
from typing import NamedTuple

from fp8scope.core.formats import E4M3, E5M2, INT8
from fp8scope.core.gpus import Gpu
from fp8scope.core.schemes import ALL, CANDIDATES, KV_CANDIDATES, Candidate, Scheme
from fp8scope.core.structure import KVLayer
from fp8scope.errors import BadInput

BF16 = "bf16"
BF16_BYTES, QUANTIZED_BYTES, SCALE_BYTES = 2, 1, 4
CHUNK = 8192
"""Prompt tokens that one forward pass takes at most: TensorRT-LLM's default max_num_tokens."""

_UNIT = {E4M3: "fp8", E5M2: "fp8", INT8: "int8"}
"""The Tensor Core rate of the formats of one byte; candidates in others are not timed."""
_TIMED = {BF16: Candidate(BF16, None, None)} | {
    name: candidate
    for name, candidate in CANDIDATES.items()
    if all(side is None or side.format in _UNIT for side in (candidate.input, candidate.weight))
}


class Kernel(NamedTuple):
    """Time of a kernel at the peak rate of its arithmetic, and at the peak bandwidth for its bytes,
    µs; `before`: of one that quantizes its input.
    """

    compute_us: float
    memory_us: float
    before_us: float = 0.0

    @property
    def time_us(self) -> float:
        """The longer of both, after the kernel before."""
        return max(self.compute_us, self.memory_us) + self.before_us


class Pass(NamedTuple):
    """A forward pass over `tokens` tokens, `times` per step on average."""

    times: float
    tokens: float


@dataclass(frozen=True)
class Workload:
    """`batch` sequences decode at once, each from a prompt of `context` tokens, until it has
    `generate` tokens of its own; then the next prompt takes its place.

    A step gives each sequence one token. So it takes in batch·context/generate prompt tokens on
    average. Raises BadInput unless all three are whole numbers above 0.
    """

    batch: int = 32
    context: int = 2048
    generate: int = 256

    def __post_init__(self) -> None:
        for field, value in zip(fields(self), astuple(self), strict=True):
            _positive(field.name, value)

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The forward passes of a step: chunked prefill with in-flight batching.

        Prompts go through in chunks: of one prompt where less than that arrives in a step, else
        of all that arrives, and of `CHUNK` tokens at most. A chunk shares its pass with the
        step's decode tokens, and so the reading of the weights; more than one chunk in a step is
        a pass of its own.
        """
        prompt = self.batch * self.context / self.generate
        chunk = min(CHUNK, max(self.context, prompt))
        chunks = prompt / chunk
        every = (
            Pass(1 - min(chunks, 1), self.batch),
            Pass(min(chunks, 1), self.batch + chunk),
            Pass(max(chunks - 1, 0), chunk),
        )
        return tuple(each for each in every if each.times)


@dataclass(frozen=True)
class GemmShape:
    """y[m, out] = x[m, in] @ W: out_features is the sum over the members of a fused GEMM.

    experts: above 0 for a stack of so many W, of which a token goes through a few. sampled: it
    sees only the tokens that another is drawn from, one per sequence and step (lm_head).
    """

    in_features: int
    out_features: int
    experts: int = 0
    sampled: bool = False


class Roofline:
    """Times on one GPU, in µs per step of the workload.

    experts_per_token: how many of a stack of routed experts each token goes through. Raises
    BadInput unless it is a whole number above 0.
    """

    def __init__(self, gpu: Gpu, workload: Workload, experts_per_token: int = 8) -> None:
        _positive("experts_per_token", experts_per_token)
        self.gpu = gpu
        self.workload = workload
        self.experts_per_token = experts_per_token

    def unit_time_us(self, shapes: Sequence[GemmShape], candidate: str) -> float:
        """Time that a step spends in the GEMMs `shapes`, one after the other, µs.

        candidate: a name of `core.schemes.CANDIDATES` in one-byte formats, or "bf16". Raises
        BadInput for another.
        """
        once = (Pass(1, self.workload.batch),)
        return sum(
            each.times * self.gemm_time_us(shape, candidate, each.tokens)
            for shape in shapes
            for each in (once if shape.sampled else self.workload.passes)
        )

    def kv_time_us(self, layer: KVLayer, candidate: str) -> float:
        """Time that a step spends reading one layer's cache in decode, µs.

        Each sequence reads all that it has: context + generate/2 tokens on average, keys and
        values, or MLA's one vector. What is written, one token's, does not count, nor what
        prefill reads, which its arithmetic hides. candidate: "bf16" or a name of `KV_CANDIDATES`,
        of one byte. Raises BadInput for another.
        """
        if candidate not in (BF16, *KV_CANDIDATES):
            raise _unknown(candidate, (BF16, *KV_CANDIDATES))
        load = self.workload
        tokens = load.batch * (load.context + load.generate / 2)
        vectors = 1 if layer.latent_dim else 2
        each = BF16_BYTES if candidate == BF16 else QUANTIZED_BYTES
        return self._move_us(tokens * vectors * layer.kv_heads * layer.head_dim * each)

    def gemm_time_us(self, shape: GemmShape, candidate: str, tokens: float) -> float:
        """Time of one GEMM over m = `tokens` tokens, µs, see `gemm`."""
        return self.gemm(shape, candidate, tokens).time_us

    def gemm(self, shape: GemmShape, candidate: str, tokens: float) -> Kernel:
        """One GEMM over m = `tokens` tokens, which takes
        max(2·m·in·out / peak rate, bytes / bandwidth).

        Bytes: the weight and its scales, the input, the output in 2 bytes each. A static scale
        per tensor is applied by whatever computes the input, so that only 1 byte per element is
        read. A dynamic scale needs a kernel before the GEMM, which reads 2 bytes and writes 1
        and the scales; its time is added. Without Tensor Cores for the format the GEMM is
        weight-only, as vLLM runs FP8 on Ampere: the input stays in BF16, and the rate is BF16's.

        Of E experts with k per token, m·k rows are multiplied, evenly spread, and
        E·(1 - (1 - k/E)^m) weights are read: those that a token goes to, if each goes to k of
        them at random.
        """
        rows, weights = self._rows(shape, tokens)
        schemes = _candidate(candidate)
        rate, scheme = self._rate(schemes)
        elements = rows * shape.in_features
        weight = weights * _one_weight(shape, schemes.weight)
        output = BF16_BYTES * rows * shape.out_features
        read = _quantized(rows, shape.in_features, scheme) if scheme else BF16_BYTES * elements
        operations = 2 * elements * shape.out_features
        compute = operations / self.gpu.tflops[rate] / 1e6
        memory = self._move_us(weight + read + output)
        if scheme is None or scheme.static:
            return Kernel(compute, memory)
        return Kernel(compute, memory, self._move_us(BF16_BYTES * elements + read))

    def weights_read(self, shape: GemmShape, candidate: str, tokens: float) -> float:
        """Bytes of the weights that a pass over `tokens` tokens reads: of experts, see `gemm`."""
        _, weights = self._rows(shape, tokens)
        return weights * _one_weight(shape, _candidate(candidate).weight)

    def _rows(self, shape: GemmShape, tokens: float) -> tuple[float, float]:
        """Rows that are multiplied, and how many weights they read."""
        if not shape.experts:
            return tokens, 1
        chosen = min(self.experts_per_token, shape.experts)
        missed = (1 - chosen / shape.experts) ** tokens
        return tokens * chosen, shape.experts * (1 - missed)

    def _rate(self, candidate: Candidate) -> tuple[str, Scheme | None]:
        """The Tensor Core rate, and how the input is quantized for it."""
        if candidate.input and (unit := _UNIT[candidate.input.format]) in self.gpu.tflops:
            return unit, candidate.input
        return BF16, None

    def _move_us(self, size: float) -> float:
        return size / self.gpu.bandwidth_gb_s / 1e3


def _candidate(name: str) -> Candidate:
    if name not in _TIMED:
        raise _unknown(name, tuple(_TIMED))
    return _TIMED[name]


def weight_bytes(shape: GemmShape, candidate: str) -> float:
    """Bytes of the weights, of experts of all, with their scales. Raises as `Roofline.gemm`."""
    return max(shape.experts, 1) * _one_weight(shape, _candidate(candidate).weight)


def _one_weight(shape: GemmShape, scheme: Scheme | None) -> float:
    if scheme is None:
        return BF16_BYTES * shape.in_features * shape.out_features
    return _quantized(shape.out_features, shape.in_features, scheme, ceil)


def _quantized(
    rows: float, columns: int, scheme: Scheme, whole: Callable[[float], float] = float
) -> float:
    """Bytes of [rows, columns] in one byte each, with the scales of its tiles.

    Rows may be an average, and are then not rounded up to whole tiles.
    """
    high = 1 if scheme.tile.rows == ALL else whole(rows / scheme.tile.rows)
    wide = 1 if scheme.tile.columns == ALL else ceil(columns / scheme.tile.columns)
    return QUANTIZED_BYTES * rows * columns + SCALE_BYTES * high * wide


def _positive(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BadInput(f"{name} is {value!r}", "give a whole number above 0")


def _unknown(name: str, known: Sequence[str]) -> BadInput:
    return BadInput(f"the time of {name!r} cannot be predicted", f"one of {', '.join(known)}")
