"""What `plan` shows: the verdict, what is not plain FP8 and why, what other budgets buy."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from rich.console import Console

from fp8scope.artefacts.plan import Plan
from fp8scope.core.choices import Term
from fp8scope.plan.make import make_plan
from fp8scope.plan.settings import PlanSettings
from fp8scope.report.plan import ROWS, frontier_table, plan_page
from tests.plan import invented
from tests.plan.invented import group
from tests.plan.test_plan import made, small

BREAKS = Term(group(0, "down"), "fp8_tensor")


def shown(plan: Plan, width: int = 200) -> str:
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(plan_page(plan))
    return capture.get()


@cache
def planned(**asked: Any) -> Plan:
    return make_plan(small(), PlanSettings(**asked))[0]


def test_the_whole_page() -> None:
    lines = [line.rstrip() for line in shown(made()[0]).splitlines()]
    assert lines[0] == "Plan for invented; names without their first “model.”"
    assert lines[1].startswith(
        "  2 of 8 groups stay in BF16 (5 with one static scale per tensor, 1"
    )
    said = " ".join(" ".join(lines).split())
    assert (
        "Asked: at most 0.020 nats per token. Times: roofline of h100-sxm, batch 32, context"
        in said
    )
    assert "Plain FP8 everywhere would cost 0.267 nats per token." in said
    assert "By tag: " in said
    # the worst in BF16 first, then what has a remedy; the rest in one line
    assert said.index("1. layers.1.self_attn.o: BF16: ") < said.index(
        "2. layers.1.mlp.down: BF16: "
    )
    assert "3. layers.0.mlp.down: fp8_smooth: " in said
    assert "The other groups run with one static scale per tensor (5), at most " in said
    assert "lm_head" not in said  # which nobody decides on


def test_names_are_no_markup_and_no_control_codes() -> None:
    plan = made()[0]
    odd = plan.model.model_copy(update={"name": "[red]x[/red]\x1b[2J"})
    assert "[red]x[/red]" in shown(plan.model_copy(update={"model": odd}))
    assert "\x1b[2J" not in shown(plan.model_copy(update={"model": odd}))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"effective_bits": 9.5}, "Asked: at most 9.5 bits per weight."),
        ({"max_bf16_share": 0.25}, "Asked: at most 25% of the weights in BF16."),
        ({"preset": "fast"}, "nats per token (preset fast)."),
    ],
)
def test_what_was_asked(asked: dict[str, Any], said: str) -> None:
    assert said in shown(planned(**asked))


def test_nothing_to_exclude_and_everything_excluded() -> None:
    nothing = shown(planned(max_kl=100.0, candidates=("fp8_tensor",)))
    assert "Nothing to exclude (8 with one static scale per tensor): " in nothing
    assert "All groups run with one static scale per tensor (8)" in nothing
    everything = shown(planned(max_kl=0.0))
    assert "8 of 8 groups stay in BF16: 0.0000 ± 0 nats per token" in everything


def test_plain_fp8_without_a_number() -> None:
    of = invented.with_nats(
        invented.profile(), lambda term: float("inf") if term == BREAKS else 0.001
    )
    plan, _ = make_plan(of, PlanSettings(effective_bits=8))
    assert "Plain FP8 everywhere would give no numbers." in shown(plan)


def test_the_frontier_holds_its_ends_and_the_plan_itself() -> None:
    plan = planned(max_kl=0.02)
    table = frontier_table(plan)
    cells = [list(column.cells) for column in table.columns]
    assert len(cells[0]) <= ROWS + 2
    assert cells[0][-1] == "0.0000"
    assert cells[4].count("this plan") == 1
    own = cells[4].index("this plan")
    assert cells[3][own] == str(sum(g.precision == "bf16" for g in plan.groups) - 1)
    assert [float(str(kl)) for kl in cells[0]] == sorted(
        (float(str(x)) for x in cells[0]), reverse=True
    )


def test_to_exclude_lm_head_changes_nothing() -> None:
    plan = planned(max_kl=0.02, excluded=("lm_head",))
    assert shown(plan) == shown(planned(max_kl=0.02))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_it_fits_the_terminal(width: int) -> None:
    assert max(map(len, shown(made()[0], width).splitlines())) <= width
