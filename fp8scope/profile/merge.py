"""Merge profiles of one model: counts, amax and top lists exactly, float sums by addition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fp8scope.core.sites import Site
from fp8scope.core.top import merge_top
from fp8scope.errors import CannotMerge
from fp8scope.profile import layout
from fp8scope.profile.record import ExpertRecord, Profile, SiteRecord, Table, top_tokens
from fp8scope.profile.sensitivity import merge_sensitivity


def merge_profiles(profiles: Sequence[Profile]) -> Profile:
    """One profile that equals a scan of all the text of its parts.

    Samples keep the order of the arguments, or, where all parts come from one plan of text
    (job arrays), the order of that plan. Raises CannotMerge: fewer than two parts, another
    model, dtype or `--record`, or a sequence that two parts both hold.
    """
    if len(profiles) < 2:
        raise CannotMerge("only one profile was given", "give two or more")
    return reduce(_merge_two, profiles)


def _merge_two(a: Profile, b: Profile) -> Profile:
    _check_same_model(a, b)
    repeated = _check_repeated(a, b)
    tags = tuple(dict.fromkeys((*a.tags, *b.tags)))
    sources = (*a.sources, *(source for source in b.sources if source not in a.sources))
    order = _sample_order(a, b)
    samples = _join_samples(a, b, (tags, sources), order)
    # old sample number -> number in the merged profile, for a's samples and for b's
    number = np.argsort(order)
    numbers = number[: len(a.samples["index"])], number[len(a.samples["index"]) :]
    sites = {site: _merge_sites(site, a, b, tags, numbers) for site in a.sites}
    experts = {site: _merge_experts(site, a, b, tags) for site in a.experts}
    sensitivity, said = merge_sensitivity(a, b, numbers)
    return replace(
        a,
        settings=_join_settings(a, b),
        tags=tags,
        sources=sources,
        samples=samples,
        batches=_join_batches(a, b, numbers),
        sites=sites,
        weights=dict(a.weights),
        experts=experts,
        expert_weights=dict(a.expert_weights),
        excerpts=_join_excerpts(a, b, numbers, sites),
        sensitivity=sensitivity,
        notes=tuple(dict.fromkeys((*a.notes, *b.notes, *repeated, *([said] if said else [])))),
        batches_done=a.batches_done + b.batches_done,
    )


def _check_same_model(a: Profile, b: Profile) -> None:
    for what, x, y in (
        ("weights", a.model["weights_hash"], b.model["weights_hash"]),
        ("config", a.model["config_hash"], b.model["config_hash"]),
        ("dtype", a.settings["dtype"], b.settings["dtype"]),
        ("--record", a.settings["record"], b.settings["record"]),
        ("--all-experts", *(p.settings.get("all_experts", False) for p in (a, b))),
        ("recorded sites", {*a.sites, *a.experts}, {*b.sites, *b.experts}),
        ("shared inputs", dict(a.aliases), dict(b.aliases)),
    ):
        if x != y:
            shown = f": {x} and {y}" if isinstance(x, str) else ""
            raise CannotMerge(
                f"the profiles differ in {what}{shown}", "merge scans of one model, made alike"
            )


def _check_repeated(a: Profile, b: Profile) -> tuple[str, ...]:
    """Refuse (CannotMerge) text that is in both parts; a note where a few sequences are alike.

    Requests repeat in traffic ("hello"), so equal sequences from two places count twice, as
    they came. But a log that has grown holds the old one, under another hash.
    """
    repeated = len(np.intersect1d(a.samples["digest"], b.samples["digest"]))
    smaller = min(len(np.unique(part.samples["digest"])) for part in (a, b))
    if _places(a) & _places(b) or 2 * repeated > smaller:
        raise CannotMerge(
            f"{repeated} sequences are in both profiles and would count twice",
            "merge scans of different text",
        )
    lengths = [part.settings.get("seq_len") for part in (a, b)]
    if lengths[0] != lengths[1] and _documents(a) & _documents(b):
        raise CannotMerge(
            f"the profiles cut the same documents, into sequences of {lengths[0]} and "
            f"{lengths[1]} tokens",
            "merge scans of different text, or with one --seq-len",
        )
    return (f"{repeated} sequences are in two parts and count twice",) if repeated else ()


def _documents(profile: Profile) -> set[tuple[str, int]]:
    return {(source, document) for source, document, _ in _places(profile)}


def _places(profile: Profile) -> set[tuple[str, int, bytes]]:
    """Source (its hash), document and words of each sequence.

    Not the window's number: of a large text it depends on what the choice needed to see.
    """
    columns = (profile.samples[name].tolist() for name in ("source", "document", "digest"))
    return {
        (profile.sources[source]["sha256"], document, digest)
        for source, document, digest in zip(*columns, strict=True)
    }


def _sample_order(a: Profile, b: Profile) -> NDArray[np.intp]:
    index = np.concatenate((a.samples["index"], b.samples["index"]))
    if a.settings["text_digest"] == b.settings["text_digest"]:
        return np.argsort(index, kind="stable")
    return np.arange(len(index))


def _join_samples(
    a: Profile, b: Profile, lists: tuple[Sequence[Any], Sequence[Any]], order: NDArray[np.intp]
) -> Table:
    tags, sources = lists
    joined = {}
    for name in layout.SAMPLE_COLUMNS:
        first, second = a.samples[name], b.samples[name]
        if name == "tag":
            second = np.array([tags.index(tag) for tag in b.tags], np.int32)[second]
        elif name == "source":
            second = np.array([sources.index(source) for source in b.sources], np.int32)[second]
        joined[name] = np.concatenate((first, second))[order]
    return joined


def _join_settings(a: Profile, b: Profile) -> dict[str, Any]:
    """What both agree on; what differs (`seq_len`, `seed`, …) is not true of the whole."""
    settings = {name: value for name, value in a.settings.items() if b.settings.get(name) == value}
    digests = [a.settings["text_digest"], b.settings["text_digest"]]
    settings["text_digest"] = "+".join(dict.fromkeys(digests))
    settings["samples"] = len(a.samples["index"]) + len(b.samples["index"])
    return settings


def _join_batches(a: Profile, b: Profile, numbers: tuple[NDArray[Any], ...]) -> Table:
    shift = int(a.batches["batch"].max(initial=-1)) + 1
    return {
        "batch": np.concatenate((a.batches["batch"], b.batches["batch"] + np.int32(shift))),
        "sample": np.concatenate(
            [n[p.batches["sample"]] for n, p in zip(numbers, (a, b), strict=True)]
        ).astype(np.int32),
    }


def _merge_sites(
    site: Site, a: Profile, b: Profile, tags: tuple[str, ...], numbers: tuple[NDArray[Any], ...]
) -> SiteRecord:
    records = a.sites[site], b.sites[site]
    merged = SiteRecord.empty(
        records[0].encoding,
        tags=len(tags),
        samples=sum(map(len, numbers)),
        channels=records[0].channel_amax.shape[1],
        heads=records[0].heads,
        errors=records[0].error_per_token is not None,
    )
    for profile, record, number in zip((a, b), records, numbers, strict=True):
        where = np.array([tags.index(tag) for tag in profile.tags])
        _add(merged, record, where, number)
    return merged


def _add(total: SiteRecord, part: SiteRecord, tags: NDArray[Any], number: NDArray[Any]) -> None:
    """Add `part` to `total`: its tag i is tag `tags[i]` there, its sample s `number[s]`."""
    _add_fields(layout.SITE_FIELDS, total, part, tags, number)
    for old, new in enumerate(tags):
        for which in range(len(layout.TOP_LISTS)):
            theirs = part.top(old, which)
            moved = replace(theirs, sample=number[theirs.sample].astype(np.int32))
            total.put_top(new, which, merge_top(total.top(new, which), moved, layout.TOP_K))


def _merge_experts(site: Site, a: Profile, b: Profile, tags: tuple[str, ...]) -> ExpertRecord:
    records = a.experts[site], b.experts[site]
    experts, channels = records[0].channel_amax.shape
    merged = ExpertRecord.empty(
        records[0].encoding, tags=len(tags), experts=experts, channels=channels
    )
    for profile, record in zip((a, b), records, strict=True):
        where = np.array([tags.index(tag) for tag in profile.tags])
        _add_fields(layout.EXPERT_FIELDS, merged, record, where)
        for expert in range(experts):
            merged.add_window(expert, record, expert)
    return merged


def _add_fields(
    fields: Mapping[str, layout.Field],
    total: Any,
    part: Any,
    tags: NDArray[Any],
    number: NDArray[Any] | None = None,
) -> None:
    """Add what is combined number by number; top lists and windows are not."""
    for name, field in fields.items():
        source, target = getattr(part, name), getattr(total, name)
        where = tags if "tag" in field.dims else slice(None)
        if source is None:
            continue
        if field.combine is layout.Combine.SUM:
            target[where] += source
        elif field.combine is layout.Combine.MAX:
            target[where] = np.maximum(target[where], source)
        elif field.combine is layout.Combine.SAMPLE:
            target[number] = source


def _join_excerpts(
    a: Profile, b: Profile, numbers: tuple[NDArray[Any], ...], sites: dict[Site, SiteRecord]
) -> Table:
    """Both parts' excerpts, without those whose values are no longer in any top list."""
    joined = {
        name: np.concatenate((a.excerpts[name], b.excerpts[name]))
        for name in layout.EXCERPT_COLUMNS
    }
    joined["sample"] = np.concatenate(
        [n[p.excerpts["sample"]] for n, p in zip(numbers, (a, b), strict=True)]
    ).astype(np.int32)
    kept = top_tokens(sites.values())
    rows = [i for i, at in enumerate(_coordinates(joined)) if at in kept]
    return {name: column[rows] for name, column in joined.items()}


def _coordinates(table: Table) -> list[tuple[int, int]]:
    return list(zip(table["sample"].tolist(), table["position"].tolist(), strict=True))
