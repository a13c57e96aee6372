"""A scan leaves the model as it was, and names the place where numbers break."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fp8scope
from fp8scope.core.sites import Role, Site
from fp8scope.errors import BadModel, CannotMerge, OutputExists
from fp8scope.observe.weights import record_weights
from tests import models
from tests.observe import scans
from tests.tokenizers import byte_tokenizer


def _hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("record", ["standard", "full"])
@pytest.mark.parametrize("name", models.CONFIGS)
def test_the_model_is_left_as_it_was(name: str, record: str) -> None:
    model, ids = scans.in_dtype(name, torch.bfloat16), models.token_ids(2, 20)
    before, state = models.logits(model, ids), {k: v.clone() for k, v in model.state_dict().items()}
    fp8scope.scan(model, [ids], record=record)
    assert torch.equal(models.logits(model, ids), before)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert _hooks(model) == 0


def test_the_forward_under_a_scan_is_the_plain_one() -> None:
    model, ids, seen = scans.in_dtype("llama", torch.bfloat16), models.token_ids(2, 20), []

    def keep(_: nn.Module, __: Any, output: Tensor) -> None:
        seen.append(output.clone())

    handle = model.get_submodule("model.norm").register_forward_hook(keep)
    fp8scope.scan(model, [ids])
    models.logits(model, ids)
    handle.remove()
    assert torch.equal(seen[0], seen[1])


def test_a_scan_computes_no_logits_but_the_last_token_s() -> None:
    model, ids, seen = scans.in_dtype("llama", torch.bfloat16), models.token_ids(2, 20), []

    def keep(_: nn.Module, __: Any, output: Tensor) -> None:
        seen.append(output.shape[1])

    handle = model.get_submodule("lm_head").register_forward_hook(keep)
    profile = fp8scope.scan(model, [ids], sensitivity="none")
    handle.remove()
    assert seen == [1]
    assert profile.sites[Site("lm_head", Role.INPUT)].elements.sum() == 2 * 20 * 32


def test_hooks_go_after_an_exception_in_the_forward() -> None:
    model = scans.in_dtype("llama", torch.float32)

    def explode(*_: Any) -> None:
        raise RuntimeError("planted")

    handle = model.get_submodule("model.layers.1.mlp").register_forward_pre_hook(explode)
    model.train()
    with pytest.raises(
        BadModel, match=r"after model.layers.1.self_attn.o_proj: RuntimeError: planted"
    ):
        fp8scope.scan(model, [models.token_ids()])
    handle.remove()
    assert _hooks(model) == 0
    assert all(module.training for module in model.modules())


def test_the_mode_of_every_module_is_restored() -> None:
    model = scans.in_dtype("llama", torch.float32)
    model.get_submodule("model.layers.0").train()
    before = [module.training for module in model.modules()]
    fp8scope.scan(model, [models.token_ids()])
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize(
    ("record", "place"),
    [
        ("standard", "residual of model.layers.0"),
        ("full", "output of model.layers.0.mlp.down_proj"),
    ],
)
def test_an_overflow_names_layer_sample_and_tag(record: str, place: str) -> None:
    model = scans.in_dtype("llama", torch.float16)
    embedding = model.get_submodule("model.embed_tokens").get_parameter("weight")
    with torch.no_grad():
        model.get_submodule("model.layers.0.mlp.down_proj").get_parameter("weight")[5] = 6e4
        embedding[7] *= 2  # whatever: the text decides which sample
    with pytest.raises(BadModel) as caught:
        scans.run(model, record=record)
    said = str(caught.value)
    assert place in said
    assert "sample " in said
    assert "tag prose" in said
    assert "--dtype" in said
    assert _hooks(model) == 0


def test_an_overflow_in_a_later_sample_is_named_there() -> None:
    """Token 50 alone overflows; it stands in the second row, at position 4, with padding."""
    model = scans.in_dtype("llama", torch.float16)

    def overflow(_: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        return output.masked_fill(args[0].eq(50)[..., None], torch.inf)

    model.get_submodule("model.embed_tokens").register_forward_hook(overflow)
    ids = torch.full((2, 9), 5)
    ids[1, 4] = 50
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    with pytest.raises(BadModel, match=r"sample 1, token 4\), tag mine"):
        fp8scope.scan(model, [{"input_ids": ids, "attention_mask": mask, "tag": "mine"}])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_broken_weight_names_its_layer(value: float) -> None:
    model = scans.in_dtype("gpt2", torch.bfloat16)
    with torch.no_grad():
        model.get_submodule("transformer.h.1.mlp.c_proj").get_parameter("weight")[2, 3] = value
    with pytest.raises(BadModel, match=r"transformer\.h\.1\.mlp\.c_proj\.weight holds 1 "):
        fp8scope.scan(model, [models.token_ids()])


def test_batches_are_tensors_or_mappings_with_a_tag() -> None:
    model, ids = scans.in_dtype("qwen2", torch.float32), models.token_ids(2, 12)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    profile = fp8scope.scan(
        model, [ids, {"input_ids": ids.flip(0), "attention_mask": mask, "tag": "code"}]
    )
    assert profile.complete
    assert profile.tags == ("text", "code")
    assert profile.samples["length"].tolist() == [12, 12, 12, 5]
    site = Site("lm_head", Role.INPUT)
    assert profile.site(site).elements.tolist() == [24 * models.HIDDEN, 17 * models.HIDDEN]


def test_a_tokenizer_gives_the_text_around_the_largest_values() -> None:
    tokenizer = byte_tokenizer()
    model = scans.in_dtype("llama", torch.float32, vocab_size=len(tokenizer))
    text = "It is a truth universally acknowledged"
    ids = torch.tensor([tokenizer.encode(text)])
    profile = fp8scope.scan(model, [ids], tokenizer=tokenizer)
    table = profile.excerpts
    assert len(table["token"])
    for i in range(len(table["token"])):
        assert table["token_id"][i] == ids[0, table["position"][i]]
        around = b"".join(table[name][i] for name in ("before", "token", "after")).decode()
        assert around.removeprefix("<s>") in text
    bare = fp8scope.scan(model, [ids])
    assert len(bare.excerpts["token"]) == 0


def test_output_is_written_and_not_overwritten(tmp_path: Path) -> None:
    model, path = scans.in_dtype("llama", torch.float32), tmp_path / "p.h5"
    profile = fp8scope.scan(model, [models.token_ids()], output=path)
    scans.assert_identical(fp8scope.read_profile(path), profile)
    written = path.read_bytes()
    with pytest.raises(OutputExists, match="force=True"):
        fp8scope.scan(model, [models.token_ids()], output=path)
    assert path.read_bytes() == written
    fp8scope.scan(model, [models.token_ids(3)], output=path, force=True)
    assert len(fp8scope.open_profile(path).samples["index"]) == 3


def test_the_number_of_threads_does_not_change_a_weight_s_record() -> None:
    model = nn.Sequential(nn.Linear(700, 900, bias=False))
    before, records = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            records.append(record_weights(model, full=True, progress=lambda *_: None)["0"])
    finally:
        torch.set_num_threads(before)
    for record in records[1:]:
        for name, value in vars(record).items():
            assert np.array_equal(value, getattr(records[0], name)), name


def test_scans_of_other_tokens_merge_and_of_the_same_do_not() -> None:
    model = scans.in_dtype("llama", torch.float32)
    ids = torch.arange(64).reshape(4, 16)
    monday, tuesday = (fp8scope.scan(model, [part]) for part in (ids[:2], ids[2:]))
    merged = fp8scope.merge_profiles([monday, tuesday])
    whole = fp8scope.scan(model, [ids])
    site = Site("lm_head", Role.INPUT)
    assert np.array_equal(merged.sites[site].histogram, whole.sites[site].histogram)
    with pytest.raises(CannotMerge, match="2 sequences are in both"):
        fp8scope.merge_profiles([monday, fp8scope.scan(model, [ids[:2]])])
