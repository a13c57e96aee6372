"""Large models: few bytes for a cell, few bars for a site, and experts folded into one column."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import FusedGroup, Linear, Structure
from fp8scope.report.document.drawing import figure_json
from fp8scope.report.figures.heatmap import MOST_COLUMNS, heatmap
from fp8scope.report.figures.magnitudes import magnitudes
from fp8scope.report.measures import measures
from fp8scope.report.snapshot import Snapshot
from tests.plan import invented
from tests.profiles import invented_values, site_record, weight_record
from tests.report.figures.subjects import demo_with_plan, size, whole
from tests.tui.browsing import all_of_llama, planned

CELLS_OF_70B, MOST_OF_70B = 641, 350_000
EXPERTS = MOST_COLUMNS + 4


def test_a_heatmap_of_80_blocks_is_small() -> None:
    """From one of 12 blocks, whose names are as long."""
    snapshot = all_of_llama(12)
    figure = heatmap(replace(snapshot, plan=planned(snapshot.profile)))
    views, cells = len(figure.views), len(snapshot.grid.modules)
    assert views == 9
    assert len(figure_json(figure)) / cells * CELLS_OF_70B < MOST_OF_70B


def test_where_a_click_leads_is_said_once() -> None:
    text = figure_json(heatmap(demo_with_plan()))
    assert text.count("#model.layers.3.mlp.down_proj") == 1


def test_the_magnitudes_of_a_site_are_a_few_kilobytes() -> None:
    of = demo_with_plan().profile
    sites = [*of.sites, *(Site(module, Role.WEIGHT) for module in of.weights)]
    for site in sites:
        assert size(magnitudes(of, [site])) < 5000


@cache
def mixture() -> Snapshot:
    """One block of many experts, each with a linear of its own, as remote code has them."""
    block = "model.layers.0"
    names = [f"{block}.mlp.experts.{number}.down_proj" for number in range(EXPERTS)]
    names.append(f"{block}.self_attn.o_proj")
    structure = Structure(
        family=None,
        blocks=(block,),
        linears=tuple(Linear(name, 8, 8, False, False, None, None) for name in names),
        groups=(
            FusedGroup(f"{block}.mlp.experts", tuple(names[:-1])),
            FusedGroup(names[-1], (names[-1],)),
        ),
        folds=(),
        kv_layers=(),
    )
    values = [(i % 2, invented_values(1, i, shape=(3 + i % 3, 8))) for i in range(6)]
    matrix = invented_values(2, 2, shape=(8, 8))
    large = matrix.copy()
    large[3, 3] = 2.0**17
    return whole(
        invented.profile(
            structure=structure,
            sites={Site(name, Role.INPUT): site_record(values, 2) for name in names},
            aliases={},
            weights={
                name: weight_record(large if number == 7 else matrix)
                for number, name in enumerate(names)
            },
        )
    )


def test_many_experts_are_one_column_with_the_worst_of_them() -> None:
    snapshot = mixture()
    assert len(snapshot.grid.columns) == EXPERTS + 1
    figure = heatmap(snapshot)
    names = [one.name for one in measures(snapshot)]
    view = figure.views[names.index("amax/rms of the body")]
    assert view.layout["xaxis"]["ticktext"] == ["down", "o"]
    trace = view.data[0]
    assert trace["customdata"][0] == [
        "#model.layers.0.mlp.experts.7.down_proj",
        "#model.layers.0.self_attn.o_proj",
    ]
    assert trace["z"][0][0] > trace["z"][0][1]
    assert "the worst" in str(figure.says)


def test_few_columns_stay_as_they_are() -> None:
    assert "the worst" not in str(heatmap(all_of_llama(12)).says)
