"""What a change of a plan did, in words: `layers.0.mlp.down_proj BF16 → smoothed at α 0.5, …`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from fp8scope.artefacts.plan import Objective, Predicted
from fp8scope.core.choices import Term
from fp8scope.core.words import fine_nats, nats, number, percent, short_name
from fp8scope.plan.cost import BF16

WORDS = {
    "fp8_tensor": "FP8 per tensor",
    "fp8_token": "FP8 per token",
    "fp8_block": "FP8 per block",
    "fp8_smooth": "smoothed",
    BF16: "BF16",
}
NAMED = 4

Terms = Mapping[str, Term]


def by_group(terms: Collection[Term]) -> dict[str, Term]:
    """Each group's or cache's term; what is not there is in BF16."""
    return {term.group: term for term in terms}


def candidate(terms: Terms, name: str) -> str:
    """What a group or cache runs in."""
    term = terms.get(name)
    return BF16 if term is None else term.candidate


def group_change(
    name: str, before: Terms, after: Terms, released: Collection[str], prefix: str
) -> str:
    """One group was set, and others with it; `released` are those of them that were pinned."""
    said = f"{short_name(name, prefix)} {_was(before.get(name), after.get(name))}"
    others = [other for other in (*before, *after) if before.get(other) != after.get(other)]
    moved = [other for other in dict.fromkeys(others) if other != name]
    if not moved:
        return said
    along = [_moved(other, before, after, prefix) for other in moved]
    why = ""
    if any(candidate(before, other) != candidate(after, other) for other in moved):
        why = " (one factor serves all that a fold touches, and nothing nearer was scored)"
    if freed := [short_name(other, prefix) for other in moved if other in released]:
        why += f"; no longer pinned: {', '.join(freed)}"
    return f"{said}, and with it {', '.join(along)}{why}"


def many_changes(before: Terms, after: Terms, order: Sequence[str], prefix: str) -> str:
    """What changed of several groups, in their order; "" where nothing did."""
    names = [name for name in order if before.get(name) != after.get(name)]
    moved = [_moved(name, before, after, prefix) for name in names[:NAMED]]
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(moved)}{rest}"


def difference(before: Predicted, after: Predicted) -> str:
    """`KL 0.0051 → 0.0047 (−0.0004), 8.00 → 8.20 bits, 22.55 → 22.6 µs`; what stays is left out."""
    found = []
    kl = after.nats.kl - before.nats.kl
    if kl:
        sign = "+" if kl > 0 else "−"
        found.append(f"KL {nats(before.nats.kl)} → {nats(after.nats.kl)} ({sign}{_fine(abs(kl))})")
    if before.effective_bits != after.effective_bits:
        found.append(f"{before.effective_bits:.2f} → {after.effective_bits:.2f} bits")
    if before.step_time_us != after.step_time_us:
        times = f"{number(before.step_time_us)} → {number(after.step_time_us)} µs"
        share = after.step_time_us / before.step_time_us - 1
        more = f" ({'+' if share > 0 else '−'}{percent(abs(share))})" if abs(share) >= 1e-4 else ""
        found.append(f"{times}{more}")
    return ", ".join(found) or "no number changes"


def limit(asked: Objective) -> str:
    """`at most 0.0051 nats per token (balanced)`."""
    said = {
        "max_kl": f"at most {nats(asked.value)} nats per token",
        "effective_bits": f"at most {asked.value:g} bits per weight",
        "max_bf16_share": f"at most {percent(asked.value)} of the weights in BF16",
    }[asked.limit]
    return f"{said} ({asked.preset})" if asked.preset else said


def _fine(value: float) -> str:
    return fine_nats(value) if value >= 1e-7 else "<0.0000001"


def _was(before: Term | None, after: Term | None) -> str:
    return f"{precision_words(before)} → {precision_words(after)}"


def precision_words(term: Term | None) -> str:
    """`smoothed at α 0.5`, `FP8 per tensor`, `BF16`."""
    if term is None:
        return WORDS[BF16]
    alpha = f" at α {term.alpha:g}" if term.alpha is not None else ""
    return f"{WORDS[term.candidate]}{alpha}"


def _moved(name: str, before: Terms, after: Terms, prefix: str) -> str:
    was, is_ = before.get(name), after.get(name)
    short = short_name(name, prefix)
    if was is None or is_ is None or was[1:3] != is_[1:3]:
        return f"{short} {_was(was, is_)}"
    if is_.folded is None:
        return f"{short} (without factors in its rows)"
    return f"{short} (with factors of α {is_.folded:g} in its rows)"
