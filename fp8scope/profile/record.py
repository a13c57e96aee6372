"""A profile in memory: what the recorder fills, the writer stores and the reader returns.

Arrays follow the tables in `layout.py`: same names, same axes, same dtypes.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fp8scope.core.histogram import Histogram
from fp8scope.core.magnitude import Encoding
from fp8scope.core.sites import Site
from fp8scope.core.structure import Structure
from fp8scope.core.top import Top, merge_top
from fp8scope.core.window import NOTHING, Windows
from fp8scope.profile import layout
from fp8scope.profile.sensitivity import Sensitivity

Int64 = NDArray[np.int64]
Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass
class SiteRecord:
    """Statistics of one activation site.

    Shapes: see `layout.SITE_FIELDS`. In the top lists, `top_sample` is -1 where unused.
    `head_*` exist for K and V, `error_per_*` for linear inputs under `--record full`.
    """

    encoding: Encoding
    elements: Int64
    zeros: Int64
    histogram: Int64
    amax: Float32
    channel_amax: Float32
    channel_sum_squares: Float64
    token_amax: Int64
    sequence_amax: Float32
    sequence_binades: NDArray[np.uint32]
    top_value: Float32
    top_sample: Int32
    top_position: Int32
    top_channel: Int32
    head_zeros: Int64 | None = None
    head_histogram: Int64 | None = None
    error_per_token: Float64 | None = None
    error_per_block: Float64 | None = None

    @classmethod
    def empty(
        cls,
        encoding: Encoding,
        *,
        tags: int,
        samples: int,
        channels: int,
        heads: int = 0,
        errors: bool = False,
    ) -> SiteRecord:
        """All zero, nothing seen. `heads` of K or V, 0 elsewhere; `errors` as for "full"."""
        dims = layout.fixed_dims(encoding) | {
            "tag": tags,
            "sample": samples,
            "channel": channels,
            "head": heads,
        }
        there = {"", *(["kv"] if heads else []), *(["full"] if errors else [])}
        arrays = empty_arrays(layout.SITE_FIELDS, dims, there)
        arrays["top_sample"] -= 1
        return cls(encoding, **arrays)

    @property
    def tags(self) -> int:
        """Number of tags."""
        return len(self.amax)

    @property
    def heads(self) -> int:
        """KV heads of K and V; 0 for any other role."""
        return 0 if self.head_histogram is None else len(self.head_histogram)

    def magnitudes(self, tag: int | None = None) -> Histogram:
        """Histogram of one tag (default: all)."""
        tags = slice(None) if tag is None else slice(tag, tag + 1)
        return Histogram(
            self.encoding,
            self.histogram[tags].sum(axis=0),
            int(self.zeros[tags].sum()),
            float(self.amax[tags].max(initial=0)),
        )

    def head_magnitudes(self, head: int) -> Histogram:
        """Histogram of one KV head, over all tags. Only for K and V."""
        if self.head_histogram is None or self.head_zeros is None:
            raise ValueError("only K and V have heads")
        by_head = self.channel_amax.reshape(self.tags, self.heads, -1)
        return Histogram(
            self.encoding,
            self.head_histogram[head],
            int(self.head_zeros[head]),
            float(by_head[:, head].max(initial=0)),
        )

    def top(self, tag: int, which: int) -> Top:
        """Largest values of a tag: list 0 at the first token, 1 at the others."""
        used = np.flatnonzero(self.top_sample[tag, which] >= 0)
        return Top(
            self.top_value[tag, which],
            self.top_sample[tag, which],
            self.top_position[tag, which],
            self.top_channel[tag, which],
        ).take(used)

    def put_top(self, tag: int, which: int, top: Top) -> None:
        """Replace one list; at most `TOP_K` entries."""
        n = len(top)
        for name in ("value", "sample", "position", "channel"):
            column = getattr(self, f"top_{name}")[tag, which]
            column[:n] = getattr(top, name)
            column[n:] = -1 if name == "sample" else 0

    def best(self) -> Top:
        """The `TOP_K` largest values over all tags and both lists."""
        best = Top.empty()
        for tag in range(self.tags):
            for which in range(len(layout.TOP_LISTS)):
                best = merge_top(best, self.top(tag, which), layout.TOP_K)
        return best


@dataclass
class WeightRecord:
    """Statistics of one weight matrix W [rows = out, columns = in]. See `layout`."""

    encoding: Encoding
    elements: Int64
    zeros: Int64
    histogram: Int64
    amax: Float32
    row_amax: Float32
    row_sum_squares: Float64
    column_amax: Float32
    column_sum_squares: Float64
    top_value: Float32
    top_row: Int32
    top_column: Int32
    error_per_channel: Float64 | None = None
    error_per_block: Float64 | None = None

    def magnitudes(self) -> Histogram:
        """Histogram of the whole matrix."""
        return Histogram(self.encoding, self.histogram, int(self.zeros[0]), float(self.amax[0]))


@dataclass
class ExpertRecord(Windows):
    """The input of each routed expert of one module. See `layout.EXPERT_FIELDS`.

    `tokens` are those that the router sent. In bytes, an expert takes 12.3 Ki + 8 per channel:
    see `observe.experts` for a whole model.
    """

    encoding: Encoding
    tokens: Int64
    amax: Float32
    channel_amax: Float32
    channel_sum_squares: Float32

    @classmethod
    def empty(cls, encoding: Encoding, *, tags: int, experts: int, channels: int) -> ExpertRecord:
        """All zero, nothing seen."""
        dims = {"tag": tags, "expert": experts, "channel": channels}
        arrays = empty_arrays(layout.EXPERT_FIELDS, layout.fixed_dims(encoding) | dims, {""})
        arrays["top_binade"] += NOTHING
        return cls(encoding=encoding, **arrays)

    @property
    def experts(self) -> int:
        """Number of experts."""
        return len(self.channel_amax)

    def magnitudes(self, expert: int) -> Histogram:
        """Histogram of one expert, over all tags; see `Windows.dense`."""
        amax = float(self.amax[:, expert].max(initial=0))
        return Histogram(self.encoding, *self.dense(expert), amax)


@dataclass
class ExpertWeightRecord(Windows):
    """The weight [rows, columns] of each routed expert. See `layout.EXPERT_WEIGHT_FIELDS`."""

    encoding: Encoding
    amax: Float32
    column_amax: Float32
    column_sum_squares: Float32

    @classmethod
    def empty(cls, encoding: Encoding, *, experts: int, columns: int) -> ExpertWeightRecord:
        """All zero, nothing seen."""
        dims = {"expert": experts, "column": columns}
        arrays = empty_arrays(layout.EXPERT_WEIGHT_FIELDS, layout.fixed_dims(encoding) | dims, {""})
        arrays["top_binade"] += NOTHING
        return cls(encoding=encoding, **arrays)

    def magnitudes(self, expert: int) -> Histogram:
        """Histogram of one expert's weight; see `Windows.dense`."""
        return Histogram(self.encoding, *self.dense(expert), float(self.amax[expert]))


Table = dict[str, NDArray[Any]]
"""Columns of equal length by name."""


@dataclass
class Profile:
    """Everything that a scan recorded.

    `model`, `settings` and `environment` hold scalars and strings by name. `samples`,
    `excerpts` and `batches` are tables (columns in `layout`). `aliases` maps a site to the
    site that saw the very same tensor and holds its record (k_proj's input → q_proj's).
    `experts` and `expert_weights` tell the routed experts of a site or a weight apart.
    `sensitivity` is None where none was asked for, or it could not be had.
    `complete` is False in a kept partial.
    """

    model: dict[str, Any]
    settings: dict[str, Any]
    environment: dict[str, Any]
    config: dict[str, Any]
    structure: Structure
    tags: tuple[str, ...]
    sources: tuple[dict[str, Any], ...]
    samples: Table
    batches: Table
    sites: Mapping[Site, SiteRecord]
    weights: Mapping[str, WeightRecord]
    aliases: Mapping[Site, Site]
    experts: Mapping[Site, ExpertRecord] = field(default_factory=dict)
    expert_weights: Mapping[str, ExpertWeightRecord] = field(default_factory=dict)
    excerpts: Table = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sensitivity: Sensitivity | None = None
    batches_done: int = 0
    complete: bool = False

    def __repr__(self) -> str:
        found = f"{len(self.sites)} activation sites, {len(self.weights)} weights"
        text = f"{len(self.samples['index'])} sequences, tags {', '.join(self.tags)}"
        return f"<Profile of {self.model.get('name')}: {found}; {text}>"

    @property
    def progress(self) -> tuple[int, int, int]:
        """How far the scan is; the larger is the further."""
        scored = self.sensitivity
        done = (scored.batches_done, scored.measured_done) if scored else (0, 0)
        return self.batches_done, *done

    def owner(self, site: Site) -> Site:
        """The site that holds this one's record: itself, unless it shares another's tensor."""
        return self.aliases.get(site, site)

    def site(self, site: Site) -> SiteRecord:
        """Record of a site, through its alias if it shares another's tensor."""
        return self.sites[self.owner(site)]

    def sharers(self, site: Site) -> tuple[str, ...]:
        """Modules that read the tensor recorded at `site`, itself first."""
        others = (alias.module for alias, owner in self.aliases.items() if owner == site)
        return (site.module, *others)


def top_tokens(records: Iterable[SiteRecord]) -> set[tuple[int, int]]:
    """(sample, position) of every value in the top lists of these records."""
    found: set[tuple[int, int]] = set()
    for record in records:
        used = record.top_sample >= 0
        found.update(
            zip(record.top_sample[used].tolist(), record.top_position[used].tolist(), strict=True)
        )
    return found


def empty_arrays(
    fields: Mapping[str, layout.Field], dims: Mapping[str, int], there: Container[str]
) -> dict[str, NDArray[Any]]:
    """Zeroed arrays for those of the fields whose `only` is in `there`."""
    return {
        name: np.zeros([dims[dim] for dim in field.dims], field.dtype)
        for name, field in fields.items()
        if field.only in there
    }


def empty_table(columns: Mapping[str, str]) -> Table:
    """A table without rows."""
    return {name: np.empty(0, dtype) for name, dtype in columns.items()}
