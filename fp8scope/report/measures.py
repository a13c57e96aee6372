"""What a heatmap can colour its cells by, each number as `analyze --json` has it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fp8scope.analyze.measures import SiteMeasures
from fp8scope.analyze.sensitivity import Score
from fp8scope.core.schemes import DEFAULT_CANDIDATES
from fp8scope.core.sites import Role, Site
from fp8scope.core.words import decibel, nats, percent, printable, times
from fp8scope.report.colours import PRECISIONS
from fp8scope.report.snapshot import Snapshot

Runs = Callable[[str], str | None]
"""What a fused group or a KV cache runs in; None where the plan does not know it."""
PLAIN = "fp8_tensor"


@dataclass(frozen=True)
class Scale:
    """From `good`, which is level 0, to `bad`, which is level 1; its ends as they are written."""

    good: float
    bad: float
    ends: tuple[str, str]
    log: bool = False

    def level(self, value: float) -> float:
        """Where a value stands, in [0, 1]."""
        good, bad = self.good, self.bad
        if self.log:
            value, good, bad = (math.log(max(x, 1e-300)) for x in (value, good, bad))
        return min(1.0, max(0.0, (value - good) / (bad - good)))


@dataclass(frozen=True)
class Reading:
    """One cell. `badness` sorts: the larger the worse. `texts` say it in less and less room;
    `detail` in full, its numbers as JSON has them. `tone`: a level in [0, 1], or a precision.
    """

    value: float | str | None
    badness: float
    tone: float | str
    texts: tuple[str, ...]
    detail: str


@dataclass(frozen=True)
class Measure:
    """A thing to colour by. `of` a module; None where there is no number, or none yet.

    Where `by_group`, the members of a fused group share one number.
    """

    name: str
    scale: Scale | None
    of: Callable[[Snapshot, str], Reading | None]
    by_group: bool = False


def measures(snapshot: Snapshot, runs: Runs | None = None) -> tuple[Measure, ...]:
    """Those that this profile has numbers for, the most telling first.

    runs: of a plan that a person changes; else that of the plan which the snapshot holds, if any.
    """
    found: list[Measure] = []
    if snapshot.scores:
        found += [PLAIN_KL, CHEAPEST_KL]
    found += [BODY_SQNR, UNDERFLOW, OUTLIERS]
    if len(snapshot.profile.tags) > 1:
        found += [HEADROOM, *map(_clipped_by, snapshot.profile.tags)]
    if runs is None and snapshot.plan is not None:
        runs = snapshot.planned.get
    if runs is not None:
        found.append(_planned(runs))
    return tuple(found)


def _kl_reading(score: Score, candidate: str) -> Reading:
    kl = score.kl
    most = f", most in {printable(score.worst_tag)}" if score.worst_tag else ""
    known = kl > 0 and math.isfinite(score.nats.error)
    error = f" ± {percent(score.nats.error / kl)}" if known else ""
    return Reading(
        value=kl if math.isfinite(kl) else None,
        badness=kl,
        tone=_NATS.level(kl),
        texts=(nats(kl), *_shorter(kl)) if kl >= 1e-4 else tuple(_shorter(kl)),
        detail=f"{candidate}: {kl!r}{error} nats per token{most}",
    )


def _plain_kl(snapshot: Snapshot, module: str) -> Reading | None:
    score = snapshot.scores.get(snapshot.grid.group(module), {}).get(PLAIN)
    return _kl_reading(score, PLAIN) if score else None


def _cheapest_kl(snapshot: Snapshot, module: str) -> Reading | None:
    found = snapshot.scores.get(snapshot.grid.group(module), {})
    served = {name: found[name] for name in DEFAULT_CANDIDATES if name in found}
    if not served:
        return None
    best = min(served, key=lambda name: served[name].kl)
    return _kl_reading(served[best], best)


def sites_of(snapshot: Snapshot, module: str) -> list[Site]:
    """The input (of which another module may be the owner) and the weight, or K and V."""
    profile = snapshot.profile
    wanted = (
        profile.owner(Site(module, Role.INPUT)),
        *(Site(module, role) for role in (Role.WEIGHT, Role.K, Role.V)),
    )
    return [
        site
        for site in wanted
        if (site.module in profile.weights if site.role is Role.WEIGHT else site in profile.sites)
    ]


def _site_measure(
    name: str,
    scale: Scale,
    of: Callable[[SiteMeasures], float | None],
    text: Callable[[float], str],
    unit: str,
) -> Measure:
    """The worse of a module's input and weight, or of K and V."""
    sign = 1.0 if scale.bad > scale.good else -1.0

    def read(snapshot: Snapshot, module: str) -> Reading | None:
        sites = sites_of(snapshot, module)
        known = snapshot.sites or {}
        if not all(site in known for site in sites):
            return None
        values = {site: value for site in sites if (value := of(known[site])) is not None}
        if not values:
            return None
        worst = max(values, key=lambda site: sign * values[site])
        value = values[worst]
        each = (
            f"{site.role} {'exact' if of_site == math.inf else repr(of_site)}{unit}"
            + _tag_of(known[site], name)
            for site, of_site in values.items()
        )
        return Reading(
            value=value if math.isfinite(value) else None,
            badness=sign * value,
            tone=scale.level(value),
            texts=(text(value), text(value).removesuffix(" dB"), *_shorter(value)),
            detail=f"{name}: {', '.join(each)}",
        )

    return Measure(name, scale, read)


def _tag_of(row: SiteMeasures, name: str) -> str:
    return f" {printable(row.headroom_tag)}" if name == "headroom" and row.headroom_tag else ""


def _clipped_by(tag: str) -> Measure:
    """How far scales from one tag alone clip the others."""

    def read(snapshot: Snapshot, module: str) -> Reading | None:
        under = snapshot.headroom_under(tag)
        rows = [under[site] for site in sites_of(snapshot, module) if site in under]
        if not rows:
            return None
        clips = {
            (row.site.role, of): saturation.clip
            for row in rows
            for of, saturation in row.tags.items()
        }
        worst = max(clips, key=lambda key: clips[key])
        clip = clips[worst]
        return Reading(
            value=clip,
            badness=clip,
            tone=CLIP.level(clip),
            texts=(f"{times(clip)}×", *_shorter(clip)),
            detail=f"clip of {printable(worst[1])} at {worst[0]}: {clip!r}",
        )

    return Measure(f"scales from {printable(tag)} alone, largest clip", CLIP, read)


def _planned(runs: Runs) -> Measure:
    def read(snapshot: Snapshot, module: str) -> Reading | None:
        precision = runs(snapshot.grid.group(module))
        if precision is None:
            return None
        letter, word = PRECISIONS[precision]
        return Reading(
            value=precision,
            badness=list(PRECISIONS).index(precision),
            tone=precision,
            texts=(word, letter),
            detail=f"planned: {precision}",
        )

    return Measure("planned precision", None, read, by_group=True)


def _shorter(value: float) -> Iterator[str]:
    """In ever less room: `.063`, `6e-2`."""
    if not math.isfinite(value):
        yield "inf"
        return
    if 0.001 <= abs(value) < 1:
        yield f"{value:.3f}".removeprefix("0")
    if 1 <= abs(value) < 1000:
        yield f"{value:.0f}"
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    yield f"{mantissa}e{int(exponent)}" if value else "0"


_NATS = Scale(1e-5, 0.1, ("0.00001", "0.1 nats"), log=True)
CLIP = Scale(1.0, 8.0, ("1×", "8×"), log=True)
PLAIN_KL = Measure("KL in fp8_tensor", _NATS, _plain_kl, by_group=True)
CHEAPEST_KL = Measure("KL in the cheapest FP8", _NATS, _cheapest_kl, by_group=True)
BODY_SQNR = _site_measure(
    "body SQNR",
    Scale(32.0, 5.0, ("32 dB", "5 dB")),
    lambda row: row.error.body_sqnr_db,
    decibel,
    " dB",
)
UNDERFLOW = _site_measure(
    "underflow",
    Scale(1e-4, 1.0, ("0.01%", "100%"), log=True),
    lambda row: row.error.underflow_rate,
    percent,
    "",
)
OUTLIERS = _site_measure(
    "amax/rms of the body",
    Scale(10.0, 1e6, ("10", "1,000,000"), log=True),
    lambda row: row.outlier_ratio,
    times,
    "",
)
HEADROOM = _site_measure(
    "headroom",
    Scale(1.0, 0.1, ("1×", "0.1×"), log=True),
    lambda row: row.headroom,
    lambda value: f"{times(value)}×",
    "×",
)
