"""docs/reference/commands.md is what the commands say, and every example of their help runs.

After a wanted change: UPDATE_GOLDEN=1 pytest tests/docs/test_commands_page.py, and read the diff.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from fp8scope.cli.app import VERBS
from tests.docs import commands_page, pages, reader
from tests.docs.shell import Shell
from tests.report.browser import chromium

PAGE = pages.DOCS / "reference" / "commands.md"
# What the examples of a verb find in their folder: things, and what commands make of them.
GIVEN: Mapping[str, list[str]] = {
    "scan": ["Llama-3.1-8B", "tickets.jsonl", "repo.txt"],
    "analyze": ["profile.h5"],
    "browse": ["profile.h5", "plan.json"],
    "report": ["profile.h5", "plan.json", "verdict.json"],
    "plan": ["profile.h5", "Llama-3.1-8B", "other_tickets.jsonl"],
    "estimate": ["Llama-3.1-8B", "plan.json"],
    "export": ["plan.json"],
    "check": ["plan.json", "Llama-3.1-8B", "Llama-3.1-8B-FP8", "hf_quant_config.json"],
    "build": ["plan.json", "Llama-3.1-8B"],
    "doctor": ["Llama-3.1-8B-FP8"],
    "verify": ["Llama-3.1-8B", "Llama-3.1-8B-FP8", "L8B-FP8", "server.sqlite", "counters.csv"],
    "compare": ["calibration.h5", "production.h5", "today.h5"],
    "merge": ["Llama-3.1-8B", "tickets.jsonl", "other_tickets.jsonl"],
}
SCAN = "fp8scope scan ./Llama-3.1-8B --sensitivity none --calib"
MADE: Mapping[str, list[str]] = {
    "merge": [f"{SCAN} tickets.jsonl -o monday.h5", f"{SCAN} other_tickets.jsonl -o tuesday.h5"],
}
# Those that do not run, and those that do not exit with 0.
ELSEWHERE = {
    "fp8scope scan demo",  # takes a minute; the README's first command, which CI runs
    # four processes; the same as tests/bench/gpu_verify.py, which is tried on a small model
    "fp8scope verify ./Llama-3.1-8B-FP8 --baseline ./Llama-3.1-8B",
}
FAILS = {
    # the list says more than was meant
    "fp8scope check hf_quant_config.json --for sglang --model ./Llama-3.1-8B -o mended.json": 1,
    # no vLLM, and no profiler that can be put around a command, without a GPU
    "fp8scope verify ./L8B-FP8 --engine vllm -- --kv-cache-dtype fp8": 3,
    "fp8scope verify ./L8B-FP8 --engine command -- python serve_once.py": 3,
    # two layers of it fell back
    "fp8scope verify ./L8B-FP8 --report server.sqlite --report counters.csv": 1,
}
WRITES = {"scan", "plan", "export", "verify"}


def test_the_page_is_what_the_commands_say() -> None:
    text = commands_page.page()
    if os.environ.get("UPDATE_GOLDEN"):
        PAGE.write_text(text)
    assert PAGE.read_text() == text


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_examples(verb: str) -> None:
    assert len(commands_page.examples(verb)) >= 1


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_run(
    verb: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path / "session"
    folder.mkdir()
    reader.put(GIVEN[verb], folder, tmp_path_factory)
    with Shell(folder) as shell:
        for command in MADE.get(verb, ()):
            ran = shell.run(command)
            assert ran.code == 0, f"{command}\n{ran.output}"
        for example in commands_page.examples(verb):
            if example in ELSEWHERE:
                continue
            ran = shell.run(_anew(example))
            assert ran.code == _wanted(example), f"{example}\n{ran.output}"


def _wanted(example: str) -> int:
    if example.endswith(".png") and chromium() is None:
        return 3  # it says what to install
    return FAILS.get(example, 0)


def _anew(example: str) -> str:
    """Examples stand for themselves: each may overwrite what the one before it wrote."""
    name, verb, rest = example.split(" ", 2)
    return f"{name} {verb} --force {rest}" if verb in WRITES else example
