"""Routed experts: every number against a plain loop over experts, and the model left as it was."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import DeepseekV3Config, GptOssConfig, MixtralConfig, Qwen3MoeConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

import fp8scope
from fp8scope.core.magnitude import BF16
from fp8scope.core.sites import Role, Site
from fp8scope.core.window import BINADES, NOTHING, PER_BINADE
from fp8scope.errors import BadModel
from fp8scope.observe.scan import ScanOptions
from fp8scope.profile.record import ExpertRecord, ExpertWeightRecord, Profile, SiteRecord
from fp8scope.runtime.experts import named_experts, named_stacks
from fp8scope.runtime.text import calibration_of_tokens
from tests import models
from tests.observe import reference, scans

HIDDEN, WIDTH, EXPERTS, TOP_K = 16, 24, 6, 2
FIRST = Site("mlp.experts.gate_up_proj", Role.INPUT)
LAST = Site("mlp.experts.down_proj", Role.INPUT)


def untyped(module: Any) -> Any:
    return module


SHAPE: dict[str, Any] = {"hidden_size": HIDDEN, "num_experts_per_tok": TOP_K}
BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "mixtral": lambda: untyped(MixtralSparseMoeBlock)(
        MixtralConfig(**SHAPE, intermediate_size=WIDTH, num_local_experts=EXPERTS)
    ),
    "qwen3_moe": lambda: Qwen3MoeSparseMoeBlock(
        Qwen3MoeConfig(**SHAPE, moe_intermediate_size=WIDTH, num_experts=EXPERTS)
    ),
    "deepseek_v3": lambda: DeepseekV3MoE(
        DeepseekV3Config(
            **SHAPE,
            moe_intermediate_size=WIDTH,
            n_routed_experts=EXPERTS,
            n_group=2,
            topk_group=2,
            n_shared_experts=1,
        )
    ),
    "gpt_oss": lambda: untyped(GptOssMLP)(  # transposed, with biases, gate and up interleaved
        GptOssConfig(**SHAPE, intermediate_size=WIDTH, num_local_experts=EXPERTS)
    ),
}


class _Layer(nn.Module):
    """An embedding and one layer of experts; all parameters are eighths, so that sums of their
    products are exact in whatever order a matmul takes them.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(models.VOCAB, HIDDEN)
        self.mlp = BLOCKS[name]()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randint(-6, 7, parameter.shape) / 8)

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
        output = self.mlp(self.embed(input_ids))
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result


Seen = dict[tuple[int, int], Tensor]


def _loop(model: _Layer, *, every: bool = False) -> tuple[list[Tensor], list[Seen]]:
    """By sample: the routing [tokens, top-k], and products [tokens, WIDTH] per expert and token.

    Each expert alone, by the module's own activation on plain matmuls; `every` for all tokens.
    """
    experts: Any = model.get_submodule("mlp.experts")
    routings: list[Tensor] = []
    handle = experts.register_forward_pre_hook(lambda _, args: routings.append(args[1]))
    found = []
    for tokens in scans.sequences()[1]:
        with torch.no_grad():
            experts.config._experts_implementation = "eager"
            model(tokens[None])
            hidden = model.get_submodule("embed")(tokens)
            products: Seen = {}
            for expert, weight in enumerate(named_stacks(model)[FIRST.module]):
                gate_up = hidden @ weight.T
                if experts.has_bias:
                    gate_up += experts.gate_up_proj_bias[expert]
                rows = experts._apply_gate(gate_up)
                for token, row in enumerate(rows):
                    if every or expert in routings[-1][token].tolist():
                        products[expert, token] = row
        found.append(products)
    handle.remove()
    return routings, found


def _scan(model: nn.Module, **options: Any) -> Profile:
    return scans.scan_with(scans.subject(model), ScanOptions(keep_every=1e9, **options))


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", BLOCKS)
def test_every_number_is_that_of_a_plain_loop(name: str, dtype: torch.dtype, every: bool) -> None:
    model = _Layer(name).to(dtype)
    profile = _scan(model, all_experts=every)
    routings, products = _loop(model, every=every)
    tags, tokens = scans.sequences()
    numbers = [profile.tags.index(tag) for tag in tags]
    hidden = [model.get_submodule("embed")(sequence).detach() for sequence in tokens]
    inputs = [
        {(e, t): rows[t] for e, t in seen} for rows, seen in zip(hidden, products, strict=True)
    ]
    for site, seen in ((FIRST, inputs), (LAST, products)):
        record = profile.experts[site]
        for tag, expert in itertools.product(range(len(profile.tags)), range(EXPERTS)):
            mine = [routings[s] for s, number in enumerate(numbers) if number == tag]
            assert record.tokens[tag, expert] == sum(int((r == expert).sum()) for r in mine)
        for expert in range(EXPERTS):
            _check_expert(
                record, expert, [(numbers[s], _of(x, expert)) for s, x in enumerate(seen)]
            )
    _check_pooled(profile.site(LAST), numbers, [list(seen.values()) for seen in products])
    _check_top(profile.site(LAST), numbers, products)
    # each token once, whatever its experts
    assert profile.site(FIRST).elements.sum() == HIDDEN * sum(map(len, tokens))
    assert profile.settings["all_experts"] is every
    assert len(profile.notes) == 1  # the architecture is not known


def _of(seen: Seen, expert: int) -> Tensor:
    rows = [row for (e, _), row in seen.items() if e == expert]
    return torch.stack(rows) if rows else next(iter(seen.values())).new_zeros((0, 1))


def _check_expert(record: ExpertRecord, expert: int, parts: list[tuple[int, Tensor]]) -> None:
    parts = [(tag, rows) for tag, rows in parts if len(rows)]
    if not parts:
        assert record.top_binade[expert] == NOTHING
        return
    total = torch.cat([rows for _, rows in parts]).float()
    for tag in range(len(record.amax)):
        mine = [float(rows.abs().max()) for its_tag, rows in parts if its_tag == tag]
        assert record.amax[tag, expert] == max(mine, default=0)
    np.testing.assert_array_equal(record.channel_amax[expert], total.abs().amax(0).numpy())
    squares = total.double().square().sum(0).numpy()
    np.testing.assert_allclose(record.channel_sum_squares[expert], squares, rtol=1e-5)
    _check_window(record, expert, total)


def _check_window(record: ExpertRecord | ExpertWeightRecord, expert: int, values: Tensor) -> None:
    want = reference.counts(values.to(torch.bfloat16 if record.encoding.exact else torch.float32))
    found = record.magnitudes(expert)
    first = (int(record.top_binade[expert]) + 1 - BINADES) * PER_BINADE
    np.testing.assert_array_equal(found.counts[first:], want[first:])
    assert found.zeros == int((values == 0).sum())
    assert found.amax == values.abs().max()
    assert found.elements == values.numel()
    assert record.below[expert] == want[:first].sum() - found.zeros


def _check_pooled(record: SiteRecord, tags: list[int], rows: list[list[Tensor]]) -> None:
    for sample, matrix in enumerate(map(torch.stack, rows)):
        assert record.sequence_amax[sample] == matrix.abs().max()
        assert record.sequence_binades[sample].sum() == matrix.numel()
    for tag in set(tags):
        matrix = torch.cat([torch.stack(r) for s, r in enumerate(rows) if tags[s] == tag])
        np.testing.assert_array_equal(record.histogram[tag], reference.counts(matrix))
        np.testing.assert_array_equal(
            record.token_amax[tag], reference.counts(matrix.abs().amax(1))
        )
        np.testing.assert_array_equal(
            record.channel_amax[tag], matrix.float().abs().amax(0).numpy()
        )
        assert record.elements[tag] == matrix.numel()


def _check_top(record: SiteRecord, tags: list[int], products: list[Seen]) -> None:
    """The largest values stand at the token they came from."""
    for tag, which in itertools.product(set(tags), (0, 1)):
        want = sorted(
            (-abs(float(value)), sample, token, channel)
            for sample, seen in enumerate(products)
            for (_, token), row in seen.items()
            if tags[sample] == tag and (token > 0) == bool(which)
            for channel, value in enumerate(row)
            if value != 0
        )
        top = record.top(tag, which)
        columns = (-np.abs(top.value), top.sample, top.position, top.channel)
        got = list(zip(*(column.tolist() for column in columns), strict=True))
        assert got == want[: len(got)]
        assert len(got) == min(len(want), 32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", BLOCKS)
def test_weights_of_each_expert(name: str, dtype: torch.dtype) -> None:
    model = _Layer(name).to(dtype)
    with torch.no_grad():
        named_stacks(model)[FIRST.module][1, 3, 5] = 5e4  # what lies below this one's window
        named_stacks(model)[FIRST.module][1, :2] *= 2.0**-9
        named_stacks(model)[LAST.module][2].zero_()
    profile = _scan(model)
    for stack, weight in named_stacks(model).items():
        record, whole = profile.expert_weights[stack], profile.weights[stack]
        for expert, matrix in enumerate(weight.detach().float()):
            assert record.amax[expert] == matrix.abs().max()
            np.testing.assert_array_equal(record.column_amax[expert], matrix.abs().amax(0).numpy())
            squares = matrix.double().square().sum(0).numpy()
            np.testing.assert_allclose(record.column_sum_squares[expert], squares, rtol=1e-6)
            if matrix.any():
                _check_window(record, expert, matrix)
        rows = weight.detach().flatten(0, 1).float()
        np.testing.assert_array_equal(whole.row_amax, rows.abs().amax(1).numpy())
        linear = next(x for x in profile.structure.linears if x.name == stack)
        assert (linear.experts, linear.out_features, linear.in_features) == weight.shape
    assert profile.expert_weights[LAST.module].top_binade[2] == NOTHING
    gate = model.get_submodule("mlp.gate" if name != "gpt_oss" else "mlp.router")
    name = "mlp.gate" if name != "gpt_oss" else "mlp.router"
    assert profile.weights[name].amax == gate.get_parameter("weight").abs().max().float()
    assert Site(name, Role.INPUT) in profile.sites


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_the_forward_under_a_scan_is_the_plain_one(name: str, dtype: torch.dtype) -> None:
    model, ids, seen = scans.in_dtype(name, dtype), models.token_ids(2, 20), []
    keep: Any = lambda _, __, output: seen.append(output.clone())  # noqa: E731
    handle = model.get_submodule("model.norm").register_forward_hook(keep)
    models.logits(model, ids)
    _scan_ids(model, ids)
    _scan_ids(model, ids, all_experts=True)
    handle.remove()
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def _scan_ids(model: nn.Module, ids: Tensor, **options: Any) -> Profile:
    tokens = [row.numpy().astype(np.int32) for row in ids]
    text = calibration_of_tokens(["text"] * len(tokens), tokens)
    return scans.scan_with(scans.subject(model, text), ScanOptions(keep_every=1e9, **options))


def test_the_module_s_own_forward_comes_back_whatever_happens() -> None:
    model = scans.in_dtype("mixtral", torch.float32)
    first, second = (experts.module for experts in named_experts(model).values())
    wrapped = second.forward
    second.forward = wrapped  # as another tool may have left it

    def explode(*_: Any) -> None:
        raise RuntimeError("planted")

    handle = model.get_submodule("model.layers.1.mlp").register_forward_pre_hook(explode)
    with pytest.raises(BadModel, match="planted"):
        fp8scope.scan(model, [models.token_ids()])
    handle.remove()
    fp8scope.scan(model, [models.token_ids()])
    assert "forward" not in vars(first)
    assert vars(second)["forward"] == wrapped


def test_padding_reaches_no_expert() -> None:
    model = scans.in_dtype("qwen3_moe", torch.float32)
    alone, together = scans.run(model), scans.run(model, batch_tokens=4096)
    assert together.batches_done == 2
    assert len(alone.experts) == 2
    for site, record in together.experts.items():
        np.testing.assert_array_equal(record.tokens, alone.experts[site].tokens)
        np.testing.assert_allclose(record.amax, alone.experts[site].amax, rtol=1e-4)
        counted = record.histogram.sum(1) + record.zeros + record.below
        np.testing.assert_array_equal(counted, record.tokens.sum(0) * record.channel_amax.shape[1])


def test_an_overflow_in_an_expert_names_its_token() -> None:
    model = _Layer("mixtral").to(torch.float16)
    with torch.no_grad():
        model.get_submodule("embed").get_parameter("weight").mul_(256)
        named_stacks(model)[FIRST.module].mul_(256)
    with pytest.raises(
        BadModel, match=r"input of mlp\.experts\.down_proj holds .* token \d+\), tag"
    ):
        _scan(model)


def test_experts_kept_in_another_way_are_named() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight[0]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.experts = nn.Embedding(models.VOCAB, 8), Experts()
            self.head = nn.Linear(8, 8)

        def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
            result: Tensor = self.head(self.experts(self.embed(input_ids)))
            return result

    notes = _scan(Model()).notes
    assert "the experts of experts are not recorded: their layout is not known" in notes


def test_the_bound_on_memory_holds_for_qwen3_30b_a3b() -> None:
    """48 layers of 128 experts, H = 2048 and I = 768, two tags: the arrays as they are made."""
    total = 0
    for channels in (2048, 768):
        inputs = ExpertRecord.empty(BF16, tags=2, experts=128, channels=channels)
        weights = ExpertWeightRecord.empty(BF16, experts=128, columns=channels)
        arrays = [*vars(inputs).values(), *vars(weights).values()]
        total += sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))
    assert 48 * total < 0.6e9


def test_odd_widths_stay_with_the_model_s_own_implementation_and_a_note_says_so() -> None:
    model: Any = models.build("mixtral", intermediate_size=6)
    model.to(torch.bfloat16)
    model.set_experts_implementation("eager")
    profile = fp8scope.scan(model, [models.token_ids()])
    assert not profile.experts
    assert any("mlp.experts are not recorded" in note for note in profile.notes)
