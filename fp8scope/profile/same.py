"""Are two profiles of one scan? What must agree before a partial is gone on from."""

from __future__ import annotations

from fp8scope.errors import CannotResume
from fp8scope.profile.record import Profile

# the name is left out: it is only how the model's path was written
MODEL = {
    "architecture": "the architecture differs",
    "config_hash": "the model's config.json differs",
    "weights_hash": "the model's weights differ",
}
SETTINGS = {
    "dtype": "the dtype differs",
    "record": "what is recorded differs",
    "batch_tokens": "the size of a micro-batch differs",
    "samples_asked": "the number of sequences differs",
    "seq_len_asked": "the length of a sequence differs",
    "seed": "the seed differs",
    "text_digest": "the text differs",
}
TEXT_CHOICE = {"samples_asked", "seq_len_asked", "seed"}
TEXT_RESULT = {"samples", "seq_len"}  # follow from the text and the choice from it
DIGESTS = {"config_hash", "weights_hash", "text_digest"}  # say nothing to a person

COMPUTES = ("device", "fp8scope", "torch", "transformers", "numpy")


def check_same_scan(wanted: Profile, kept: Profile, name: str, remedy: str) -> None:
    """Raise CannotResume if `kept`, called `name`, is not of the scan that `wanted` begins."""
    mine, theirs = {**wanted.settings, **wanted.model}, {**kept.settings, **kept.model}
    others = (wanted.settings.keys() | kept.settings.keys()) - SETTINGS.keys() - TEXT_RESULT
    words = MODEL | SETTINGS | {key: f"{key} differs" for key in sorted(others)}
    changed = [key for key in words if mine.get(key) != theirs.get(key)]
    if TEXT_CHOICE.intersection(changed):  # the digest covers the choice too
        changed = [key for key in changed if key != "text_digest"]
    if changed:
        differences = [
            words[key]
            + ("" if key in DIGESTS else f" ({theirs.get(key)} there, {mine.get(key)} asked)")
            for key in changed
        ]
        raise CannotResume(f"{name} is of another scan: {', '.join(differences)}", remedy)


def other_machine(wanted: Profile, kept: Profile) -> tuple[str, ...]:
    """A note per device or package that is another one now: the last bits may differ."""
    now, then = wanted.environment, kept.environment
    return tuple(
        f"resumed with another {what} ({then.get(what)}, then {now.get(what)}): "
        "not bit-identical to one uninterrupted scan"
        for what in COMPUTES
        if now.get(what) != then.get(what)
    )
