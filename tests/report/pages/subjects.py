"""Reports to look into: every kind of profile, with and without a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from fp8scope.artefacts.plan import Plan
from fp8scope.core.choices import Row
from fp8scope.core.sites import Site
from fp8scope.core.structure import Structure
from fp8scope.plan.make import make_plan
from fp8scope.plan.settings import PlanSettings
from fp8scope.profile.record import Profile
from fp8scope.report.document import blocks as kinds
from fp8scope.report.document.blocks import Document, Section
from fp8scope.report.pages.profile import profile_report
from fp8scope.report.snapshot import Snapshot, filled, opened
from tests.plan import invented
from tests.profiles import build
from tests.tui.browsing import all_of_demo, demo, llama, mixture, planned, without_blocks

HOSTILE = "<img src=x onerror=alert(1)>\"'`|</script><!--%{x}\u202e\n@all #1 [a](b) ${1} *_~"
NAMES = {
    "demo": False,
    "demo, planned": True,
    "llama": False,
    "llama, planned": True,
    "llama, some in BF16": True,
    "not scored": False,
    "one tag": False,
    "mixture of experts": False,
    "mixture of experts, planned": True,
    "without blocks": False,
    "hostile": False,
    "hostile, planned": True,
}
"""Whether it has a plan, by name."""


def _profile(name: str) -> Profile:
    made: dict[str, Callable[[], Profile]] = {
        "demo": demo,
        "llama": llama,
        "not scored": lambda: invented.profile(2),
        "one tag": lambda: build("one", tags=("prose",), full=True),
        "mixture of experts": mixture,
        "without blocks": without_blocks,
        "hostile": hostile,
    }
    return made[name.partition(", ")[0]]()


@cache
def snapshot(name: str) -> Snapshot:
    """All that is known."""
    of = _profile(name)
    known = all_of_demo() if of is demo() else [*filled(opened(Path("profile.h5"), of))][-1]
    if not NAMES[name]:
        return known
    return replace(known, plan=_planned(name, of), plan_path=Path("plan.json"))


def _planned(name: str, of: Profile) -> Plan:
    if "some in BF16" in name:
        return make_plan(of, PlanSettings(max_bf16_share=0.5, kv_cache="fp8"))[0]
    return planned(of)


@cache
def report(name: str) -> Document:
    """The report on it."""
    return profile_report(snapshot(name), layers=3)


def hostile() -> Profile:
    """A Llama of which every name and every text tries to be markup."""
    of = llama(2)

    def name(text: str) -> str:
        return text.replace("model.", f"{HOSTILE}.")

    def site(of_it: Site) -> Site:
        return Site(name(of_it.module), of_it.role)

    scored = of.sensitivity
    assert scored is not None
    rows = tuple(Row.from_json(_renamed(row.to_json(), name)) for row in scored.rows)
    excerpts = {key: column.copy() for key, column in of.excerpts.items()}
    for column in ("token", "before", "after"):
        excerpts[column][:] = HOSTILE.encode()[:40]
    return replace(
        of,
        model=of.model | {"name": HOSTILE, HOSTILE: HOSTILE},
        settings=of.settings | {HOSTILE: HOSTILE},
        environment=of.environment | {HOSTILE: HOSTILE},
        structure=Structure.from_json(_renamed(of.structure.to_json(), name)),
        tags=tuple(f"{tag} {HOSTILE}" for tag in of.tags),
        sources=tuple({**source, "location": HOSTILE} for source in of.sources),
        sites={site(key): record for key, record in of.sites.items()},
        aliases={site(key): site(owner) for key, owner in of.aliases.items()},
        weights={name(key): record for key, record in of.weights.items()},
        excerpts=excerpts,
        notes=(HOSTILE,),
        sensitivity=replace(scored, rows=rows),
    )


def _renamed(data: Any, name: Callable[[str], str]) -> Any:
    if isinstance(data, str):
        return name(data)
    if isinstance(data, dict):
        return {key: _renamed(value, name) for key, value in data.items()}
    return [_renamed(value, name) for value in data] if isinstance(data, list | tuple) else data


def parts(of: Any) -> Iterator[Any]:
    """A part of a document and everything in it; of drawings nothing."""
    if is_dataclass(of):
        yield of
        for field in fields(of):
            yield from parts(getattr(of, field.name))
    elif isinstance(of, Sequence) and not isinstance(of, str):
        for inner in of:
            yield from parts(inner)


def section(of: Document, title: str) -> Section:
    """A section by its title."""
    return next(one for one in parts(of) if isinstance(one, Section) and one.title == title)


def text(of: Any) -> str:
    """What a reader reads of a part, a line for each piece of text."""
    if isinstance(of, str):
        return of
    if isinstance(of, kinds.Excerpt):
        return f"{of.before}«{of.token}»{of.after}"
    if isinstance(of, kinds.Code | kinds.Strong | kinds.Link):
        return of.text
    if isinstance(of, tuple) and all(isinstance(one, str) or _inline(one) for one in of):
        return "".join(map(text, of))
    if is_dataclass(of):
        left_out = ("anchor", "views", "name", "language", "tone", "keywords")
        found = [getattr(of, field.name) for field in fields(of) if field.name not in left_out]
        return "\n".join(text(one) for one in found if isinstance(one, str | tuple | list))
    return "\n".join(map(text, of)) if isinstance(of, list | tuple) else ""


def _inline(part: Any) -> bool:
    return isinstance(part, kinds.Code | kinds.Strong | kinds.Link | kinds.Excerpt)
