"""Models that are not laid out as a scan expects: said, never recorded wrong."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fp8scope
from fp8scope.analyze.sensitivity import Scores
from fp8scope.core.sites import Role, Site
from fp8scope.errors import BadModel
from fp8scope.profile.record import Profile

WIDTH = 8


class Toy(nn.Module):
    """An embedding, and two linears that read what `between` makes of it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(20, WIDTH)
        self.gate = nn.Linear(WIDTH, 4)
        self.up = nn.Linear(WIDTH, 4)
        self.head = nn.Linear(4, 20)

    def between(self, x: Tensor) -> Tensor:
        return x

    def forward(self, input_ids: Tensor, **_: Any) -> Tensor:
        x = self.between(self.embed(input_ids))
        return self.head(self.gate(x) * self.up(x))  # type: ignore[no-any-return]


class DropsATokenFirst(Toy):
    """Routed or pooled tensors hold fewer rows than there are tokens."""

    def between(self, x: Tensor) -> Tensor:
        return x[:, :-1]


class SequenceFirst(Toy):
    def between(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1).contiguous()


class Flat(Toy):
    def between(self, x: Tensor) -> Tensor:
        return x.reshape(-1, WIDTH)


class ReadsItsLogits(Toy):
    """What comes after the head needs all tokens: here their softmax goes into a layer again."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(WIDTH, 3)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: Tensor, **_: Any) -> Tensor:
        logits = super().forward(input_ids).view(*input_ids.shape, -1)
        mixed = logits.softmax(-1) @ self.embed.weight
        return self.again(self.embed(input_ids) + mixed)  # type: ignore[no-any-return]


class Fails(Toy):
    def between(self, x: Tensor) -> Tensor:
        self.gate(x)
        raise IndexError("index out of range in self")


def scan(model: nn.Module) -> Profile:
    batches = [torch.arange(10).reshape(2, 5), torch.arange(8).reshape(2, 4)]
    profile: Profile = fp8scope.scan(model, batches)
    return profile


def test_a_tensor_of_other_rows_is_left_out_with_all_that_share_it() -> None:
    profile = scan(DropsATokenFirst())
    assert (set(profile.sites), profile.aliases) == (set(), {})
    for name in ("gate", "up", "head"):
        assert any(f"{name} input is not recorded: [2, 4" in note for note in profile.notes), name
    assert not any("never ran" in note for note in profile.notes)


def test_a_sequence_first_layout_is_not_taken_for_batch_first() -> None:
    profile = scan(SequenceFirst())
    assert not profile.sites
    assert any("[5, 2, 8] is not [batch, tokens, channels]" in note for note in profile.notes)


def test_a_flat_layout_is_recorded() -> None:
    profile, plain = scan(Flat()), scan(Toy())
    for name in ("gate", "head"):
        site = Site(name, Role.INPUT)
        assert (profile.sites[site].histogram == plain.sites[site].histogram).all()


def test_an_unknown_architecture_keeps_its_logits() -> None:
    model = ReadsItsLogits()
    seen: list[Tensor] = []
    handle = model.again.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    profile = scan(model)
    handle.remove()
    assert [tuple(x.shape) for x in seen] == [(2, 5, WIDTH), (2, 4, WIDTH)]
    before = torch.cat([x.flatten(0, 1) for x in seen])
    with torch.no_grad():
        model(torch.arange(10).reshape(2, 5))
    record = profile.sites[Site("again", Role.INPUT)]
    assert record.amax.max() == before.abs().max()


def test_a_linear_without_elements_is_no_site() -> None:
    model = Toy()
    model.empty = nn.Linear(WIDTH, 1, bias=False)  # as pruning may leave it:
    model.empty.weight = nn.Parameter(torch.empty(0, WIDTH))
    assert Site("empty", Role.INPUT) not in scan(model).sites


class WithLogits(Toy):
    """As little as the second pass asks for: an embedding that says where it is, and logits."""

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        return SimpleNamespace(logits=super().forward(input_ids))


class FlatWithLogits(WithLogits):
    def between(self, x: Tensor) -> Tensor:
        return x.reshape(-1, WIDTH)

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        logits = super().forward(input_ids).logits
        return SimpleNamespace(logits=logits.view(*input_ids.shape, -1))


class DropsATokenWithLogits(WithLogits):
    def between(self, x: Tensor) -> Tensor:
        return x[:, :-1]


class SequenceFirstWithLogits(WithLogits):
    def between(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1).contiguous()


class CallsALinearTwice(WithLogits):
    def between(self, x: Tensor) -> Tensor:
        again: Tensor = self.gate(x)
        return x + again.repeat(1, 1, WIDTH // 4)


class UnderNoGrad(WithLogits):
    @torch.no_grad()
    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        return super().forward(input_ids)


@pytest.mark.parametrize("model", [WithLogits, FlatWithLogits])
def test_an_unknown_architecture_is_scored_linear_by_linear(model: type[Toy]) -> None:
    profile = scan(model())
    assert not any("sensitivity" in note for note in profile.notes), profile.notes
    plain, other = Scores(profile), Scores(scan(WithLogits()))
    assert set(plain.groups()) == {"gate", "up", "head"}
    for name in plain.groups():
        found = plain.candidates(name)
        assert set(found) == {"fp8_tensor", "fp8_token", "fp8_block"}
        assert all(score.kl > 0 for score in found.values())
        assert found["fp8_tensor"].kl == pytest.approx(other.candidates(name)["fp8_tensor"].kl)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Toy, "no attribute"),
        (DropsATokenWithLogits, "no candidate fits any linear"),
        (SequenceFirstWithLogits, "no candidate fits any linear"),
        (CallsALinearTwice, "gate runs more than once in a forward"),
        (UnderNoGrad, "the backward pass fails"),
    ],
)
def test_what_cannot_be_scored_is_said_and_the_rest_is_there(model: type[Toy], said: str) -> None:
    profile = scan(model())
    assert profile.complete
    assert profile.sensitivity is None
    (note,) = [note for note in profile.notes if note.startswith("no sensitivity: ")]
    assert said in note
    assert set(profile.weights) == {"gate", "up", "head"}


def test_a_forward_that_fails_names_the_layer_before() -> None:
    with pytest.raises(BadModel, match="fails after gate: IndexError: index out of range"):
        scan(Fails())


class _OwnCache(Toy):
    """Like MiniMax, which takes no cache but its own."""

    def __init__(self) -> None:
        super().__init__()
        self.config = type("Config", (), {"num_hidden_layers": 1, "to_dict": lambda _: {}})()

    def forward(self, input_ids: Tensor, past_key_values: Any = None, **_: Any) -> Tensor:
        if past_key_values is not None:
            raise ValueError("uses cache of its own")
        return super().forward(input_ids)


def test_a_model_that_refuses_the_cache_is_scanned_without_k_and_v(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fp8scope.observe.recorder.ObservedCache", lambda *_: object())
    profile = scan(_OwnCache())
    assert Site("gate", Role.INPUT) in profile.sites
    assert any("only its own kind of cache" in note for note in profile.notes)
