"""FP8 weights put where they run: each linear's codes and scales in place of the zeros there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fp8scope.core.modules import Treatment
from fp8scope.core.structure import Linear, Structure
from fp8scope.errors import BadModel
from fp8scope.runtime.experts import named_experts
from fp8scope.runtime.fp8.experts import Fp8Experts, Rows, expert_bias
from fp8scope.runtime.fp8.linear import Fp8Linear, Gemm
from fp8scope.runtime.fp8.skeleton import left_out
from fp8scope.runtime.fp8.tensors import REBUILD, Fp8Weight, Parts, TensorReader
from fp8scope.runtime.linears import is_linear, is_transposed

_NOT_RUN = "give a checkpoint that leaves it in BF16"


class Placing:
    """Puts the FP8 weights of `parts` into `model`, which `structure` describes."""

    def __init__(self, model: nn.Module, parts: Parts, reader: TensorReader, gemm: Gemm) -> None:
        self._model = model
        self._parts = parts
        self._reader = reader
        self._gemm: Gemm = gemm
        self._left = dict(parts.weights)

    def place(self, structure: Structure) -> dict[str, Treatment]:
        """What every linear of the structure runs in, by its runtime name.

        Raises BadModel for FP8 weights that are no linear's, or of a linear that is not run here.
        """
        treatments: dict[str, Treatment] = {}
        stacks: dict[str, list[nn.Module]] = {}
        for linear in structure.linears:
            weights = self._weights(linear)
            treatments[linear.name] = _treatment(linear, weights)
            if weights and linear.experts:
                stacks[linear.name] = self._stack(linear, weights)
            elif weights:
                self._replace(linear.name, self._linear(linear, weights[0]))
        for experts in named_experts(self._model).values():
            first, last = stacks.get(experts.first), stacks.get(experts.last)
            if first or last:
                self._replace(experts.name, Fp8Experts(experts, first, last))
        self._refuse_unplaced()
        return treatments

    def _weights(self, linear: Linear) -> list[Fp8Weight]:
        """Its weights in FP8, of a stack expert by expert; none where it is not FP8."""
        names = [linear.checkpoint_weight] if linear.checkpoint_weight else []
        if linear.checkpoint_shards:
            shards = linear.checkpoint_shards
            names = [shard.format(i) for i in range(linear.experts) for shard in shards]
        found = [self._left.pop(name) for name in names if name in self._left]
        if found and len(found) < len(names):
            other = next(name for name in names if name not in self._parts.weights)
            what = f"{found[0].name} is FP8 and {other} is not, of one layer's experts"
            raise BadModel(what, REBUILD)
        return found

    def _linear(self, linear: Linear, weight: Fp8Weight) -> Fp8Linear:
        module: Any = self._model.get_submodule(linear.name)
        if linear.tied_to or not is_linear(module):
            raise BadModel(f"{weight.name} is FP8, which is not run in {linear.name}", _NOT_RUN)
        return self._fp8(weight, module.bias, transposed=is_transposed(module))

    def _stack(self, linear: Linear, weights: list[Fp8Weight]) -> list[nn.Module]:
        """What each expert runs, its shards end to end."""
        shards = len(linear.checkpoint_shards)
        if not shards:
            raise BadModel(f"{weights[0].name} holds all experts in one tensor", _NOT_RUN)
        experts = named_experts(self._model)[linear.name.rpartition(".")[0]]
        biases = expert_bias(experts, linear.name)
        return [
            self._rows(
                weights[expert * shards : (expert + 1) * shards],
                None if biases is None else biases[expert],
            )
            for expert in range(linear.experts)
        ]

    def _rows(self, weights: list[Fp8Weight], bias: Tensor | None) -> Rows:
        heights = [weight.shape[0] for weight in weights]
        biases = [None] * len(weights) if bias is None else bias.split(heights)
        return Rows([self._fp8(*pair) for pair in zip(weights, biases, strict=True)])

    def _fp8(
        self, weight: Fp8Weight, bias: Tensor | None, *, transposed: bool = False
    ) -> Fp8Linear:
        codes, scale = self._reader.codes(weight), self._reader.weight_scale(weight)
        if transposed and scale.ndim:
            what = f"{weight.name} is stored as [in, out], with more than one scale"
            raise BadModel(what, _NOT_RUN)
        inputs = self._reader.scalar(weight.input_scale) if weight.input_scale else None
        return Fp8Linear(codes.T if transposed else codes, scale, inputs, bias, gemm=self._gemm)

    def _replace(self, name: str, module: nn.Module) -> None:
        parent, _, last = name.rpartition(".")
        setattr(self._model.get_submodule(parent), last, module)

    def _refuse_unplaced(self) -> None:
        for name in self._left:
            if not left_out(self._model, name):
                what = f"{name} is FP8, and is the weight of no linear that is known here"
                raise BadModel(what, _NOT_RUN)


def _treatment(linear: Linear, weights: Sequence[Fp8Weight]) -> Treatment:
    found = {weight.treatment: weight.name for weight in weights}
    if len(found) > 1:
        first, second = list(found.values())[:2]
        what = f"{first} and {second} are quantized in two ways, in one layer's experts"
        raise BadModel(what, REBUILD)
    return next(iter(found), "bf16")
