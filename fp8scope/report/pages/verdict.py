"""The first screen: what to do, why, and what it costs."""

from __future__ import annotations

from fp8scope.analyze.cause import TOKEN_CAUSES, Cause, Remedy, SiteCause
from fp8scope.analyze.groups import PLAIN, GroupFinding
from fp8scope.analyze.verdict import judge
from fp8scope.artefacts.plan import Group, Plan
from fp8scope.core.schemes import DEFAULT_CANDIDATES
from fp8scope.core.words import nats, printable, times
from fp8scope.plan.reasons import WORDS
from fp8scope.report.commands import command
from fp8scope.report.document.blocks import (
    Block,
    Facts,
    Inline,
    Items,
    Link,
    Listing,
    Paragraph,
    Section,
    Strong,
    Words,
)
from fp8scope.report.groups import NAMES, spread_sentences
from fp8scope.report.headline import verdict_line
from fp8scope.report.kvcache import cache_sentences
from fp8scope.report.pages import facts
from fp8scope.report.pages.names import Names
from fp8scope.report.pages.tables import prose
from fp8scope.report.plan import capital, note_sentences, plain_sentence, told_groups
from fp8scope.report.sentence import sentence
from fp8scope.report.snapshot import Snapshot

ACTIONS = 5
NOTES = 3
LINES = 3
_REMEDIES = {
    Remedy.PER_TOKEN: "scales per token",
    Remedy.SMOOTH: "smoothing",
    Remedy.UNFOLD: "its factor folded back",
    Remedy.PER_CHANNEL: "a weight scale per output channel",
    Remedy.BF16: "keep it in BF16",
    Remedy.NONE: "keep it in BF16",
}
A_NAT = (
    "Nats per token: KL divergence of the next token's distribution from that of the model as it "
    "is. 0.01 is about what a perplexity 1% higher costs, and twice what is commonly allowed."
)
NOT_SCORED = (
    "What that costs in nats per token was not scored, and a plan needs it: scan again with "
    "--sensitivity fisher or kl."
)


def verdict(snapshot: Snapshot, names: Names) -> Section:
    """With a plan what it does, without one what analyze says, without scores by body SQNR."""
    if snapshot.plan is not None:
        blocks = _of_plan(snapshot, snapshot.plan, names)
    elif snapshot.scores:
        blocks = _of_scores(snapshot, names)
    else:
        blocks = _of_tensors(snapshot, names)
    return Section("Verdict", "~verdict", blocks)


def _of_plan(snapshot: Snapshot, plan: Plan, names: Names) -> list[Block]:
    told = told_groups(plan)
    rest = plain_sentence(plan, snapshot.prefix)
    actions = [_planned(snapshot, group, names) for group in told[:ACTIONS]]
    said = [*([rest] if rest else []), *note_sentences(plan)[:NOTES]]
    build = command("build", snapshot.plan_path or "plan.json", "-o", "CHECKPOINT")
    return [
        Paragraph((Strong(f"{printable(capital(plan.summary))}."),)),
        *_actions(actions, len(told), "~plan", "Plan"),
        Facts(facts.of_plan(snapshot, plan)),
        *prose(said, names),
        Paragraph(A_NAT),
        Listing("Next: the FP8 checkpoint", build, "sh"),
    ]


def _of_scores(snapshot: Snapshot, names: Names) -> list[Block]:
    plan = command("plan", snapshot.path)
    return [
        *_found_at(snapshot, names),
        *prose(_together(snapshot), names),
        Facts(facts.of_scores(snapshot)),
        Paragraph(A_NAT),
        Listing("Next: what every layer should run in, within a budget", plan, "sh"),
    ]


def _of_tensors(snapshot: Snapshot, names: Names) -> list[Block]:
    found = judge((snapshot.sites or {}).values())
    said = sentence(found, lambda row: names.short(row.site.module))
    return [
        *_found_at(snapshot, names),
        Facts(facts.of_tensors(snapshot, found)),
        *prose([said, NOT_SCORED], names),
    ]


def _found_at(snapshot: Snapshot, names: Names) -> list[Block]:
    """What analyze says, and the groups that it says it of."""
    harmful = [group for group in (snapshot.groups or {}).values() if group.harmful]
    actions = [_found(group, names) for group in harmful[:ACTIONS]]
    said = Paragraph((Strong(_stopped(verdict_line(snapshot))),))
    return [said, *_actions(actions, len(harmful), "~hurts", "Where it hurts")]


def _together(snapshot: Snapshot) -> list[str]:
    """What no single group shows: what all of them cost together, and the caches."""
    groups = list((snapshot.groups or {}).values())
    return [*spread_sentences(snapshot.models, groups), *cache_sentences(snapshot.kv_cache or ())]


def _actions(items: list[Words], count: int, rest: str, where: str) -> list[Block]:
    """What to do where, the worst first; the `rest` is in the section called `where`."""
    left = count - len(items)
    more: list[Block] = [
        Paragraph((f"and {left} more, under ", Link(where, rest, code=False), "."))
    ]
    return [*([Items(items, numbered=True)] if items else []), *(more if left else [])]


def _planned(snapshot: Snapshot, group: Group, names: Names) -> Words:
    """A group that the plan does not leave plain."""
    why = why_in_brief(snapshot, group)
    before = group.evidence.candidates.get(PLAIN)
    after = None if group.precision == "bf16" else group.evidence.kl
    return _action(names.link(group.name), to_do(group), (before, after), why)


def _action(link: Inline, what: str, nats_of: tuple[float | None, float | None], why: str) -> Words:
    """`layers.1.mlp.down_proj: smoothing at α 0.25, 0.029 → 0.0002 nats (input: …)`."""
    before, after = nats_of
    cost = ""
    if before is not None:
        cost = f", {nats(before)} nats in plain FP8"
        cost = cost if after is None else f", {nats(before)} → {nats(after)} nats"
    return link, ": ", Strong(what), f"{cost} ({why})" if why else cost


def to_do(group: Group) -> str:
    """What a plan has a group run in, as something to do."""
    if group.precision == "bf16":
        return "keep it in BF16"
    alpha = "" if group.alpha is None else f" at α {group.alpha:g}"
    return f"{WORDS[group.precision]}{alpha}"


def _found(group: GroupFinding, names: Names) -> Words:
    """A group that should not run plain, and the cheapest that is known for it."""
    served = {name: score for name in DEFAULT_CANDIDATES if (score := group.candidates.get(name))}
    best = min(served, key=lambda name: served[name].kl, default="")
    before, after = group.plain.kl if group.plain else None, None
    if best in ("", PLAIN):
        what = _REMEDIES[group.cause.remedy]
    else:
        alpha, after = served[best].row.terms[0].alpha, served[best].kl
        what = NAMES[best] + ("" if alpha is None else f" at α {alpha:g}")
    return _action(names.link(group.group), what, (before, after), cause_in_brief(group.cause))


def why_in_brief(snapshot: Snapshot, group: Group) -> str:
    """Who asked for it, if anybody, and its outlier."""
    finding = (snapshot.groups or {}).get(group.name)
    asked = printable(f"asked for ({group.evidence.asked})") if group.evidence.asked else ""
    brief = cause_in_brief(finding.cause) if finding else ""
    return "; ".join(filter(None, (asked, brief)))


def cause_in_brief(found: SiteCause) -> str:
    """`input: first token «<s>», channel 12, 694,726× the body's rms`."""
    kind = str(found.cause).replace("_", " ")
    if found.cause is Cause.ROUNDING:
        return f"plain {kind}"
    if found.cause in TOKEN_CAUSES:
        kind += "".join(f" «{token.text}»" for token in found.tokens[:1] if token.text)
        kind += f", {found.axis}" if found.lines else ""
    lines = ", ".join(str(line.index) for line in found.lines[:LINES])
    lines += ", …" if len(found.lines) > LINES else ""
    role = "" if kind.startswith(found.site.role) else f"{found.site.role}: "
    return printable(f"{role}{f'{kind} {lines}'.rstrip()}, {times(found.ratio)}× the body's rms")


def _stopped(line: str) -> str:
    return line if line.endswith(".") else f"{line}."
