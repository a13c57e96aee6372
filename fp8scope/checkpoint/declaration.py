"""What the metadata of one file says of every linear."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from fp8scope.checkpoint.entries import Form, Names
from fp8scope.checkpoint.linears import Granularity

Weights = Granularity | Literal["bf16", "other"]
Cache = Literal["fp8", "fp8_dynamic", "other"]
LINEAR = ("Linear", "Module")


@dataclass(frozen=True)
class Scheme:
    """How one linear is said to be stored: granularity of its weight scales, and whether its input
    has a scale in the files.
    """

    weights: Weights
    static: bool = False
    block: tuple[int, int] = (128, 128)

    @property
    def granularity(self) -> Granularity | None:
        """Of FP8; None of all else."""
        known: tuple[Granularity, ...] = ("tensor", "channel", "block")
        return next((each for each in known if each == self.weights), None)


BF16, OTHER = Scheme("bf16"), Scheme("other")


@dataclass(frozen=True)
class Complaint:
    """Something in the metadata that no reader understands."""

    code: Literal[
        "metadata-malformed", "quant-method-unknown", "quant-algo-unknown", "format-not-fp8"
    ]
    what: str
    remedy: str
    is_known_elsewhere: bool = False


@dataclass(frozen=True)
class Declaration:
    """What the metadata of one file says. `targets`: names that it quantizes, and how; None where
    it means every linear, which then is `scheme`. `listed`: names that it does not quantize.
    """

    form: Form
    file: str
    scheme: Scheme
    targets: Names | None
    asked: Mapping[str, Scheme]
    listed: Names
    kv_cache: Cache | None
    complaints: tuple[Complaint, ...] = ()

    def of(self, names: Iterable[str], classes: Iterable[str] = LINEAR) -> Scheme:
        """How a module is said to be stored that goes by these names."""
        given, kinds = tuple(names), tuple(classes)
        if self.listed.matching(given, kinds):
            return BF16
        if self.targets is None:
            return self.scheme
        found = self.targets.matching(given, kinds)
        return self.asked[found[0]] if found else BF16

    def schemes(self) -> set[Scheme]:
        """Every scheme that it gives to some module."""
        return {self.scheme} if self.targets is None else set(self.asked.values())

    @property
    def promises_fp8(self) -> bool:
        """Whether anything is said to be in FP8."""
        return any(scheme.granularity is not None for scheme in self.schemes())

    @property
    def is_read(self) -> bool:
        """Whether its lists are understood, so that tensors can be held against them."""
        return self.form != "unknown" and not self.complaints
