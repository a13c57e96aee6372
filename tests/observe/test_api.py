"""`fp8scope.scan(model, batches)`: what it refuses before it computes, and the caller's order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fp8scope
from fp8scope.core.sites import Role, Site
from fp8scope.errors import BadInput, BadModel, BadText, CannotWrite, Fp8scopeError, OutputExists
from tests import models
from tests.observe import scans

IDS = models.token_ids(2, 12)


@pytest.fixture(scope="module")
def model() -> Iterator[nn.Module]:
    """A model that nothing here may run."""
    built = scans.in_dtype("llama", torch.float32)

    def ran(*_: Any) -> None:
        raise AssertionError("the model ran")

    handle = built.register_forward_pre_hook(ran)
    yield built
    handle.remove()


def masked(*rows: str) -> dict[str, Tensor]:
    mask = torch.tensor([[int(place) for place in row] for row in rows])
    return {"input_ids": torch.full(mask.shape, 5), "attention_mask": mask}


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        (IDS, "batches is one Tensor → give a list of batches"),
        ({"input_ids": IDS}, "batches is one dict"),
        ("some text", "batches is one str"),
        (None, "batches is one NoneType"),
        ([], "without tokens"),
        ([IDS, IDS[0]], r"batch 1 is int64 \[12\], not token ids \[B, T\] → give"),
        ([[3, 4, 5]], r"batch 0 is int64 \[3\], not token ids"),
        ([[[3, 4], [5]]], "token ids of batch 0 cannot be made a tensor"),
        (["some text"], "token ids of batch 0 cannot be made a tensor"),
        ([{"ids": IDS}], "token ids of batch 0 cannot be made a tensor"),
        ([torch.rand(2, 30)], r"batch 0 is float32 \[2, 30\], not token ids"),
        ([IDS > 5], "batch 0 is bool"),
        ([IDS[:, :0]], "batch 0 is without tokens"),
        (
            [IDS, IDS + 90],
            r"batch 1 holds token id \d+, and the model has 96 tokens → take the tok",
        ),
        ([IDS - 50], "batch 0 holds token id -"),
        ([torch.full((1, 129), 5)], "a sequence has 129 tokens, and the model takes 128 → cut"),
        (
            [{"input_ids": IDS, "attention_mask": torch.ones(2, 6)}],
            r"\[2, 12\] and a mask \[2, 6\]",
        ),
        (
            [{"input_ids": IDS, "attention_mask": "yes"}],
            "the mask of batch 0 cannot be made a tensor",
        ),
        ([masked("1111", "0111")], "batch 0 is padded on the left, or its mask has holes → pad on"),
        ([masked("1111", "1011")], "padded on the left, or its mask has holes"),
        ([masked("1111", "0000")], "without tokens"),
        ([{"input_ids": IDS, "tag": ["a", "b"]}], r"the tag of batch 0 is \['a', 'b'\] → give one"),
        ([{"input_ids": IDS, "tag": "a\x1b"}], "the tag of batch 0 is"),
    ],
)
def test_batches_that_the_model_does_not_take(model: nn.Module, batches: Any, words: str) -> None:
    with pytest.raises(BadText, match=words) as caught:
        fp8scope.scan(model, batches)
    assert " → " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_arguments_are_checked_first(model: nn.Module, tmp_path: Path) -> None:
    there = tmp_path / "there.h5"
    there.write_text("mine")
    cases: list[tuple[type[Fp8scopeError], str, dict[str, Any]]] = [
        (BadInput, "record is 'ful' → give 'standard' or 'full'", {"record": "ful"}),
        (CannotWrite, f"no folder {tmp_path}/nope", {"output": tmp_path / "nope" / "p.h5"}),
        (CannotWrite, "is a folder", {"output": tmp_path, "force": True}),
        (CannotWrite, "File name too long", {"output": tmp_path / ("x" * 300)}),
        (OutputExists, "there.h5 exists already → give force=True", {"output": there}),
    ]
    for error, words, options in cases:
        with pytest.raises(error) as caught:
            fp8scope.scan(model, [IDS], **options)
        assert words in str(caught.value)
    assert there.read_text() == "mine"


def test_a_model_must_be_loaded_and_whole() -> None:
    with pytest.raises(BadModel, match="the model is a str, not one that is loaded → load it"):
        fp8scope.scan("demo", [IDS])
    with pytest.raises(BadModel, match="no parameters"):
        fp8scope.scan(nn.Identity(), [IDS])
    offloaded = scans.in_dtype("llama", torch.float32)
    offloaded.get_submodule("model.layers.1.mlp").to("meta")
    with pytest.raises(
        BadModel, match=r"model\.layers\.1\.mlp\.gate_proj\.weight is not in memory"
    ):
        fp8scope.scan(offloaded, [IDS])
    broken = scans.in_dtype("llama", torch.float32)
    with torch.no_grad():
        broken.get_submodule("model.norm").get_parameter("weight")[3] = torch.nan
    with pytest.raises(BadModel, match=r"model\.norm\.weight holds 1 inf or NaN"):
        fp8scope.scan(broken, [IDS])


def test_samples_keep_the_order_of_the_rows() -> None:
    model = scans.in_dtype("llama", torch.float32)
    rows = [models.token_ids(1, size, size) for size in (7, 9, 8, 6)]
    tags = ["b", "a", "b", "a"]
    batches = [{"input_ids": row, "tag": tag} for row, tag in zip(rows, tags, strict=True)]
    profile = fp8scope.scan(model, batches)
    assert profile.tags == ("b", "a")
    assert profile.samples["tag"].tolist() == [0, 1, 0, 1]
    assert profile.samples["length"].tolist() == [7, 9, 8, 6]
    assert profile.samples["document"].tolist() == [1, 2, 3, 4]
    site = Site("model.layers.0", Role.RESIDUAL)
    for number, row in enumerate(rows):
        alone = fp8scope.scan(model, [row]).sites[site].sequence_amax
        assert np.allclose(profile.sites[site].sequence_amax[number], alone[0], rtol=1e-5)


def test_lists_and_small_integers_are_token_ids() -> None:
    model = scans.in_dtype("llama", torch.float32)
    wanted = fp8scope.scan(model, [IDS])
    for same in (IDS.tolist(), IDS.to(torch.uint8), IDS.numpy().astype(np.int32)):
        scans.assert_identical(fp8scope.scan(model, [same]), wanted)


def test_a_pad_token_that_the_model_does_not_have_does_no_harm() -> None:
    model: Any = scans.in_dtype("gpt2", torch.float32)
    model.config.pad_token_id = models.VOCAB
    profile = fp8scope.scan(model, [masked("11111", "11100")])
    assert profile.samples["length"].tolist() == [5, 3]
