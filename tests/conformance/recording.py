"""What the scripts that record consumers' answers have in common."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any


def answer(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What the call returns, or the name of what it raises."""
    try:
        return call(*arguments, **named)
    except (ValueError, re.error) as error:
        return f"raises {type(error).__name__}"


def seeded(seed: int) -> random.Random:
    """The same draws in every run."""
    return random.Random(seed)  # noqa: S311
