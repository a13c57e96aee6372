"""Profiles for the screens: scored, with experts, with a latent cache, and with hostile text."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import torch

from fp8scope.core.choices import Choices
from fp8scope.core.gemms import units
from fp8scope.profile.record import Profile
from tests.observe import scans
from tests.profiles import build, scored

HOSTILE = ("[bold]x[/bold]", "\x1b[31mred\x1b[0m", "a\nb\rc", "漢字かな", "\u202eback\u2066", "[/]")
TAGS = ("[red]code[/red]", "про\x1bза")
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@cache
def llama() -> Profile:
    """A scan of a small model, and invented nats of every row; the whole model is measured."""
    profile = scans.run(scans.in_dtype("llama", torch.bfloat16), record="full")
    choices = Choices(("fp8_tensor", "fp8_token", "fp8_smooth"), alphas=(0.25, 0.5))
    rows = choices.rows(profile.structure, units(profile.structure))
    spread = (1.0, 0.5, 2.0, 1.5, 0.7)
    nats = {row: [0.0001 * (1 + i % 97) * s for s in spread] for i, row in enumerate(rows)}
    return scored(profile, nats, measured=rows[::3])


@cache
def scanned(family: str) -> Profile:
    """A scan that was not scored."""
    return scans.run(scans.in_dtype(family, torch.bfloat16))


def hostile() -> Profile:
    """Tokens, text around them, tags and a file's name that a terminal or markup would obey."""
    profile = build(tags=TAGS)
    tokens = [HOSTILE[i % len(HOSTILE)].encode() for i in range(len(profile.excerpts["token"]))]
    for name in ("token", "before", "after"):
        profile.excerpts[name][:] = tokens
    source = profile.sources[0] | {"location": "texts/[blink]\x1b[2J.txt"}
    return replace(profile, sources=(source,))
