"""What FP8 costs the model and each fused group: sentences for a person, rows for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fp8scope.analyze.analysis import TagDamage
from fp8scope.analyze.cause import Cause
from fp8scope.analyze.cause_words import cause_words
from fp8scope.analyze.groups import PLAIN, GroupFinding
from fp8scope.analyze.ratios import Nats
from fp8scope.analyze.sensitivity import Score
from fp8scope.analyze.thresholds import HARM_NATS
from fp8scope.core.words import common_prefix, nats, nats_within, short_name
from fp8scope.report.causes import cause_row
from fp8scope.report.rows import finite
from fp8scope.report.words import literal

NAMES = {
    "fp8_tensor": "one static scale per tensor",
    "fp8_token": "scales per token",
    "fp8_block": "scales per block",
    "fp8_unit": "scale 1",
    "fp8_smooth": "smoothed",
    "e5m2_tensor": "E5M2 with one static scale per tensor",
    "int8_tensor": "INT8 with static scales",
    "int8_smooth": "INT8 smoothed",
    "int8_weight": "INT8 weights alone",
    "int4_weight": "INT4 weights alone",
    "nvfp4": "NVFP4",
    "fp8_tensor + kv_cache": "one static scale per tensor and an FP8 KV cache",
}
MOST_GROUPS = 12
SENSITIVE = (
    "No outlier explains it: this is plain rounding in a layer to which the output is sensitive, "
    "so BF16 unless another candidate is cheap enough"
)
TOO_LOW = (
    "The whole model costs far more than its groups are predicted to: errors this large, or this "
    "sudden, are beyond second order, so the figures of single groups are too low. "
    "--sensitivity kl measures each."
)


def model_sentences(models: Mapping[str, Score]) -> list[str]:
    """What every linear of the blocks in one candidate costs, the worst first."""
    if not models:
        return []
    found = sorted(models.items(), key=lambda item: -item[1].kl)
    costs = [
        f"{NAMES.get(name) or literal(name).plain}"
        f"{_at(max((t.alpha for t in score.row.terms if t.alpha is not None), default=None))} "
        f"{_with_error(score.nats)}"
        for name, score in found
    ]
    how = "measured" if all(score.measured for score in models.values()) else "predicted"
    return [f"All linears of the blocks, nats per token ({how}): {'; '.join(costs)}."]


def group_sentences(groups: Sequence[GroupFinding], *, too_low: bool = False) -> list[str]:
    """A verdict on all groups, then one sentence for each that is harmful, the worst first.

    too_low: what is known of the groups does not add up to what the whole model costs.
    """
    harmful = [group for group in groups if group.harmful]
    prefix = common_prefix(group.group for group in groups)
    said = [TOO_LOW] if too_low else []
    if groups and (harmful or not too_low):
        said.append(_verdict(groups, harmful, prefix))
    said += [f"{i + 1}. {_sentence(g, prefix)}" for i, g in enumerate(harmful[:MOST_GROUPS])]
    if len(harmful) > MOST_GROUPS:
        said.append(f"and {len(harmful) - MOST_GROUPS} more groups.")
    return said + _doubtful(groups, prefix)


def spread_sentences(models: Mapping[str, Score], groups: Sequence[GroupFinding]) -> list[str]:
    """Where no group stands out, and all together cost what one alone may not."""
    whole = models.get(PLAIN)
    if whole is None or whole.kl < HARM_NATS or any(group.harmful for group in groups):
        return []
    return [
        f"No group stands out, but together they cost {nats(whole.kl)} nats per token: that is "
        "spread over all of them, and only leaving many in BF16 would save it."
    ]


def tag_sentences(tags: Sequence[TagDamage], prefix: str) -> list[str]:
    """Which use case would suffer, by how much, because of which group."""
    if len(tags) < 2:
        return []
    words = [
        f"{literal(tag.tag).plain} {nats(tag.whole)} (most from "
        f"{short_name(tag.group, prefix)}, {nats(tag.nats)})"
        for tag in tags
    ]
    return [f"By tag, with {NAMES[PLAIN]}, nats per token: {'; '.join(words)}."]


def group_rows(groups: Sequence[GroupFinding]) -> list[dict[str, Any]]:
    """One per fused group, in their order."""
    return [
        {
            "group": group.group,
            "members": list(group.members),
            "harmful": group.harmful,
            "candidates": {name: score_row(score) for name, score in group.candidates.items()},
            "smoothed_pair": score_row(group.smoothed) if group.smoothed else None,
            "unsmoothed_pair_kl": finite(group.unsmoothed),
            "worst_site": str(group.worst.site),
            "cause": cause_row(group.cause),
        }
        for group in groups
    ]


def score_row(score: Score) -> dict[str, Any]:
    """KL in nats per token: the best known, and where it comes from."""
    return {
        "kl": finite(score.kl),
        "error": finite(score.nats.error),
        "estimate": _nats_row(score.estimate),
        "check": _nats_row(score.check),
        "measured": _nats_row(score.measured) if score.measured else None,
        "tags": {tag: _nats_row(found) for tag, found in score.tags.items()},
        "terms": [term._asdict() for term in score.row.terms] if len(score.row.terms) < 4 else None,
    }


def _nats_row(found: Nats) -> dict[str, Any]:
    return {"kl": finite(found.kl), "error": finite(found.error)}


def _verdict(groups: Sequence[GroupFinding], harmful: Sequence[GroupFinding], prefix: str) -> str:
    """How many groups are findings, and what all the others cost at most; lm_head apart."""
    inside = [group for group in groups if group.in_block]
    if not any(group.plain for group in inside):
        if not harmful:
            return (
                f"Nothing to exclude: none of {len(inside)} fused groups has a damaged tensor "
                f"with {NAMES[PLAIN]} (what that costs in nats was not scored)."
            )
        return f"{len(harmful)} of {len(inside)} fused groups have a damaged tensor:"
    rest = [group for group in inside if group.plain and not group.harmful]
    costs = {group.group: group.plain.kl for group in rest if group.plain}
    most = max(costs, key=lambda name: costs[name], default="")
    each = (
        f"at most {nats(costs[most])} nats per token ({short_name(most, prefix)})" if most else ""
    )
    if not harmful:
        doubt = " beyond doubt" if _doubtful(groups, prefix) else ""
        return (
            f"Nothing to exclude{doubt}: each of {len(inside)} fused groups costs {each} "
            f"with {NAMES[PLAIN]}."
        )
    others = f"; the others cost {each} each" if most else ""
    return (
        f"{len(harmful)} of {len(inside)} fused groups should not run with {NAMES[PLAIN]}{others}:"
    )


def _doubtful(groups: Sequence[GroupFinding], prefix: str) -> list[str]:
    """Which may be harmful, as far as an estimate can tell."""
    inside = (group for group in groups if group.in_block and not group.harmful)
    found = [group for group in inside if group.plain and group.plain.kl >= HARM_NATS]
    if not found or not found[0].plain:
        return []
    most = f"{short_name(found[0].group, prefix)} with {_with_error(found[0].plain.nats)} nats"
    return [
        f"{len(found)} more may cost {HARM_NATS} or more, at most {most}: "
        "a scan with --sensitivity kl would tell."
    ]


def _sentence(group: GroupFinding, prefix: str) -> str:
    """`layers.3.mlp.down_proj, 0.061 nats ± .001, most in code: one product …; smoothed .0003`."""
    name = short_name(group.group, prefix)
    cost = f", {_with_error(group.plain.nats)} nats{_worst_tag(group.plain)}" if group.plain else ""
    why = SENSITIVE if group.cause.cause is Cause.ROUNDING else cause_words(group.cause, prefix)
    return f"{name}{cost}. {why}.{_cheaper(group)}"


def _cheaper(group: GroupFinding) -> str:
    others = {
        name: score.kl
        for name, score in group.candidates.items()
        if name in ("fp8_token", "fp8_block", "fp8_smooth")
    }
    if not others:
        return ""
    alphas = {name: score.row.terms[0].alpha for name, score in group.candidates.items()}
    words = [
        f"{NAMES[name]}{_at(alphas[name])} {nats(kl)}"
        for name, kl in sorted(others.items(), key=lambda x: x[1])
    ]
    pair = ""
    if group.smoothed and group.unsmoothed is not None:
        pair = (
            f" ({nats(group.smoothed.kl)}{_at(group.smoothed.row.terms[-1].alpha)} together with "
            "what it is folded into)"
        )
    best = "; ".join(w + pair if w.startswith("smoothed") else w for w in words)
    return f" It costs {best}."


def _at(alpha: float | None) -> str:
    return "" if alpha is None else f" at α {alpha:g}"


def _worst_tag(score: Score) -> str:
    tag = score.worst_tag
    return f", most in {literal(tag).plain} ({nats(score.tags[tag].kl)})" if tag else ""


def _with_error(found: Nats) -> str:
    return nats_within(found.kl, found.error)
