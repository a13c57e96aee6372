"""What fp8scope knows of one consumer: the file it takes, and what it will do with one.

A consumer is one file in `consumers/` that defines `CONSUMER`. What it writes, it makes from a
`Model`; what it does with a config, it answers as a `Reading`, which is a model of its matcher.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fp8scope.core.modules import Model, Module, Treatment
from fp8scope.errors import BadInput

DocumentKind = Literal["recipe", "metadata", "online config", "list"]
SAYS: dict[DocumentKind, str] = {
    "recipe": "a recipe: what a quantizer is told to make of a BF16 model",
    "metadata": "metadata of a finished checkpoint: it must describe the weights beside it",
    "online config": "an online config: the engine quantizes a BF16 checkpoint while loading it",
    "list": "a list of names",
}


class CannotExpress(BadInput):
    """The consumer has no words for what is wanted; `remedy` names the nearest that it has."""


class CannotRead(BadInput):
    """The config is not one that this consumer reads, or is malformed."""


@dataclass(frozen=True)
class Form:
    """One way of writing the same: `suffix` is that of its usual file (`.json`)."""

    suffix: str
    text: str


@dataclass(frozen=True)
class Document:
    """What a consumer is given. `forms` by name, the usual one first. `config` is the same as
    data, which `Config` takes; None where it is a plain list. `use`: lines that a person may paste.
    """

    kind: DocumentKind
    forms: Mapping[str, Form]
    config: Any
    use: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    """A config that somebody wrote. `form` says which (`hf-quant-config`, `compressed-tensors`, …),
    `data` holds it as parsed, `source` names it for people.
    """

    form: str
    data: Any
    source: str


@dataclass(frozen=True)
class Layer:
    """What a consumer treats as one. `name` is its own name for it; `shards` are the names that
    lists may give its parts, as the consumer spells them (empty where it is not fused).
    """

    name: str
    modules: tuple[Module, ...]
    shards: tuple[str, ...] = ()
    kind: Literal["linear", "experts", "lm_head"] = "linear"


@dataclass(frozen=True)
class Pattern:
    """An entry of a list. `where` is its place in the config (`ignore`), `says` what it asks."""

    where: str
    text: str
    says: Treatment


@dataclass(frozen=True)
class Outcome:
    """What becomes of a layer; `treatment` is None where the consumer refuses, with `error`.

    `note` says what it does without a word, such as taking one shard's answer for all.
    """

    treatment: Treatment | None
    error: str = ""
    note: str = ""


class Reading(ABC):
    """A consumer about to run one config on one model."""

    layers: tuple[Layer, ...]
    patterns: tuple[Pattern, ...]

    @abstractmethod
    def hits(self, pattern: Pattern, name: str) -> bool:
        """Whether this one pattern, alone, matches `name`, a layer's or a shard's."""

    @abstractmethod
    def outcome(self, layer: Layer) -> Outcome:
        """What the layer will run in."""


Read = Callable[[Config, Model, str], Reading]  # the last is the consumer's version


@dataclass(frozen=True)
class Consumer:
    """One consumer of exclusion lists.

    `versions`: those whose source was read, the newest last, which is also taken by default.
    `write` raises CannotExpress. `reads`: by form of the config, the preferred one first; each
    raises CannotRead. A consumer without `reads` is a file format, read by others. `rules`: by
    form, how its lists are matched, in a sentence for people. `believes`: the file that decides
    where a checkpoint has ModelOpt's metadata in both.
    """

    name: str
    about: str
    write: Callable[[Model], Document] | None = None
    reads: Mapping[str, Read] = field(default_factory=dict)
    versions: tuple[str, ...] = ("",)
    rules: Mapping[str, str] = field(default_factory=dict)
    believes: Literal["config.json", "hf_quant_config.json"] = "config.json"
