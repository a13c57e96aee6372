"""The report of `compare`: would A's static scales hold on B, where not, and what else changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fp8scope.analyze.compare import Comparison, SiteChange
from fp8scope.analyze.saturation import Saturation
from fp8scope.analyze.weight_changes import WeightChange
from fp8scope.core.sites import Role, Site
from fp8scope.core.words import (
    common_prefix,
    decibel,
    number,
    percent,
    printable,
    site_name,
    times,
)
from fp8scope.profile.record import Profile
from fp8scope.report.compare import comparison_sentences, gate_sentence
from fp8scope.report.document.blocks import (
    Block,
    Cell,
    Code,
    Column,
    Details,
    Document,
    Fact,
    Facts,
    Figure,
    Items,
    Paragraph,
    Row,
    Section,
    Table,
    Tone,
)
from fp8scope.report.figures.anchors import anchor
from fp8scope.report.figures.drift import drift
from fp8scope.report.figures.magnitudes import magnitudes
from fp8scope.report.rows import finite, profile_summary

KEPT_STILL = 0.02
"""The drift that random halves of one text stayed under (docs/benchmarks.md)."""
MOST_ROWS = 2000


def comparison_report(
    found: Comparison,
    a: Profile,
    b: Profile,
    *,
    limit: float | None = None,
    names: tuple[str, str] = ("", ""),
    worst: int = 8,
) -> Document:
    """The whole report. `limit` is that of the gate, `names` those of the files, `worst` how many
    sites are shown by tag.
    """
    prefix = common_prefix(row.site.module for row in found.sites)
    sections = [
        Section("The amax, from A to B", "amax", (drift(found),)),
        Section("Sites", "sites", (_sites(found.sites, prefix, _allowed(limit)),)),
    ]
    if changed := [row for row in found.sites if _changed(row)][:worst]:
        blocks = tuple(_by_tag(row, b, prefix) for row in changed)
        sections.append(Section("The sites that changed most, by tag", "by-tag", blocks))
    if found.weights:
        sections.append(Section("Weights", "weights", (_weights(found, prefix),)))
    sections.append(Section("Provenance", "provenance", (_provenance(a, b),)))
    return Document(
        title="What changed from A to B",
        about=f"A is {_of(a, names[0])}; B is {_of(b, names[1])}",
        verdict=_verdict(found, limit, prefix),
        sections=sections,
    )


def _of(profile: Profile, file: str) -> str:
    summary = profile_summary(profile)
    name = summary["model"].get("name") or summary["model"].get("architecture")
    of = f"{name} on {summary['sequences']:,} sequences of {', '.join(summary['tags'])}"
    return printable(f"{file} ({of})" if file else of)


def _verdict(found: Comparison, limit: float | None, prefix: str) -> Section:
    gate = None if limit is None else gate_sentence(found, limit)
    blocks: list[Block] = []
    if limit is not None:
        kept = f"The gate holds: the drift is {percent(found.drift)}, the limit {percent(limit)}."
        remedy = "Calibrate with text like B, or use dynamic scales."
        blocks.append(Paragraph(f"The gate fails. {gate}. {remedy}" if gate else kept))
    blocks += [Facts(_facts(found, limit, prefix)), Items(comparison_sentences(found))]
    return Section(_title(found, limit), "verdict", blocks)


def _title(found: Comparison, limit: float | None) -> str:
    """As the gate has it, if there is one."""
    if found.drift > _allowed(limit):
        return "A's static scales do not hold on B"
    damaged = _damaged(found)
    also = f", but the body is newly lost at {damaged} of {len(found.sites)} sites"
    return "A's static scales hold on B" + (also if damaged else "")


def _allowed(limit: float | None) -> float:
    """The drift up to which scales hold."""
    return KEPT_STILL if limit is None else limit


def _damaged(found: Comparison) -> int:
    return sum(row.newly_damaged for row in found.sites)


def _facts(found: Comparison, limit: float | None, prefix: str) -> tuple[Fact, ...]:
    clipped = sum(1 for row in found.sites if row.whole.saturated_sequences)
    damaged = _damaged(found)
    most = max(found.sites, key=lambda row: row.amax_ratio)
    return (
        Fact(
            "Drift",
            percent(found.drift),
            "of B's sequences clipped by more than 20% at the worst site, at 95% confidence",
            "bad" if found.drift > _allowed(limit) else "good",
        ),
        Fact(
            "Sites clipped",
            f"{clipped} of {len(found.sites)}",
            "by anything at all, which two halves of one text do as well",
        ),
        Fact("Newly damaged", str(damaged), "bodies lost in B", "bad" if damaged else "good"),
        Fact("Largest growth of amax", f"{times(most.amax_ratio)}×", site_name(most.site, prefix)),
        Fact("Weights that differ", f"{len(found.weights)} of {found.weights_compared}"),
    )


def _kind_of_change(row: SiteChange, allowed: float) -> Tone:
    """As the drift's: two halves of one text clip each other by a little all the time."""
    if row.drift > allowed or row.newly_damaged:
        return "bad"
    return "warn" if row.whole.far_sequences or row.new_outliers else ""


def _changed(row: SiteChange) -> bool:
    return bool(_kind_of_change(row, KEPT_STILL) or row.whole.saturated_sequences)


def _sites(rows: Sequence[SiteChange], prefix: str, allowed: float) -> Table:
    columns = (
        Column("site"),
        Column("amax A", numeric=True),
        Column("amax B", numeric=True),
        Column("B/A", numeric=True),
        Column("sequences clipped", numeric=True, about="in which A's scale clips anything"),
        Column("by over 20%", numeric=True, about="whose largest value loses more than 20%"),
        Column("values clipped", numeric=True),
        Column("body SQNR", numeric=True, about="of A and of B, each under its own scale"),
        Column("place", numeric=True, about="by severity in A and in B; 1 is the worst"),
    )
    caption = ""
    if len(rows) > MOST_ROWS:
        caption = f"The worst {MOST_ROWS:,} of {len(rows):,}; compare --json has all."
    return Table(columns, [_site(row, prefix, allowed) for row in rows[:MOST_ROWS]], caption)


def _site(row: SiteChange, prefix: str, allowed: float) -> Row:
    before, now = row.a.error.body_sqnr_db, row.b.error.body_sqnr_db
    cells = (
        Cell((Code(site_name(row.site, prefix)),), tone=_kind_of_change(row, allowed)),
        Cell(number(row.a.amax), row.a.amax),
        Cell(number(row.b.amax), row.b.amax),
        Cell(f"{times(row.amax_ratio)}×", finite(row.amax_ratio)),
        Cell(percent(row.whole.share), row.whole.share),
        Cell(percent(row.whole.far_share), row.whole.far_share),
        Cell(percent(row.whole.rate), row.whole.rate),
        Cell(f"{decibel(before)} → {decibel(now)}", finite(now)),
        Cell(f"{row.rank_a} → {row.rank_b}", row.rank_b),
    )
    return Row(cells, anchor(str(row.site)))


def _by_tag(row: SiteChange, b: Profile, prefix: str) -> Details:
    columns = (
        Column("tag of B"),
        Column("sequences", numeric=True),
        Column("clipped", numeric=True),
        Column("95% interval", numeric=True),
        Column("by over 20%", numeric=True),
        Column("95% interval", numeric=True),
        Column("largest over A's", numeric=True, about="1× is A's amax; up to 1.036× rounds to it"),
    )
    tags = sorted(row.tags.items(), key=lambda entry: entry[1].severity)
    rows = [_tag(tag, of) for tag, of in [*tags, ("all text", row.whole)]]
    blocks: list[Block] = [Table(columns, rows), _magnitudes(row, b)]
    if row.new_outliers:
        new = [
            f"channel {of.channel}: {times(of.over_median_b)}× the median channel, "
            f"{times(of.over_median_a)}× in A"
            for of in row.new_outliers[:10]
        ]
        blocks += [Paragraph("New outlier channels:"), Items(new)]
    return Details((Code(site_name(row.site, prefix)),), blocks, open=True)


def _magnitudes(row: SiteChange, b: Profile) -> Figure:
    drawn = magnitudes(b, [row.site], {row.site: row.whole.scale})
    name = f"magnitudes-{anchor(row.site.module)}-{row.site.role}"
    return replace(drawn, name=name, title="Magnitudes of B under A's scale")


def _tag(tag: str, of: Saturation) -> Row:
    return Row(
        (
            Cell(tag),
            Cell(f"{of.sequences:,}", of.sequences),
            Cell(percent(of.share), of.share),
            Cell(" to ".join(map(percent, of.share_interval)), of.share_interval[0]),
            Cell(percent(of.far_share), of.far_share),
            Cell(" to ".join(map(percent, of.far_interval)), of.far_interval[0]),
            Cell(f"{times(of.clip)}×", of.clip),
        )
    )


def _weights(found: Comparison, prefix: str) -> Table:
    columns = (
        Column("weight"),
        Column("amax A", numeric=True),
        Column("amax B", numeric=True),
        Column("body SQNR A", numeric=True),
        Column("body SQNR B", numeric=True),
        Column("rows changed", numeric=True),
    )
    return Table(columns, [_weight(row, prefix) for row in found.weights[:MOST_ROWS]])


def _weight(row: WeightChange, prefix: str) -> Row:
    return Row(
        (
            Cell(
                (Code(site_name(Site(row.module, Role.WEIGHT), prefix)),),
                tone="bad" if row.newly_damaged else "",
            ),
            Cell(number(row.amax_a), row.amax_a),
            Cell(number(row.amax_b), row.amax_b),
            Cell(decibel(row.body_db_a), finite(row.body_db_a)),
            Cell(decibel(row.body_db_b), finite(row.body_db_b)),
            Cell(f"{row.rows_changed:,} of {row.rows:,}", row.rows_changed),
        )
    )


def _provenance(a: Profile, b: Profile) -> Table:
    told = [_told(profile) for profile in (a, b)]
    rows = [
        Row((Cell(name), *(Cell((Code(of[name]),) if "hash" in name else of[name]) for of in told)))
        for name in told[0]
    ]
    return Table((Column(""), Column("A"), Column("B")), rows)


def _told(profile: Profile) -> dict[str, str]:
    summary = profile_summary(profile)
    tags = ", ".join(
        f"{tag} {of['sequences']:,} ({of['tokens']:,} tokens)"
        for tag, of in summary["tags"].items()
    )
    model = summary["model"]
    return {
        "model": str(model.get("name") or model.get("architecture")),
        "architecture": str(model.get("architecture", "")),
        "weights hash": str(model.get("weights_hash", "")),
        "dtype": str(summary["settings"].get("dtype", "")),
        "sequences by tag": tags,
        "fp8scope": str(summary["environment"].get("fp8scope", "")),
    }
