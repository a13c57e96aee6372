"""What a reader has before the first command of a page, by its name there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory

import pytest

from fp8scope.demo.files import DEMO_HELD_OUT, DEMO_MODEL, DEMO_TEXT
from tests.docs import server
from tests.docs.pages import ROOT
from tests.docs.shell import Shell
from tests.shared import once

PROFILES = ROOT / "profiles"


def _copy(of: Path) -> Callable[[Path], None]:
    def put(to: Path) -> None:
        if of.is_dir():
            shutil.copytree(of, to)
        else:
            shutil.copyfile(of, to)

    return put


def _beginning(of: Path, lines: int) -> Callable[[Path], None]:
    """So much of a text that a scan of it takes seconds."""

    def put(to: Path) -> None:
        to.write_text("".join(of.read_text().splitlines(keepends=True)[:lines]))

    return put


def _plan(to: Path) -> None:
    """The plan of the recorded demo, and its factors beside it."""
    from fp8scope.artefacts.plan_file import write_plan
    from fp8scope.plan.make import make_plan
    from fp8scope.profile.reader import read_profile

    write_plan(*make_plan(read_profile(PROFILES / "demo.h5")), to)


def _verdict(to: Path) -> None:
    """On the demo, and invented: no GPU is at hand where the pages are run."""
    from fp8scope.artefacts.verdict import ModelId
    from fp8scope.artefacts.verdict_file import write_verdict
    from fp8scope.profile.reader import open_profile
    from tests.artefacts.verdicts import verdict

    model = open_profile(PROFILES / "demo.h5").model
    known = {key: str(model[key]) for key in ModelId.model_fields}
    write_verdict(verdict(model=ModelId(**known)), to)


def _checkpoint(to: Path) -> None:
    """The demo in FP8, built from that plan."""
    with TemporaryDirectory() as outer:
        folder = Path(outer) / "session"
        folder.mkdir()
        _plan(folder / "plan.json")
        with Shell(folder) as shell:
            ran = shell.run(f"fp8scope build plan.json -o {quote(str(to))}")
        assert ran.code == 0, ran.output


def _experts(to: Path) -> None:
    """A small random mixture of experts with its tokenizer, and no text."""
    from tests.cli.folders import make

    make(to, "qwen3_moe")
    (to / "text.txt").unlink()


def _llama_70b(to: Path) -> None:
    """The shapes of Llama-3-70B: its config.json, and safetensors that are all header."""
    from tests.estimate import models

    models.write(to, models.LLAMA_70B)


def _a_list(to: Path) -> None:
    """An exclusion list that somebody wrote from memory."""
    to.write_text(
        '{"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head", "*.q_proj"]}}\n'
    )


DEMO = _copy(DEMO_MODEL)
RECORDED = _copy(PROFILES / "demo.h5")
THINGS: Mapping[str, Callable[[Path], None]] = {
    # the demo under other names, and its recorded profile and plan
    "my-model": DEMO,
    "Llama-3.1-8B": DEMO,
    **dict.fromkeys(("profile.h5", "calibration.h5", "production.h5", "today.h5"), RECORDED),
    "profiles": _copy(PROFILES),
    "plan.json": _plan,
    "verdict.json": _verdict,
    "hf_quant_config.json": _a_list,
    # its texts, a tag each; whole, and the beginnings of some
    "prose.txt": _copy(DEMO_TEXT / "prose.txt"),
    "technical.txt": _copy(DEMO_TEXT / "technical.txt"),
    "code.txt": _copy(DEMO_TEXT / "code.txt"),
    "support.jsonl": _copy(DEMO_TEXT / "support.jsonl"),
    "other_support.jsonl": _copy(DEMO_HELD_OUT / "support.jsonl"),
    "other_prose.txt": _copy(DEMO_HELD_OUT / "prose.txt"),
    "tickets.jsonl": _beginning(DEMO_TEXT / "support.jsonl", 8),
    "other_tickets.jsonl": _beginning(DEMO_HELD_OUT / "support.jsonl", 8),
    "repo.txt": _beginning(DEMO_TEXT / "code.txt", 60),
    "Llama-3-70B": _llama_70b,
    # what profilers and an engine left of it on a server, constructed
    "server.sqlite": server.write_timeline,
    "counters.csv": server.write_counters,
    "run.json": server.write_record,
    # a random model of another kind
    "my-moe": _experts,
}
BUILT = ("demo-fp8", "Llama-3.1-8B-FP8", "L8B-FP8")
"""The demo's checkpoint, by its names: built once for all pages."""


def put(names: list[str], folder: Path, factory: pytest.TempPathFactory) -> None:
    """Put these things into the folder of a session."""
    for name in names:
        if name in BUILT:
            shutil.copytree(once(factory, "docs-demo-fp8", _checkpoint), folder / name)
            continue
        assert name in THINGS, f"nobody makes {name}: tests/docs/reader.py"
        THINGS[name](folder / name)
