import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp8scope.runtime.excerpt import excerpt, visible
from tests.tokenizers import byte_tokenizer, metaspace_tokenizer


def test_a_token_is_shown_in_its_surroundings() -> None:
    tokenizer = byte_tokenizer()
    tokens = tokenizer("<s>the fox\njumps", add_special_tokens=False)["input_ids"]
    for position, token in enumerate(tokens):
        shown = excerpt(tokenizer, tokens, position, around=100)
        assert shown.before + shown.token + shown.after == "<s>the fox⏎jumps"
        assert shown.token == visible(str(tokenizer.decode([token])))
    assert excerpt(tokenizer, tokens, 0).before == ""
    assert excerpt(tokenizer, tokens, len(tokens) - 1).after == ""


def test_around_counts_tokens() -> None:
    tokenizer = byte_tokenizer()
    tokens = tokenizer("0123456789", add_special_tokens=False)["input_ids"]
    shown = excerpt(tokenizer, tokens, 5, around=2)
    assert (shown.before, shown.token, shown.after) == ("34", "5", "67")
    assert excerpt(tokenizer, tokens, 5, around=0).before == ""


def test_a_leading_space_is_kept() -> None:
    tokenizer = metaspace_tokenizer()
    tokens = [0, 2, 3, 5, 4, 6]  # <s> ▁the ▁cat s ▁ .
    shown = [excerpt(tokenizer, tokens, i, around=1) for i in range(6)]
    assert [s.token for s in shown] == ["<s>", " the", " cat", "s", " ", "."]
    alone = excerpt(tokenizer, [4], 0)  # decodes to nothing
    assert [alone.token] == ["▁"]


def test_parts_of_a_character_do_not_break() -> None:
    tokenizer = byte_tokenizer()
    tokens = tokenizer("x🦊y", add_special_tokens=False)["input_ids"]
    assert len(tokens) == 6
    shown = [excerpt(tokenizer, tokens, position).token for position in range(6)]
    assert (shown[0], shown[5]) == ("x", "y")
    assert all(shown)


@pytest.mark.parametrize("position", [-1, 3])
def test_a_position_outside_is_an_error(position: int) -> None:
    with pytest.raises(IndexError, match="not within 3 tokens"):
        excerpt(byte_tokenizer(), [1, 2, 3], position)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc\r", "a⏎b\\tc\\r"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x\x1b]8;;http://a\x1b\\y", "xy"),
        ("\x9b2Jx\x9d0;t\x9cy", "xy"),
        ("\x1b\x1b[0m[31mx", "\\x1b[31mx"),
        ("\x1bcx\x1b(By", "xy"),
        ("end\x1b", "end\\x1b"),
        ("\x00\x7f\x85", "\\x00\\x7f\\x85"),
        ("\u202eabc\u2028\ud800", "\\u202eabc\\u2028\\ud800"),
        ("café 日本 👩\u200d🚀 \ufffd", "café 日本 👩\u200d🚀 \ufffd"),
    ],
)
def test_text_cannot_act_on_a_terminal(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.characters(), max_size=40))
def test_what_is_visible_prints(text: str) -> None:
    assert visible(text).replace("\u200c", "").replace("\u200d", "").isprintable()
