"""One fused group, or the KV cache of one attention module: all that is known of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fp8scope.analyze.cause import Cause, SiteCause
from fp8scope.analyze.cause_words import cause_words
from fp8scope.analyze.detail import SiteDetail
from fp8scope.analyze.layer import LayerFindings
from fp8scope.analyze.thresholds import CAST_ROLES
from fp8scope.core.sites import Role, Site
from fp8scope.core.words import printable
from fp8scope.report.convergence import convergence_sentences
from fp8scope.report.document.blocks import Block, Code, Figure, Inline, Paragraph
from fp8scope.report.figures.anchors import anchor
from fp8scope.report.figures.convergence import convergence
from fp8scope.report.figures.costs import costs
from fp8scope.report.figures.headroom import site_headroom
from fp8scope.report.figures.magnitudes import magnitudes
from fp8scope.report.findings import clipping_sentences
from fp8scope.report.layer import error_table, head_table, line_table, tag_table, value_table
from fp8scope.report.pages.names import Names
from fp8scope.report.pages.tables import prose, table
from fp8scope.report.pages.tensors import site_table
from fp8scope.report.plan import capital
from fp8scope.report.sheet import Sheet
from fp8scope.report.snapshot import Snapshot


def layer_blocks(snapshot: Snapshot, name: str, study: LayerFindings, names: Names) -> list[Block]:
    """In the order of reading: why and what helps, what it costs, what the tensors look like."""
    blocks = prose([*_planned(snapshot, name), *_causes(study.causes, names)], names)
    if study.scores:
        drawn = costs(study.scores, study.pairs, _budget(snapshot))
        blocks.append(_figure("costs", name, drawn))
    cast = [each for each in study.details if each.measures.site.role in CAST_ROLES]
    if cast:
        drawn = magnitudes(snapshot.profile, [each.measures.site for each in cast])
        blocks.append(_figure("magnitudes", name, drawn))
        rows = [each.measures for each in cast]
        blocks.append(site_table(rows, names, "Its tensors in E4M3, one static scale each"))
    blocks += map(table, _sheets(cast, study, names))
    blocks += _traffic(name, study, names)
    return [*blocks, *_linears(snapshot, name)]


def _planned(snapshot: Snapshot, name: str) -> list[str]:
    """What the plan has it run in, and why."""
    groups = snapshot.plan.groups if snapshot.plan else ()
    for group in groups:
        if group.name == name:
            return [printable(f"The plan: {group.precision}: {group.reason}.")]
    planned = snapshot.planned.get(name)
    return [f"The plan: {planned}."] if planned else []


def _budget(snapshot: Snapshot) -> float | None:
    """Nats per token that all of the plan may cost; None where it was asked for otherwise."""
    asked = snapshot.plan.objective if snapshot.plan else None
    return asked.value if asked and asked.limit == "max_kl" else None


def _causes(found: list[SiteCause], names: Names) -> list[str]:
    """Cause and remedy at each site that has an outlier; the others in one sentence."""
    outliers = [cause for cause in found if cause.cause is not Cause.ROUNDING]
    said = [f"{cause_words(cause, names.prefix)}." for cause in outliers or found]
    if not outliers:
        return said
    others = [_site(cause.site, names) for cause in found if cause.cause is Cause.ROUNDING]
    rest = [f"No outlier, plain rounding: {', '.join(others)}."] if others else []
    return [*said, *rest]


def _sheets(cast: list[SiteDetail], study: LayerFindings, names: Names) -> Iterator[Sheet]:
    """Outlying lines, largest values and tags, each of the sites where they say something."""
    outlying = {cause.site: cause for cause in study.causes if cause.cause is not Cause.ROUNDING}
    for detail in cast:
        site = detail.measures.site
        cause = outlying.get(site)
        if cause is not None and cause.axis in detail.lines:
            yield _of(site, line_table(detail, cause.axis), names)
        if site.role is not Role.WEIGHT:
            for which, top in detail.top.items():
                if top:
                    yield _of(site, value_table(which, top), names)
            if len(detail.tags) > 1:
                yield _of(site, tag_table(detail.tags), names)
            if detail.heads:
                yield _of(site, head_table(detail.heads), names)
        if len(detail.errors) > 1:  # after scan --record full
            yield _of(site, error_table(detail), names)


def _of(site: Site, sheet: Sheet, names: Names) -> Sheet:
    return Sheet(f"{capital(sheet.title)}: {_site(site, names)}", sheet.header, sheet.rows)


def _site(site: Site, names: Names) -> str:
    return f"{names.short(site.module)} {site.role}"


def _traffic(name: str, study: LayerFindings, names: Names) -> list[Block]:
    """What static scales of one tag do to the others, and whether the amax has settled."""
    drawn = {
        "headroom": site_headroom(study.headroom),
        "convergence": convergence(study.convergence),
    }
    said = [*clipping_sentences(study.headroom), *convergence_sentences(study.convergence)]
    return [
        *prose(said, names),
        *(_figure(kind, name, found) for kind, found in drawn.items() if found),
    ]


def _figure(kind: str, name: str, figure: Figure) -> Figure:
    """Under a name of its own: other layers have such a figure too."""
    return replace(figure, name=f"{kind}-{anchor(name)}")


def _linears(snapshot: Snapshot, name: str) -> list[Block]:
    """The full names of its linears, their shapes, and what they are called in the files."""
    structure = snapshot.profile.structure
    members = next((group.members for group in structure.groups if group.name == name), ())
    blocks: list[Block] = []
    for linear in structure.linears:
        if linear.name in members:
            shape = f"[{linear.out_features} × {linear.in_features}]"
            shape = f"{linear.experts} experts of {shape}" if linear.experts else shape
            words: list[Inline] = [Code(printable(linear.name)), f" {shape}"]
            if linear.checkpoint_weight:
                words += [", in the files ", Code(printable(linear.checkpoint_weight))]
            blocks.append(Paragraph(tuple(words)))
    return blocks
