"""One backward shows every GEMM what plain autograd gives, and leaves the model as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from fp8scope.core.gemms import Gemm, Unit, units
from fp8scope.core.sites import Role
from fp8scope.errors import BadModel
from fp8scope.observe.gradients import Gradients
from fp8scope.observe.labels import draws
from fp8scope.runtime.experts import named_experts
from fp8scope.runtime.linears import weight_matrix
from fp8scope.runtime.structure import discover
from tests import models
from tests.observe import quantized_models
from tests.observe.quantized_models import Loop, Shown

LENGTHS = (12, 7)
NUMBERS = [draws(str(row), length, 0) for row, length in enumerate(LENGTHS)]


def _ids() -> Tensor:
    return models.token_ids(2, 12, seed=5)


def _gemms(model: nn.Module) -> list[Gemm]:
    found: list[Unit] = units(discover(model))
    return [gemm for unit in found for gemm in unit.gemms]


def _show(model: Any, *, cached: bool = False) -> Shown:
    shown = Shown()
    with Gradients(model, _gemms(model), shown, cached=cached) as gradients:
        gradients.run(_ids(), NUMBERS)
    return shown


class _Cache(DynamicCache):
    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        self.__dict__.setdefault("kept", {})[layer_idx] = key_states, value_states
        return key_states, value_states


class Autograd:
    """x and y of every linear, expert by expert, and the gradients of the sampled loss."""

    def __init__(self, model: Any, *, cached: bool = False) -> None:
        self.model = model = copy.deepcopy(model)
        self.kept: dict[str, tuple[Tensor, Tensor]] = {}
        self.loops = {experts.name: Loop(experts) for experts in named_experts(model).values()}
        for gemm in _gemms(model):
            for name in gemm.members if not gemm.experts else ():
                model.get_submodule(name).register_forward_hook(self._keep(name))
        cache = _Cache(config=model.config) if cached else None
        output = model(input_ids=_ids(), use_cache=cached, past_key_values=cache)
        self.loss = self._loss(output.logits)
        self.caches = cache.__dict__["kept"] if cache else {}

    def _keep(self, name: str) -> Callable[..., Tensor]:
        def hook(_: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
            self.kept[name] = args[0], y
            return y.clone()  # whatever is written into it

        return hook

    @staticmethod
    def _loss(logits: Tensor) -> Tensor:
        loss = torch.zeros(())
        for row, uniform in enumerate(NUMBERS):
            p = logits[row, : len(uniform)].double().softmax(-1)
            label = (p.detach().cumsum(-1) <= uniform[:, None]).sum(-1)
            loss = loss - p.gather(1, label[:, None]).log().sum()
        return loss

    def gradients(self, tensors: list[Tensor]) -> list[Tensor]:
        found = torch.autograd.grad(self.loss, tensors, retain_graph=True, allow_unused=True)
        return [
            torch.zeros_like(t) if g is None else g for t, g in zip(tensors, found, strict=True)
        ]


def _close(got: Tensor, want: Tensor) -> None:
    want = want.detach()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=2e-6 * float(want.abs().max()) + 1e-12)


def _check(model: Any, *, cached: bool = False) -> None:
    shown, truth = _show(model, cached=cached), Autograd(model, cached=cached)
    plain = [gemm for gemm in _gemms(model) if not gemm.experts]
    assert set(shown.gemms) == {"+".join(gemm.members) for gemm in plain}
    for gemm in plain:
        x, gradient = shown.gemms["+".join(gemm.members)]
        kept = [truth.kept[name] for name in gemm.members]
        want = [g.flatten(0, -2) for g in truth.gradients([y for _, y in kept])]
        for inputs, _ in kept:
            _close(x, inputs.flatten(0, -2))
        _close(gradient, torch.cat(want, dim=1))
        assert not gradient.view(2, 12, -1)[1, LENGTHS[1] :].any(), "padding"
    for experts in named_experts(model).values():
        _check_experts(shown, truth, experts)
    for (layer, role), (values, gradient) in shown.caches.items():
        tensor = truth.caches[layer][0 if role is Role.K else 1]
        _close(values, tensor)
        _close(gradient, truth.gradients([tensor])[0])
        assert not gradient[1, :, LENGTHS[1] :].any()
    assert len(shown.caches) == 2 * len(truth.caches)


def _check_experts(shown: Shown, truth: Autograd, experts: Any) -> None:
    loop = truth.loops[experts.name]
    for stack, place in ((experts.first, 1), (experts.last, 3)):
        routed = shown.stacks[stack]
        total = 0
        for expert, (token, *kept) in loop.kept.items():
            mine = routed.pairs.expert == expert
            order = routed.pairs.token[mine].argsort()
            assert torch.equal(routed.pairs.token[mine][order], token)
            total += len(token)
            if len(token):
                _close(routed.x[mine][order], kept[place - 1])
                _close(routed.gradient[mine][order], truth.gradients([kept[place]])[0])
        assert total == len(routed.x) == len(routed.gradient)


@pytest.mark.parametrize("name", models.CONFIGS)
def test_inputs_and_gradients_are_those_of_autograd(name: str) -> None:
    _check(models.build(name))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "gemma2", "deepseek_v3"])
def test_so_are_those_of_the_cache(name: str) -> None:
    _check(models.build(name), cached=True)


@pytest.mark.parametrize("name", ["llama", "opt_post_norm"])
def test_tied_embeddings(name: str) -> None:
    model = models.build(name, tie_word_embeddings=True)
    _check(model)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.lm_head.weight.requires_grad


def test_experts_that_are_transposed_and_have_biases() -> None:
    model: Any = quantized_models.gpt_oss()
    shown, truth = _show(model), Autograd(model)
    for experts in named_experts(model).values():
        _check_experts(shown, truth, experts)


def _marks(model: nn.Module) -> dict[str, Any]:
    hooks = sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        for m in model.modules()
    )
    return {
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "grad": [n for n, p in model.named_parameters() if p.grad is not None],
        "training": {n: m.training for n, m in model.named_modules()},
        "hooks": hooks,
        "forward": [n for n, m in model.named_modules() if "forward" in vars(m)],
    }


@pytest.mark.parametrize("fails", ["nowhere", "forward", "labels", "observer"])
@pytest.mark.parametrize("name", ["llama", "mixtral", "gpt2", "deepseek_v3"])
def test_the_model_is_left_as_it_was(name: str, fails: str) -> None:
    model = models.build(name)
    next(iter(model.parameters())).requires_grad_(False)
    model.get_input_embeddings().train()
    before, logits = _marks(model), models.logits(model, _ids())
    ids = _ids() + (models.VOCAB if fails == "forward" else 0)
    numbers = [torch.ones(99)] if fails == "labels" else NUMBERS
    shown: Any = Shown()
    if fails == "observer":
        shown.gemm = lambda *_: 1 / 0
    gradients = Gradients(model, _gemms(model), shown, cached=True)
    errors = (ZeroDivisionError, IndexError, RuntimeError)
    with nullcontext() if fails == "nowhere" else pytest.raises(errors), gradients:
        assert not any(p.requires_grad for p in model.parameters())
        gradients.run(ids, numbers)
    assert _marks(model) == before
    assert torch.equal(models.logits(model, _ids()), logits)


def test_a_second_run_is_the_first() -> None:
    model, shown = models.build("qwen3_moe"), Shown()
    with Gradients(model, _gemms(model), shown, cached=False) as gradients:
        gradients.run(_ids(), NUMBERS)
        first = shown.gemms
        shown.gemms, shown.stacks = {}, {}
        gradients.run(_ids(), NUMBERS)
    assert shown.gemms.keys() == first.keys()
    for name, pair in first.items():
        assert all(map(torch.equal, pair, shown.gemms[name]))


class _Odd(nn.Module):
    """A small language model that does something odd with a linear, between two others."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor], *, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(models.VOCAB, 8)
        self.first, self.second, self.third = (nn.Linear(8, 8, bias=bias) for _ in range(3))
        self.head = nn.Linear(8, models.VOCAB)
        self.between = between

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        return SimpleNamespace(logits=self.head(self.between(self, self.embed(input_ids))))


def _overwrites(model: Any, x: Tensor) -> Tensor:
    x = x * 2
    y: Tensor = model.first(x)
    x.add_(1)
    return y + x


def test_an_input_that_is_written_over_is_refused() -> None:
    with pytest.raises(BadModel, match=r"^what first reads is written over") as error:
        _show(_Odd(_overwrites))
    assert "\n" not in str(error.value)


def test_an_output_may_be_written_over() -> None:
    def between(model: Any, x: Tensor) -> Tensor:
        y = model.second(model.first(x).mul_(3).add_(x))
        y[..., :4] *= 2
        z: Tensor = model.third(y.flatten(0, 1)).relu_()
        return z.view(y.shape)

    for bias in (True, False):
        _check(_Odd(between, bias=bias))


def test_the_embedding_may_be_written_into() -> None:
    shown = _show(_Odd(lambda model, x: model.first(x.mul_(3))))
    truth = _show(_Odd(lambda model, x: model.first(x * 3)))
    for name in ("first", "head"):
        torch.testing.assert_close(shown.gemms[name], truth.gemms[name])


@pytest.mark.parametrize("times", [2, 3])
def test_a_linear_that_runs_more_than_once_is_refused(times: int) -> None:
    def repeat(model: Any, x: Tensor) -> Tensor:
        for _ in range(times):
            x = model.first(x)
        return x

    with pytest.raises(BadModel, match=r"^first runs more than once in a forward") as error:
        _show(_Odd(repeat))
    assert "\n" not in str(error.value)


def test_what_the_logits_do_not_depend_on_is_not_shown() -> None:
    def unread(model: Any, x: Tensor) -> Tensor:
        model.second(model.third(x))
        y: Tensor = model.first(x)
        return y

    assert set(_show(_Odd(unread)).gemms) == {"first", "head"}


@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize("idle", ["first", "second", "third"])
def test_a_member_that_nobody_reads_has_gradient_zero(idle: str, runs: bool) -> None:
    """As of layers that take their keys and values from another: the fused GEMM is still scored."""
    names = ("first", "second", "third")

    def between(model: Any, x: Tensor) -> Tensor:
        y = {n: getattr(model, n)(x) for n in reversed(names) if n != idle or runs}
        return torch.stack([y[n] * place for place, n in enumerate(y, 1) if n != idle]).sum(0)

    model = _Odd(between)
    fused = Gemm("fused", names, None, {})
    shown = Shown()
    with Gradients(model, [fused], shown, cached=False) as gradients:
        gradients.run(_ids(), NUMBERS)
    x, gradient = shown.gemms["+".join(names)]
    assert torch.equal(x, model.embed(_ids()).flatten(0, 1))
    by_member = dict(zip(names, gradient.split(8, dim=1), strict=True))
    alone = _show(model)
    for name in names:
        assert by_member[name].any() == (name != idle)
        if name != idle:
            torch.testing.assert_close(by_member[name], alone.gemms[name][1])
    assert len(weight_matrix(model.first)) == 8


def test_experts_with_a_norm_of_their_own_are_refused() -> None:
    model = models.build("mixtral")
    before = _marks(model)
    for experts in named_experts(model).values():
        experts.module.has_post_expert_norm = True
    with pytest.raises(BadModel, match=r"layers\.0\.mlp\.experts normalises"):
        _show(model)
    assert _marks(model) == before
