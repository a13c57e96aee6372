"""Measured µs per group, as a verdict.json holds them: what a plan's cost may be taken from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fp8scope.artefacts.json_file import first_fault, read_object
from fp8scope.errors import BadInput

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class TimedModel(_Read):
    """Which model was run."""

    config_hash: str
    weights_hash: str


class GroupTime(_Read):
    """A fused group, or a layer's KV cache: µs of a step by the precision that it ran in."""

    name: str
    time_us: dict[str, Positive]


class Times(_Read):
    """The part of a verdict.json that planning reads; its other fields are left alone."""

    format: Literal["fp8scope-verdict"]
    version: Literal[1]
    model: TimedModel
    gpu: str = ""
    groups: tuple[GroupTime, ...]


def read_times(path: Path) -> Times:
    """Raises BadInput: cannot be read, no verdict, or a time that is none."""
    data = read_object(path, "verdict")
    try:
        return Times.model_validate(data)
    except ValidationError as error:
        raise BadInput(f"{path}: {first_fault(error)}", "give a verdict.json") from error
