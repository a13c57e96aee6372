"""What a group takes: time of a step on the GPU, and bits of its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Final

from fp8scope.core.choices import in_block
from fp8scope.core.gemms import Unit, units
from fp8scope.core.roofline import GemmShape, Roofline
from fp8scope.core.structure import KVLayer, Linear, Structure

BF16: Final = "bf16"
BF16_BITS, FP8_BITS = 16, 8
PLAIN_OF = {"fp8_smooth": "fp8_tensor"}
"""Candidates whose GEMM is that of another, once they are folded."""

Times = Mapping[str, Mapping[str, float]]
"""µs of a step by group and candidate."""


@dataclass(frozen=True)
class Cost:
    """Times from the roofline, or as measured where `measured` has them.

    A smoothed GEMM is the plain one, and takes its time. Where a group was measured in some
    candidates, the roofline's time of the others is taken to be off by as much as it is off in
    those (on average); of a group that was not, as in all groups that were. Bits are those of the
    weights alone.
    """

    roofline: Roofline
    structure: Structure
    measured: Times = field(default_factory=dict)

    def time_us(self, unit: Unit, candidate: str) -> float:
        """Time of the group's GEMMs in a step."""
        shapes = self._shapes(unit)
        return self._time(
            unit.name, candidate, lambda name: self.roofline.unit_time_us(shapes, name)
        )

    def cache_us(self, layer: KVLayer, candidate: str) -> float:
        """Time to read a layer's KV cache in a step."""
        return self._time(
            layer.group, candidate, lambda name: self.roofline.kv_time_us(layer, name)
        )

    def _time(self, group: str, candidate: str, bound: Callable[[str], float]) -> float:
        known = self.measured.get(group, {})
        for name in (candidate, PLAIN_OF.get(candidate, candidate)):
            if name in known:
                return known[name]
        return bound(candidate) * (_off(known, bound) if known else self._off_elsewhere)

    @cached_property
    def _off_elsewhere(self) -> float:
        """Measured over roofline, of all groups that were measured; 1 where none was."""
        off = [
            _off(self.measured[unit.name], partial(self.roofline.unit_time_us, self._shapes(unit)))
            for unit in units(self.structure)
            if unit.name in self.measured
        ]
        return sum(off) / len(off) if off else 1.0

    def elements(self, unit: Unit) -> int:
        """Weights of the group."""
        return sum(
            shape.in_features * shape.out_features * max(shape.experts, 1)
            for shape in self._shapes(unit)
        )

    def _shapes(self, unit: Unit) -> Sequence[GemmShape]:
        linears = self._linears
        sampled = not in_block(unit, self.structure)
        return [
            GemmShape(
                linears[gemm.members[0]].in_features,
                sum(linears[name].out_features for name in gemm.members),
                gemm.experts,
                sampled,
            )
            for gemm in unit.gemms
        ]

    @cached_property
    def _linears(self) -> Mapping[str, Linear]:
        return {linear.name: linear for linear in self.structure.linears}


def _off(known: Mapping[str, float], bound: Callable[[str], float]) -> float:
    """Measured over roofline of one group, the mean over what was measured."""
    return sum(us / bound(name) for name, us in known.items()) / len(known)
