"""What the page of findings says, at any width and with any name, and its rows for JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from fp8scope.analyze.analysis import analyze_profile
from fp8scope.analyze.groups import group_findings
from fp8scope.core.choices import Kind, Row, Term
from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import FusedGroup, Linear
from fp8scope.profile.record import Profile
from fp8scope.report.analysis import analysis_page, analysis_row
from fp8scope.report.groups import group_rows, group_sentences, model_sentences, tag_sentences
from tests.analyze.sites import of_modules
from tests.analyze.test_groups import A, B, C, channel, of, plain, three
from tests.profiles import build, scored

EVIL = "\x1b[31m[red]\u202e\x07evil"
WHOLE = tuple(Row(Kind.MODEL, tuple(Term(x, name) for x in (A, B, C)))
              for name in ("fp8_tensor", "fp8_token"))  # fmt: skip
PAIR = Row(Kind.PAIR, (Term(A, "fp8_tensor", folded=0.5), Term(B, "fp8_smooth", 0.5)))


def costly() -> Profile:
    """B costs what it should not, most in the second tag; the others next to nothing."""
    nats: dict[Row, float | tuple[float, ...]] = {
        of(A): 0.0004,
        of(B): (0.02, 0.10, 0.02, 0.14),
        of(C): 0.00003,
        of(B, "fp8_token"): 0.002,
        of(B, "fp8_smooth", alpha=0.5): 0.0003,
        PAIR: 0.0006,
        WHOLE[0]: (0.02, 0.11, 0.02, 0.15),
        WHOLE[1]: 0.003,
    }
    return scored(three(), nats, measured=WHOLE)


def shown(profile: Profile, width: int) -> list[str]:
    out = StringIO()
    Console(file=out, width=width, highlight=False).print(analysis_page(analyze_profile(profile)))
    return out.getvalue().splitlines()


@pytest.mark.parametrize(("whole", "too_low"), [(0.012, True), (0.009, False), (0.0018, False)])
def test_nothing_is_clean_where_the_groups_do_not_explain_the_whole(
    whole: float, too_low: bool
) -> None:
    """All three are predicted to cost 0.001 together; measured, the whole model costs `whole`."""
    nats = {of(A): 0.0004, of(B): 0.0003, of(C): 0.0003, WHOLE[0]: whole}
    profile = scored(three(), nats, measured=WHOLE[:1])
    page = "\n".join(shown(profile, 300))
    assert ("--sensitivity kl measures each" in page) is too_low
    assert ("Nothing to exclude" in page) is not too_low
    assert analysis_row(analyze_profile(profile))["predictions_too_low"] is too_low
    unmeasured = analyze_profile(scored(three(), nats))
    assert not analysis_row(unmeasured)["predictions_too_low"]


def test_a_finding_says_what_it_costs_where_why_and_what_is_cheaper() -> None:
    (verdict, finding) = group_sentences(group_findings(costly()))
    assert verdict == (
        "1 of 3 fused groups should not run with one static scale per tensor; "
        "the others cost at most 0.0004 nats per token (layers.0.mlp.a) each:"
    )
    assert finding.startswith("1. layers.0.mlp.b, 0.07")
    assert " nats, most in b (0.12" in finding
    assert "layers.0.mlp.b input: one channel (5) reaches" in finding
    assert finding.endswith(
        "It costs smoothed at α 0.5 0.0003 (0.0006 at α 0.5 together with what it is folded "
        "into); scales per token 0.0020."
    )


def test_the_whole_model_and_its_use_cases() -> None:
    found = analyze_profile(costly())
    (said,) = model_sentences(found.models)
    assert said.startswith("All linears of the blocks, nats per token (measured): one static ")
    assert said.endswith("scales per token 0.0030 ± 0.")
    (tags,) = tag_sentences(found.tags, "model.")
    assert tags.startswith("By tag, with one static scale per tensor, nats per token: b 0.130 (")
    assert "b 0.130 (most from layers.0.mlp.b, 0.120)" in tags
    assert "; a 0.020 (most from layers.0.mlp.b, 0.020)." in tags
    assert tag_sentences(found.tags[:1], "") == []
    estimated = analyze_profile(scored(three(), {of(A): 0.1, WHOLE[0]: 0.2}))
    assert "(predicted)" in model_sentences(estimated.models)[0]


def test_nothing_to_exclude_is_said_plainly() -> None:
    profile = scored(three(), {of(A): 0.0004, of(B): 0.0012, of(C): 0.0})
    assert group_sentences(group_findings(profile)) == [
        "Nothing to exclude: each of 3 fused groups costs at most 0.0012 nats per token "
        "(layers.0.mlp.b) with one static scale per tensor."
    ]


def test_without_nats_the_tensors_are_judged() -> None:
    (verdict, finding) = group_sentences(group_findings(three()))
    assert verdict == "1 of 3 fused groups have a damaged tensor:"
    assert finding.startswith("1. layers.0.mlp.b. layers.0.mlp.b input: one channel (5) reaches")
    assert "nats" not in finding
    assert group_sentences(group_findings(of_modules({A: plain()}))) == [
        "Nothing to exclude: none of 1 fused groups has a damaged tensor with one static scale "
        "per tensor (what that costs in nats was not scored)."
    ]
    assert group_sentences([]) == []
    assert model_sentences({}) == []


def test_of_many_groups_the_worst_are_named() -> None:
    names = [f"model.layers.0.mlp.g{i:02}" for i in range(20)]
    profile = of_modules(dict.fromkeys(names, plain(8)))
    profile = scored(profile, {of(name): 0.02 + i / 1000 for i, name in enumerate(names)})
    said = group_sentences(group_findings(profile))
    assert len(said) == 1 + 12 + 1
    assert said[1].startswith("1. layers.0.mlp.g19, 0.039 ± 5% nats, most in a")
    assert said[-1] == "and 8 more groups."
    assert "20 of 20 fused groups should not run" in said[0]
    assert "the other" not in said[0]
    assert "No outlier explains it" in said[1]


def test_what_is_in_doubt_is_said_to_be() -> None:
    profile = scored(three(), {of(A): (0, 0, 0, 0.04), of(B): 0.001, of(C): 0.004})
    (nothing, doubt) = group_sentences(group_findings(profile))
    assert nothing.startswith("Nothing to exclude beyond doubt: each of 3 fused groups costs at ")
    assert doubt == (
        "1 more may cost 0.01 or more, at most layers.0.mlp.a with 0.010 ± 100% nats: "
        "a scan with --sensitivity kl would tell."
    )


@pytest.mark.parametrize("width", [80, 120])
def test_the_page_keeps_to_its_width(width: int) -> None:
    lines = shown(costly(), width)
    assert max(map(cell_len, lines)) <= width
    assert max(map(cell_len, lines)) > 0.8 * width
    assert lines[0] == "Where FP8 hurts; names without their first “model.”"
    headings = [line for line in lines if line and not line.startswith(" ")]
    assert {"Use cases", "Static or dynamic scales", "Convergence"} <= set(headings)
    words = " ".join(" ".join(lines).split())
    assert "1 of 3 fused groups should not run" in words


@pytest.mark.parametrize(
    "profile",
    [
        costly(),
        three(),
        scored(costly(), {of(A): np.nan, of(B): np.nan, PAIR: np.nan, WHOLE[0]: np.nan}),
        scored(costly(), {of(A): 0.1, of(B): 0.2, WHOLE[0]: 0.3}, samples=[1]),
        scored(costly(), {of(A, "fp8_token"): 0.1, WHOLE[1]: 0.3}),
        scored(costly(), {WHOLE[0]: 0.3}),
        scored(costly(), {}),
        build(sites={}, aliases={}),
        build(),
    ],
    ids=["scored", "not", "nan", "one sequence", "no plain", "whole alone", "no rows", "no", "kv"],
)
def test_json_holds_no_nan_and_any_page_is_shown(profile: Profile) -> None:
    row = analysis_row(analyze_profile(profile))
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert shown(profile, 80)


def test_the_rows_of_json() -> None:
    row = analysis_row(analyze_profile(costly()))
    assert row["harmful"] == [B]
    (first, *others) = row["groups"]
    assert (first["group"], first["harmful"]) == (B, True)
    assert not any(group["harmful"] for group in others)
    assert first["candidates"]["fp8_token"]["kl"] == pytest.approx(0.002)
    assert first["candidates"]["fp8_tensor"]["error"] > 0
    assert first["candidates"]["fp8_tensor"]["tags"]["b"]["kl"] == pytest.approx(0.12)
    assert first["candidates"]["fp8_tensor"]["measured"] is None
    assert first["smoothed_pair"]["kl"] == pytest.approx(0.0006)
    assert first["unsmoothed_pair_kl"] == pytest.approx(0.0704)
    assert first["cause"]["cause"] == "fixed_channel"
    assert row["models"]["fp8_token"]["measured"]["kl"] == pytest.approx(0.003)
    assert [tag["tag"] for tag in row["tag_damage"]] == ["b", "a"]
    (damaged,) = group_rows(group_findings(three()))[:1]
    assert (damaged["group"], damaged["candidates"], damaged["harmful"]) == (B, {}, True)


def evil() -> Profile:
    """Every name that a file can bring is hostile."""
    names = [f"model{EVIL}.layers.0.{EVIL}{name}" for name in "ab"]
    profile = of_modules({names[0]: plain(), names[1]: channel()}, tags=("a" + EVIL, "b" + EVIL))
    profile.structure = replace(
        profile.structure,
        groups=tuple(FusedGroup(name, (name,)) for name in names),
        linears=tuple(Linear(n, 64, 64, False, False, n, None) for n in names),
    )
    whole = Row(Kind.MODEL, tuple(Term(name, "fp8_tensor") for name in names))
    odd = Row(Kind.MODEL, (Term(names[0], EVIL),))
    nats = {of(name): (0.1, 0.2, 0.3, 0.4) for name in names} | {whole: 0.5, odd: 0.7}
    return scored(profile, nats)


def test_foreign_names_do_nothing_to_a_terminal() -> None:
    profile = evil()
    assert all(Site(name, Role.INPUT) in profile.sites for name in profile.weights)
    text = "\n".join(shown(profile, 100))
    assert text.count("[red]") > 5
    assert not set(text) & {"\x1b", "\u202e", "\x07"}
    assert json.loads(json.dumps(analysis_row(analyze_profile(profile)), allow_nan=False))
