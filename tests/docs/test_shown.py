"""What looks like a command stands where it is run, and commands in a sentence can be typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from fp8scope.cli.app import VERBS
from tests.docs import pages
from tests.docs.commands_page import command

INLINE = re.compile(r"`(fp8scope(?: [^`\n]+)?(?:\n[^`\n]+)?)`")
TYPED = re.compile(rf"^ *(?:\$ |% |> )?(?:\S*/)?fp8scope (?:{'|'.join(VERBS)})\b", re.M)
PLACEHOLDER = re.compile(r"^[A-Z][A-Z_]*(\.\w+)?$|…|\.\.\.|[|\[\]]")
USAGE = re.compile(r"^fp8scope \w+ \[OPTIONS\]")


def inline(path: Path) -> Iterator[str]:
    """Inline code that begins with fp8scope."""
    fenced = re.sub(r"^( *)(`{3,}).*?^\1\2 *$", "", path.read_text(), flags=re.M | re.S)
    for words in INLINE.findall(fenced):
        yield " ".join(words.split())


def wrong(words: str) -> str | None:
    """Why this cannot be typed; None where it can. Capitals, [ ] and … stand for something."""
    _, *rest = shlex.split(re.sub(r"[\[\]]", "", words).partition(" | ")[0].partition(" > ")[0])
    if not rest or rest[0] in {"--help", "--version", "VERB"}:
        return None
    verb, *arguments = rest
    if verb not in VERBS:
        return f"there is no verb {verb}"
    known = {name for option in command(verb).params for name in option.opts}
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    named = {word.partition("=")[0] for word in own if word.startswith("-")}
    if unknown := named - known - {"-h", "--help"}:
        return f"{verb} has no {', '.join(sorted(unknown))}"
    stands_for = "[" in words or any(PLACEHOLDER.search(word) for word in arguments)
    return None if stands_for else refused(verb, arguments)


def refused(verb: str, arguments: list[str]) -> str | None:
    """What click says against these; a sentence may be about some of the options alone."""
    try:
        command(verb).make_context(verb, list(arguments))
    except (click.MissingParameter, click.exceptions.Exit):
        return None
    except click.UsageError as error:
        said = error.format_message()
        return None if "requires an argument" in said else said  # an option named by itself
    return None


@pytest.mark.parametrize("page", pages.markdown(), ids=pages.name)
def test_commands_in_a_sentence_can_be_typed(page: Path) -> None:
    found = {words: wrong(words) for words in inline(page)}
    assert not {words: why for words, why in found.items() if why}


@pytest.mark.parametrize("page", pages.markdown(), ids=pages.name)
def test_commands_stand_in_fences_that_are_run(page: Path) -> None:
    for fence in pages.fences(page):
        if fence.language == "console":
            excused = fence.noted("not run") is not None
            assert not (excused and "fp8scope" in fence.text), f"{fence}: run what is ours"
            continue
        excused = fence.noted("command") is not None or fence.noted("file") is not None
        if excused or USAGE.match(fence.text):
            continue
        assert not TYPED.search(fence.text), f"{fence}: a command in a fence that nobody runs"
        assert not fence.text.startswith("$ "), f"{fence}: a session wants console"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("fp8scope", None),
        ("fp8scope plan profile.h5", None),
        ("fp8scope plan --max-kl 0.01", None),
        ("fp8scope plan PROFILE --max-kl X", None),
        ("fp8scope browse PROFILE [--plan PLAN]", None),
        ("fp8scope analyze profile.h5 --json | jq .", None),
        ("fp8scope verify DIR --engine vllm -- --dtype half", None),
        ("fp8scope verify ./dir -- --dtype half", None),
        ("fp8scope verify DIR --engine vllm --dtype half", "verify has no --dtype"),
        ("fp8scope guess plan.json", "there is no verb guess"),
        ("fp8scope plan profile.h5 --budget 3", "plan has no --budget"),
        ("fp8scope plan profile.h5 --max-kl much", "'much' is not a valid float"),
        ("fp8scope plan profile.h5 --preset brave", "'brave' is not one of"),
        ("fp8scope compare a.h5 b.h5 c.h5", "unexpected extra argument"),
    ],
)
def test_what_can_be_typed(words: str, says: str | None) -> None:
    found = wrong(words)
    assert found is None if says is None else says in str(found)
