"""Ranges around a launch: ours, or those of whoever else tagged the run."""

from __future__ import annotations

from collections.abc import Iterable

from fp8scope.traces.trace import DOMAIN


def of_interest(stack: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Names of our domain's ranges; where there are none, of every other domain's.

    `stack`: (domain, name) of the ranges around a launch, outermost first.
    """
    pairs = tuple(stack)
    ours = tuple(name for domain, name in pairs if domain == DOMAIN)
    return ours or tuple(name for _, name in pairs)
