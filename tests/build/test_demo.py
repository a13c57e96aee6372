"""The demo, built: broken all in FP8; as planned as good as FP8 is without the plants."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import built

pytestmark = pytest.mark.slow
README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, built.Costs]:
    return built.measured(tmp_path_factory.mktemp("demo"), calibrated=32, held_out=24)


@pytest.mark.parametrize("tag", ["code", "prose", "support", "technical"])
def test_the_plan_undoes_what_the_plants_do(tag: str, costs: dict[str, built.Costs]) -> None:
    broken, planned, without = (
        costs[name][tag] for name in ("all FP8", "planned", "all FP8, without the plants")
    )
    assert broken.kl > 20 * planned.kl
    assert planned.kl < 1.5 * without.kl
    assert broken.perplexity > 1.05 * costs["BF16"][tag].perplexity
    assert planned.perplexity < 1.01 * costs["BF16"][tag].perplexity
