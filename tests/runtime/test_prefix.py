"""Forwards cut short give the same bits in every family, or the model runs whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fp8scope.core.choices import Choices, Kind, Row, Term
from fp8scope.core.schemes import DEFAULT_CANDIDATES
from fp8scope.observe.applied import Applied
from fp8scope.runtime.prefix import Prefixes
from fp8scope.runtime.structure import discover
from tests import models
from tests.observe.quantized_models import Prepared, prepared

CHOICES = Choices(DEFAULT_CANDIDATES, (0.5,))
FREE = "fp8scope.runtime.prefix.available_bytes"
LAYERS = 4
GEMMA = {"num_hidden_layers": LAYERS, "layer_types": None}  # its own alternation
CHANGES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": LAYERS},
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
}


def deep(name: str, dtype: torch.dtype = torch.float32) -> Prepared:
    """Four blocks, with their profile."""
    return prepared(name, dtype, **CHANGES.get(name, {"num_hidden_layers": LAYERS}))


class Blocks:
    """Counts the blocks that really run: by the calls of the first module in each."""

    def __init__(self, model: nn.Module, blocks: Sequence[str], back: ExitStack) -> None:
        self.ran: list[int] = []
        for number, name in enumerate(blocks):
            inner = next(m for m in model.get_submodule(name).modules() if not list(m.children()))
            back.enter_context(inner.register_forward_hook(self._hook(number)))

    def _hook(self, number: int) -> Callable[..., None]:
        return lambda *_: self.ran.append(number)


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def block_of(what: Prepared, row: Row) -> int:
    """The first block that a row touches; 0 for what is outside."""
    numbers = [
        next((i for i, b in enumerate(what.structure.blocks) if term.group.startswith(f"{b}.")), 0)
        for term in row.terms
    ]
    return min(numbers)


def applied_to(what: Prepared) -> Applied:
    return Applied(what.model, what.gemms, what.caches, cached=bool(what.caches))


IDS = models.token_ids(2, 20, seed=5)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float32) for name in models.CONFIGS),
        *((name, torch.bfloat16) for name in ("llama", "gpt2", "deepseek_v3")),
    ],
)
def test_every_row_of_every_family_has_the_same_bits(name: str, dtype: torch.dtype) -> None:
    what, said = deep(name, dtype), list[str]()
    applied = applied_to(what)
    prefixes = Prefixes(what.model, what.structure, warn=said.append)
    rows = CHOICES.rows(what.structure, what.units)
    chosen = [row for row in rows if row.kind is not Kind.GROUP] + rows[::7]
    wanted: dict[Row, Tensor] = {}
    for again in (False, True):  # wherever it is cut short it runs whole too, but only once
        true = prefixes.run("batch", (), partial(applied.logits, IDS))
        assert same(true, applied.logits(IDS))
        for row in chosen:
            with applied.terms(row.terms), ExitStack() as back:
                if row not in wanted:
                    wanted[row] = applied.logits(IDS)
                blocks = Blocks(what.model, what.structure.blocks, back)
                found = prefixes.run("batch", row.terms, partial(applied.logits, IDS), keep=False)
                assert same(found, wanted[row]), row
            if again:
                assert blocks.ran == list(range(block_of(what, row), LAYERS)), row
    assert not said


@pytest.mark.parametrize("name", ["llama", "mixtral", "gpt2", "opt"])
def test_plan_after_plan_starts_where_it_differs(name: str) -> None:
    what = deep(name)
    applied, prefixes = applied_to(what), Prefixes(what.model, what.structure, batches=2)
    inside = [unit.name for unit in what.units if ".0." in unit.name or ".3." in unit.name]
    everything = [Term(group, "fp8_tensor") for group in inside]
    ids = {"a": IDS, "b": models.token_ids(1, 9, seed=6)}
    plans = [(None, 4), (inside[-1], 3), (None, 3), (inside[0], 0), (inside[0], 4), (None, 0)]
    for again in (False, True):
        for dropped, start in plans:
            terms = [term for term in everything if term.group != dropped]
            for batch, tokens in ids.items():
                forward = partial(applied.logits, tokens)
                with applied.terms(terms), ExitStack() as back:
                    want = forward()
                    blocks = Blocks(what.model, what.structure.blocks, back)
                    assert same(prefixes.run(batch, terms, forward), want), dropped
                assert not again or blocks.ran == list(range(start, LAYERS)), dropped


def test_a_group_outside_the_blocks_may_come_before_them() -> None:
    what = deep("opt_post_norm")
    assert any(unit.name.endswith("project_in") for unit in what.units)
    applied, prefixes = applied_to(what), Prefixes(what.model, what.structure)
    prefixes.run("batch", (), partial(applied.logits, IDS))
    for unit in what.units:
        terms = [Term(unit.name, "fp8_tensor")]
        for _ in range(2):
            with applied.terms(terms):
                found = prefixes.run("batch", terms, partial(applied.logits, IDS), keep=False)
                assert same(found, applied.logits(IDS)), unit.name


# ---- memory


@pytest.mark.parametrize(
    ("outputs", "depths"), [(0, []), (1, [4]), (2, [2, 4]), (3, [2, 4]), (9, [1, 2, 3, 4])]
)
def test_no_more_is_kept_than_there_is_room_for(
    outputs: int, depths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    what = deep("llama")
    size = IDS.numel() * models.HIDDEN * 4
    monkeypatch.setattr(FREE, lambda _: 4 * (outputs * size + size // 2))
    applied, prefixes = applied_to(what), Prefixes(what.model, what.structure)
    for _ in range(3):
        prefixes.run("batch", (), partial(applied.logits, IDS))
    assert sorted(prefixes._kept.get("batch", {})) == depths
    prefixes.run("another", (), partial(applied.logits, IDS))
    kept = [k.size for of_batch in prefixes._kept.values() for k in of_batch.values()]
    assert sum(kept) == prefixes._used <= outputs * size + size // 2
    prefixes.clear()
    prefixes.run("another", (), partial(applied.logits, IDS))
    assert sorted(prefixes._kept.get("another", {})) == depths


def test_one_depth_is_after_the_last_block() -> None:
    what = deep("llama")
    applied, prefixes = applied_to(what), Prefixes(what.model, what.structure, most=1)
    for _ in range(2):
        prefixes.run("batch", (), partial(applied.logits, IDS))
    with ExitStack() as back:
        blocks = Blocks(what.model, what.structure.blocks, back)
        found = prefixes.run("batch", (), partial(applied.logits, IDS))
    assert blocks.ran == []
    assert same(found, applied.logits(IDS))


# ---- blocks that hand on more


def sharing(how: str) -> Any:
    """A Llama whose last block reads something that the first has left for it."""
    model: Any = models.build("llama", num_hidden_layers=LAYERS)
    first, last = model.model.layers[0], model.model.layers[-1]
    left: list[Tensor] = []

    def leave(_: Any, args: Any) -> None:
        left.clear()

    def show(module: Any, args: Any, output: Any) -> Any:
        if module is first.self_attn.q_proj:
            left.append(output.mean())
        return None

    def read(_: Any, __: Any, output: Tensor) -> Tensor:
        return output + (left.pop() if how == "popped" else sum(left))

    model.model.register_forward_pre_hook(leave)
    first.self_attn.q_proj.register_forward_hook(show)
    last.mlp.register_forward_hook(read)
    return model


@pytest.mark.parametrize("how", ["popped", "summed"])
def test_blocks_that_share_more_run_whole(how: str) -> None:
    model, said = sharing(how), list[str]()
    prefixes = Prefixes(model, discover(model), warn=said.append)
    want = models.logits(model, IDS)
    terms = [Term("model.layers.3.mlp.gate_up", "fp8_tensor")]
    for batch in ("a", "b"):
        for changed in ((), terms, ()):
            found = prefixes.run(batch, changed, partial(models.logits, model, IDS))
            assert same(found, want)
    assert said == ["blocks hand on more than hidden states: every measuring runs all of them"]
    assert not prefixes._kept


def test_blocks_that_return_more_than_tensors_run_whole() -> None:
    model, said = models.build("llama"), list[str]()
    inner: Any = model.model
    block = inner.layers[0]
    own = block.forward
    block.forward = lambda *args, **kwargs: (own(*args, **kwargs), {"state": 1})
    block.register_forward_hook(lambda _, __, output: output)
    prefixes = Prefixes(model, discover(model), warn=said.append)
    next_one = inner.layers[1].forward
    inner.layers[1].forward = lambda hidden, *args, **kwargs: next_one(hidden[0], *args, **kwargs)
    for _ in range(2):
        found = prefixes.run("batch", (), partial(models.logits, model, IDS))
        assert same(found, models.logits(model, IDS))
    assert len(said) == 1


def test_an_output_that_the_next_block_changes_is_not_used() -> None:
    model, said = models.build("llama", num_hidden_layers=LAYERS), list[str]()
    inner: Any = model.model

    def change(_: Any, args: tuple[Tensor, ...]) -> None:
        args[0].mul_(1.5)

    inner.layers[2].register_forward_pre_hook(change)
    prefixes = Prefixes(model, discover(model), warn=said.append)
    terms = [Term("model.layers.2.mlp.gate_up", "fp8_tensor")]
    want = models.logits(model, IDS)
    for changed in ((), terms, terms):
        assert same(prefixes.run("batch", changed, partial(models.logits, model, IDS)), want)
    assert len(said) == 1


def test_what_is_not_a_number_has_bits_too() -> None:
    model, said = models.build("llama"), list[str]()
    with torch.no_grad():
        model.get_submodule("model.norm").weight[0] = float("nan")  # type: ignore[operator]
    prefixes = Prefixes(model, discover(model), warn=said.append)
    for _ in range(2):
        assert prefixes.run("batch", (), partial(models.logits, model, IDS)).isnan().any()
    assert not said


def test_out_of_memory_is_passed_on() -> None:
    model = models.build("llama")
    prefixes = Prefixes(model, discover(model))
    prefixes.run("batch", (), partial(models.logits, model, IDS))
    answers = iter([models.logits(model, IDS)])

    def full() -> Tensor:
        for answer in answers:
            return answer
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        prefixes.run("batch", (), full)
    assert "forward" not in vars(model.get_submodule("model.layers.0"))
