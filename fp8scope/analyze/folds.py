"""Which fold of a structure belongs to a site: where its channels could be smoothed into."""

from __future__ import annotations

from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import Fold, Structure


def fold_into(structure: Structure, site: Site) -> Fold | None:
    """The fold whose factors divide the channels of an input, a weight's columns, or of V.

    None where nothing can be folded; so for K, whose channels the rotation mixes, and for what
    Gemma's norms make (`Fold.takes_factors`).
    """
    for fold in structure.folds:
        if not fold.takes_factors:
            continue
        if site.role in (Role.INPUT, Role.WEIGHT) and site.module in fold.consumers:
            return fold
        if site.role is Role.V and is_value_fold(structure, fold, site.module):
            return fold
    return None


def fold_out_of(structure: Structure, site: Site, row: int) -> Fold | None:
    """The fold that divides this row (output channel) of a weight; stacks are numbered through."""
    rows = {linear.name: linear.out_features for linear in structure.linears}
    row %= rows.get(site.module, row + 1)
    for fold in structure.folds:
        held = any(start <= row < stop for start, stop in fold.rows)
        if fold.kind == "linear" and fold.producer == site.module and held:
            return fold
    return None


def is_value_fold(structure: Structure, fold: Fold, attention: str | None = None) -> bool:
    """Whether a fold is that from the values to the output projection of (this) attention."""
    layers = (kv.attention for kv in structure.kv_layers)
    known = {attention} if attention is not None else set(layers)
    return fold.kind == "linear" and any(
        consumer.startswith(f"{name}.") for name in known for consumer in fold.consumers
    )


def is_gated_product(structure: Structure, fold: Fold) -> bool:
    """Whether a fold's consumer reads products of gate and up.

    Then the producer is one of two parts: a module that shares a group with another reader of its
    input (gate), or some of a module's rows. An MLP without gate (OPT's fc1) is neither.
    """
    if fold.kind != "linear" or is_value_fold(structure, fold):
        return False
    rows = {linear.name: linear.out_features for linear in structure.linears}
    if fold.channels < rows.get(fold.producer, 0):
        return True
    return any(
        fold.producer in group.members and set(group.members) - {fold.producer, *fold.consumers}
        for group in structure.groups
    )
