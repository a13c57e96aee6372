"""Invented profiles to plan from: the shape of a Llama, any nats per row, numbers by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fp8scope.core.choices import Choices, Kind, Row, Term
from fp8scope.core.gemms import units
from fp8scope.core.gpus import gpu
from fp8scope.core.roofline import Roofline, Workload
from fp8scope.core.schemes import DEFAULT_CANDIDATES
from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import Fold, FusedGroup, KVLayer, Linear, Structure
from fp8scope.plan.cost import Cost, Times
from fp8scope.profile.record import Profile
from tests.profiles import build, invented_values, scored, site_record, weight_record

HIDDEN, HEAD = 8, 2
ALPHAS = (0.25, 0.5)
MODEL = {
    "name": "invented",
    "architecture": "LlamaForCausalLM",
    "model_type": "llama",
    "config_hash": "c" * 64,
    "weights_hash": "d" * 64,
}
OUT = {"q": 8, "k": 4, "v": 4, "o": 8, "gate": 8, "up": 8, "down": 8}


def block(number: int) -> str:
    return f"model.layers.{number}"


def member(number: int, name: str) -> str:
    return f"{block(number)}.{'self_attn' if name in 'qkvo' else 'mlp'}.{name}"


def group(number: int, name: str) -> str:
    """The name of the group `qkv`, `o`, `gate_up` or `down`."""
    return f"{block(number)}.{'self_attn' if name in ('qkv', 'o') else 'mlp'}.{name}"


MEMBERS = {"qkv": ("q", "k", "v"), "o": ("o",), "gate_up": ("gate", "up"), "down": ("down",)}


def structure(blocks: int = 2) -> Structure:
    linears, groups, folds, layers = [], [], [], []
    for i in range(blocks):
        for name, members in MEMBERS.items():
            full = tuple(member(i, one) for one in members)
            groups.append(FusedGroup(group(i, name), full))
            linears += [
                Linear(f"{name}", HIDDEN, OUT[one], False, False, f"{name}.weight", None)
                for name, one in zip(full, members, strict=True)
            ]
        q, k, v, o, gate, up, down = (member(i, one) for one in OUT)
        norms = (f"{block(i)}.input_layernorm", f"{block(i)}.post_attention_layernorm")
        folds += [
            Fold(norms[0], "norm", ((0, HIDDEN),), (q, k, v), HIDDEN),
            Fold(v, "linear", ((0, 4),), (o,), HEAD, repeat=2),
            Fold(norms[1], "norm", ((0, HIDDEN),), (gate, up), HIDDEN),
            Fold(up, "linear", ((0, HIDDEN),), (down,), HIDDEN),
        ]
        layers.append(KVLayer(i, f"{block(i)}.self_attn", 2, HEAD))
    linears.append(Linear("lm_head", HIDDEN, 16, False, False, "lm_head.weight", None))
    groups.append(FusedGroup("lm_head", ("lm_head",)))
    return Structure(
        family="llama",
        blocks=tuple(map(block, range(blocks))),
        linears=tuple(linears),
        groups=tuple(groups),
        folds=tuple(folds),
        kv_layers=tuple(layers),
    )


def profile(
    blocks: int = 2, indices: Iterable[int] = range(6), text: str = "plan", **changes: Any
) -> Profile:
    """Samples `indices` of a text, whose values are its own; without sensitivity."""
    of, tags, samples = structure(blocks), ("prose", "code"), list(indices)
    seed = sum(text.encode())

    def record(place: int, channels: int = HIDDEN, heads: int = 0) -> Any:
        values = [
            (i % 2, invented_values(seed, place, i, shape=(3 + i % 3, channels))) for i in samples
        ]
        return site_record(values, 2, heads)

    sites: dict[Site, Any] = {}
    aliases: dict[Site, Site] = {}
    weights: dict[str, Any] = {}
    for unit in units(of):
        first, *others = unit.gemms[0].members
        sites[Site(first, Role.INPUT)] = record(len(sites))
        aliases |= {Site(name, Role.INPUT): Site(first, Role.INPUT) for name in others}
    for layer in of.kv_layers:
        for role in (Role.K, Role.V):
            sites[Site(layer.attention, role)] = record(len(sites), 4, 2)
    for i, linear in enumerate(of.linears):
        matrix = invented_values(7, i, shape=(linear.out_features, linear.in_features))
        weights[linear.name] = weight_record(matrix * 2.0 ** (np.arange(HIDDEN) % 4))
    made: dict[str, Any] = {
        "model": MODEL,
        "structure": of,
        "sites": sites,
        "aliases": aliases,
        "weights": weights,
        "experts": {},
        "expert_weights": {},
        "config": {"model_type": "llama"},
    }
    return build(text, samples, tags=tags, **(made | changes))


Nats = Callable[[Term], float | Sequence[float]]


def rows(of: Profile, candidates: Iterable[str] = DEFAULT_CANDIDATES) -> list[Row]:
    """Every row that a scan would score."""
    return Choices(tuple(candidates), ALPHAS).rows(of.structure, units(of.structure))


def with_nats(of: Profile, nats: Nats, candidates: Iterable[str] = DEFAULT_CANDIDATES) -> Profile:
    """Each term alone costs `nats(term)` per token, or so much sequence by sequence."""
    single = [row for row in rows(of, candidates) if row.kind in (Kind.GROUP, Kind.KV)]
    return scored(of, {row: nats(row.terms[0]) for row in single})


def random_nats(seed: int, sequences: int = 6) -> Nats:
    """Nats of every term that differ from sequence to sequence; the same for the same term."""

    def nats(term: Term) -> list[float]:
        words = repr((seed, *term)).encode()
        rng = np.random.default_rng(list(words))
        level = rng.lognormal(-6, 1.5)
        return [level * share for share in rng.uniform(0.5, 1.5, sequences).tolist()]

    return nats


def plain(costs: Mapping[str, float], rest: float = 0.001, remedy: float = 1.0) -> Nats:
    """`costs` by group in plain FP8, `rest` of all others; other candidates `remedy` times that."""

    def nats(term: Term) -> float:
        cost = costs.get(term.group, rest)
        return cost if term == Term(term.group, "fp8_tensor") else cost * remedy

    return nats


def cost(of: Profile, measured: Times | None = None) -> Cost:
    return Cost(Roofline(gpu("h100-sxm"), Workload()), of.structure, measured or {})
