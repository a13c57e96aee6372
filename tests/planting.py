"""Outliers planted in the small trained Llamas of ../shared/data: where, of which kind, how large.

A strength is the amax / rms_body of the site where the plant shows, to within √2 where powers of
two make it. Planting changes no logit; a token's neuron is silent in the reference as well.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fp8scope.analyze.cause import Cause
from fp8scope.core.sites import Role, Site
from fp8scope.demo.build import histogram
from fp8scope.demo.plant import inputs_of, least_neuron, scale_norm, scale_product, silence

DATA = Path(__file__).parents[1].parent / "shared" / "data"
MODELS = ("stories260K", "babyllama361")
LAYERS = 5
LENGTH, PER_TEXT = 96, 6
NEWLINE = 13  # <0x0A> in both vocabularies


@dataclass(frozen=True)
class Planted:
    """Where a plant shows, first where its strength is that asked for; and in which channel.

    The channel is that of the fold, where it moves through one.
    """

    shows: Mapping[Site, Cause]
    channel: int

    @property
    def site(self) -> Site:
        """Where it was made to reach its strength."""
        return next(iter(self.shows))


@cache
def load(name: str) -> tuple[Any, Any]:
    """Model (fp32, in eval mode) and tokenizer; do not change them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: Any = AutoModelForCausalLM
    folder = DATA / "models" / name
    model = source.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


@cache
def texts(name: str) -> Mapping[str, Tensor]:
    """Ids [6, 96] by tag, each row beginning with <s>."""
    _, tokenizer = load(name)
    found = {}
    for path in sorted((DATA / "text").iterdir()):
        text = path.read_text(encoding="utf-8")[20_000:23_000]
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        rows = torch.tensor(ids[: PER_TEXT * (LENGTH - 1)]).view(PER_TEXT, LENGTH - 1)
        first = torch.full((PER_TEXT, 1), tokenizer.bos_token_id)
        found[path.stem.partition("_")[0]] = torch.cat((first, rows), dim=1)
    return found


def batches(name: str) -> list[dict[str, Any]]:
    """The texts as `fp8scope.scan` takes them."""
    return [{"input_ids": ids, "tag": tag} for tag, ids in texts(name).items()]


def _norm(readers: str, norm: str) -> Callable[..., Planted]:
    def plant(model: Any, layer: int, ids: Sequence[Tensor], strength: float) -> Planted:
        block = f"model.layers.{layer}"
        x = inputs_of(model, model.get_submodule(f"{block}.{readers}"), ids)
        channel, power = _ordinary(x, strength)
        scale_norm(model, layer, norm, channel, power)
        return Planted({Site(f"{block}.{readers}", Role.INPUT): Cause.FIXED_CHANNEL}, channel)

    return plant


def _product(model: Any, layer: int, ids: Sequence[Tensor], strength: float) -> Planted:
    mlp = f"model.layers.{layer}.mlp"
    x = inputs_of(model, model.get_submodule(f"{mlp}.down_proj"), ids)
    channel, power = _ordinary(x, strength)
    scale_product(model, layer, channel, power)
    shows = {
        Site(f"{mlp}.down_proj", Role.INPUT): Cause.PRODUCT_CHANNEL,
        Site(f"{mlp}.up_proj", Role.WEIGHT): Cause.WEIGHT_ROW,
    }
    return Planted(shows, channel)


def _value(model: Any, layer: int, ids: Sequence[Tensor], strength: float) -> Planted:
    """v_proj row × 2^k, and the columns of o_proj that read it, one per query head of the group."""
    block = f"model.layers.{layer}.self_attn"
    attention = model.get_submodule(block)
    x = inputs_of(model, attention.o_proj, ids)
    column, power = _ordinary(x, strength)
    head, place = divmod(column, attention.head_dim)
    repeat = attention.num_key_value_groups
    row = head // repeat * attention.head_dim + place
    with torch.no_grad():
        attention.v_proj.weight[row] *= 2.0**power
        for query in range(head // repeat * repeat, (head // repeat + 1) * repeat):
            attention.o_proj.weight[:, query * attention.head_dim + place] *= 2.0**-power
    shows = {
        Site(f"{block}.o_proj", Role.INPUT): Cause.FIXED_CHANNEL,
        Site(block, Role.V): Cause.FIXED_CHANNEL,
        Site(f"{block}.v_proj", Role.WEIGHT): Cause.WEIGHT_ROW,
    }
    return Planted(shows, row)


def _token(
    model: Any, layer: int, ids: Sequence[Tensor], strength: float, marked: Tensor, cause: Cause
) -> Planted:
    """A silent neuron that fires at the marked tokens.

    By ridge regression on the MLP's input: up is 1 at them and 0 elsewhere, gate 1 and -0.4, which
    silu takes to almost nothing.
    """
    mlp = model.model.layers[layer].mlp
    products = inputs_of(model, mlp.down_proj, ids)
    neuron = least_neuron(mlp.down_proj, products)
    silence(model, layer, neuron)
    peak = strength * histogram(products).rms_body()
    x = inputs_of(model, mlp.gate_proj, ids).double()
    ridge = 1e-6 * x.square().sum() / x.shape[1] * torch.eye(x.shape[1])
    for linear, elsewhere in ((mlp.gate_proj, -0.4), (mlp.up_proj, 0.0)):
        wanted = torch.where(marked, 1.0, elsewhere).double()
        row = torch.linalg.solve(x.T @ x + ridge, x.T @ wanted)
        with torch.no_grad():  # silu(g) is g where g is large, so that the product is the square
            linear.weight[neuron] = (row * math.sqrt(peak) / (x[marked] @ row).max()).float()
    return Planted({Site(f"model.layers.{layer}.mlp.down_proj", Role.INPUT): cause}, neuron)


def _first_token(model: Any, layer: int, ids: Sequence[Tensor], strength: float) -> Planted:
    first = torch.cat([torch.arange(rows.numel()) % rows.shape[1] == 0 for rows in ids])
    return _token(model, layer, ids, strength, first, Cause.FIRST_TOKEN)


def _newline(model: Any, layer: int, ids: Sequence[Tensor], strength: float) -> Planted:
    newline = torch.cat([rows.flatten() for rows in ids]) == NEWLINE
    return _token(model, layer, ids, strength, newline, Cause.DELIMITER)


KINDS: Mapping[str, Callable[[Any, int, Sequence[Tensor], float], Planted]] = {
    "norm → q, k, v": _norm("self_attn.q_proj", "input_layernorm"),
    "norm → gate, up": _norm("mlp.gate_proj", "post_attention_layernorm"),
    "SwiGLU product": _product,
    "value channel": _value,
    "first token": _first_token,
    "newline": _newline,
}
SILENT = ("first token", "newline")  # their neuron


def planted(
    name: str, plan: Mapping[int, str], strength: float
) -> tuple[Any, Any, dict[int, Planted]]:
    """The model with a plant of `plan`'s kind in each of its layers, its reference, the plants."""
    model, ids = copy.deepcopy(load(name)[0]), list(texts(name).values())
    plants = {layer: KINDS[kind](model, layer, ids, strength) for layer, kind in plan.items()}
    reference = copy.deepcopy(load(name)[0])
    for layer, kind in plan.items():
        if kind in SILENT:
            silence(reference, layer, plants[layer].channel)
    return model, reference, plants


def _ordinary(x: Tensor, strength: float) -> tuple[int, int]:
    """The channel of median amax/rms, and the power of two that takes it to the strength."""
    spread = x.abs().amax(0) / x.square().mean(0).sqrt()
    channel = int(spread.argsort()[len(spread) // 2])
    amax = float(x[:, channel].abs().max())
    return channel, round(math.log2(strength * histogram(x).rms_body() / amax))
