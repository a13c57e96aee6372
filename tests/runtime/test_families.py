"""Every fold that a family offers keeps the function, and a slip in it would be seen."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fp8scope.core.structure import Fold
from fp8scope.runtime import folding
from fp8scope.runtime.experts import named_stacks
from fp8scope.runtime.families.registry import BY_MODEL_TYPE
from fp8scope.runtime.linears import linear_weights
from fp8scope.runtime.structure import discover
from tests import models


def _factors(model: nn.Module, fold: Fold, seed: int = 0) -> Tensor:
    """Random powers of two from 1/8 to 8, in fp32: [n], one per foldable channel.

    From one stack of experts to another, [experts, n]: each has its own.
    """
    generator = torch.Generator().manual_seed(seed)
    stack = named_stacks(model).get(fold.producer)
    shape = (fold.channels,) if stack is None else (len(stack), fold.channels)
    return torch.exp2(torch.randint(-3, 4, shape, generator=generator).float())


def _folded(model: nn.Module, fold: Fold, seed: int = 0) -> nn.Module:
    """A copy with the fold made; by the (1 + w) rule where `runtime.folding` does not offer it."""
    model, factors = copy.deepcopy(model), _factors(model, fold, seed)
    if fold.takes_factors:
        folding.fold(model, fold, factors.numpy())
        return model
    with torch.no_grad():
        weight = model.get_submodule(fold.producer).get_parameter("weight")
        weight.copy_((1 + weight) / factors - 1)
    _scale_columns(model, fold, factors)
    return model


@torch.no_grad()
def _scale_columns(model: nn.Module, fold: Fold, factors: Tensor) -> None:
    """The consumers alone, their columns times the factors."""
    columns = factors[..., fold.consumer_channels()]
    for name in fold.consumers:
        linear_weights(model)[name].mul_(columns[:, None] if columns.ndim == 2 else columns)


def _bias(model: nn.Module, name: str) -> Tensor | None:
    """The bias of a module; stacked experts, which are none, have none here."""
    module = dict(model.named_modules()).get(name)
    return getattr(module, "bias", None)


def _relative(got: Tensor, want: Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("name", models.KNOWN)
def test_every_fold_keeps_the_logits(name: str) -> None:
    model, ids = models.build(name), models.token_ids()
    want = models.logits(model, ids)
    folds = discover(model).folds
    assert folds
    for fold in folds:
        got = models.logits(_folded(model, fold), ids)
        if fold.kind == "norm_plus_one":
            # (1 + w) * s - 1 rounds in fp32, so equality to the bit cannot be had.
            assert _relative(got, want) < 1e-5, fold
        else:
            assert torch.equal(got, want), fold


@pytest.mark.parametrize("name", models.KNOWN)
def test_all_folds_together_keep_the_logits(name: str) -> None:
    model, ids = models.build(name), models.token_ids()
    want = models.logits(model, ids)
    folded: nn.Module = model
    folds = discover(model).folds
    for seed, fold in enumerate(folds):
        folded = _folded(folded, fold, seed)
    got = models.logits(folded, ids)
    if any(fold.kind == "norm_plus_one" for fold in folds):
        assert _relative(got, want) < 1e-5
    else:
        assert torch.equal(got, want)


@pytest.mark.parametrize("name", models.KNOWN)
def test_factors_on_the_wrong_columns_change_the_logits(name: str) -> None:
    model, ids = models.build(name), models.token_ids()
    want = models.logits(model, ids)
    for fold in discover(model).folds:
        wrong, factors = _folded(model, fold), _factors(model, fold)
        _scale_columns(wrong, fold, factors.roll(1, -1) / factors)
        assert _relative(models.logits(wrong, ids), want) > 1e-3, fold


@pytest.mark.parametrize("name", models.KNOWN)
def test_a_consumer_left_out_changes_the_logits(name: str) -> None:
    model, ids = models.build(name), models.token_ids()
    want = models.logits(model, ids)
    for fold in discover(model).folds:
        for left_out in fold.consumers:
            consumers = tuple(other for other in fold.consumers if other != left_out)
            wrong = _folded(model, replace(fold, consumers=consumers))
            assert _relative(models.logits(wrong, ids), want) > 1e-3, (fold, left_out)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt_neox", "gpt2", "opt", "deepseek_v2"])
def test_a_bias_left_out_changes_the_logits(name: str) -> None:
    model, ids = models.build(name), models.token_ids()
    want = models.logits(model, ids)
    with_bias = [fold for fold in discover(model).folds if _bias(model, fold.producer) is not None]
    assert with_bias
    for fold in with_bias:
        wrong, bias = _folded(model, fold), _bias(model, fold.producer)
        assert bias is not None
        with torch.no_grad():
            wrong.get_submodule(fold.producer).get_parameter("bias").copy_(bias)
        assert _relative(models.logits(wrong, ids), want) > 1e-3, fold


GELU = Fold("transformer.h.0.mlp.c_fc", "linear", ((0, 48),), ("transformer.h.0.mlp.c_proj",), 48)
POST_NORM_OPT = Fold(  # the norm feeds the residual stream too
    "model.decoder.layers.0.self_attn_layer_norm",
    "norm",
    ((0, 32),),
    ("model.decoder.layers.0.fc1",),
    32,
)
DEEPSEEK_MOE_NORM = Fold(  # feeds the router and the routed experts too
    "model.layers.1.post_attention_layernorm",
    "norm",
    ((0, 32),),
    (
        "model.layers.1.mlp.shared_experts.gate_proj",
        "model.layers.1.mlp.shared_experts.up_proj",
    ),
    32,
)
DEEPSEEK_KV_A = Fold(  # a norm lies between
    "model.layers.0.self_attn.kv_a_proj_with_mqa",
    "linear",
    ((0, 12),),
    ("model.layers.0.self_attn.kv_b_proj",),
    12,
)
GEMMA_POST_NORM = Fold(  # adds into the residual stream
    "model.layers.0.post_attention_layernorm",
    "norm_plus_one",
    ((0, 32),),
    ("model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"),
    32,
)


@pytest.mark.parametrize(
    ("name", "fold"),
    [
        ("gpt2", GELU),
        ("opt_post_norm", POST_NORM_OPT),
        ("gemma2", GEMMA_POST_NORM),
        ("deepseek_v3", DEEPSEEK_MOE_NORM),
        ("deepseek_v3", DEEPSEEK_KV_A),
    ],
)
def test_folds_that_are_not_offered_do_not_hold(name: str, fold: Fold) -> None:
    model, ids = models.build(name), models.token_ids()
    assert fold not in discover(model).folds
    got = models.logits(_folded(model, fold), ids)
    assert _relative(got, models.logits(model, ids)) > 1e-3


def test_llama_offers_exactly_four_folds_per_block() -> None:
    folds = [f for f in discover(models.build("llama")).folds if "layers.0." in f.producer]
    block = "model.layers.0"
    qkv = tuple(f"{block}.self_attn.{part}_proj" for part in "qkv")
    gate_up = (f"{block}.mlp.gate_proj", f"{block}.mlp.up_proj")
    assert folds == [
        Fold(f"{block}.input_layernorm", "norm", ((0, 32),), qkv, 32),
        Fold(f"{block}.post_attention_layernorm", "norm", ((0, 32),), gate_up, 32),
        Fold(qkv[2], "linear", ((0, 24),), (f"{block}.self_attn.o_proj",), 12, repeat=2),
        Fold(gate_up[1], "linear", ((0, 48),), (f"{block}.mlp.down_proj",), 48),
    ]


@pytest.mark.parametrize("name", models.LATENT)
def test_folds_of_deepseek(name: str) -> None:
    """[nope | value] rows per head of kv_b; the norm before experts feeds the router and all."""
    dense, moe = ([], [])  # type: tuple[list[Fold], list[Fold]]
    for fold in discover(models.build(name)).folds:
        (dense if "layers.0." in fold.producer else moe).append(fold)
    attn, mlp = "model.layers.0.self_attn", "model.layers.0.mlp"
    query = "q_proj" if name == "deepseek_v2_lite" else "q_a_proj"
    reads_input = (f"{attn}.{query}", f"{attn}.kv_a_proj_with_mqa")
    want = [Fold("model.layers.0.input_layernorm", "norm", ((0, 32),), reads_input, 32)]
    if query == "q_a_proj":
        want += [Fold(f"{attn}.q_a_layernorm", "norm", ((0, 20),), (f"{attn}.q_b_proj",), 20)]
    values = ((10, 16), (26, 32), (42, 48), (58, 64))
    gate_up = (f"{mlp}.gate_proj", f"{mlp}.up_proj")
    want += [
        Fold(f"{attn}.kv_a_layernorm", "norm", ((0, 12),), (f"{attn}.kv_b_proj",), 12),
        Fold(f"{attn}.kv_b_proj", "linear", values, (f"{attn}.o_proj",), 24),
        Fold("model.layers.0.post_attention_layernorm", "norm", ((0, 32),), gate_up, 32),
        Fold(gate_up[1], "linear", ((0, 48),), (f"{mlp}.down_proj",), 48),
    ]
    assert dense == want
    block = "model.layers.1"
    shared, experts = f"{block}.mlp.shared_experts", f"{block}.mlp.experts"
    readers = (f"{shared}.gate_proj", f"{shared}.up_proj", f"{block}.mlp.gate")
    assert [(fold.producer, fold.consumers) for fold in moe[-4:]] == [
        (f"{block}.self_attn.kv_b_proj", (f"{block}.self_attn.o_proj",)),
        (f"{block}.post_attention_layernorm", (*readers, f"{experts}.gate_up_proj")),
        (f"{shared}.up_proj", (f"{shared}.down_proj",)),
        (f"{experts}.gate_up_proj", (f"{experts}.down_proj",)),
    ]


def test_fused_rows_of_the_values() -> None:
    phi3, gpt2 = (discover(models.build(name)).folds for name in ("phi3", "gpt2"))
    neox = discover(models.build("gpt_neox")).folds
    assert phi3[2].rows == ((32 + 16, 32 + 32),)
    assert gpt2[2].rows == ((64, 96),)
    assert neox[2].rows == ((16, 24), (40, 48), (64, 72), (88, 96))


def test_post_norm_opt_offers_no_norm_folds() -> None:
    folds = discover(models.build("opt_post_norm")).folds
    assert [fold.kind for fold in folds] == ["linear"] * 4


def test_opt_norms_without_weight_are_not_folded() -> None:
    model = models.build("opt", layer_norm_elementwise_affine=False)
    assert {fold.kind for fold in discover(model).folds} == {"linear"}


def test_opt_with_gelu_does_not_fold_fc1() -> None:
    model = models.build("opt", activation_function="gelu")
    assert not any(fold.producer.endswith("fc1") for fold in discover(model).folds)


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text"])
def test_gemma_says_that_its_norms_are_one_plus_weight(name: str) -> None:
    folds = discover(models.build(name)).folds
    norms = {f.producer.rpartition(".")[2]: f.kind for f in folds if f.kind != "linear"}
    assert norms == dict.fromkeys(("input_layernorm", "pre_feedforward_layernorm"), "norm_plus_one")


def test_no_model_type_belongs_to_two_families() -> None:
    assert len(BY_MODEL_TYPE) == sum(len(f.model_types) for f in set(BY_MODEL_TYPE.values()))
    assert {"llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"} <= set(BY_MODEL_TYPE)
