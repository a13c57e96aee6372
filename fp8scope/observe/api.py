"""`fp8scope.scan(model, batches)`: a scan of a model in memory, from Python."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from fp8scope.errors import BadInput, BadModel, CannotWrite, OutputExists
from fp8scope.observe.scan import Scan, ScanOptions, Subject
from fp8scope.observe.sensitivity import SensitivityOptions
from fp8scope.observe.token_batches import BatchLike, calibration_of_batches
from fp8scope.profile.record import Profile
from fp8scope.profile.writer import write_profile
from fp8scope.runtime.finite import refuse_nonfinite
from fp8scope.runtime.loading import model_identity
from fp8scope.runtime.structure import discover


def scan(  # noqa: PLR0913  (keywords, each with a default)
    model: nn.Module,
    batches: Iterable[BatchLike],
    *,
    tokenizer: Any = None,
    record: str = "standard",
    all_experts: bool = False,
    sensitivity: str | None = None,
    output: str | Path | None = None,
    force: bool = False,
) -> Profile:
    """Scan a transformers causal LM that is already loaded.

    batches: token ids, [B, T] integer tensors or lists of lists of one length, or mappings with
    `input_ids`, optionally `attention_mask` (padding on the right only) and `tag` (a string for
    the batch, "text" unless given). The profile's samples are the rows, in the given order. With
    a tokenizer the profile holds the text around the largest values. `all_experts` shows every
    token to every routed expert; the model's output stays that of the routing. `sensitivity` is
    `fisher`, `kl` or `none`; unless given, `fisher` where memory and model allow. `output` writes
    the profile there, when the scan is done: a scan from Python keeps no partials, and cannot be
    resumed.
    The model is left as it was: in its mode, without hooks. The profile of a model in memory
    merges with others from memory, not with those that the command line made from its files.

    Raises, before anything is computed, BadText (batches that the model does not take), BadModel
    (not loaded or not whole, inf or NaN in a parameter), BadInput (`record`, `sensitivity`),
    OutputExists and CannotWrite; then BadModel for inf or NaN in the forward.
    """
    if record not in ("standard", "full"):
        raise BadInput(f"record is {record!r}", "give 'standard' or 'full'")
    if sensitivity not in (None, "fisher", "kl", "none"):
        raise BadInput(f"sensitivity is {sensitivity!r}", "give 'fisher', 'kl' or 'none'")
    path = Path(output) if output is not None else None
    if path is not None:
        _check_output(path, force)
    subject = subject_in_memory(model, batches, tokenizer)
    second = SensitivityOptions(measure_all=sensitivity == "kl", required=sensitivity is not None)
    options = ScanOptions(
        record, all_experts=all_experts, sensitivity=None if sensitivity == "none" else second
    )
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        profile = Scan(subject, options).run()
    finally:
        for module, training in modes.items():
            module.training = training
    if path is not None:
        write_profile(profile, path)
    return profile


def subject_in_memory(
    model: nn.Module, batches: Iterable[BatchLike], tokenizer: Any = None
) -> Subject:
    """What a scan of a loaded model is of. Raises as `scan` before anything is computed."""
    _check_model(model)
    calibration = calibration_of_batches(batches, model)
    stated: Any = getattr(model, "config", None)
    config = stated.to_dict() if stated is not None else {}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    return Subject(
        model=model,
        tokenizer=tokenizer,
        config=json.loads(json.dumps(config, default=str)),
        identity=model_identity("in memory", model, f"memory:{digest.hexdigest()}", None),
        structure=discover(model),
        calibration=calibration,
    )


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise BadModel(
            f"the model is a {type(model).__name__}, not one that is loaded",
            "load it with transformers, or use the command: fp8scope scan MODEL",
        )
    if next(model.parameters(), None) is None:
        raise BadModel("the model has no parameters", "give a loaded transformers model")
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise BadModel(
                f"{name} is not in memory (offloaded, or never loaded)",
                "load the whole model onto one device",
            )
    refuse_nonfinite(model)


def _check_output(path: Path, force: bool) -> None:
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror}", "give another path") from error
    if is_folder or not path.parent.is_dir():
        what = f"{path} is a folder" if is_folder else f"there is no folder {path.parent}"
        raise CannotWrite(what, "give a file in a folder that exists")
    if exists and not force:
        raise OutputExists(f"{path} exists already", "give force=True or another path")
