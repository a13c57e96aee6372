"""Models on the hub: what its answers mean, and what can be read of a model without its weights.

No such name and closed doors are bad input, silence is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fp8scope.checkpoint.header import TensorEntry
from fp8scope.checkpoint.inventory import Inventory
from fp8scope.errors import BadInput, BadModel, Missing, one_line

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_id(reference: str) -> bool:
    """Whether it can be one, `org/name`; a folder may be called so too."""
    return _HUB_ID.fullmatch(reference) is not None


@contextmanager
def hub_refusals(name: str, kind: str, refusal: type[BadInput], otherwise: str) -> Iterator[None]:
    """Turn whatever the hub's client raises about `name`, a `kind` of thing, into one line.

    Raises `refusal` where the hub has no such thing or does not give it to this user, with
    `otherwise` as what to do; Missing where the hub cannot be reached.
    """
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError as error:
        raise refusal(
            f"the {kind} {name} is gated: its owners ask you to accept their terms",
            "accept them on its page of the hub, then: hf auth login",
        ) from error
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise refusal(
            f"the hub has no {kind} {name}", f"{otherwise}; for a private one: hf auth login"
        ) from error
    except Exception as error:  # the client lets errors of its HTTP library through
        raise Missing(
            f"the {kind} {name} cannot be fetched from the hub "
            f"({one_line(error.__cause__ or error)})",
            "check the spelling and the network, or give something local",
        ) from error


def read_remote(hub_id: str) -> tuple[dict[str, Any], Inventory]:
    """config.json and the inventory of a model on the hub; of its tensors only headers are fetched.

    Raises BadModel (no such model, no safetensors) and Missing (the hub cannot be reached).
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import NotASafetensorsRepoError

    api = HfApi()
    with hub_refusals(hub_id, "model", BadModel, "give a folder or a hub id (org/name)"):
        try:
            found = api.get_safetensors_metadata(hub_id)
        except NotASafetensorsRepoError:
            found = None
        config = json.loads(Path(api.hf_hub_download(hub_id, "config.json")).read_bytes())
    if found is None:
        raise BadModel(f"{hub_id} has no safetensors on the hub", "give a folder that has")
    tensors = [
        TensorEntry(name, file, str(info.dtype), tuple(info.shape), *info.data_offsets)
        for file, metadata in found.files_metadata.items()
        for name, info in metadata.tensors.items()
    ]
    return config, Inventory(Path(hub_id), tuple(sorted(tensors, key=lambda entry: entry.name)))
