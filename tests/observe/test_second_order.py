"""The claim: averaged over draws, ½·(Σ g·ΔY)² is the KL divergence to second order."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from fp8scope.core.choices import Term
from fp8scope.observe.applied import Applied
from fp8scope.observe.gradients import Gradients
from fp8scope.observe.labels import draws
from fp8scope.observe.term_scores import TermScores
from fp8scope.runtime.linears import linear_weights
from tests import models
from tests.observe.quantized_models import Prepared, prepared

ROWS, RUNS, LENGTH = 256, 8, 6
DRAWS = ROWS * RUNS
Terms = tuple[Term, ...]


def _ids() -> Tensor:
    return models.token_ids(1, LENGTH, seed=5)


def _samples(what: Prepared, terms: Terms) -> Tensor:
    """½·(Σ s)² over one sequence, [draws]: the sequence many times in a batch, drawn anew."""
    found, scores = [], TermScores(what.gemms, what.caches, terms)
    gemms = [quantized.gemm for quantized in what.gemms.values()]
    with Gradients(what.model, gemms, scores, cached=bool(what.caches)) as gradients:
        for run in range(RUNS):
            scores.scores.clear()
            numbers = [draws(f"{run:x}{row:08x}", LENGTH, 0) for row in range(ROWS)]
            gradients.run(_ids().expand(ROWS, -1), numbers)
            total = torch.stack([scores.scores[term] for term in terms]).sum(0)
            found.append(total.view(ROWS, LENGTH).sum(1).double().square() / 2)
    return torch.cat(found)


def _logits(model: Any) -> Tensor:
    return models.logits(model, _ids())[0].double()


def _kl(true: Tensor, other: Tensor) -> float:
    p, q = true.log_softmax(-1), other.log_softmax(-1)
    return float((p.exp() * (p - q)).sum())


def _part_of_the_way(what: Prepared, term: Term, step: float) -> Any:
    """A copy in float64 whose weights are moved by `step` of the term's weight error."""
    model = copy.deepcopy(what.model).double()
    model.set_experts_implementation("eager")  # the grouped one knows no float64
    weights = linear_weights(model)
    for quantized in what.gemms.values():
        if quantized.gemm.group == term.group:
            names = quantized.gemm.members
            errors = quantized.weight_error(term)
            with torch.no_grad():
                for name, error in zip(names, errors, strict=True):
                    weights[name] += step * error
    return model


def _agrees(samples: Tensor, want: float, slack: float = 0) -> None:
    """Within 3 standard errors of the mean, which are 10% of it for so many draws."""
    error = float(samples.std()) / DRAWS**0.5
    assert error < 0.04 * want
    assert abs(float(samples.mean()) - want) < 3 * error + slack * want


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("llama", "layers.0.self_attn.qkv"),
        ("llama", "layers.1.mlp.down_proj"),
        ("gpt2", "h.0.mlp.c_fc"),
        ("deepseek_v3", "layers.1.mlp.shared_experts.gate_up"),
    ],
)
def test_the_average_is_the_second_order_kl(name: str, group: str) -> None:
    what = prepared(name)
    term = Term(what.unit(group).name, "int4_weight")
    logits = [_logits(_part_of_the_way(what, term, step)) for step in (0, 1e-4, -1e-4)]
    slope = (logits[1] - logits[2]) / 2e-4
    p = logits[0].softmax(-1)
    exact = float((p * slope.square()).sum() - (p * slope).sum(-1).square().sum()) / 2
    _agrees(_samples(what, (term,)), exact)
    # and second order is what is left of the divergence where the step is small
    ratios = []
    for step in (1 / 16, 1 / 256):
        moved = _logits(_part_of_the_way(what, term, step))
        ratios.append(_kl(logits[0], moved) / (step**2 * exact))
    assert abs(ratios[1] - 1) < 0.02
    assert abs(ratios[1] - 1) < abs(ratios[0] - 1) + 1e-3


@pytest.mark.parametrize(
    ("name", "candidate", "groups"),
    [
        ("llama", "fp8_tensor", ("layers.0.mlp.gate_up",)),
        ("llama", "fp8_tensor", ("0.self_attn.qkv", "1.mlp.down_proj", "1.self_attn.o_proj")),
        ("gpt2", "fp8_tensor", ("h.1.attn.c_attn", "h.0.mlp.c_proj")),
        ("llama", "fp8_tensor", ("layers.0.self_attn.kv_cache",)),
        # of experts in FP8, what down_proj reads moves with gate_up_proj, over rounding thresholds
        ("mixtral", "int8_weight", ("layers.1.mlp.experts",)),
    ],
)
def test_what_is_predicted_is_what_is_measured(
    name: str, candidate: str, groups: tuple[str, ...]
) -> None:
    """FP8 of weights and inputs, of groups together, of a cache; and experts."""
    what = prepared(name, initializer_range=0.05)  # small steps: second order holds
    names = [unit.name for unit in what.units] + [k.group for k in what.structure.kv_layers]
    terms = tuple(
        Term(found, candidate) for group in groups for found in names if found.endswith(group)
    )
    assert len(terms) == len(groups)
    applied = Applied(what.model, what.gemms, what.caches, cached=True)
    true = applied.logits(_ids())[0].double()
    with applied.terms(terms):
        measured = _kl(true, applied.logits(_ids())[0].double())
    _agrees(_samples(what, terms), measured, slack=0.1)
