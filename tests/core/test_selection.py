"""Patterns that a person writes: what they match, and what is refused."""

from __future__ import annotations

import pytest

from fp8scope.core.selection import select, select_groups
from fp8scope.errors import BadInput

NAMES = ("model.layers.0.mlp.up", "model.layers.1.mlp.up", "model.layers.10.mlp.up", "lm_head")
MEMBERS = {
    "model.layers.0.attn.qkv": ("model.layers.0.attn.q", "model.layers.0.attn.k"),
    "model.layers.0.attn.o": ("model.layers.0.attn.o",),
    "lm_head": ("lm_head",),
}


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("lm_head", (3,)),
        ("model.layers.1.mlp.up", (1,)),
        ("model.layers.1*", (1, 2)),
        ("*.up", (0, 1, 2)),
        ("model.layers.?.mlp.up", (0, 1)),
        ("model.layers.[!0].mlp.up", (1,)),
        ("*", (0, 1, 2, 3)),
        (r"re:.*\.1\d*\..*", (1, 2)),
        ("re:lm_head|.*0.*", (0, 2, 3)),
    ],
)
def test_exact_glob_and_expression(pattern: str, found: tuple[int, ...]) -> None:
    assert select(pattern, NAMES) == [NAMES[i] for i in found]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("mlp.up", "mlp.up matches nothing → names are like model.layers.0.mlp.up"),
        ("LM_HEAD", "LM_HEAD matches nothing → names are like "),
        ("re:mlp", "re:mlp matches nothing → names are like model.layers.0.mlp.up"),
        ("re:(", "re:( is no regular expression: missing )"),
        ("", " matches nothing → names are like "),
    ],
)
def test_what_matches_nothing_is_refused(pattern: str, said: str) -> None:
    with pytest.raises(BadInput) as refused:
        select(pattern, NAMES)
    assert str(refused.value).startswith(said)


def test_a_name_with_brackets_is_meant_as_it_stands() -> None:
    assert select("experts[0]", ["experts[0]", "experts0"]) == ["experts[0]", "experts0"]


@pytest.mark.parametrize(
    ("patterns", "groups", "notes"),
    [
        (("model.layers.0.attn.qkv",), {"model.layers.0.attn.qkv"}, 0),
        (("layers.0.attn.o", "lm_*"), {"model.layers.0.attn.o", "lm_head"}, 0),
        (("*.q",), {"model.layers.0.attn.qkv"}, 1),
        (("*.q", "*.k"), {"model.layers.0.attn.qkv"}, 0),
        (("*attn*",), {"model.layers.0.attn.qkv", "model.layers.0.attn.o"}, 0),
        ((), set(), 0),
    ],
)
def test_groups_by_their_names_or_members(
    patterns: tuple[str, ...], groups: set[str], notes: int
) -> None:
    found = select_groups(patterns, MEMBERS)
    assert found.groups == groups
    assert len(found.notes) == notes


def test_what_else_a_member_takes_with_it_is_said() -> None:
    (note,) = select_groups(["layers.0.attn.k"], MEMBERS).notes
    assert note == (
        "model.layers.0.attn.k: an engine runs it as one with model.layers.0.attn.q, so all of them"
    )


def test_every_pattern_has_to_match() -> None:
    with pytest.raises(BadInput, match="v matches nothing"):
        select_groups(["lm_head", "*.v"], MEMBERS)
