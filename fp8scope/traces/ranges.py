"""Ranges around a launch: ours, or those of whoever else tagged the run."""

from __future__ import annotations

from collections.abc import Iterable

from fp8scope.traces.module_ranges import module_of
from fp8scope.traces.trace import DOMAIN


def of_interest(stack: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Names of our domain's ranges; where there are none, the modules that an engine tagged; where
    there are none either, the names of all others.

    `stack`: (domain, name) of the ranges around a launch, outermost first.
    """
    pairs = tuple(stack)
    ours = tuple(name for domain, name in pairs if domain == DOMAIN)
    modules = tuple(module for _, name in pairs if (module := module_of(name)))
    return ours or modules or tuple(name for _, name in pairs)
