"""The files of metadata as such: read, understood, and in step with each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fp8scope.checkpoint.declaration import Declaration
from fp8scope.checkpoint.declared import declare
from fp8scope.checkpoint.doctor.contents import Contents
from fp8scope.checkpoint.doctor.diagnosis import Fault
from fp8scope.checkpoint.doctor.phrases import are, many, verb

CONFIG, METADATA = "config.json", "hf_quant_config.json"
_QUANTIZATION = ("quantization_config", "compression_config")
_ONE_SOURCE = "write both from one: vLLM believes the first, TensorRT-LLM the second"


def read_config(folder: Path, faults: list[Fault]) -> tuple[dict[str, Any], list[Declaration]]:
    """config.json, and the metadata of both files; what cannot be read becomes a fault."""
    config = _object(folder, CONFIG, faults)
    metadata = _object(folder, METADATA, faults) if (folder / METADATA).exists() else None
    text = (config or {}).get("text_config")
    places = [(config or {}), text if isinstance(text, dict) else {}]
    own = next(
        (place[key] for place in places for key in _QUANTIZATION if place.get(key)),
        None,
    )
    if own is not None and not isinstance(own, dict):
        what = f"the quantization_config of {CONFIG} is not a JSON object"
        faults.append(Fault("metadata-malformed", "error", what, "write it again", (CONFIG,)))
    declarations = [declare(own, CONFIG)] if isinstance(own, dict) else []
    if metadata is not None:
        declarations.append(declare(metadata, METADATA))
    return config or {}, declarations


def _object(folder: Path, file: str, faults: list[Fault]) -> dict[str, Any] | None:
    code = "config" if file == CONFIG else "metadata"
    try:
        data = json.loads((folder / file).read_bytes())
    except FileNotFoundError:
        remedy = "copy the model's own, and put the quantization_config into it"
        faults.append(Fault(f"{code}-missing", "error", f"there is no {file}", remedy, (file,)))
        return None
    except OSError as error:
        what = f"{file} cannot be read ({error.strerror})"
        faults.append(Fault(f"{code}-unreadable", "error", what, "check the file", (file,)))
        return None
    except (ValueError, RecursionError) as error:
        remedy = "fetch the file again, or mend it"
        what = f"{file} is not JSON"
        if isinstance(error, json.JSONDecodeError):
            what += f" (line {error.lineno}, column {error.colno}: {error.msg})"
        faults.append(Fault(f"{code}-unreadable", "error", what, remedy, (file,)))
        return None
    if not isinstance(data, dict):
        what = f"{file} is not a JSON object"
        remedy = "fetch the file again"
        faults.append(Fault(f"{code}-unreadable", "error", what, remedy, (file,)))
        return None
    return data


def metadata_faults(contents: Contents) -> Iterator[Fault]:
    """Every fault of the files of metadata, whatever their lists say."""
    yield from _complaints(contents)
    yield from _against_weights(contents)
    yield from _one_file(contents)
    yield from _two_files(contents)


def _complaints(contents: Contents) -> Iterator[Fault]:
    for said in contents.declarations:
        for each in said.complaints:
            where = (said.file,)
            if each.is_known_elsewhere:
                yield Fault(each.code, "warning", each.what, each.remedy, where)
            else:
                yield Fault(each.code, "error", each.what, each.remedy, where)


def _against_weights(contents: Contents) -> Iterator[Fault]:
    said, fp8 = contents.declarations, [each.name for each in contents.fp8]
    if not said and fp8 and not contents.unread:
        what = f"{are(fp8, 'linear')} in FP8, and no metadata says so"
        remedy = f"put a quantization_config into {CONFIG}: engines load the codes as numbers"
        yield Fault("metadata-missing", "error", what, remedy, (CONFIG, METADATA))
    plain = [each.name for each in contents.stored if each.is_plain]
    is_promised = any(each.promises_fp8 for each in said)
    if is_promised and plain and len(plain) == len(contents.stored):
        files = tuple(each.file for each in said)
        how = f"{' and '.join(files)} {verb(files, 'says', 'say')} FP8"
        what = f"{how}, and {are(plain, 'linear')} in BF16"
        remedy = "delete the metadata, or put the quantized weights there"
        yield Fault("fp8-absent", "error", what, remedy, tuple(plain))


def _one_file(contents: Contents) -> Iterator[Fault]:
    said = contents.declarations
    if len(said) != 1 or said[0].form != "modelopt":
        return
    missing = METADATA if said[0].file == CONFIG else CONFIG
    if missing not in contents.unread:
        what = f"ModelOpt's metadata is in {said[0].file} alone"
        why = f"TensorRT-LLM reads {METADATA} first, vLLM and SGLang {CONFIG}"
        yield Fault("metadata-one-file", "warning", f"{what}: {why}", "write both", (missing,))


def _two_files(contents: Contents) -> Iterator[Fault]:
    if len(contents.declarations) != 2:
        return
    here, there = contents.declarations
    if here.form != there.form and "unknown" not in {here.form, there.form}:
        what = f"{here.file} says {here.form}, and {there.file} says {there.form}"
        remedy = "delete the one that is stale: engines take one or the other"
        yield Fault("metadata-disagree", "error", what, remedy, (here.file, there.file))
        return
    if not (here.is_read and there.is_read):
        return
    apart = [s.name for s in contents.stored if contents.declared(s) != there.of(s.names)]
    if apart:
        what = f"{CONFIG} and {METADATA} disagree on {many(apart, 'linear')}"
        yield Fault("metadata-disagree", "error", what, _ONE_SOURCE, tuple(apart))
    if here.kv_cache != there.kv_cache:
        what = f"{CONFIG} and {METADATA} disagree on the KV cache"
        yield Fault("metadata-disagree", "error", what, _ONE_SOURCE, (CONFIG, METADATA))
