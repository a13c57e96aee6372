"""Every path, dataset, dimension and attribute name of the profile file, in one place.

The tables below drive the writer, the reader and the merge, and
`docs/reference/profile-format.md` is tested against them. A field's `dims` name its axes; `combine`
says how two profiles of the same model merge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from fp8scope.core.magnitude import BINS, Encoding
from fp8scope.core.window import WINDOW

FORMAT = "fp8scope-profile"
VERSION = 1

# groups and datasets outside the sites
MODEL, SETTINGS, ENVIRONMENT = "model", "settings", "environment"
CONFIG, STRUCTURE, NOTES = "model/config", "model/structure", "notes"
TAGS, SOURCES, SAMPLES, BATCHES = "text/tags", "text/sources", "text/samples", "text/batches"
EXCERPTS = "text/excerpts"
SITES, EXPERTS, SENSITIVITY = "sites", "experts", "sensitivity"
SENSITIVITY_ROWS = "sensitivity/rows"

# root attributes
FORMAT_ATTR, VERSION_ATTR = "format", "version"
COMPLETE_ATTR, BATCHES_DONE_ATTR = "complete", "batches_done"
SENSITIVITY_ATTRS = ("batches_done", "measured_done")
# attributes of a site, and of a windowed dataset
ENCODING_ATTR, FIRST_BIN_ATTR, BINS_ATTR = "encoding", "first_bin", "bins"

TOP_K = 32
TOP_LISTS = ("first_token", "other_tokens")
ERROR_MEASURES = ("elements", "underflowed", "signal", "noise")


class Combine(StrEnum):
    """How a field of two profiles becomes one. `sample` fields are laid end to end."""

    SUM = "sum"
    MAX = "max"
    SAMPLE = "sample"
    TOP = "top"
    WINDOW = "window"
    SAME = "same"


@dataclass(frozen=True)
class Field:
    """One dataset. `windowed`: the last axis is stored without its empty ends.

    `only`: "" is everywhere, "kv" at K and V, "full" at linear inputs under `--record full`.
    """

    dims: tuple[str, ...]
    dtype: str
    combine: Combine
    windowed: bool = False
    only: str = ""


_TOP_DIMS = ("tag", "list", "rank")

SITE_FIELDS: Mapping[str, Field] = {
    "elements": Field(("tag",), "int64", Combine.SUM),
    "zeros": Field(("tag",), "int64", Combine.SUM),
    "histogram": Field(("tag", "bin"), "int64", Combine.SUM, windowed=True),
    "head_zeros": Field(("head",), "int64", Combine.SUM, only="kv"),
    "head_histogram": Field(("head", "bin"), "int64", Combine.SUM, windowed=True, only="kv"),
    "amax": Field(("tag",), "float32", Combine.MAX),
    "channel_amax": Field(("tag", "channel"), "float32", Combine.MAX),
    "channel_sum_squares": Field(("channel",), "float64", Combine.SUM),
    "token_amax": Field(("tag", "bin"), "int64", Combine.SUM, windowed=True),
    "sequence_amax": Field(("sample",), "float32", Combine.SAMPLE),
    "sequence_binades": Field(("sample", "binade"), "uint32", Combine.SAMPLE, windowed=True),
    "top_value": Field(_TOP_DIMS, "float32", Combine.TOP),
    "top_sample": Field(_TOP_DIMS, "int32", Combine.TOP),
    "top_position": Field(_TOP_DIMS, "int32", Combine.TOP),
    "top_channel": Field(_TOP_DIMS, "int32", Combine.TOP),
    "error_per_token": Field(("tag", "binade", "measure"), "float64", Combine.SUM, only="full"),
    "error_per_block": Field(("tag", "binade", "measure"), "float64", Combine.SUM, only="full"),
}

WEIGHT_FIELDS: Mapping[str, Field] = {
    "elements": Field(("one",), "int64", Combine.SAME),
    "zeros": Field(("one",), "int64", Combine.SAME),
    "histogram": Field(("bin",), "int64", Combine.SAME, windowed=True),
    "amax": Field(("one",), "float32", Combine.SAME),
    "row_amax": Field(("row",), "float32", Combine.SAME),
    "row_sum_squares": Field(("row",), "float64", Combine.SAME),
    "column_amax": Field(("column",), "float32", Combine.SAME),
    "column_sum_squares": Field(("column",), "float64", Combine.SAME),
    "top_value": Field(("rank",), "float32", Combine.SAME),
    "top_row": Field(("rank",), "int32", Combine.SAME),
    "top_column": Field(("rank",), "int32", Combine.SAME),
    "error_per_channel": Field(("binade", "measure"), "float64", Combine.SAME, only="full"),
    "error_per_block": Field(("binade", "measure"), "float64", Combine.SAME, only="full"),
}

_WINDOWS = {
    "zeros": Field(("expert",), "int64", Combine.WINDOW),
    "below": Field(("expert",), "int64", Combine.WINDOW),
    "top_binade": Field(("expert",), "int32", Combine.WINDOW),
    "histogram": Field(("expert", "place"), "uint32", Combine.WINDOW),
}

# of the inputs of routed experts, beside the site's own record
EXPERT_FIELDS: Mapping[str, Field] = {
    "tokens": Field(("tag", "expert"), "int64", Combine.SUM),
    "amax": Field(("tag", "expert"), "float32", Combine.MAX),
    "channel_amax": Field(("expert", "channel"), "float32", Combine.MAX),
    "channel_sum_squares": Field(("expert", "channel"), "float32", Combine.SUM),
    **_WINDOWS,
}

# of the stacked weights of routed experts, beside the record of all their rows
EXPERT_WEIGHT_FIELDS: Mapping[str, Field] = {
    "amax": Field(("expert",), "float32", Combine.SAME),
    "column_amax": Field(("expert", "column"), "float32", Combine.SAME),
    "column_sum_squares": Field(("expert", "column"), "float32", Combine.SAME),
    **{name: replace(field, combine=Combine.SAME) for name, field in _WINDOWS.items()},
}

# of the second pass; `scored` are its sequences
SENSITIVITY_FIELDS: Mapping[str, Field] = {
    "samples": Field(("scored",), "int32", Combine.SAMPLE),
    "stands_for": Field(("scored",), "float64", Combine.SAMPLE),
    "kl_token": Field(("row", "scored"), "float64", Combine.SAMPLE),
    "kl_sequence": Field(("row", "scored"), "float64", Combine.SAMPLE),
    "kl_measured": Field(("row", "scored"), "float64", Combine.SAMPLE),
}

# columns of the table text/samples: one row per sequence
SAMPLE_COLUMNS: Mapping[str, str] = {
    "index": "int32",
    "tag": "int32",
    "source": "int32",
    "document": "int32",
    "window": "int32",
    "length": "int32",
    "digest": "S16",
}
# columns of text/excerpts: the text around every value in a top list
EXCERPT_COLUMNS: Mapping[str, str] = {
    "sample": "int32",
    "position": "int32",
    "token_id": "int32",
    "token": "S48",
    "before": "S160",
    "after": "S160",
}
# columns of text/batches: the micro-batches in the order in which they ran
BATCH_COLUMNS: Mapping[str, str] = {"batch": "int32", "sample": "int32"}


def fixed_dims(encoding: Encoding) -> dict[str, int]:
    """Lengths of the axes that do not depend on the model or the text."""
    return {
        "one": 1,
        "bin": BINS,
        "binade": encoding.binades,
        "list": len(TOP_LISTS),
        "rank": TOP_K,
        "measure": len(ERROR_MEASURES),
        "place": WINDOW,
    }
