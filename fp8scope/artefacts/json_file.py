"""JSON files of ours, as they are read: what is not one is told from what is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fp8scope.errors import BadInput


def read_object(path: Path, kind: str, refusal: type[BadInput] = BadInput) -> dict[str, Any]:
    """The JSON object at `path`, whose `format` must be `fp8scope-KIND`.

    Raises BadInput where it cannot be read, and `refusal` where it is something else.
    """
    remedy = f"give a {kind}.json of fp8scope"
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})", remedy) from error
    except (ValueError, RecursionError) as error:
        raise refusal(f"{path} is not JSON, or cut off", remedy) from error
    if not isinstance(data, dict) or data.get("format") != f"fp8scope-{kind}":
        raise refusal(f"{path} is no {kind} of fp8scope", remedy)
    return data


def first_fault(error: ValidationError) -> str:
    """`groups.3.precision: Input should be …`."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"])) or "it"
    return f"{where}: {first['msg']}"
