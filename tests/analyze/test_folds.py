"""Which fold belongs to a site, in the structures of real architectures."""

from __future__ import annotations

import pytest

from fp8scope.analyze.folds import fold_into, is_gated_product
from fp8scope.core.sites import Role, Site
from fp8scope.runtime.structure import discover
from tests import models

GATED = ("llama", "qwen3", "gemma2", "phi3", "mixtral", "qwen3_moe", *models.LATENT)
NOT_GATED = ("opt", "gpt2", "gpt_neox")


@pytest.mark.parametrize("name", [*GATED, *NOT_GATED])
def test_products_are_those_of_gated_mlps(name: str) -> None:
    structure = discover(models.build(name))
    products = {
        consumer
        for fold in structure.folds
        if is_gated_product(structure, fold)
        for consumer in fold.consumers
    }
    down = {linear.name for linear in structure.linears if linear.name.endswith("down_proj")}
    assert products == down
    assert bool(products) is (name in GATED)


@pytest.mark.parametrize("name", models.KNOWN)
def test_values_fold_from_where_they_are_made(name: str) -> None:
    structure = discover(models.build(name))
    for layer in structure.kv_layers:
        assert fold_into(structure, Site(layer.attention, Role.K)) is None
        fold = fold_into(structure, Site(layer.attention, Role.V))
        assert fold is not None
        assert fold.producer.startswith(f"{layer.attention}.")
        assert fold.consumers[0].startswith(f"{layer.attention}.")
        if not layer.latent_dim:
            assert fold.channels == layer.kv_heads * layer.head_dim
        assert fold_into(structure, Site(fold.consumers[0], Role.INPUT)) == fold


def test_gemmas_norms_take_no_factor() -> None:
    """As in what is scored: (1 + w) / s has lost its bits in bf16."""
    structure = discover(models.build("gemma2"))
    block = structure.blocks[0]
    assert fold_into(structure, Site(f"{block}.self_attn.q_proj", Role.INPUT)) is None
    assert fold_into(structure, Site(f"{block}.mlp.gate_proj", Role.WEIGHT)) is None
    assert fold_into(structure, Site(f"{block}.mlp.down_proj", Role.INPUT)) is not None
