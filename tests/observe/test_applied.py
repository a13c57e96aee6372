"""Terms applied give what an explicitly quantized copy gives, and nothing stays behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fp8scope.core.choices import Choices, Kind, Row, Term
from fp8scope.core.schemes import CANDIDATES
from fp8scope.core.sites import Role
from fp8scope.observe.applied import Applied
from fp8scope.observe.kvcache import ObservedCache
from fp8scope.runtime.experts import named_experts
from fp8scope.runtime.fake_quant import fake_quantize
from fp8scope.runtime.linears import linear_weights
from fp8scope.runtime.quantized import QuantizedGemm
from tests import models
from tests.observe.quantized_models import TRANSPOSED, Loop, Prepared, prepared
from tests.runtime.test_quantized import ALPHA, folded

EVERYTHING = Choices(tuple(CANDIDATES), (ALPHA,))


def _ids() -> Tensor:
    return models.token_ids(2, 12, seed=5)


def _applied(what: Prepared) -> Applied:
    return Applied(what.model, what.gemms, what.caches, cached=bool(what.caches))


def _rows(what: Prepared, kind: Kind) -> list[Row]:
    return [row for row in EVERYTHING.rows(what.structure, what.units) if row.kind is kind]


def _state(model: nn.Module) -> dict[str, Any]:
    """What could be left behind: parameters (the very objects), hooks, forwards."""
    return {
        "parameters": {n: id(p) for n, p in model.named_parameters(remove_duplicate=False)},
        "values": [float(p.detach().double().sum()) for p in model.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "forward": [n for n, m in model.named_modules() if "forward" in vars(m)],
    }


@pytest.mark.parametrize("name", [*models.CONFIGS, TRANSPOSED])
def test_nothing_stays_behind(name: str) -> None:
    what = prepared(name)
    applied, before = _applied(what), _state(what.model)
    logits = applied.logits(_ids())
    assert torch.equal(logits, models.logits(what.model, _ids()))
    assert not logits.requires_grad
    for kind in Kind:
        for row in _rows(what, kind)[:: 7 if kind is Kind.GROUP else 3]:
            with applied.terms(row.terms):
                assert not torch.equal(applied.logits(_ids()), logits), row
            assert torch.equal(applied.logits(_ids()), logits)
    assert _state(what.model) == before


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "deepseek_v3", TRANSPOSED])
def test_nothing_stays_behind_an_exception(name: str) -> None:
    what = prepared(name)
    applied, before = _applied(what), _state(what.model)
    logits = applied.logits(_ids())
    terms = [term for row in _rows(what, Kind.MODEL)[-1:] for term in row.terms]
    with pytest.raises(ZeroDivisionError), applied.terms(terms):
        raise ZeroDivisionError
    with pytest.raises(IndexError), applied.terms(terms):
        applied.logits(_ids() + models.VOCAB)
    broken = Term(what.units[-1].name, "no such candidate")
    with pytest.raises(KeyError), applied.terms([*terms, broken]):
        applied.logits(_ids())
    assert _state(what.model) == before
    assert torch.equal(applied.logits(_ids()), logits)


def test_tied_weights_stay_apart() -> None:
    """The logits in FP8, the embeddings as they are."""
    what = prepared("llama", tie_word_embeddings=True)
    applied, embedding = _applied(what), what.model.get_input_embeddings()
    assert what.model.lm_head.weight is embedding.weight
    before = embedding(_ids())
    seen: list[Tensor] = []
    head = what.model.lm_head
    with applied.terms([Term("lm_head", "fp8_tensor")]):
        assert torch.equal(embedding(_ids()), before)
        with head.register_forward_pre_hook(lambda module, _: seen.append(module.weight)):
            applied.logits(_ids())
    assert seen[0] is not embedding.weight
    assert not torch.equal(seen[0], embedding.weight)
    assert what.model.lm_head.weight is embedding.weight


@pytest.mark.parametrize("name", ["llama", "mixtral", TRANSPOSED])
def test_no_second_copy_of_the_model_is_held(name: str) -> None:
    """While the whole model is quantized, no more than one GEMM's weights are at a time."""
    what = prepared(name)
    applied = _applied(what)
    own = dict(what.model.named_parameters())
    at_once: list[list[str]] = []

    def look(*_: Any) -> None:
        now = what.model.named_parameters()
        at_once.append([n for n, parameter in now if parameter is not own[n]])

    terms = [Term(unit.name, "fp8_tensor") for unit in what.units]
    with applied.terms(terms), ExitStack() as looking:
        for module in what.model.modules():
            looking.enter_context(module.register_forward_pre_hook(look))
        applied.logits(_ids())
    changed = {n.removesuffix(".weight") for names in at_once for n in names}
    assert changed >= {
        n for unit in what.units for g in unit.gemms if not g.experts for n in g.members
    }
    assert max(map(len, at_once)) <= 2  # a layer's experts have two stacks


def _reads(quantize: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    return lambda _, args: (quantize(args[0]), *args[1:])


class Explicit:
    """A copy of the model, its weights overwritten and its inputs quantized, term by term."""

    def __init__(self, what: Prepared, model: Any, terms: tuple[Term, ...], own: bool) -> None:
        """`own`: scales and folds are those of `model`'s own tensors, which are folded already."""
        self.what, self.model, self.own = what, model, own
        self.terms = {term.group: term for term in terms}
        self.experts = {stack: e for e in named_experts(model).values() for stack in e.stacks()}
        self.loops: dict[str, dict[str, Any]] = {}
        with torch.no_grad():
            for module in model.modules():  # tied weights come apart
                for name, parameter in module._parameters.items():
                    if parameter is not None:
                        module._parameters[name] = nn.Parameter(parameter.clone())
        for quantized in what.gemms.values():
            if quantized.gemm.group in self.terms:
                self._overwrite(quantized, self.terms[quantized.gemm.group])
        for name, changes in self.loops.items():
            experts = next(e for e in self.experts.values() if e.name == name)
            Loop(experts, **changes)

    def logits(self) -> Tensor:
        cache: Any = None
        if any(layer.group in self.terms for layer in self.what.structure.kv_layers):
            cache = ObservedCache(self._cached, self.model.config)
        with torch.no_grad():
            output = self.model(
                input_ids=_ids(), use_cache=cache is not None, past_key_values=cache
            )
        logits: Tensor = output.logits
        return logits

    def _cached(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor] | None:
        cache = self.what.caches[layer]
        term = self.terms.get(cache.layer.group)
        if term is None:
            return None
        return cache.quantize(Role.K, keys, term), cache.quantize(Role.V, values, term)

    @torch.no_grad()
    def _overwrite(self, quantized: QuantizedGemm, term: Term) -> None:
        gemm, weights = quantized.gemm, linear_weights(self.model)
        for expert in range(gemm.experts) if gemm.experts else [None]:
            mine = [weights[n] if expert is None else weights[n][expert] for n in gemm.members]
            for weight, new in zip(mine, self._weights(quantized, mine, term, expert), strict=True):
                weight.copy_(new)
        name = gemm.members[0]
        if gemm.experts:
            experts = self.experts[name]
            side = "first" if name == experts.first else "last"
            self.loops.setdefault(experts.name, {})[side] = lambda expert, x: self._input(
                quantized, x, term, expert
            )
            return
        for member in gemm.members:
            self.model.get_submodule(member).register_forward_pre_hook(
                _reads(lambda x: self._input(quantized, x.flatten(0, -2), term).view(x.shape))
            )

    def _weights(
        self, quantized: QuantizedGemm, mine: list[Tensor], term: Term, expert: int | None
    ) -> list[Tensor]:
        if not self.own:
            return quantized.weights(term, expert)
        scheme = CANDIDATES[term.candidate].weight
        assert scheme is not None
        amax = max(float(weight.abs().max()) for weight in mine)
        return [fake_quantize(weight, scheme, amax) for weight in mine]

    def _input(
        self, quantized: QuantizedGemm, x: Tensor, term: Term, expert: int | None = None
    ) -> Tensor:
        scheme = CANDIDATES[term.candidate].input
        if not self.own:
            return quantized.input(x, term, expert)
        if scheme is None:
            return x
        return fake_quantize(x, scheme, self.what.scales.input_amax(quantized.gemm, term.alpha))


def _close(got: Tensor, want: Tensor) -> None:
    assert (got - want).abs().max() < 1e-4 * want.abs().max()


@pytest.mark.parametrize("name", [*models.CONFIGS, TRANSPOSED])
def test_the_same_as_an_explicitly_quantized_copy(name: str) -> None:
    what = prepared(name)
    applied = _applied(what)
    rows = _rows(what, Kind.GROUP)[::11] + _rows(what, Kind.KV)[:4]
    rows += _rows(what, Kind.PAIR)[:2] + _rows(what, Kind.MODEL)
    for row in rows:
        want = Explicit(what, copy.deepcopy(what.model), row.terms, own=False).logits()
        with applied.terms(row.terms):
            _close(applied.logits(_ids()), want)


@pytest.mark.parametrize("name", [name for name in models.KNOWN if "gemma" not in name])
def test_the_smoothed_model_is_the_folded_one_quantized(name: str) -> None:
    """Every fold really made, then plain FP8 per tensor with scales of the folded tensors."""
    what = prepared(name)
    (smoothed,) = (
        row.terms
        for row in _rows(what, Kind.MODEL)
        if any(term.candidate == "fp8_smooth" for term in row.terms)
    )
    model = folded(what)
    _close(models.logits(model, _ids()), models.logits(what.model, _ids()))
    want = Explicit(what, model, smoothed, own=True).logits()
    with _applied(what).terms(smoothed):
        _close(_applied(what).logits(_ids()), want)


@pytest.mark.parametrize("stack", ["gate_up_proj", "down_proj"])
def test_one_stack_of_experts_alone(stack: str) -> None:
    """Of an unknown architecture each stack is a group: its input is quantized as well."""
    what = prepared(TRANSPOSED)
    unit = what.unit(stack)
    applied = _applied(what)
    term, weight_only = Term(unit.name, "fp8_tensor"), Term(unit.name, "int8_weight")
    logits = []
    for terms in ((), (term,), (weight_only,)):
        with applied.terms(terms):
            logits.append(applied.logits(_ids()))
    want = Explicit(what, copy.deepcopy(what.model), (term,), own=False).logits()
    _close(logits[1], want)
    assert not torch.equal(logits[1], logits[0])
    assert not torch.equal(logits[1], logits[2])


def test_a_bf16_model_stays_bf16() -> None:
    for name in ("llama", "gpt2", "mixtral"):
        what = prepared(name, torch.bfloat16)
        applied, before = _applied(what), models.logits(what.model, _ids())
        for row in _rows(what, Kind.MODEL):
            with applied.terms(row.terms):
                logits = applied.logits(_ids())
                dtypes = {parameter.dtype for parameter in what.model.parameters()}
            assert dtypes == {torch.bfloat16}
            assert logits.isfinite().all()
        assert torch.equal(models.logits(what.model, _ids()), before)
