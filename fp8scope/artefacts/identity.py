"""Do two things belong to one model? Refusals that tell a fine-tune from another architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8scope.errors import Stale

MEMORY = "memory:"
"""Begins the weights' hash of a model that was never read from files."""
IDENTITY = ("architecture", "config_hash", "weights_hash")


def check_same_model(
    found: Mapping[str, Any], name: str, wanted: Mapping[str, Any], owner: str, remedy: str
) -> None:
    """Raise Stale where `found`, called `name`, is not of the model `wanted` that `owner` is of.

    Both hold `config_hash` and `weights_hash`; `architecture` is compared where both say it.
    """
    changed = {
        key for key in IDENTITY if key in found and key in wanted and found[key] != wanted[key]
    }
    if not changed:
        return
    in_memory = [str(model["weights_hash"]).startswith(MEMORY) for model in (found, wanted)]
    if "architecture" in changed:
        its = f"{found['architecture']}, {owner} is of {wanted['architecture']}"
        raise Stale(f"{name} is of another architecture: {its}", remedy)
    if in_memory[0] != in_memory[1]:
        kinds = [("files", "a model in memory")[memory] for memory in in_memory]
        raise Stale(
            f"{owner} is of {kinds[1]}, {name} of {kinds[0]}: whether they are the same model "
            "cannot be told",
            "scan and measure it in one way",
        )
    if changed == {"weights_hash"}:
        why = "another fine-tune: the weights differ"
    elif changed == {"config_hash"}:
        why = "the weights are the same, but config.json differs"
    else:
        why = "another model: config.json and the weights differ"
    raise Stale(f"{name} does not belong to {owner} ({why})", remedy)
