"""What no format can build is refused by name, before a model is loaded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import get_args

import pytest

from fp8scope.artefacts.plan import Plan
from fp8scope.artefacts.plan_file import write_plan
from fp8scope.build import source
from fp8scope.build.api import build_checkpoint
from fp8scope.build.order import Format
from fp8scope.build.refused import check_buildable, check_weights
from fp8scope.errors import BadInput
from fp8scope.runtime.linears import linear_weights
from tests.build.precisions import all_fp8, mixed, prepared
from tests.observe.quantized_models import TRANSPOSED


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "load", None)


def refused(plan: Plan, match: str, folder: Path) -> None:
    path = folder / "plan.json"
    write_plan(plan, {}, path)
    for form in get_args(Format):
        with pytest.raises(BadInput, match=match):
            build_checkpoint(path, folder / "fp8", format=form)
        assert list(folder.iterdir()) == [path]


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


@pytest.mark.parametrize(
    ("name", "stack", "whose"),
    [
        ("llama", "model.layers.1.self_attn.o_proj", "o_proj"),
        ("mixtral", "model.layers.1.mlp.experts.down_proj", "expert 2 of .*experts.down_proj"),
    ],
)
def test_a_weight_of_zeros(name: str, stack: str, whose: str) -> None:
    """As of blocks that were added to grow a model. Its scale would be 1, as if never made."""
    model = copy.deepcopy(prepared(name).model)
    check_weights(model, all_fp8(name))
    weight = linear_weights(model)[stack]
    (weight[2] if weight.ndim == 3 else weight).data.zero_()
    with pytest.raises(BadInput, match=f"the weight of .*{whose} is all zero → .*--exclude"):
        check_weights(model, all_fp8(name))


@pytest.mark.parametrize("name", ["llama", "mixtral", "phi3", "deepseek_v3", "stablelm", "opt"])
def test_whole_groups_pass(name: str) -> None:
    check_buildable(all_fp8(name))
