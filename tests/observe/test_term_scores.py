"""Every score is Σ g·ΔY of what the GEMM in that candidate would give, token by token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from fp8scope.core.choices import Choices, Kind, Part, Term
from fp8scope.core.schemes import CANDIDATES
from fp8scope.core.sites import Role
from fp8scope.observe.gradients import Gradients
from fp8scope.observe.labels import draws
from fp8scope.observe.term_scores import TermScores, gemm_scores
from fp8scope.runtime.quantized import QuantizedGemm
from tests import models
from tests.observe.quantized_models import ROUTED, TRANSPOSED, Prepared, Shown, prepared

LENGTHS = (12, 7)
NUMBERS = [draws(str(row), length, 0) for row, length in enumerate(LENGTHS)]
EVERYTHING = Choices(tuple(CANDIDATES), (0.25, 0.5), parts=True)


def _terms(what: Prepared, choices: Choices = EVERYTHING) -> list[Term]:
    rows = choices.rows(what.structure, what.units)
    return [row.terms[0] for row in rows if row.kind in (Kind.GROUP, Kind.KV)]


def _ids() -> Tensor:
    return models.token_ids(2, 12, seed=5)


def _scores(what: Prepared, terms: Sequence[Term]) -> dict[Term, Tensor]:
    scores = TermScores(what.gemms, what.caches, terms)
    gemms = [quantized.gemm for quantized in what.gemms.values()]
    with Gradients(what.model, gemms, scores, cached=bool(what.caches)) as gradients:
        gradients.run(_ids(), NUMBERS)
    return scores.scores


def _shown(what: Prepared) -> Shown:
    shown = Shown()
    gemms = [quantized.gemm for quantized in what.gemms.values()]
    with Gradients(what.model, gemms, shown, cached=bool(what.caches)) as gradients:
        gradients.run(_ids(), NUMBERS)
    return shown


def _explicit(
    quantized: QuantizedGemm, x: Tensor, gradient: Tensor, term: Term, expert: int | None = None
) -> Tensor:
    """Both products as they are, and their difference, in float64."""
    true = torch.cat(quantized.true_weights(expert)).double()
    weight = torch.cat(quantized.weights(term, expert)).double()
    change = quantized.input(x, term, expert).double() @ weight.T - x.double() @ true.T
    return (gradient.double() * change).sum(1)


def by_member(quantized: QuantizedGemm, gradient: Tensor) -> list[Tensor]:
    """The gradient of each member's output."""
    return list(gradient.split([len(weight) for weight in quantized.true_weights()], dim=1))


def _close(got: Tensor, want: Tensor, tolerance: float = 1e-4) -> None:
    assert got.dtype is torch.float32
    assert (got - want).abs().max() <= tolerance * want.abs().max() + 1e-12


@pytest.mark.parametrize("name", ["llama", "phi3", "gpt2", "gpt_neox", "opt", "deepseek_v2"])
def test_scores_by_their_definition(name: str) -> None:
    what = prepared(name)
    terms, shown = _terms(what), _shown(what)
    scores = _scores(what, terms)
    assert set(scores) == set(terms)
    for quantized in what.gemms.values():
        gemm = quantized.gemm
        mine = [t for t in terms if t.group == gemm.group and not gemm.experts]
        for term in mine:
            x, gradient = shown.gemms["+".join(gemm.members)]
            _close(scores[term], _explicit(quantized, x, gradient, term))
    for number, cache in what.caches.items():
        for term in (t for t in terms if t.group == cache.layer.group):
            want = torch.zeros(_ids().shape)
            for role in (Role.K, Role.V):
                values, gradient = shown.caches[number, role]
                change = cache.quantize(role, values, term) - values
                want += (change.double() * gradient).sum((1, 3))
            _close(scores[term], want.flatten())
    assert not any(score.view(2, 12)[1, LENGTHS[1] :].any() for score in scores.values())


@pytest.mark.parametrize("name", [*ROUTED, TRANSPOSED])
def test_experts_are_summed_for_each_token(name: str) -> None:
    what = prepared(name)
    chosen = ("fp8_tensor", "fp8_token", "fp8_block", "fp8_smooth", "nvfp4")
    terms, shown = _terms(what, Choices(chosen, (0.5,))), _shown(what)
    scores = _scores(what, terms)
    groups: dict[str, list[QuantizedGemm]] = {}
    for quantized in what.gemms.values():
        if quantized.gemm.experts:
            groups.setdefault(quantized.gemm.group, []).append(quantized)
    assert groups
    for group, stacks in groups.items():
        mine = [term for term in terms if term.group == group]
        assert {term.candidate for term in mine} >= {*chosen} - {"fp8_smooth"}
        for term in mine:
            want = torch.zeros(24, dtype=torch.float64)
            for quantized in stacks:
                routed = shown.stacks[quantized.gemm.members[0]]
                for pair, token in enumerate(routed.pairs.token.tolist()):
                    expert = int(routed.pairs.expert[pair])
                    x, gradient = routed.x[pair, None], routed.gradient[pair, None]
                    want[token] += _explicit(quantized, x, gradient, term, expert)[0]
            _close(scores[term], want)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_parts_add_up_but_for_what_both_do_together(name: str) -> None:
    """ΔY = ΔX Wᵀ + X ΔWᵀ + ΔX ΔWᵀ: `input` is the first, `weight` the second."""
    what = prepared(name)
    quantized = next(q for q in what.gemms.values() if not q.gemm.experts)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, quantized.members[0].shape[1], generator=generator)
    rows = sum(len(weight) for weight in quantized.members)
    gradient = torch.randn(9, rows, generator=generator)
    for candidate, alpha in (("fp8_tensor", None), ("fp8_smooth", 0.5), ("int8_tensor", None)):
        both = Term(quantized.gemm.group, candidate, alpha)
        terms = [both._replace(part=part) for part in Part]
        found = dict(gemm_scores(quantized, x, by_member(quantized, gradient), terms))
        cross = (quantized.input(x, both) - x) @ torch.cat(quantized.weight_error(both)).T
        together = (gradient * cross).sum(1)
        whole, weight, inputs = (found[term] for term in terms)
        torch.testing.assert_close(weight + inputs + together, whole, rtol=1e-4, atol=1e-5)
        assert (whole - weight - inputs).abs().max() > 0


def test_each_input_and_each_weight_is_quantized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one GEMM under all candidates: what is dear is shared, whatever the order of terms."""
    what, counts = prepared("llama"), Counter[str]()
    group = what.unit("layers.0.self_attn.qkv").name
    terms = [term for term in _terms(what) if term.group == group]
    for name in ("input", "_quantized"):
        plain = getattr(QuantizedGemm, name)

        def counted(*args: Any, _plain: Any = plain, _name: str = name, **also: Any) -> Any:
            counts[_name] += 1
            return _plain(*args, **also)

        monkeypatch.setattr(QuantizedGemm, name, counted)
    _scores(what, [*terms[::3], *terms[1::3], *terms[2::3]])
    pairs = {t: (CANDIDATES[t.candidate].input, CANDIDATES[t.candidate].weight) for t in terms}
    inputs = {(x, t.alpha) for t, (x, _) in pairs.items()}
    assert counts["input"] == len(inputs)
    assert counts["_quantized"] == len(
        {(x, w, t.alpha, t.folded) for t, (x, w) in pairs.items() if w}
    )


def test_the_order_in_which_terms_are_asked_for_does_not_matter() -> None:
    what = prepared("llama")
    terms = _terms(what)
    forward, backward = _scores(what, terms), _scores(what, [*reversed(terms), *terms])
    assert set(forward) == set(backward)
    for term, score in forward.items():
        assert torch.equal(score, backward[term]), term


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_half_precision_loses_little(name: str, dtype: torch.dtype) -> None:
    """Of the model's own tensors: what is rounded on the way is a hundredth at most."""
    what = prepared(name, dtype)
    terms = _terms(what, Choices(("fp8_tensor", "fp8_smooth", "int8_weight"), (0.5,)))
    shown = _shown(what)
    for quantized in what.gemms.values():
        gemm = quantized.gemm
        if gemm.experts:
            continue
        x, gradient = shown.gemms["+".join(gemm.members)]
        mine = [term for term in terms if term.group == gemm.group]
        for term, score in gemm_scores(quantized, x, by_member(quantized, gradient), mine):
            _close(score, _explicit(quantized, x, gradient, term), 0.01)


def test_fp16_keeps_errors_below_its_smallest_number() -> None:
    """Weights of 1e-4 err by 1e-6 and less, where fp16 has steps of 6e-8."""
    what = prepared("llama", torch.float16)
    quantized = what.gemms[what.unit("layers.0.mlp.down_proj").gemms[0].members]
    small = QuantizedGemm(
        quantized.gemm,
        {quantized.gemm.members[0]: (quantized.members[0].float() * 1e-4).half()},
        what.scales,
    )
    x, gradient = torch.randn(9, 48).half(), torch.randn(9, 32).half()
    term = Term(quantized.gemm.group, "int8_weight")
    ((_, score),) = gemm_scores(small, x, [gradient], [term])
    _close(score, _explicit(small, x, gradient, term), 1e-3)


def test_a_cache_that_is_not_quantized_and_a_group_without_terms_cost_nothing() -> None:
    what = prepared("llama")
    only = Term(what.units[0].name, "fp8_tensor")
    assert set(_scores(what, [only])) == {only}
    scores = TermScores(what.gemms, {}, [only])
    scores.cache(0, Role.K, torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4))
    assert not scores.scores
