"""What a scan records is what brute force finds, for every family and dtype."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fp8scope.core.sites import Role, Site
from fp8scope.observe.sharing import SharedInputs
from fp8scope.profile.layout import TOP_K
from fp8scope.profile.record import Profile
from fp8scope.runtime.linears import named_linears, weight_matrix
from fp8scope.runtime.structure import discover
from fp8scope.runtime.text import Calibration, calibration_of_tokens
from tests import models
from tests.observe import reference, scans

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def _check_all(model: nn.Module, profile: Profile, *, outputs: bool = False) -> None:
    tags, tokens = scans.sequences()
    seen = reference.capture(model, profile.structure, tokens, outputs=outputs)
    seen.pop(Site("lm_head", Role.OUTPUT), None)  # the logits are nobody's GEMM input
    assert seen.keys() <= profile.sites.keys() | profile.aliases.keys()
    numbers = [profile.tags.index(tag) for tag in tags]
    for site, what in seen.items():
        reference.check(profile.site(site), what, numbers, len(profile.tags))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", models.CONFIGS)
def test_every_number_is_that_of_brute_force(name: str, dtype: torch.dtype) -> None:
    model = scans.in_dtype(name, dtype)
    try:
        models.logits(model, models.token_ids())
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"{name} has no {dtype} kernels here: {error}")
    _check_all(model, scans.run(model))


def test_outputs_are_recorded_with_record_full() -> None:
    model = scans.in_dtype("llama", torch.bfloat16)
    profile = scans.run(model, record="full")
    _check_all(model, profile, outputs=True)
    outputs = {site.module for site in profile.sites if site.role is Role.OUTPUT}
    assert outputs == set(named_linears(model)) - {"lm_head"}


def test_zeros_and_ties_follow_the_total_order() -> None:
    """OPT's ReLU gives zeros; one embedding for all tokens gives ties everywhere."""
    model = scans.in_dtype("opt", torch.bfloat16)
    with torch.no_grad():
        embedding = model.get_submodule("model.decoder.embed_tokens").get_parameter("weight")
        embedding[:] = embedding[3]
        model.get_submodule("model.decoder.embed_positions").get_parameter("weight").zero_()
    profile = scans.run(model)
    _check_all(model, profile)
    assert any(record.zeros.any() for record in profile.sites.values())


def test_a_site_of_zeros_has_an_empty_top_list() -> None:
    model = scans.in_dtype("llama", torch.float32)
    down = "model.layers.0.mlp.down_proj"
    with torch.no_grad():
        for part in ("weight", "bias"):
            model.get_submodule("model.layers.0.mlp.up_proj").get_parameter(part).zero_()
    profile = scans.run(model)
    record = profile.site(Site(down, Role.INPUT))
    assert len(record.best()) == 0
    assert record.amax.max() == 0
    assert np.array_equal(record.zeros, record.elements)


def test_a_sequence_does_not_depend_on_its_neighbours() -> None:
    """Phi-3's longrope chooses its factors by the longest row of a batch."""
    model = scans.in_dtype("phi3", torch.float32, rope_parameters=models.LONGROPE)
    _, (short, long) = scans.sequences({"text": (10, 40)})
    one, other, both = (
        scans.run(model, batch_tokens=4096, text=_calibration(tokens))
        for tokens in ([short], [long], [short, long])
    )
    for layer in range(models.LAYERS):
        site = Site(f"model.layers.{layer}.self_attn", Role.K)
        assert np.array_equal(
            both.site(site).histogram, one.site(site).histogram + other.site(site).histogram
        )
        assert both.site(site).sequence_amax[0] == one.site(site).sequence_amax[0]


def _calibration(sequences: list[Tensor]) -> Calibration:
    tokens = [sequence.numpy().astype(np.int32) for sequence in sequences]
    return calibration_of_tokens(["text"] * len(tokens), tokens)


@pytest.mark.parametrize("name", models.CONFIGS)
def test_padding_is_not_recorded(name: str) -> None:
    """Ragged sequences in one batch: every element counted once, values up to GEMM rounding."""
    model = scans.in_dtype(name, torch.float32)
    alone, together = scans.run(model), scans.run(model, batch_tokens=4096)
    assert together.batches_done == (5 if name == models.UNKNOWN else 2)
    assert together.sites.keys() == alone.sites.keys()
    for site, record in together.sites.items():
        other = alone.sites[site]
        np.testing.assert_array_equal(record.elements, other.elements)
        np.testing.assert_array_equal(record.token_amax.sum(1), other.token_amax.sum(1))
        np.testing.assert_array_equal(record.sequence_binades.sum(1), other.sequence_binades.sum(1))
        np.testing.assert_allclose(record.sequence_amax, other.sequence_amax, rtol=1e-4)
        np.testing.assert_allclose(
            record.channel_sum_squares, other.channel_sum_squares, rtol=1e-3, atol=1e-6
        )


def test_the_pad_token_makes_no_difference() -> None:
    model = scans.in_dtype("llama", torch.float32)
    before = scans.run(model, batch_tokens=4096)
    config: object = model.config
    config.pad_token_id = 7  # type: ignore[attr-defined]
    scans.assert_identical(scans.run(model, batch_tokens=4096), before)


def test_llama_shares_qkv_and_gate_up_and_nothing_else() -> None:
    profile = scans.run(scans.in_dtype("llama", torch.float32))
    want = {}
    for block in profile.structure.blocks:
        want[f"{block}.self_attn.k_proj"] = f"{block}.self_attn.q_proj"
        want[f"{block}.self_attn.v_proj"] = f"{block}.self_attn.q_proj"
        want[f"{block}.mlp.up_proj"] = f"{block}.mlp.gate_proj"
    got = {alias.module: owner.module for alias, owner in profile.aliases.items()}
    assert got == want


class _Readers(nn.Module):
    """Two linears that read one tensor; `change` alters it in place in between."""

    def __init__(self, change: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(models.VOCAB, 8)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.change = change

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
        hidden = self.embed(input_ids)
        total: Tensor = self.first(hidden)
        if self.change:
            hidden.mul_(3)
        return total.add(self.second(input=hidden))  # by name, as some models do


@pytest.mark.parametrize("change", [False, True])
def test_a_tensor_changed_in_place_is_another(change: bool) -> None:
    torch.manual_seed(0)
    profile = scans.run(_Readers(change))
    first, second = Site("first", Role.INPUT), Site("second", Role.INPUT)
    assert (second in profile.aliases) is not change
    ratio = profile.site(second).amax / profile.site(first).amax
    assert np.allclose(ratio, 3 if change else 1)


def test_a_freed_tensor_owns_nothing() -> None:
    shared = SharedInputs()
    for i in range(50):
        assert shared.owner(torch.zeros(3), f"layer {i}") == f"layer {i}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3"])
def test_weights(name: str, dtype: torch.dtype) -> None:
    model = scans.in_dtype(name, dtype)
    with torch.no_grad():  # ties in the top list
        next(iter(named_linears(model).values())).get_parameter("weight")[:, 3] = 2.5
    profile = scans.run(model)
    assert profile.weights.keys() == named_linears(model).keys()
    for module, record in profile.weights.items():
        weight = weight_matrix(model.get_submodule(module)).detach()
        magnitude, squares = weight.float().abs(), weight.double().square()
        linear = next(x for x in profile.structure.linears if x.name == module)
        assert weight.shape == (linear.out_features, linear.in_features)
        np.testing.assert_array_equal(record.histogram, reference.counts(weight))
        assert record.elements == weight.numel()
        assert record.zeros == int((weight == 0).sum())
        assert record.amax == magnitude.max()
        np.testing.assert_array_equal(record.row_amax, magnitude.amax(1).numpy())
        np.testing.assert_array_equal(record.column_amax, magnitude.amax(0).numpy())
        np.testing.assert_allclose(record.row_sum_squares, squares.sum(1).numpy(), rtol=1e-6)
        np.testing.assert_allclose(record.column_sum_squares, squares.sum(0).numpy(), rtol=1e-6)
        rows = weight.float().tolist()
        entries = sorted(
            (-abs(v), r, c, v) for r, row in enumerate(rows) for c, v in enumerate(row)
        )
        got = zip(
            record.top_row.tolist(),
            record.top_column.tolist(),
            record.top_value.tolist(),
            strict=True,
        )
        assert list(got) == [entry[1:] for entry in entries[:TOP_K]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_full_errors_are_those_of_torchs_float8(name: str, dtype: torch.dtype) -> None:
    wide = {"n_embd": 160, "n_inner": 200} if name == "gpt2" else {}
    wide = wide or {"hidden_size": 160, "intermediate_size": 200}
    model = scans.in_dtype(name, dtype, **wide)
    profile = scans.run(model, record="full")
    tags, tokens = scans.sequences()
    seen = reference.capture(model, profile.structure, tokens)
    for site, what in seen.items():
        if site.role is not Role.INPUT:
            continue
        record = profile.site(site)
        assert record.error_per_token is not None
        assert record.error_per_block is not None
        for number, tag in enumerate(profile.tags):
            sampled = torch.cat(
                [m[s % 32 :: 32] for s, m in what.sequences.items() if tags[s] == tag]
            )
            _same_error(record.error_per_token[number], reference.fp8_error(sampled, 1, 10**6))
            _same_error(record.error_per_block[number], reference.fp8_error(sampled, 1, 128))
    for module, weights in profile.weights.items():
        weight = weight_matrix(model.get_submodule(module)).detach()
        _same_error(weights.error_per_channel, reference.fp8_error(weight, 1, 10**6))
        _same_error(weights.error_per_block, reference.fp8_error(weight, 128, 128))


def _same_error(got: reference.Array | None, want: reference.Array) -> None:
    assert got is not None
    np.testing.assert_array_equal(got[:, :2], want[:, :2])
    np.testing.assert_allclose(got[:, 2:], want[:, 2:], rtol=1e-12, atol=0)


def test_standard_holds_no_errors_and_no_outputs() -> None:
    profile = scans.run(scans.in_dtype("llama", torch.bfloat16))
    assert all(record.error_per_token is None for record in profile.sites.values())
    assert all(site.role is not Role.OUTPUT for site in profile.sites)


def test_an_unknown_architecture_is_scanned_and_named() -> None:
    profile = scans.run(scans.in_dtype(models.UNKNOWN, torch.float32))
    assert profile.structure.family is None
    assert any("StableLmForCausalLM is not known" in note for note in profile.notes)
    assert all(len(group.members) == 1 for group in profile.structure.groups)
    roles = {site.role for site in profile.sites}
    assert roles >= {Role.INPUT, Role.RESIDUAL, Role.K, Role.V}


@pytest.mark.parametrize("name", models.KNOWN)
def test_a_known_architecture_has_nothing_left_out(name: str) -> None:
    model = scans.in_dtype(name, torch.float32)
    profile, structure = scans.run(model), discover(model)
    assert profile.notes == ()
    found = profile.sites.keys() | profile.aliases.keys()
    wanted = {Site(linear.name, Role.INPUT) for linear in structure.linears}
    wanted |= {Site(block, Role.RESIDUAL) for block in structure.blocks}
    wanted |= {Site(kv.attention, Role.K) for kv in structure.kv_layers}
    wanted |= {Site(kv.attention, Role.V) for kv in structure.kv_layers if not kv.latent_dim}
    assert found == wanted
    for kv in structure.kv_layers:
        assert profile.sites[Site(kv.attention, Role.K)].heads == kv.kv_heads
