"""From what the user calls a model, a folder or a hub id, to the folder that holds it."""

from __future__ import annotations

from pathlib import Path

from fp8scope.checkpoint.hub import hub_refusals
from fp8scope.errors import BadModel, one_line

_GIVE = "give a model folder, a hub id (org/name) or `demo`"
# The weights of other programs, which repositories keep beside or below those of transformers.
_NOT_OURS = ["consolidated*", "*/*.safetensors", "*/*.bin"]


def model_folder(reference: str, *, code: bool, pickles: bool) -> Path:
    """The folder of `reference`, fetched from the hub if it is an id (org/name).

    `code` and `pickles` say whether Python files and pickled weights are fetched.
    Raises BadModel (no such folder, not on the hub) or Missing (the hub cannot be reached).
    """
    try:
        path = Path(reference).expanduser()
        if path.is_dir():
            return path
        is_file, typed_a_path = path.exists(), path.parent.is_dir() and path.parent != Path()
    except (OSError, RuntimeError, ValueError) as error:  # too long; ~nobody; a NUL
        raise BadModel(f"there is no folder {reference} ({one_line(error, 80)})", _GIVE) from error
    if is_file:
        raise BadModel(f"{reference} is a file", "give the folder that holds config.json")
    # `models/typo`, beside a folder `models`, is a path: a hub is not to be asked about it.
    if typed_a_path or reference.startswith((".", "/", "~")) or reference.count("/") != 1:
        raise BadModel(f"there is no folder {reference}", _GIVE)
    return _download(reference, code=code, pickles=pickles)


def _download(hub_id: str, *, code: bool, pickles: bool) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    wanted += ["*.py"] if code else []
    wanted += ["*.bin"] if pickles else []
    with hub_refusals(hub_id, "model", BadModel, _GIVE):
        return Path(snapshot_download(hub_id, allow_patterns=wanted, ignore_patterns=_NOT_OURS))
