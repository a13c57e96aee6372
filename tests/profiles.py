"""Invented profiles: every number computed here from invented tensors, without the recorder.

All values are eighths below 8, so exact in bf16, with exact float64 sums in any order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fp8scope.core.choices import Choices, Row
from fp8scope.core.gemms import units
from fp8scope.core.magnitude import BF16, BINS, Encoding
from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import Fold, FusedGroup, KVLayer, Linear, Structure
from fp8scope.core.top import Top
from fp8scope.core.window import Windows
from fp8scope.profile import layout
from fp8scope.profile.record import (
    ExpertRecord,
    ExpertWeightRecord,
    Profile,
    SiteRecord,
    WeightRecord,
    empty_arrays,
    top_tokens,
)
from fp8scope.profile.sensitivity import Sensitivity

Q = "model.layers.0.self_attn.q_proj"
K = "model.layers.0.self_attn.k_proj"
ATTENTION, BLOCK = "model.layers.0.self_attn", "model.layers.0"
Q_INPUT, K_INPUT = Site(Q, Role.INPUT), Site(K, Role.INPUT)
KEYS, RESIDUAL = Site(ATTENTION, Role.K), Site(BLOCK, Role.RESIDUAL)
CHANNELS = 8
EXPERTS = 4

Array = NDArray[Any]


def patterns(values: Array) -> NDArray[np.int64]:
    """Bins of |x| for values that bf16 holds exactly."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits >> 16) & 0x7FFF).astype(np.int64)


def counts(values: Array) -> NDArray[np.int64]:
    return np.bincount(patterns(values).ravel(), minlength=BINS).astype(np.int64)


def structure() -> Structure:
    linears = (
        Linear(Q, CHANNELS, 4, False, False, f"{Q}.weight", None),
        Linear(K, CHANNELS, 4, True, False, None, "model.embed_tokens.weight"),
    )
    return Structure(
        family="llama",
        blocks=(BLOCK,),
        linears=linears,
        groups=(FusedGroup("model.layers.0.self_attn.qk_proj", (Q, K)),),
        folds=(
            Fold("model.layers.0.input_layernorm", "norm", ((0, CHANNELS),), (Q, K), CHANNELS),
            Fold(K, "linear", ((0, 2), (2, 4)), (Q,), 2, repeat=2),
        ),
        kv_layers=(KVLayer(0, ATTENTION, 2, 4),),
    )


def site_record(
    sequences: Sequence[tuple[int, Array]], tags: int, heads: int = 0, full: bool = False
) -> SiteRecord:
    """Record of (tag, values [tokens, channels]) per sample."""
    channels = sequences[0][1].shape[1]
    record = SiteRecord.empty(
        BF16, tags=tags, samples=len(sequences), channels=channels, heads=heads, errors=full
    )
    for sample, (tag, values) in enumerate(sequences):
        size = np.abs(values)
        record.elements[tag] += values.size
        record.zeros[tag] += (values == 0).sum()
        record.histogram[tag] += counts(values)
        record.amax[tag] = max(record.amax[tag], size.max())
        if record.head_histogram is not None and record.head_zeros is not None:
            for head, part in enumerate(np.split(values, heads, axis=1)):
                record.head_zeros[head] += (part == 0).sum()
                record.head_histogram[head] += counts(part)
        record.channel_amax[tag] = np.maximum(record.channel_amax[tag], size.max(0))
        record.channel_sum_squares += (values.astype(np.float64) ** 2).sum(0)
        record.token_amax[tag] += counts(size.max(1))
        record.sequence_amax[sample] = size.max()
        record.sequence_binades[sample] += (
            counts(values).reshape(BF16.binades, -1).sum(1).astype(np.uint32)
        )
        if record.error_per_token is not None:
            record.error_per_token[tag, 120:125] += np.arange(20.0).reshape(5, 4) + sample
    for tag in range(tags):
        for which, rows in enumerate((slice(0, 1), slice(1, None))):
            found = [
                (-abs(float(v)), sample, position + which, channel, float(v))
                for sample, (its_tag, values) in enumerate(sequences)
                if its_tag == tag
                for (position, channel), v in np.ndenumerate(values[rows])
                if v != 0
            ]
            best = sorted(found)[: layout.TOP_K]
            record.put_top(
                tag,
                which,
                Top(
                    np.array([row[4] for row in best], np.float32),
                    *(np.array([row[i] for row in best], np.int32) for i in (1, 2, 3)),
                ),
            )
    return record


def expert_record(sequences: Sequence[tuple[int, Array]], tags: int) -> ExpertRecord:
    """Record of (tag, values [tokens, channels]): token t goes to expert t mod 3, 3 sees none."""
    channels = sequences[0][1].shape[1]
    record = ExpertRecord.empty(BF16, tags=tags, experts=EXPERTS, channels=channels)
    for expert in range(EXPERTS - 1):
        parts = [(tag, values[expert :: EXPERTS - 1]) for tag, values in sequences]
        mine = np.concatenate([values for _, values in parts])
        for tag, values in parts:
            record.tokens[tag, expert] += len(values)
            record.amax[tag, expert] = max(record.amax[tag, expert], np.abs(values).max(initial=0))
        record.channel_amax[expert] = np.abs(mine).max(0)
        record.channel_sum_squares[expert] = (mine.astype(np.float64) ** 2).sum(0)
        _fill_window(record, expert, mine)
    return record


def expert_weight_record(matrices: Array) -> ExpertWeightRecord:
    """Record of weights [experts, rows, columns]."""
    experts, _, columns = matrices.shape
    record = ExpertWeightRecord.empty(BF16, experts=experts, columns=columns)
    for expert, matrix in enumerate(matrices):
        record.amax[expert] = np.abs(matrix).max()
        record.column_amax[expert] = np.abs(matrix).max(0)
        record.column_sum_squares[expert] = (matrix.astype(np.float64) ** 2).sum(0)
        _fill_window(record, expert, matrix)
    return record


def _fill_window(windows: Windows, which: int, values: Array) -> None:
    """All at once: eighths below 8 lie within 6 binades."""
    total, zeros = counts(values), int((values == 0).sum())
    total[0] -= zeros
    top = int(np.flatnonzero(total)[-1]) // 128
    windows.zeros[which], windows.top_binade[which] = zeros, top
    windows.histogram[which] = total[(top - 23) * 128 : (top + 1) * 128]


def weight_record(matrix: Array, encoding: Encoding = BF16, full: bool = False) -> WeightRecord:
    dims = layout.fixed_dims(encoding) | {"row": matrix.shape[0], "column": matrix.shape[1]}
    arrays = empty_arrays(layout.WEIGHT_FIELDS, dims, {"", "full"} if full else {""})
    size = np.abs(matrix)
    flat = np.argsort(-size.ravel(), kind="stable")[: layout.TOP_K]
    arrays["elements"][0] = matrix.size
    arrays["zeros"][0] = (matrix == 0).sum()
    arrays["histogram"] += counts(matrix)
    arrays["amax"][0] = size.max()
    arrays["row_amax"] += size.max(1)
    arrays["column_amax"] += size.max(0)
    arrays["row_sum_squares"] += (matrix.astype(np.float64) ** 2).sum(1)
    arrays["column_sum_squares"] += (matrix.astype(np.float64) ** 2).sum(0)
    arrays["top_value"][: len(flat)] = matrix.ravel()[flat]
    arrays["top_row"][: len(flat)], arrays["top_column"][: len(flat)] = np.divmod(
        flat.astype(np.int32), np.int32(matrix.shape[1])
    )
    return WeightRecord(encoding, **arrays)


def invented_values(*seed: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Eighths below 8, some of them zero; the largest stands at the first token."""
    rng = np.random.default_rng(seed)
    values = (rng.integers(-40, 41, shape) / 8).astype(np.float32)
    values[0, seed[-1] % shape[1]] = 6 + (seed[-1] % 8) / 8
    return values


def build(
    plan: str = "plan",
    indices: Iterable[int] = range(6),
    *,
    tags: tuple[str, ...] = ("prose", "code"),
    full: bool = False,
    **changes: Any,
) -> Profile:
    """The profile of samples `indices` of an invented text; sample i has tag i mod tags.

    `changes` replace fields of the profile.
    """
    numbers = list(indices)
    seed = int.from_bytes(hashlib.sha256(plan.encode()).digest()[:4], "big")
    tag_of = [i % len(tags) for i in numbers]
    lengths = [3 + i % 3 for i in numbers]

    def sequences(site: int) -> list[tuple[int, Array]]:
        return [
            (tag, invented_values(seed, site, i, shape=(length, CHANNELS)))
            for i, tag, length in zip(numbers, tag_of, lengths, strict=True)
        ]

    sites = {
        Q_INPUT: site_record(sequences(0), len(tags), full=full),
        RESIDUAL: site_record(sequences(1), len(tags)),
        KEYS: site_record(sequences(2), len(tags), heads=2),
    }
    digests = [hashlib.sha256(f"{plan} {i}".encode()).hexdigest()[:16] for i in numbers]
    places = sorted(top_tokens(sites.values()))
    settings = {
        "dtype": "bfloat16",
        "record": "full" if full else "standard",
        "samples": len(numbers),
        "text_digest": hashlib.sha256(plan.encode()).hexdigest(),
    }
    built: dict[str, Any] = {
        "model": {"name": "invented", "weights_hash": "a" * 64, "config_hash": "b" * 64},
        "settings": settings,
        "environment": {"device": "cpu", "threads": 2, "seconds": 1.5, "note": "grüß 漢"},
        "config": {"model_type": "llama", "names": ["é", None, True, 1e-5]},
        "structure": structure(),
        "tags": tags,
        "sources": (
            {
                "location": f"{plan}.txt",
                "tag": tags[0],
                "sha256": hashlib.sha256(plan.encode()).hexdigest(),
                "documents": 9,
            },
        ),
        "samples": {
            "index": np.array(numbers, np.int32),
            "tag": np.array(tag_of, np.int32),
            "source": np.zeros(len(numbers), np.int32),
            "document": np.array(numbers, np.int32) + np.int32(1),
            "window": np.zeros(len(numbers), np.int32),
            "length": np.array(lengths, np.int32),
            "digest": np.array(digests, "S16"),
        },
        "batches": {
            "batch": np.arange(len(numbers), dtype=np.int32) // 2,
            "sample": np.arange(len(numbers), dtype=np.int32),
        },
        "sites": sites,
        "weights": {
            name: weight_record(invented_values(7, i, shape=(4, CHANNELS)), full=full)
            for i, name in enumerate((Q, K))
        },
        "aliases": {K_INPUT: Q_INPUT},
        "experts": {K_INPUT: expert_record(sequences(0), len(tags))},
        "expert_weights": {
            K: expert_weight_record(
                np.stack([invented_values(8, i, shape=(4, CHANNELS)) for i in range(EXPERTS)])
            )
        },
        "excerpts": {
            "sample": np.array([at[0] for at in places], np.int32),
            "position": np.array([at[1] for at in places], np.int32),
            "token_id": np.arange(len(places), dtype=np.int32),
            "token": np.array([f"t{numbers[s]}.{p}".encode() for s, p in places], "S48"),
            "before": np.array([f"före {plan}".encode()] * len(places), "S160"),
            "after": np.array([b"[red] after"] * len(places), "S160"),
        },
        "notes": (f"a note on {plan}",),
        "batches_done": (len(numbers) + 1) // 2,
        "complete": True,
    }
    return Profile(**(built | changes))


def invented_sensitivity(indices: Iterable[int], every: int = 2) -> Sensitivity:
    """Of every second sample, numbers that depend on the sample and the row; the last is measured.

    Rows: those of `fp8_tensor` and `fp8_smooth` in the structure of `build`.
    """
    choices = Choices(("fp8_tensor", "fp8_smooth"), alphas=(0.5,), parts=True)
    rows = choices.rows(structure(), units(structure()))
    numbers = list(indices)
    samples = range(0, len(numbers), every)
    zeros, ones = np.zeros(len(numbers), np.int32), np.ones(len(numbers), np.int32)
    found = Sensitivity.empty(rows, samples, zeros, ones)
    for place, sample in enumerate(samples):
        found.kl_token[:, place] = numbers[sample] + np.arange(len(rows)) / 7
        found.kl_sequence[:, place] = found.kl_token[:, place] * 1.25
        found.kl_measured[-1, place] = numbers[sample] / 3
    found.batches_done, found.measured_done = len(samples), len(samples) - 1
    return found


def scored(
    profile: Profile,
    nats: Mapping[Row, float | Sequence[float]],
    *,
    samples: Sequence[int] | None = None,
    measured: Collection[Row] = (),
) -> Profile:
    """The profile with these nats per token: of every scored sequence, or sequence by sequence.

    `samples` are the scored ones, all unless given; those in `measured` are measured to be so.
    """
    chosen = range(len(profile.samples["index"])) if samples is None else samples
    table = profile.samples
    found = Sensitivity.empty(tuple(nats), chosen, table["tag"], table["length"])
    for row, (key, values) in enumerate(nats.items()):
        found.kl_token[row] = np.array(values) * profile.samples["length"][found.samples]
        found.kl_sequence[row] = found.kl_token[row]
        if key in measured:
            found.kl_measured[row] = found.kl_token[row]
    return replace(profile, sensitivity=found)


def differences(a: Profile, b: Profile) -> list[str]:
    """Names of everything in which two profiles differ, dtypes and signs of zero included."""
    found = [
        name
        for name in ("model", "settings", "environment", "config", "structure", "tags", "sources")
        if getattr(a, name) != getattr(b, name)
    ]
    found += [
        name
        for name in ("aliases", "notes", "batches_done", "complete")
        if getattr(a, name) != getattr(b, name)
    ]
    for name in ("samples", "batches", "excerpts"):
        x, y = getattr(a, name), getattr(b, name)
        found += [f"{name}/{c}" for c in x.keys() | y.keys() if not same(x.get(c), y.get(c))]
    if a.sensitivity is None or b.sensitivity is None:
        found += ["sensitivity"] if a.sensitivity is not b.sensitivity else []
    else:
        x, y = vars(a.sensitivity), vars(b.sensitivity)
        found += [f"sensitivity/{name}" for name in x if not same(x[name], y[name])]
    for name in ("sites", "weights", "experts", "expert_weights"):
        x, y = getattr(a, name), getattr(b, name)
        if set(x) != set(y):
            found.append(name)
            continue
        for key in x:
            one, other = x[key], y[key]
            found += [
                f"{key}/{field.name}"
                for field in fields(one)
                if not same(getattr(one, field.name), getattr(other, field.name))
            ]
    return found


def same(x: Any, y: Any) -> bool:
    """Equal values; arrays bit for bit."""
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
    return bool(x == y)
