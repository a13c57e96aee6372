"""What no format can build is refused by name, before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from fp8scope.artefacts.plan import Plan
from fp8scope.build import api
from fp8scope.build.api import Events, Format, Order, build_into
from fp8scope.build.folder import new_folder
from fp8scope.build.refused import check_buildable
from fp8scope.errors import BadInput
from tests.build.precisions import all_fp8, mixed
from tests.observe.quantized_models import TRANSPOSED


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "load", None)


def refused(plan: Plan, match: str, folder: Path) -> None:
    for form in get_args(Format):
        order = Order(plan, {}, "nowhere", form)
        with new_folder(folder / "fp8") as made, pytest.raises(BadInput, match=match):
            build_into(order, made, Events())
        assert not any(folder.iterdir())


def test_a_conv1d(tmp_path: Path) -> None:
    """ModelOpt would write it the wrong way round, and say nothing."""
    refused(all_fp8("gpt2"), r"transformer\.h\.0\.attn\.c_attn is a Conv1D", tmp_path)


def test_an_output_layer_that_is_the_embedding(tmp_path: Path) -> None:
    """ModelOpt would write one, which engines pass over for the embedding."""
    plan = mixed(all_fp8("llama", tie_word_embeddings=True), {"lm_head": "fp8_token"})
    match = r"lm_head has no weight of its own: it is that of model\.embed_tokens"
    refused(plan, match, tmp_path)


def test_experts_in_one_tensor(tmp_path: Path) -> None:
    match = r"experts\.gate_up_proj holds all experts in one tensor.*--exclude"
    refused(all_fp8(TRANSPOSED).model_copy(update={"kv_cache": ()}), match, tmp_path)


def test_what_engines_fuse_where_the_plan_knew_no_groups(tmp_path: Path) -> None:
    plan = mixed(all_fp8("stablelm"), {"layers.1.self_attn.k_proj": "fp8_token"})
    match = (
        r"layers\.1\.self_attn\.v_proj is planned in FP8 per tensor, static and "
        r"model\.layers\.1\.self_attn\.k_proj in FP8 per token: engines run them as one"
    )
    refused(plan, match, tmp_path)


@pytest.mark.parametrize("name", ["llama", "mixtral", "phi3", "deepseek_v3", "stablelm", "opt"])
def test_whole_groups_pass(name: str) -> None:
    check_buildable(all_fp8(name))
