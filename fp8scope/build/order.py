"""What is to be built, and how a build talks to whoever started it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

from fp8scope.artefacts.plan import Plan
from fp8scope.build.files import SHARD_BYTES
from fp8scope.build.memory import Needs
from fp8scope.runtime.loading import LoadOptions

Format = Literal["modelopt", "compressed-tensors"]
WRITTEN: dict[Format, str] = {
    "modelopt": "hf-quant-config",
    "compressed-tensors": "compressed-tensors",
}
"""The consumer whose words the metadata of a format are."""


@dataclass
class Events:
    """How a build talks to whoever started it: `step` names what it is at, `needs` comes before
    the model is loaded, `examined(read, total)` counts bytes, `warn` is a sentence for the person.
    """

    step: Callable[[str], None] = lambda name: None
    needs: Callable[[Needs], None] = lambda found: None
    examined: Callable[[int, int], None] = lambda read, total: None
    warn: Callable[[str], None] = lambda sentence: None


@dataclass(frozen=True)
class Order:
    """What is to be built: a plan with its factors (`read_plan`, `read_factors`), of the model
    `reference` (a folder or a hub id), in `format`.
    """

    plan: Plan
    factors: Mapping[str, NDArray[Any]]
    reference: str
    format: Format = "modelopt"
    options: LoadOptions = field(default_factory=LoadOptions)
    shard_bytes: int = SHARD_BYTES
