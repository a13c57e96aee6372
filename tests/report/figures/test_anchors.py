"""Anchors: one for each name, and nothing in them that HTML or a URL could take for its own."""

from __future__ import annotations

import re
from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st

from fp8scope.report.figures.anchors import anchor


@given(st.text())
def test_only_plain_letters_and_the_name_comes_back(name: str) -> None:
    made = anchor(name)
    assert re.fullmatch(r"[A-Za-z0-9._%-]*", made)
    assert unquote(made) == name


@given(st.text(st.characters(categories=["Cs"]), min_size=1, max_size=3))
def test_half_a_pair_of_surrogates_is_a_name_too(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._%-]+", anchor(name))


def test_a_usual_name_is_its_own_anchor() -> None:
    assert anchor("model.layers.0.mlp.down_proj") == "model.layers.0.mlp.down_proj"
    assert anchor("a~b c%") == "a%7Eb%20c%25"
