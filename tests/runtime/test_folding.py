"""Factors folded into real parameters: the function stays, every bit comes back, or one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from fp8scope.core.structure import Fold
from fp8scope.errors import BadModel
from fp8scope.runtime.experts import named_stacks
from fp8scope.runtime.folding import fold, folded
from fp8scope.runtime.structure import discover
from tests import models
from tests.observe.quantized_models import TRANSPOSED, gpt_oss

Float32 = NDArray[np.float32]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BLOCK = "model.layers.0"
UP_DOWN = Fold("up", "linear", ((2, 6),), ("down",), block=2, repeat=3)


def _folds(model: nn.Module) -> list[Fold]:
    return [fold for fold in discover(model).folds if fold.takes_factors]


def _fold_of(model: nn.Module, producer: str) -> Fold:
    return next(fold for fold in _folds(model) if fold.producer.endswith(producer))


def _factors(model: nn.Module, folds: list[Fold], *, powers: bool) -> dict[Fold, Float32]:
    """From 1/8 to 8."""
    rng = np.random.default_rng(0)
    found = {}
    for each in folds:
        stack = named_stacks(model).get(each.producer)
        shape = (each.channels,) if stack is None else (len(stack), each.channels)
        logs = rng.integers(-3, 4, shape) if powers else rng.uniform(-3, 3, shape)
        found[each] = np.exp2(logs).astype(np.float32)
    return found


def _in(dtype: torch.dtype, name: str) -> nn.Module:
    model: nn.Module = models.build(name)
    return model.to(dtype)


def _bits(model: nn.Module) -> dict[str, bytes]:
    return {
        name: parameter.detach().contiguous().view(torch.uint8).numpy().tobytes()
        for name, parameter in model.named_parameters()
    }


def _relative(got: Tensor, want: Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*models.KNOWN])
def test_powers_of_two_keep_every_bit_of_the_logits(name: str, dtype: torch.dtype) -> None:
    """In fp16 weights and activations go subnormal: to 3 last places of the largest logit."""
    model, ids = _in(dtype, name), models.token_ids()
    want, before = models.logits(model, ids), _bits(model)
    factors = _factors(model, _folds(model), powers=True)
    assert factors
    with folded(model, factors):
        assert all(
            _bits(model)[f"{each.producer}.weight"] != before[f"{each.producer}.weight"]
            for each in factors
            if each.kind == "norm"
        )
        got = models.logits(model, ids)
    if dtype == torch.float16:
        assert _relative(got, want) < 3 * torch.finfo(dtype).eps
    else:
        assert torch.equal(got, want)
    assert _bits(model) == before


@pytest.mark.parametrize("name", models.KNOWN)
def test_any_factors_keep_the_logits_to_1e_5(name: str) -> None:
    model, ids = models.build(name), models.token_ids()
    want, before = models.logits(model, ids), _bits(model)
    with folded(model, _factors(model, _folds(model), powers=False)):
        assert _bits(model) != before
        assert _relative(models.logits(model, ids), want) < 1e-5
    assert _bits(model) == before


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_every_bit_comes_back_after_an_exception(name: str, dtype: torch.dtype) -> None:
    model = _in(dtype, name)
    before = _bits(model)
    factors = _factors(model, _folds(model), powers=False)
    with pytest.raises(ZeroDivisionError), folded(model, factors):
        raise ZeroDivisionError(_bits(model) != before)
    assert _bits(model) == before


def test_the_parameters_stay_the_same_objects() -> None:
    model = models.build("llama")
    before = {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()}
    fold(model, (each := _fold_of(model, "up_proj")), np.full(each.channels, 2, np.float32))
    assert {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()} == before
    assert all(p.requires_grad and p.grad_fn is None for p in model.parameters())


# What is folded where, by hand


class Pair(nn.Module):
    """Rows 2..5 of `up` are two heads of two channels, which `down` reads three times each."""

    def __init__(self, up: Tensor, bias: Tensor, down: Tensor) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(up.shape[1], 6), nn.Linear(12, len(down))
        self.up.weight, self.up.bias = nn.Parameter(up), nn.Parameter(bias)
        self.down.weight = nn.Parameter(down)
        self.to(up.dtype)


def _pair(dtype: torch.dtype = torch.float32, value: float = 1.0) -> Pair:
    ones = [torch.full(shape, value, dtype=dtype) for shape in ((6, 3), (6,), (2, 12))]
    return Pair(*ones)


def test_rows_are_divided_and_columns_multiplied() -> None:
    model = _pair()
    before = model.down.bias.clone()
    fold(model, UP_DOWN, np.array([2, 4, 8, 16], np.float32))
    rows = torch.tensor([1, 1, 1 / 2, 1 / 4, 1 / 8, 1 / 16])
    assert torch.equal(model.up.weight, rows[:, None].expand(6, 3))
    assert torch.equal(model.up.bias, rows)
    assert torch.equal(model.down.weight, torch.tensor([2.0, 4] * 3 + [8.0, 16] * 3).expand(2, 12))
    assert torch.equal(model.down.bias, before)


@pytest.mark.parametrize("name", ["mixtral", TRANSPOSED])
def test_each_expert_has_factors_of_its_own(name: str) -> None:
    model: nn.Module = gpt_oss() if name == TRANSPOSED else models.build(name)
    experts = f"{BLOCK}.mlp.experts"
    first, last = named_stacks(model)[f"{experts}.gate_up_proj"], f"{experts}.down_proj"
    rows, columns = first.shape[1], first.shape[1] // 2
    each = Fold(f"{experts}.gate_up_proj", "linear", ((rows - columns, rows),), (last,), columns)
    factors = np.exp2(np.arange(len(first))[:, None] + np.arange(columns) % 3).astype(np.float32)
    before = {n: w.detach().clone() for n, w in named_stacks(model).items()}
    bias = dict(model.named_parameters()).get(f"{experts}.gate_up_proj_bias")
    old_bias = None if bias is None else bias.detach().clone()
    assert (bias is not None) == (name == TRANSPOSED)
    bits = _bits(model)
    made = fold(model, each, factors)
    for expert, own in enumerate(torch.from_numpy(factors)):
        weight, old = first[expert], before[f"{experts}.gate_up_proj"][expert]
        assert torch.equal(weight[columns:], old[columns:] / own[:, None])
        assert torch.equal(weight[:columns], old[:columns])
        assert torch.equal(named_stacks(model)[last][expert], before[last][expert] * own)
        if bias is not None and old_bias is not None:
            assert torch.equal(bias[expert, columns:], old_bias[expert, columns:] / own)
            assert torch.equal(bias[expert, :columns], old_bias[expert, :columns])
    made.undo()
    assert _bits(model) == bits


def test_a_norm_folds_into_transposed_stacks_and_their_router() -> None:
    model, ids = gpt_oss(), models.token_ids()
    readers = (f"{BLOCK}.mlp.router", f"{BLOCK}.mlp.experts.gate_up_proj")
    each = Fold(f"{BLOCK}.post_attention_layernorm", "norm", ((0, 32),), readers, 32)
    want = models.logits(model, ids)
    with folded(model, _factors(model, [each], powers=True)):
        assert torch.equal(models.logits(model, ids), want)
    with folded(model, _factors(model, [replace(each, consumers=readers[1:])], powers=True)):
        assert _relative(models.logits(model, ids), want) > 1e-3


# Properties

EXACT = st.tuples(st.floats(-2, 2, width=16), st.integers(-40, 40)).map(
    lambda v: v[0] * 2.0 ** v[1]
)
HALVES = st.floats(-65504, 65504, width=16)
POWERS = st.integers(-40, 40).map(lambda k: 2.0**k)


@st.composite
def _pairs(draw: st.DrawFn, dtype: torch.dtype, values: st.SearchStrategy[float]) -> Pair:
    def tensor(*shape: int) -> Tensor:
        size = int(np.prod(shape))
        drawn = draw(st.lists(values, min_size=size, max_size=size))
        return torch.tensor(drawn, dtype=torch.float64).to(dtype).view(shape)

    return Pair(tensor(6, 2), tensor(6), tensor(2, 12))


def _four(values: st.SearchStrategy[float]) -> st.SearchStrategy[Float32]:
    return st.lists(values, min_size=4, max_size=4).map(lambda s: np.array(s, np.float32))


@given(st.data(), st.sampled_from([torch.float32, torch.bfloat16]), _four(POWERS))
def test_the_inverse_restores_every_bit(
    data: st.DataObject, dtype: torch.dtype, factors: Float32
) -> None:
    model = data.draw(_pairs(dtype, EXACT))
    before, touched = _bits(model), _touched(model, factors)
    assert fold(model, UP_DOWN, factors).inexact == 0
    assert (_bits(model) != before) == touched
    assert fold(model, UP_DOWN, 1 / factors).inexact == 0
    assert _bits(model) == before


def _touched(model: Pair, factors: Float32) -> bool:
    """Whether a channel that is scaled holds anything but zeros, in producer or consumer."""
    rows, columns = _channels(model)
    read = torch.from_numpy(UP_DOWN.on_columns(factors) != 1)
    return bool(rows[torch.from_numpy(factors != 1)].any() or columns[read].any())


@given(st.data(), st.sampled_from(DTYPES), _four(st.floats(2.0**-40, 2.0**40, width=32)))
def test_undone_or_refused_and_nothing_changed(
    data: st.DataObject, dtype: torch.dtype, factors: Float32
) -> None:
    """No channel that was folded is off by more than a last place of its largest value."""
    model = data.draw(_pairs(dtype, HALVES if dtype == torch.float16 else EXACT))
    before, old = _bits(model), _channels(model)
    try:
        made = fold(model, UP_DOWN, factors)
    except BadModel:
        assert dtype == torch.float16
        assert _bits(model) == before
        return
    by = torch.from_numpy(factors).double()
    spread = torch.from_numpy(UP_DOWN.on_columns(factors)).double()
    new = _channels(model)
    for got, want in zip((new[0] * by[:, None], new[1] / spread[:, None]), old, strict=True):
        allowed = torch.finfo(dtype).eps * want.abs().amax(1, keepdim=True)
        assert ((got - want).abs() <= allowed).all()
    made.undo()
    assert _bits(model) == before


def _channels(model: Pair) -> tuple[Tensor, Tensor]:
    """The producer's four rows with their biases, and the consumer's columns, float64."""
    rows = torch.cat([model.up.weight, model.up.bias[:, None]], dim=1)[2:]
    return rows.detach().double(), model.down.weight.detach().double().T


# Refusals


def _refused(model: nn.Module, each: Fold, factors: Any, *words: str) -> None:
    """In one line that names the fold's producer, and nothing changed."""
    before = _bits(model)
    with pytest.raises(BadModel) as caught:
        fold(model, each, factors)
    line = str(caught.value)
    assert "\n" not in line
    assert caught.value.remedy
    for word in (each.producer, *words):
        assert word in line
    assert _bits(model) == before


@pytest.mark.parametrize(
    ("dtype", "largest"), [(torch.float16, 6e4), (torch.bfloat16, 3e38), (torch.float32, 3e38)]
)
def test_overflow(dtype: torch.dtype, largest: float) -> None:
    plain = str(dtype).removeprefix("torch.")
    model = _pair(dtype, 0.5)
    with torch.no_grad():
        model.down.weight[1, 11] = -largest
    _refused(model, UP_DOWN, [1, 1, 1, 2], "down.weight would hold 1 inf or NaN", plain)
    fold(model, UP_DOWN, np.array([2, 2, 2, 1]))
    with torch.no_grad():
        model.up.bias[5] = largest
    _refused(model, UP_DOWN, [1, 1, 1, 0.5], "up.bias would hold 1 inf or NaN", plain)


def test_a_nan_is_not_folded() -> None:
    model = _pair()
    with torch.no_grad():
        model.up.weight[0, 0] = torch.nan
    _refused(model, UP_DOWN, [1, 1, 1, 2], "up.weight would hold 1 inf or NaN")


def test_a_channel_too_small_for_fp16() -> None:
    """Of ten bits of mantissa, 2^-17 has seven left and 2^-14 all."""
    model = _pair(torch.float16, 1 + 3 * 2.0**-9)
    before = _bits(model)
    made = fold(model, UP_DOWN, np.array([1, 1, 1, 2.0**14]))
    assert made.inexact == 0
    made.undo()
    assert _bits(model) == before
    with torch.no_grad():
        model.down.weight.zero_()
    too_small = "would be too small for float16 in"
    _refused(model, UP_DOWN, [1, 1, 1, 2.0**17], f"up.weight {too_small} 1 of its")
    model = _pair(torch.float16)
    with torch.no_grad():
        model.up.weight.zero_()
        model.up.bias.zero_()
    _refused(model, UP_DOWN, [1, 2.0**-30, 1, 2.0**-30], f"down.weight {too_small} 6 of its")


def test_a_small_value_in_a_large_channel_may_lose_bits_in_fp16() -> None:
    """As every model in fp16 has; it is counted, and comes back all the same."""
    model = _pair(torch.float16, 0.02)
    with torch.no_grad():
        model.up.weight[5, 1], model.up.bias[5], model.down.weight[0, 0] = 3e-6, -1e-7, 3e-7
    before = _bits(model)
    made = fold(model, UP_DOWN, np.array([1 / 8, 1, 1, 8]))
    assert made.inexact == 3
    assert model.up.bias[5] == 0
    made.undo()
    assert _bits(model) == before


def test_a_norm_s_weight_too_small_for_fp16() -> None:
    model = _in(torch.float16, "llama")
    each = _fold_of(model, "input_layernorm")
    factors = np.ones(each.channels, np.float32)
    factors[7] = 2.0**20
    _refused(model, each, factors, f"{each.producer}.weight would be too small for float16 in 1 of")
    assert fold(_in(torch.bfloat16, "llama"), each, factors).inexact == 0


@pytest.mark.parametrize("tied", ["q_proj", "up_proj", "mlp.down_proj"])
def test_a_tied_parameter(tied: str) -> None:
    """Block 1 has the very parameter of block 0."""
    model = models.build("qwen2")
    folds = _folds(model)
    own, other = (model.get_submodule(n) for n, _ in model.named_modules() if n.endswith(tied))
    other.weight = own.weight
    touching = [
        each for each in folds if any(n.endswith(tied) for n in (each.producer, *each.consumers))
    ]
    assert touching
    for each in touching:
        _refused(model, each, np.full(each.channels, 2.0), f"{tied}.weight shares its memory with")


def test_the_head_tied_to_the_embeddings() -> None:
    each = Fold("model.norm", "norm", ((0, 32),), ("lm_head",), 32)
    twos = np.full(32, 2.0)
    tied = models.build("llama", tie_word_embeddings=True)
    _refused(tied, each, twos, "lm_head.weight shares its memory with model.embed_tokens.weight")
    apart, ids = models.build("llama"), models.token_ids()
    want = models.logits(apart, ids)
    with folded(apart, {each: twos}):
        assert torch.equal(models.logits(apart, ids), want)


def test_slices_of_one_buffer_are_apart_but_for_those_that_overlap() -> None:
    model, buffer = _pair(), torch.ones(100)
    model.up.weight = nn.Parameter(buffer[:18].view(6, 3))
    model.down.weight = nn.Parameter(buffer[18:42].view(2, 12))
    fold(model, UP_DOWN, np.full(4, 2.0))
    model.down.weight = nn.Parameter(buffer[17:41].view(2, 12))
    _refused(model, UP_DOWN, np.full(4, 2.0), "down.weight shares its memory with up.weight")


def test_gemma_s_norms() -> None:
    model = models.build("gemma2")
    norms = [each for each in discover(model).folds if not each.takes_factors]
    assert len(norms) == 4
    for each in norms:
        _refused(model, each, np.ones(each.channels), "1 + w")


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ([2, 2, 2], "factors [4], not [3]"),
        (np.ones((2, 4)), "factors [4], not [2, 4]"),
        (2.0, "factors [4], not []"),
        ([1, 0, 1, 1], "1 of 4 factors are not positive"),
        ([-1, 1, -1, 1], "2 of 4 factors"),
        ([1, 1, 1, np.nan], "1 of 4 factors"),
        ([np.inf, 1, 1, 1], "1 of 4 factors"),
        ([1e300, 1, 1, 1], "1 of 4 factors"),
        ([2.0**-130, 1, 1, 1], "1 of 4 factors"),  # its inverse is no number
    ],
)
def test_factors_that_are_none(factors: Any, words: str) -> None:
    _refused(_pair(), UP_DOWN, factors, words)


def test_factors_of_experts() -> None:
    model = models.build("mixtral")
    stacks, norm = _fold_of(model, "gate_up_proj"), _fold_of(model, "post_attention_layernorm")
    _refused(model, stacks, np.ones(stacks.channels), "factors [4, 48], not [48]")
    _refused(model, norm, np.ones((4, 32)), "factors [32], not [4, 32]")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"producer": "gate"}, "the model has no gate"),
        ({"consumers": ("down", "side")}, "the model has no side"),
        ({"kind": "norm", "producer": "norm"}, "the model has no norm"),
        ({"rows": ((3, 7),)}, "it has only 6 channels"),
        ({"repeat": 2}, "down takes 12 channels, not 8"),
        ({"consumers": ("up",)}, "up takes 3 channels, not 12"),
    ],
)
def test_a_fold_of_another_model(changes: Mapping[str, Any], words: str) -> None:
    _refused(_pair(), replace(UP_DOWN, **changes), np.full(4, 2.0), words)


def test_a_fold_from_experts_into_what_is_none() -> None:
    model = models.build("mixtral")
    each = replace(_fold_of(model, "gate_up_proj"), block=48, consumers=(f"{BLOCK}.mlp.gate",))
    _refused(model, each, np.full((4, 48), 2.0), "mlp.gate takes 32 channels, not 48")


def test_what_is_refused_takes_earlier_folds_back() -> None:
    model = models.build("llama")
    factors = _factors(model, _folds(model), powers=False)
    *_, last = factors
    factors[last] = -factors[last]
    before = _bits(model)
    with pytest.raises(BadModel), folded(model, factors):
        pytest.fail("the body ran")
    assert _bits(model) == before
