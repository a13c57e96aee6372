"""`examine`: everything that can be found wrong with a checkpoint without running it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from fp8scope.checkpoint.doctor.cache import cache_facts, cache_faults
from fp8scope.checkpoint.doctor.container import file_faults, folder_faults, is_checkpoint
from fp8scope.checkpoint.doctor.contents import FLOATS8, Contents, read_config, scale_tensors
from fp8scope.checkpoint.doctor.diagnosis import Diagnosis, Fault
from fp8scope.checkpoint.doctor.fused import fused_faults
from fp8scope.checkpoint.doctor.lists import list_faults
from fp8scope.checkpoint.doctor.realized import plan_faults
from fp8scope.checkpoint.doctor.scales import scale_faults
from fp8scope.checkpoint.doctor.values import read_values
from fp8scope.checkpoint.doctor.weights import weight_faults
from fp8scope.checkpoint.header import TensorEntry
from fp8scope.checkpoint.inventory import list_folder
from fp8scope.errors import BadInput

_LOOKS: tuple[Callable[[Contents], Iterator[Fault]], ...] = (
    folder_faults,
    list_faults,
    fused_faults,
    scale_faults,
    weight_faults,
    cache_faults,
    plan_faults,
)


def examine(
    folder: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> Diagnosis:
    """Read a checkpoint, all of its bytes once and in constant memory, and say what is wrong.

    `progress` is told the bytes read and those in all. What is broken becomes a fault. Raises
    BadInput where there is no folder, nothing that looks like a checkpoint, or nothing that is
    quantized to FP8 or said to be; Interrupted where `stop()`.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder", "give the folder of a checkpoint")
    if not is_checkpoint(folder):
        remedy = "give a folder with config.json and safetensors"
        raise BadInput(f"{folder} holds no checkpoint", remedy)
    listing = list_folder(folder)
    faults = list(file_faults(listing))
    config, declarations = read_config(folder, faults)
    scales = scale_tensors(listing, config)
    is_fp8 = any(t.dtype in FLOATS8 and t.name not in scales for t in listing.tensors)
    is_said = any(said.promises_fp8 or said.kv_cache for said in declarations)
    if not (is_fp8 or is_said or any(fault.severity == "error" for fault in faults)):
        what = f"nothing here is FP8: {folder} holds {_dtypes(listing.tensors)}"
        raise BadInput(f"{what}, and no metadata says FP8", "give an FP8 checkpoint")
    values = read_values(listing, scales, progress, stop)
    contents = Contents(folder, listing, config, tuple(declarations), values)
    for look in _LOOKS:
        faults += look(contents)
    return Diagnosis(
        folder=folder,
        faults=tuple(sorted(faults, key=lambda fault: fault.severity != "error")),
        linears=Counter(each.module.wanted or "other" for each in contents.stored),
        metadata=tuple(f"{said.form} in {said.file}" for said in declarations),
        kv_cache=cache_facts(contents),
        tensors=len(listing.tensors),
        nbytes=sum(tensor.nbytes for tensor in listing.tensors),
    )


def _dtypes(tensors: tuple[TensorEntry, ...]) -> str:
    counts = Counter(tensor.dtype for tensor in tensors)
    shown = ", ".join(f"{count:,} tensors in {dtype}" for dtype, count in counts.most_common(3))
    return shown or "no tensors"
