"""build from end to end: a plan and its model in, a finished checkpoint out."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from fp8scope.artefacts.identity import check_same_model
from fp8scope.artefacts.plan import Plan
from fp8scope.artefacts.plan_file import read_factors, read_plan
from fp8scope.build.complete import left_out, refuse_incomplete
from fp8scope.build.files import file_shapes, with_saved_names
from fp8scope.build.finish import (
    check_architecture,
    copy_beside,
    put_plan,
    write_config,
    write_metadata,
)
from fp8scope.build.folder import NewFolder, new_folder
from fp8scope.build.folds import check_folds, fold_plan
from fp8scope.build.memory import Needs, check_needs, needs
from fp8scope.build.refused import check_buildable, check_weights
from fp8scope.build.scales import static_scales
from fp8scope.checkpoint.doctor.diagnosis import Diagnosis
from fp8scope.checkpoint.doctor.examine import examine
from fp8scope.checkpoint.inventory import read_inventory
from fp8scope.demo.files import DEMO_MODEL
from fp8scope.errors import BadInput, BadModel, CannotWrite, GateFailed, one_line
from fp8scope.export.checking import export_plan
from fp8scope.export.consumer import CannotExpress, Document
from fp8scope.runtime.devices import check_device
from fp8scope.runtime.folders import model_folder
from fp8scope.runtime.loading import DTYPES, LoadedModel, LoadOptions, load
from fp8scope.runtime.structure import discover

Format = Literal["modelopt", "compressed-tensors"]
WRITTEN: dict[Format, str] = {
    "modelopt": "hf-quant-config",
    "compressed-tensors": "compressed-tensors",
}
"""The consumer whose words the metadata of a format are."""
SHARD_BYTES = 5_000_000_000
DEMO = "demo"


@dataclass
class Events:
    """How a build talks to whoever started it: `step` names what it is at, `needs` comes before
    the model is loaded, `examined(read, total)` counts bytes, `warn` is a sentence for the person.
    """

    step: Callable[[str], None] = lambda name: None
    needs: Callable[[Needs], None] = lambda found: None
    examined: Callable[[int, int], None] = lambda read, total: None
    warn: Callable[[str], None] = lambda sentence: None


@dataclass(frozen=True)
class Order:
    """What is to be built: a plan with its factors (`read_plan`, `read_factors`), of the model
    `reference` (a folder or a hub id), in `format`.
    """

    plan: Plan
    factors: Mapping[str, NDArray[Any]]
    reference: str
    format: Format = "modelopt"
    options: LoadOptions = field(default_factory=LoadOptions)
    shard_bytes: int = SHARD_BYTES


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
    read = read_plan(Path(plan))
    factors = read_factors(read, Path(plan))
    reference = reference_of(read, model)
    order = Order(read, factors, reference, format, options or LoadOptions(), shard_bytes)
    with new_folder(Path(output), force=force) as folder:
        return build_into(order, folder, events or Events())


def reference_of(plan: Plan, model: str = "") -> str:
    """The folder or hub id of the plan's model, unless `model` names one."""
    name = model or plan.model.name
    return str(DEMO_MODEL) if name == DEMO else name


def build_into(order: Order, folder: NewFolder, events: Events) -> Built:
    """Build what is ordered in a folder that was opened before. Raises as `build_checkpoint`."""
    _metadata(order)  # refuses before anything is loaded
    check_buildable(order.plan)
    loaded, before = _loaded(order, folder.output, events)
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
    return Built(folder.output, order.format, before, diagnosis.nbytes, inexact, diagnosis)


def _metadata(order: Order) -> Document:
    try:
        return export_plan(order.plan, WRITTEN[order.format])
    except CannotExpress as refusal:
        remedy = refusal.remedy.replace("--to ", "--format ")  # export's word for it
        raise CannotExpress(refusal.what, remedy) from refusal


def _loaded(order: Order, output: Path, events: Events) -> tuple[LoadedModel, int]:
    plan, options = order.plan, order.options
    check_device(options.device)
    pickles = options.allow_pickle
    try:
        home = model_folder(order.reference, code=options.trust_remote_code, pickles=pickles)
    except BadModel as error:
        raise BadModel(error.what, "say where the plan's model is with --model") from error
    dtype = options.dtype or plan.model.dtype
    if dtype not in DTYPES:
        raise BadInput(f"the plan is of a model in {dtype}", f"--dtype {' or '.join(DTYPES)}")
    before = 0
    if any(home.glob("*.safetensors")):
        inventory = read_inventory(home)
        at_once = None if order.format == "modelopt" else order.shard_bytes
        found = needs(plan, inventory, DTYPES[dtype], at_once)
        events.needs(found)
        check_needs(found, output, torch.device(options.device))
        before = inventory.nbytes()
    events.step("loading the model")
    chosen = LoadOptions(dtype, options.device, options.trust_remote_code, pickles)
    loaded = load(str(home), chosen)
    remedy = f"give {plan.model.name} with --model, or plan this one"
    check_same_model(loaded.identity, order.reference, plan.model.model_dump(), "the plan", remedy)
    check_architecture(loaded.config, plan.model.architecture)
    return loaded, before


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
