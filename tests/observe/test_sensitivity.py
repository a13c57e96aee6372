"""The second pass: which sequences, what is scored and measured, and how it ends when it cannot be.

That its numbers are the KL is held in the tests of the parts (labels, gradients, term scores).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

import fp8scope
from fp8scope.analyze.sensitivity import Scores
from fp8scope.core.choices import Choices, Kind, Row, Term
from fp8scope.core.gemms import units
from fp8scope.core.schemes import DEFAULT_CANDIDATES
from fp8scope.errors import BadModel, Fp8scopeError, Interrupted, Missing
from fp8scope.observe.divergence import kl_by_sequence
from fp8scope.observe.gradients import Gradients
from fp8scope.observe.scan import Events, ScanOptions
from fp8scope.observe.sensitivity import SensitivityOptions, choose_samples, tokens_that_fit
from fp8scope.profile.merge import merge_profiles
from fp8scope.profile.partial import Partials
from fp8scope.profile.reader import read_profile
from fp8scope.profile.record import Profile
from fp8scope.profile.sensitivity import Sensitivity
from fp8scope.profile.writer import write_profile
from fp8scope.runtime.structure import discover
from fp8scope.runtime.text import calibration_of_tokens
from tests import models
from tests.cli.test_analyze import plant
from tests.observe import scans

PLAIN = SensitivityOptions(choices=Choices(("fp8_tensor", "fp8_token")))
MEMORY = "fp8scope.observe.sensitivity.available_bytes"


def options(second: SensitivityOptions = PLAIN, batch_tokens: int = 12) -> ScanOptions:
    return ScanOptions(batch_tokens=batch_tokens, keep_every=1e9, sensitivity=second)


def scan(
    model: nn.Module,
    lengths: Mapping[str, Sequence[int]] = scans.LENGTHS,
    *,
    second: SensitivityOptions = PLAIN,
    batch_tokens: int = 12,
) -> Profile:
    what = scans.subject(model, scans.calibration(lengths))
    return scans.scan_with(what, options(second, batch_tokens))


def scores(profile: Profile) -> Sensitivity:
    assert profile.sensitivity is not None, profile.notes
    return profile.sensitivity


def by_words(profile: Profile) -> dict[bytes, NDArray[np.float64]]:
    """Estimate and check of each scored sequence under its digest, [2, rows]."""
    found = scores(profile)
    digests = profile.samples["digest"][found.samples].tolist()
    both = np.stack((found.kl_token, found.kl_sequence))
    return {digest: both[:, :, place] for place, digest in enumerate(digests)}


# ---- which sequences


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    asked=st.integers(2, 20),
    shuffle=st.randoms(use_true_random=False),
)
def test_every_tag_has_its_share_whatever_the_order(
    sizes: list[int], asked: int, shuffle: Any
) -> None:
    seeds = count()
    texts = [(f"t{i}", next(seeds)) for i, size in enumerate(sizes) for _ in range(size)]

    def chosen(texts: list[tuple[str, int]]) -> list[tuple[str, str]]:
        tokens = [models.token_ids(1, 6, seed)[0].numpy().astype(np.int32) for _, seed in texts]
        text = calibration_of_tokens([tag for tag, _ in texts], tokens)
        found = choose_samples(text, asked)
        assert found == sorted(set(found))
        return sorted((text.tags[text.samples[i].tag], text.samples[i].digest) for i in found)

    found = chosen(texts)
    for i, size in enumerate(sizes):
        mine = sum(tag == f"t{i}" for tag, _ in found)
        assert 1 <= mine <= size
        assert abs(mine - min(size, asked * size / len(texts))) <= 1
    again = list(texts)
    shuffle.shuffle(again)
    assert chosen(again) == found


def test_the_profile_holds_the_chosen_and_says_how_many_were_asked() -> None:
    lengths = {"prose": (5, 6, 7, 8, 9, 10), "code": (4, 5)}
    profile = scan(models.build("llama"), lengths, second=replace(PLAIN, samples=4))
    found = scores(profile)
    assert profile.samples["tag"][found.samples].tolist() == [0, 0, 0, 1]
    assert np.isfinite(found.kl_token).all()
    assert profile.settings["sensitivity_samples"] == 4
    assert profile.settings["candidates"] == "fp8_tensor,fp8_token"
    assert profile.settings["sensitivity"] == "fisher"


# ---- batches


def test_the_order_of_batches_changes_no_bit() -> None:
    model = scans.in_dtype("llama", torch.bfloat16)
    turned = dict(reversed(scans.LENGTHS.items()))
    _, tokens = scans.sequences()
    mine = scan(model)
    tags = [tag for tag, sizes in turned.items() for _ in sizes]
    text = calibration_of_tokens(
        tags, [t.numpy().astype(np.int32) for t in (*tokens[3:], *tokens[:3])]
    )
    other = scans.scan_with(scans.subject(model, text), options())
    a, b = by_words(mine), by_words(other)
    assert a.keys() == b.keys()
    assert all(a[words].tobytes() == b[words].tobytes() for words in a)
    assert scores(mine).batches_done == scores(other).batches_done


@pytest.mark.parametrize("name", ["llama", "mixtral", "deepseek_v3", "gpt2"])
def test_padded_beside_others_a_sequence_scores_as_alone(name: str) -> None:
    model = models.build(name)
    alone, together = scan(model, batch_tokens=1), scan(model, batch_tokens=200)
    assert scores(alone).batches_done == 5
    assert scores(together).batches_done == 2
    a, b = by_words(alone), by_words(together)
    scale = np.mean(list(a.values()), axis=0)
    for words in a:
        # a rounding step that the last bit of an input tips over moves a score by a little
        assert np.allclose(a[words], b[words], rtol=0.05, atol=0.02 * scale), words


def test_scans_of_two_halves_say_together_what_one_says() -> None:
    """Of what no static scale enters: the others see the scales of their own half."""
    model = models.build("llama")
    second = SensitivityOptions(choices=Choices(("fp8_token", "fp8_block")))
    _, tokens = scans.sequences()
    tags = ["prose", "prose", "prose", "code", "code"]
    halves = [(0, 1, 3), (2, 4)]

    def of(numbers: Sequence[int]) -> Profile:
        text = calibration_of_tokens(
            [tags[i] for i in numbers], [tokens[i].numpy().astype(np.int32) for i in numbers]
        )
        return scans.scan_with(scans.subject(model, text), options(second))

    whole, merged = of(range(5)), merge_profiles([of(half) for half in halves])
    mine, theirs = Scores(merged), Scores(whole)
    free = [row for row in theirs.rows if row.kind is not Kind.KV]
    assert len(free) == 20
    for row in free:
        a, b = mine.of(row), theirs.of(row)
        assert a.kl == pytest.approx(b.kl, rel=1e-3)
        assert a.nats.error == pytest.approx(b.nats.error, rel=1e-2)
        assert a.tags.keys() == b.tags.keys()
        for tag, found in a.tags.items():
            assert found.kl == pytest.approx(b.tags[tag].kl, rel=1e-3), tag


# ---- every family


@pytest.mark.parametrize("name", models.CONFIGS)
def test_every_group_and_cache_of_every_family_is_scored(name: str) -> None:
    second = SensitivityOptions(choices=Choices(DEFAULT_CANDIDATES, alphas=(0.5,)))
    profile = scan(models.build(name), {"a": (24, 24)}, second=second, batch_tokens=64)
    found, structure = scores(profile), profile.structure
    plain: dict[tuple[Kind, str], float] = {}
    for row, estimate in zip(found.rows, found.kl_token.sum(axis=1), strict=True):
        term = row.terms[0]
        if len(row.terms) == 1 and term.candidate == "fp8_tensor" and term.folded is None:
            plain[row.kind, term.group] = float(estimate)
    groups = {group for kind, group in plain if kind is Kind.GROUP}
    assert groups == {unit.name for unit in units(structure)}
    caches = {group for kind, group in plain if kind is Kind.KV}
    assert caches == {layer.group for layer in structure.kv_layers}
    assert len(caches) == (0 if structure.family is None else models.LAYERS)
    assert all(0 < nats < np.inf for nats in plain.values()), plain
    assert (found.kl_token >= 0).all()
    smoothed = [row for row in found.rows if row.terms[0].candidate == "fp8_smooth"]
    assert bool(smoothed) == any(unit.smoothable for unit in units(structure))
    assert np.isfinite(found.kl_measured[[row.kind is Kind.MODEL for row in found.rows]]).all()


# ---- what is measured


def measured(profile: Profile) -> set[Row]:
    found = scores(profile)
    places = np.isfinite(found.kl_measured)
    whole = [bool(row.all()) for row in places]
    assert whole == [bool(row.any()) for row in places]
    return {row for row, known in zip(found.rows, whole, strict=True) if known}


def gentle() -> nn.Module:
    """Weights so small that no logit is sure of anything: nothing costs 0.1 nats."""
    return scans.in_dtype("llama", torch.bfloat16, initializer_range=0.02)


def test_the_whole_model_is_measured_and_what_is_small_is_not() -> None:
    model: Any = gentle()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(0.3)
    profile = scan(model)
    rows = scores(profile).rows
    assert measured(profile) == {row for row in rows if row.kind is Kind.MODEL}


def test_what_is_predicted_to_be_large_is_measured_and_its_group_alone() -> None:
    model = scans.in_dtype("llama", torch.bfloat16)
    before = scores(scan(model))
    plant(model, 1, 3, 2.0**20)
    profile = scan(model)
    group = "model.layers.1.self_attn.qkv"
    found, rows = scores(profile), scores(profile).rows
    lengths = profile.samples["length"][found.samples]
    large = {row for row, nats in zip(rows, found.per_token(lengths), strict=True) if nats >= 0.1}
    assert large
    assert measured(profile) == large | {row for row in rows if row.kind is Kind.MODEL}
    hit = [i for i, row in enumerate(rows) if row.terms[0].group == group and len(row.terms) == 1]
    assert hit
    worse = found.kl_token[hit].sum() / before.kl_token[hit].sum()
    assert worse > 10


def test_where_second_order_fails_without_a_word_the_groups_are_measured_too() -> None:
    """A product so large that the output is saturated: its gradient says that nothing matters."""
    model = scans.in_dtype("llama", torch.float32)
    with torch.no_grad():
        model.get_submodule("model.layers.1.mlp.up_proj").weight[3] *= 2.0**18  # type: ignore[index,operator]
    profile = scan(model)
    found, tokens = scores(profile), profile.samples["length"][scores(profile).samples].sum()
    row = Row(Kind.GROUP, (Term("model.layers.1.mlp.gate_up", "fp8_tensor"),))
    number = found.rows.index(row)
    assert found.kl_token[number].sum() / tokens < 0.01
    assert found.kl_measured[number].sum() / tokens > 0.1
    alone = {r for r in found.rows if r.kind is Kind.GROUP and r.terms[0].folded is None}
    assert {r for r in alone if r.terms[0].candidate == "fp8_tensor"} > {row}
    inside = {r for r in alone if r.terms[0].candidate == "fp8_tensor" and "lm_head" not in str(r)}
    assert inside <= measured(profile)


def test_kl_measures_every_row_and_its_estimate_is_near() -> None:
    model = gentle()
    profile = scan(model, {"a": (24,) * 6, "b": (24,) * 6}, second=replace(PLAIN, measure_all=True))
    found = scores(profile)
    assert measured(profile) == set(found.rows)
    groups = [i for i, row in enumerate(found.rows) if row.kind is Kind.GROUP]
    ratio = found.kl_token[groups].sum() / found.kl_measured[groups].sum()
    assert 0.6 < ratio < 1.6
    assert (found.kl_measured >= -1e-9).all()
    assert profile.settings["sensitivity"] == "kl"


# ---- stopping and going on


class StopIn:
    """Events that ask to stop after so many batches of a part of the second pass."""

    def __init__(self, part: str, batches: int) -> None:
        self.reached = False
        named: dict[str, Any] = {part: lambda done, *_: self._reach(done >= batches)}
        self.events = Events(stop=lambda: self.reached, **named)

    def _reach(self, reached: bool) -> None:
        self.reached = reached


@pytest.mark.parametrize(("name", "dtype"), [("llama", torch.bfloat16), ("mixtral", torch.float32)])
def test_stopped_anywhere_in_the_second_pass_and_resumed_is_bit_identical(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    what = scans.subject(scans.in_dtype(name, dtype))
    whole = scans.scan_with(what, options())
    last = scores(whole).batches_done
    assert last == whole.batches_done == 5
    measured = scores(whole).measured_done  # of experts in a second round too: routes flip
    assert measured == (10 if name == "mixtral" else 5)
    stops = [("batch", whole.batches_done), *(("scored", n) for n in range(1, last + 1))]
    for part, batches in (*stops, *(("measured", n) for n in range(1, measured + 1))):
        partials = Partials(tmp_path / f"{part}{batches}.h5")
        more = {"batch": "", "scored": f" and {batches} of the second pass"}
        said = f"5 of 5 batches{more.get(part, ' and 5 of the second pass')}$"
        with pytest.raises(Interrupted, match=said):
            scans.scan_with(what, options(), partials, StopIn(part, batches).events)
        partials = Partials(tmp_path / f"{part}{batches}.h5")
        kept = partials.load()
        assert kept is not None
        expected = {"batch": (0, 0), "scored": (batches, 0), "measured": (last, batches)}[part]
        assert kept.progress == (5, *expected)
        assert not kept.complete
        resumed = scans.scan_with(what, options(), partials, resume=kept)
        scans.assert_identical(resumed, whole)


def test_stopped_amid_the_rows_of_a_batch_no_row_is_measured_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --sensitivity kl one batch is thousands of forwards: too long for a Ctrl-C to wait."""
    calls: list[int] = []

    def counted(*args: Any) -> NDArray[np.float64]:
        calls.append(1)
        return kl_by_sequence(*args)

    monkeypatch.setattr("fp8scope.observe.sensitivity.kl_by_sequence", counted)
    what, every = scans.subject(gentle()), options(replace(PLAIN, measure_all=True))
    whole, total = scans.scan_with(what, every), len(calls)
    calls.clear()
    partials = Partials(tmp_path / "p.h5")
    with pytest.raises(Interrupted):
        scans.scan_with(what, every, partials, Events(stop=lambda: len(calls) == 3))
    assert len(calls) == 3
    resumed = scans.scan_with(what, every, partials, resume=partials.load())
    assert len(calls) == total
    scans.assert_identical(resumed, whole)


@pytest.mark.parametrize("name", ["llama", "mixtral", "deepseek_v3"])
def test_blocks_that_are_not_run_again_change_no_bit(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row starts at the block that it changes, or from the first where nothing is kept."""
    model, every = models.build(name), replace(PLAIN, measure_all=True)
    ran: list[int] = []
    inner = model.get_submodule("model.layers.0.input_layernorm")
    with inner.register_forward_hook(lambda *_: ran.append(1)):
        cut = scores(scan(model, second=every)).kl_measured
        short = len(ran)
        monkeypatch.setattr("fp8scope.runtime.prefix.available_bytes", lambda _: 0)
        ran.clear()
        whole = scores(scan(model, second=every)).kl_measured
    assert cut.tobytes() == whole.tobytes()
    assert short < 0.8 * len(ran)


def test_going_on_with_less_memory_scores_every_sequence_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fits decides the batches: their number from before means nothing then."""
    model, wide = models.build("llama"), options(batch_tokens=200)
    lengths = {"a": (12, 12, 12, 12), "b": (9, 9, 9, 9)}
    what = scans.subject(model, scans.calibration(lengths))
    whole, partials = scans.scan_with(what, wide), Partials(tmp_path / "p.h5")
    with pytest.raises(Interrupted):
        scans.scan_with(what, wide, partials, StopIn("scored", 1).events)
    kept = partials.load()
    monkeypatch.setattr("fp8scope.observe.sensitivity.tokens_that_fit", lambda *_: 12)
    seen: list[int] = []
    events = Events(scored=lambda done, total, tokens: seen.append(tokens))
    resumed = scans.scan_with(what, wide, partials, events, kept)
    assert seen == [9, 9, 9, 9]
    found = scores(resumed)
    assert np.isfinite(found.kl_token).all()
    np.testing.assert_allclose(
        found.kl_token.sum(1), scores(whole).kl_token.sum(1), rtol=0.05, atol=1e-6
    )
    assert measured(resumed) == measured(whole)


# ---- where it cannot be had


class NoLogits(nn.Module):
    """A linear that a scan can record; its output is a tensor, with no logits in it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.head = nn.Linear(8, 20)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, input_ids: Tensor, **_: Any) -> Tensor:
        return self.head(self.embed(input_ids))  # type: ignore[no-any-return]


class NoLinears(NoLogits):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Identity()  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("model", "said"), [(NoLogits, "'logits'"), (NoLinears, "no candidate fits any linear")]
)
def test_a_model_that_cannot_be_scored(model: type[nn.Module], said: str) -> None:
    ids = torch.arange(10).reshape(2, 5)
    profile = fp8scope.scan(model(), [ids])
    assert profile.complete
    assert profile.sensitivity is None
    (note,) = [note for note in profile.notes if note.startswith("no sensitivity: ")]
    assert said in note
    with pytest.raises(BadModel, match=said) as caught:
        fp8scope.scan(model(), [ids], sensitivity="fisher")
    assert "--sensitivity none" in caught.value.remedy
    assert fp8scope.scan(model(), [ids], sensitivity="none").notes == tuple(
        note for note in profile.notes if note is not profile.notes[-1]
    )


def test_no_memory_is_said_before_the_first_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MEMORY, lambda _: 4000)
    begun: list[Profile] = []
    what = scans.subject(models.build("llama"))
    with pytest.raises(Missing, match=r"sensitivity needs about 0\.0 GB for a sequence of 36") as e:
        scans.scan_with(
            what, options(replace(PLAIN, required=True)), events=Events(begin=begun.append)
        )
    assert not begun
    assert e.value.exit_code == 3
    assert "--seq-len" in e.value.remedy
    profile = scans.scan_with(what, options())
    assert (profile.complete, profile.sensitivity) == (True, None)
    assert any(note.startswith("no sensitivity: sensitivity needs") for note in profile.notes)


def test_a_profile_without_it_is_a_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = scans.subject(models.build("llama"))
    plain = scans.scan_with(what, ScanOptions(batch_tokens=12))
    monkeypatch.setattr(MEMORY, lambda _: 4000)
    profile = scans.scan_with(what, options())
    write_profile(profile, tmp_path / "p.h5")
    again = read_profile(tmp_path / "p.h5")
    assert all(
        np.array_equal(record.histogram, again.sites[site].histogram)
        for site, record in plain.sites.items()
    )


def test_less_memory_means_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model, lengths = models.build("llama"), {"a": (12,) * 6}
    wide = scan(model, lengths, batch_tokens=200)
    assert scores(wide).batches_done == 1
    needed = 16 * 48 * 32 + 30 * 12_000
    monkeypatch.setattr(MEMORY, lambda _: needed)
    narrow = scan(model, lengths, batch_tokens=200)
    assert 1 < scores(narrow).batches_done <= 6
    assert narrow.batches_done == 1


EIGHT = {"num_experts": 16, "num_experts_per_tok": 8, "num_hidden_layers": 8}


@pytest.mark.parametrize(("name", "changes"), [("llama", {}), ("qwen3_moe", EIGHT)])
def test_what_is_kept_for_the_backward_is_less_than_is_asked_for(
    name: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Routed experts keep as many rows as they have pairs, not tokens."""
    model, tokens = models.build(name, **changes).bfloat16(), 64
    structure = discover(model)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = models.token_ids(1, tokens)
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(inputs_embeds=embedded, use_cache=False)
    used = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    monkeypatch.setattr(MEMORY, lambda _: used)
    with pytest.raises(Missing):
        tokens_that_fit(model, structure, tokens)


# ---- the model is left as it was


def _state(model: nn.Module) -> list[Any]:
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), m.training)
        for m in model.modules()
    ]
    parameters = [(id(p), p.requires_grad, p.grad is None) for p in model.parameters()]
    return [hooks, parameters, [m.__dict__.get("forward") for m in model.modules()]]


@pytest.mark.parametrize("name", ["llama", "mixtral", "gpt2", "deepseek_v3"])
@pytest.mark.parametrize("fails", ["", "backward", "measuring", "memory"])
def test_the_model_is_left_as_it_was(
    name: str, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = scans.in_dtype(name, torch.float32)
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
    ids = models.token_ids(2, 16)
    before = models.logits(model, ids)
    next(model.children()).train()
    state = _state(model)
    values = {key: value.clone() for key, value in model.state_dict().items()}

    def explode(*_: Any, **__: Any) -> Any:
        raise RuntimeError("planted")

    if fails == "memory":
        monkeypatch.setattr(MEMORY, lambda _: 1)
    elif fails == "backward":
        monkeypatch.setattr("fp8scope.observe.gradients.sampled_gradient", explode)
    elif fails == "measuring":
        calls = count()
        monkeypatch.setattr(
            "fp8scope.observe.sensitivity.kl_by_sequence",
            lambda *args: explode() if next(calls) else kl_by_sequence(*args),
        )
    profile = fp8scope.scan(model, [ids])
    assert (profile.sensitivity is None) == (fails in ("backward", "memory"))
    said = {
        "backward": "no sensitivity: the backward pass fails: RuntimeError: planted",
        "measuring": "sensitivity is predicted, not measured: the measuring fails: "
        "RuntimeError: planted",
    }
    assert not fails or fails == "memory" or said[fails] in profile.notes
    if fails == "measuring":  # what was predicted stays
        assert np.isfinite(scores(profile).kl_token).all()
    if fails:
        with pytest.raises(Fp8scopeError):
            fp8scope.scan(model, [ids], sensitivity="fisher")
    assert _state(model) == state
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())
    assert torch.equal(models.logits(model.eval(), ids), before)


def test_an_interrupt_in_the_second_pass_leaves_no_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    model = scans.in_dtype("llama", torch.float32)
    state = _state(model)

    def ctrl_c(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Gradients, "run", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        scan(model)
    assert _state(model) == state
