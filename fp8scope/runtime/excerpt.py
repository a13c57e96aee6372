"""A token and its surroundings, readable and safe to print."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Colours, cursor moves, window titles: what a terminal would obey. The C1 forms are one character.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI … final byte
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"  # OSC, DCS … end
    r"|\x1b[ -/]*[0-~]"
)
_JOINERS = "\u200c\u200d"  # not printable to Python, but part of Persian words and of emoji


@dataclass(frozen=True)
class Excerpt:
    """Decoded text around one token, made visible: what precedes it, itself, what follows."""

    token: str
    before: str
    after: str


def excerpt(
    tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[int], position: int, around: int = 12
) -> Excerpt:
    """Decode the token at `position` and up to `around` tokens on either side.

    Special tokens are shown. A token that is a part of a UTF-8 character may show as U+FFFD.
    Raises IndexError when `position` is not within the tokens.
    """
    if not 0 <= position < len(tokens):
        raise IndexError(f"position {position} is not within {len(tokens)} tokens")
    ids = [int(token) for token in tokens[max(0, position - around) : position + 1 + around]]
    here = min(position, around)

    def decode(some: list[int]) -> str:
        text = tokenizer.decode(some, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text if isinstance(text, str) else "".join(text)

    def following(context: str, both: str, then: list[int]) -> str:
        # SentencePiece-like decoders drop the space that starts a text, so that "▁the" alone
        # reads "the", and "▁" nothing: decode in context and take what is new.
        return both[len(context) :] if both.startswith(context) else decode(then)

    before, until, whole = decode(ids[:here]), decode(ids[: here + 1]), decode(ids)
    token, after = ids[here : here + 1], ids[here + 1 :]
    shown = following(before, until, token) or str(tokenizer.convert_ids_to_tokens(token[0]))
    return Excerpt(
        token=visible(shown),
        before=visible(before) if here else "",
        after=visible(following(until, whole, after)) if after else "",
    )


def visible(text: str) -> str:
    """Text that no terminal acts upon.

    Escape sequences are gone, a newline is `⏎`, and all else that does not print (controls, bidi
    marks, odd spaces, half surrogates) is spelled out as in Python source.
    """
    return "".join(map(_visible_character, _ESCAPES.sub("", text)))


def _visible_character(character: str) -> str:
    if character == "\n":
        return "⏎"
    if character.isprintable() or character in _JOINERS:
        return character
    return character.encode("unicode_escape").decode("ascii")
