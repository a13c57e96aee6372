"""The cause at a site as one sentence, with its numbers and its remedy."""

from __future__ import annotations

from fp8scope.analyze.cause import TOKEN_CAUSES, Cause, Remedy, SiteCause
from fp8scope.analyze.outlying import OutlyingToken
from fp8scope.analyze.thresholds import OUTLIER_RATIO
from fp8scope.core.sites import Role
from fp8scope.core.words import printable, short_name, site_name, times

MOST_TEXTS, MOST_TAGS = 3, 3


def cause_sentence(found: SiteCause) -> str:
    """Where the outliers of a site are, how large, and what takes them away."""
    return f"{cause_words(found)}."


def cause_words(found: SiteCause, prefix: str = "") -> str:
    """The same without its full stop, and without the prefix of the site's name."""
    return f"{cause_evidence(found, prefix)}; {_remedy(found, prefix)}"


def cause_evidence(found: SiteCause, prefix: str = "") -> str:
    """Where the outliers of a site are and how large, without what helps."""
    return f"{site_name(found.site, prefix)}: {_evidence(found)}"


def _evidence(found: SiteCause) -> str:
    reach, usual = f"{times(found.ratio)}×", f"{times(found.usual_ratio)}×"
    if found.cause is Cause.ROUNDING and found.ratio < OUTLIER_RATIO:
        return f"plain rounding, for amax is only {reach} the body's rms"
    if found.cause is Cause.ROUNDING:
        return f"plain rounding, for {reach} the body's rms is reached nearly everywhere"
    what = _lines(found)
    if found.cause in TOKEN_CAUSES:
        where = f" in {what}" if found.lines else ""
        return (
            f"{_tokens(found)} reach {reach} the body's rms{where}, "
            f"and three in four tokens stay under {usual}"
        )
    spread = (
        f"three in four {found.axis}s stay under {usual}"
        if found.site.role is Role.WEIGHT
        else f"one token in four reaches {usual}"
    )
    verb = "reaches" if len(found.lines) == 1 else "reach"
    return f"{what} {verb} {reach} the body's rms, and {spread}"


def _lines(found: SiteCause) -> str:
    """`one output channel (260)`."""
    name, end = {"row": "output channel", "column": "input channel"}.get(found.axis, "channel"), ""
    if found.cause is Cause.PRODUCT_CHANNEL:
        name, end = "product", " of gate and up"
    numbers = ", ".join(str(line.index) for line in found.lines)
    if len(found.lines) == 1:
        return f"one {name}{end} ({'channel ' if end else ''}{numbers})"
    return f"{len(found.lines)} {name}s{end} ({'channels ' if end else ''}{numbers})"


def _tokens(found: SiteCause) -> str:
    kind = {
        Cause.FIRST_TOKEN: "first tokens",
        Cause.DELIMITER: "delimiters",
        Cause.OTHER_TOKEN: "a few tokens",
    }[found.cause]
    parts = [_texts(found.tokens)] if any(token.text for token in found.tokens) else []
    sequences = "1 sequence" if found.sequences == 1 else f"{found.sequences:,} sequences"
    tags = ", ".join(found.tags[:MOST_TAGS]) + (", …" if len(found.tags) > MOST_TAGS else "")
    return f"{kind} ({printable(', '.join([*parts, f'{sequences} of {tags}']))})"


def _texts(tokens: tuple[OutlyingToken, ...]) -> str:
    texts = list(dict.fromkeys(f"«{token.text}»" for token in tokens if token.text))
    return " ".join(texts[:MOST_TEXTS]) + (" …" if len(texts) > MOST_TEXTS else "")


def _remedy(found: SiteCause, prefix: str) -> str:
    producer = short_name(found.fold.producer, prefix) if found.fold else ""
    layer = "this layer's KV cache" if found.site.role in (Role.K, Role.V) else "this layer"
    if found.remedy is Remedy.PER_CHANNEL:
        names = found.fold.consumers if found.fold else ()
        consumers = ", ".join(short_name(name, prefix) for name in names)
        fold = f", or its factor folded into {consumers}" if consumers else ""
        return f"one weight scale per output channel takes that away{fold}"
    return {
        Remedy.PER_TOKEN: "dynamic scales per token take that away, or BF16 for this layer",
        Remedy.SMOOTH: f"smoothing folded into {producer} takes that away",
        Remedy.UNFOLD: f"its factor folded back into {producer} takes that away",
        Remedy.BF16: f"nothing folds into that, which leaves BF16 for {layer}",
        Remedy.NONE: "nothing to do, or BF16 if its KL does not fit the budget",
    }[found.remedy]
