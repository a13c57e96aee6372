"""How much each term moves the log-probability of the sampled labels, token by token.

A GEMM that reads Q(x) and Q(W) in place of x and W changes its output by
ΔY = Q(x) Q(W)ᵀ - x Wᵀ = (Q(x) - x) Wᵀ + Q(x) (Q(W) - W)ᵀ. With g the gradient at the output,
Σ_c g·ΔY = (g W)·(Q(x) - x) + (g (Q(W) - W))·Q(x), so that one matmul serves all candidates of one
quantized weight, nothing is a small difference of large products, and either side can be had alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import groupby

import torch
from torch import Tensor

from fp8scope.core.choices import Part, Term
from fp8scope.core.gemms import Gemm
from fp8scope.core.schemes import CANDIDATES
from fp8scope.core.sites import Role
from fp8scope.observe.expert_gradients import Routed
from fp8scope.runtime.casts import DOT_DTYPES, row_dot
from fp8scope.runtime.quantized import QuantizedCache, QuantizedGemm


class TermScores:
    """Fills `scores`, by term [tokens] float32: Σ g·ΔY of each token of the batch at hand.

    To second order ½·(Σ over a sequence)² is a sample of the KL in nats that a term costs it.
    """

    def __init__(
        self,
        gemms: Mapping[tuple[str, ...], QuantizedGemm],
        caches: Mapping[int, QuantizedCache],
        terms: Iterable[Term],
    ) -> None:
        self.scores: dict[Term, Tensor] = {}
        self._gemms = gemms
        self._caches = caches
        self._terms: dict[str, list[Term]] = {}
        for term in dict.fromkeys(terms):
            self._terms.setdefault(term.group, []).append(term)
        cached = {cache.layer.group for cache in caches.values()}
        for group in self._terms.keys() - cached:
            self._terms[group].sort(key=_order)

    def gemm(self, gemm: Gemm, x: Tensor, gradients: Sequence[Tensor], into_input: Tensor) -> None:
        """See `gradients.Observer`."""
        quantized, terms = self._gemms[gemm.members], self._terms.get(gemm.group, ())
        for term, score in gemm_scores(quantized, x, gradients, terms, into_input=into_input):
            self._add(term, score)

    def experts(self, gemm: Gemm, routed: Routed) -> None:
        """See `gradients.Observer`."""
        quantized, pairs = self._gemms[gemm.members], routed.pairs
        tokens = len(pairs.order) // pairs.per_token
        start = 0
        for expert, count in pairs.runs():
            run = slice(start, start := start + count)
            terms = self._terms.get(gemm.group, ())
            x, gradients = routed.x[run], [routed.gradient[run]]
            for term, score in gemm_scores(quantized, x, gradients, terms, expert):
                by_token = score.new_zeros(tokens).index_add_(0, pairs.token[run], score)
                self._add(term, by_token)

    def cache(self, layer: int, role: Role, values: Tensor, gradient: Tensor) -> None:
        """See `gradients.Observer`."""
        cache = self._caches.get(layer)
        if cache is None:
            return
        for term in self._terms.get(cache.layer.group, ()):
            change = cache.quantize(role, values, term).sub_(values)
            self._add(term, (change * gradient).sum(dim=(1, 3)).flatten())

    def _add(self, term: Term, score: Tensor) -> None:
        known = self.scores.get(term)
        self.scores[term] = score if known is None else known + score


def gemm_scores(
    quantized: QuantizedGemm,
    x: Tensor,
    gradients: Sequence[Tensor],
    terms: Sequence[Term],
    expert: int | None = None,
    into_input: Tensor | None = None,
) -> Iterator[tuple[Term, Tensor]]:
    """Σ_c g·ΔY of each row of x [rows, in], float32 [rows], for each term.

    gradients: g of each member's output, [rows, out].
    `terms` are sorted by what they make of the input, then of the weight. into_input: g W
    [rows, in], where it is known already.
    """
    if not terms:
        return
    if into_input is None:
        into_input = _product(gradients, quantized.true_weights(expert), x.dtype)
    for _, same_input in groupby(terms, _input_key):
        sharing = list(same_input)
        whole = sharing[0]._replace(part=Part.BOTH)
        read = quantized.input(x, whole, expert)
        by_input = _row_dot(into_input, read, x)
        for _, same_weight in groupby(sharing, _weight_key):
            same = list(same_weight)
            by_weight = None
            if CANDIDATES[same[0].candidate].weight is not None:
                error = quantized.weight_error(same[0]._replace(part=Part.BOTH), expert)
                by_weight = _product(gradients, error, x.dtype)
            for term in same:
                yield term, _part(term, by_input, by_weight, x, read)


def _part(
    term: Term, by_input: Tensor, by_weight: Tensor | None, x: Tensor, read: Tensor
) -> Tensor:
    if term.part is Part.INPUT or by_weight is None:
        return by_input
    if term.part is Part.WEIGHT:
        return _row_dot(by_weight, x)
    return by_input + _row_dot(by_weight, read)


def _row_dot(a: Tensor, b: Tensor, less: Tensor | None = None) -> Tensor:
    """Σ a·b of each row, or Σ a·(b - less), float32 [rows]."""
    if a.device.type == "cpu" and a.dtype in DOT_DTYPES and (less is None or less.dtype == a.dtype):
        return row_dot(a, b.float(), less)
    difference = b.float() if less is None else b.float() - less
    product: Tensor = torch.linalg.vecdot(a.float(), difference)
    return product


def _product(gradients: Sequence[Tensor], weights: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Σ g [rows, out] @ W [out, in] over the members: in the dtype of the model's own matmul, but
    for fp16, in which small errors would be lost.
    """
    held = torch.float32 if dtype == torch.float16 else dtype
    products = (g.to(held) @ w.to(held) for g, w in zip(gradients, weights, strict=True))
    return reduce(torch.Tensor.add_, products)


def _input_key(term: Term) -> tuple[str, float]:
    return str(CANDIDATES[term.candidate].input), -1 if term.alpha is None else term.alpha


def _weight_key(term: Term) -> tuple[str, float, float]:
    alpha, folded = (-1 if a is None else a for a in (term.alpha, term.folded))
    return str(CANDIDATES[term.candidate].weight), alpha, folded


def _order(term: Term) -> tuple[tuple[str, float], tuple[str, float, float]]:
    return _input_key(term), _weight_key(term)
