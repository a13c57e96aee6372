"""build from end to end: a plan and its model in, a finished checkpoint out."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fp8scope.artefacts.plan_file import read_factors, read_plan
from fp8scope.build.complete import left_out, refuse_incomplete
from fp8scope.build.files import SHARD_BYTES, file_shapes, with_saved_names
from fp8scope.build.finish import (
    copy_beside,
    put_plan,
    write_config,
    write_metadata,
)
from fp8scope.build.folder import NewFolder, new_folder
from fp8scope.build.folds import check_folds, fold_plan
from fp8scope.build.order import WRITTEN, Events, Format, Order
from fp8scope.build.refused import check_buildable, check_weights
from fp8scope.build.scales import static_scales
from fp8scope.build.source import load_source, reference_of
from fp8scope.checkpoint.doctor.diagnosis import Diagnosis
from fp8scope.checkpoint.doctor.examine import examine
from fp8scope.checkpoint.inventory import read_inventory
from fp8scope.errors import BadInput, CannotWrite, GateFailed, one_line
from fp8scope.export.checking import export_plan
from fp8scope.export.consumer import CannotExpress, Document
from fp8scope.runtime.loading import LoadedModel, LoadOptions
from fp8scope.runtime.structure import discover


@dataclass(frozen=True)
class Built:
    """A finished checkpoint. `before`, `after`: bytes of all tensors; `inexact`: values of the
    weights that lost bits when the smoothing was folded.
    """

    folder: Path
    format: Format
    before: int
    after: int
    inexact: int
    diagnosis: Diagnosis


def build_checkpoint(  # noqa: PLR0913  (keywords, each with a default)
    plan: str | Path,
    output: str | Path,
    *,
    model: str = "",
    format: Format = "modelopt",  # noqa: A002  (as the command line has it)
    options: LoadOptions | None = None,
    shard_bytes: int = SHARD_BYTES,
    force: bool = False,
    events: Events | None = None,
) -> Built:
    """Build the checkpoint of the plan.json at `plan` into `output`, a folder which appears whole
    or not at all; `force` overwrites an earlier build.

    model: folder, hub id or `demo`; else as the plan says.

    Raises what reading plans raises; OutputExists, CannotExpress (the format has no words for the
    plan), Stale (not the plan's model), CannotWrite (no room), Missing (no memory; ModelOpt,
    compressed-tensors or the hub cannot be had), BadInput and BadModel (what cannot be folded or
    quantized, by name), and GateFailed where what was built has a fault: nothing is left of it.
    """
    if format not in WRITTEN:
        raise BadInput(f"there is no format {format}", f"one of {', '.join(WRITTEN)}")
    read = read_plan(Path(plan))
    factors = read_factors(read, Path(plan))
    reference = reference_of(read, model)
    order = Order(read, factors, reference, format, options or LoadOptions(), shard_bytes)
    with new_folder(Path(output), force=force) as folder:
        return build_into(order, folder, events or Events())


def build_into(order: Order, folder: NewFolder, events: Events) -> Built:
    """Build what is ordered in a folder that was opened before. Raises as `build_checkpoint`."""
    check_buildable(order.plan)
    _metadata(order)  # refuses before anything is loaded
    loaded, before = load_source(order, folder.output, events)
    order = replace(order, plan=with_saved_names(order.plan, loaded.model))
    document = _metadata(order)
    check_weights(loaded.model, order.plan)
    check_folds(order.plan, discover(loaded.model, loaded.tensor_shapes))
    events.step("folding")
    inexact = fold_plan(loaded.model, order.plan, order.factors)
    if inexact:
        events.warn(f"{inexact:,} values of the weights lost bits when smoothing was folded")
    tensors, source = file_shapes(loaded.model), loaded.tensor_shapes or {}
    with _writing(folder.output):
        _write(order, loaded, document, folder.path, events)
    del loaded
    gc.collect()
    events.step("examining")
    diagnosis = examine(folder.path, progress=events.examined)
    _refuse_faults(diagnosis)
    written = read_inventory(folder.path).shapes()
    refuse_incomplete(tensors, written)
    for block in left_out(source, written):
        events.warn(f"{block} of the model's files is not in it: transformers does not load that")
    folder.publish()
    found = replace(diagnosis, folder=folder.output)
    return Built(folder.output, order.format, before, found.nbytes, inexact, found)


def _metadata(order: Order) -> Document:
    try:
        return export_plan(order.plan, WRITTEN[order.format])
    except CannotExpress as refusal:
        remedy = refusal.remedy.replace("--to ", "--format ")  # export's word for it
        raise CannotExpress(refusal.what, remedy) from refusal


def _write(
    order: Order, loaded: LoadedModel, document: Document, folder: Path, events: Events
) -> None:
    scales = static_scales(loaded.model, order.plan)
    dtype = str(next(loaded.model.parameters()).dtype).removeprefix("torch.")
    if order.format == "modelopt":
        from fp8scope.build import modelopt

        events.step("quantizing with ModelOpt")
        modelopt.quantize(loaded.model, order.plan, scales)
        events.step("exporting")
        modelopt.export(loaded.model, folder, order.shard_bytes)
        write_metadata(folder, document.config)
        quantization = _flat(document)
    else:
        from fp8scope.build.compressed import write_compressed

        events.step("compressing with compressed-tensors")
        quantization = write_compressed(
            loaded.model, order.plan, scales, folder, shard_bytes=order.shard_bytes
        )
    architecture = order.plan.model.architecture
    write_config(loaded.folder, folder, quantization, dtype, architecture)
    copy_beside(loaded.folder, folder)
    put_plan(order.plan, order.factors, folder)


def _flat(document: Document) -> dict[str, Any]:
    """ModelOpt's metadata as config.json holds them: made from one plan with the nested ones."""
    flat: dict[str, Any] = json.loads(document.forms["flat"].text)
    return flat


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """A full disk is one clear line, whichever library meets it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CannotWrite(
            f"cannot write {output}: {one_line(error)}", "make room, or give another -o"
        ) from error


def _refuse_faults(diagnosis: Diagnosis) -> None:
    faults = [fault for fault in diagnosis.faults if fault.severity == "error"]
    if faults:
        more = f" (and {len(faults) - 1} faults more)" if len(faults) > 1 else ""
        raise GateFailed(
            f"what was built has a fault, so it is not kept: {faults[0].what}{more}",
            faults[0].remedy,
        )
