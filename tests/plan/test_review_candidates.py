"""Plans of profiles that were scanned with few candidates."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fp8scope.errors import BadInput
from fp8scope.plan.make import make_plan
from fp8scope.plan.settings import PlanSettings
from tests.core.test_gemms import structure
from tests.plan import invented


def test_what_plain_fp8_would_cost_is_not_0_where_it_was_not_scored() -> None:
    of = invented.with_nats(invented.profile(), invented.plain({}), candidates=("fp8_block",))
    assert make_plan(of)[0].predicted.plain_fp8 is None


def test_candidates_of_which_none_was_scored_are_refused() -> None:
    of = invented.with_nats(invented.profile(), invented.plain({}), candidates=("fp8_tensor",))
    with pytest.raises(BadInput) as refused:
        make_plan(of, PlanSettings(candidates=("fp8_token", "fp8_block")))
    assert refused.value.what == "the profile scored no group in fp8_token or fp8_block"
    assert refused.value.remedy == "plan with what it scored: --candidates fp8_tensor"


@pytest.mark.parametrize("wish", ["kept", "excluded"])
def test_a_router_is_named_in_vain(wish: str) -> None:
    of = replace(invented.profile(), structure=structure("mixtral"))
    name = "model.layers.0.mlp.gate"
    asked = PlanSettings(**{wish: (name,)}).asked(of)  # type: ignore[arg-type]
    assert not asked.kept | asked.excluded
    assert asked.notes == (f"{name}: routers stay in BF16, no engine quantizes them",)
