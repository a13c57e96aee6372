"""`examine`: everything that can be found wrong with a checkpoint without running it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from fp8scope.checkpoint.doctor.absent import absent_faults
from fp8scope.checkpoint.doctor.amounts import amount_faults
from fp8scope.checkpoint.doctor.cache import cache_facts, cache_faults
from fp8scope.checkpoint.doctor.container import file_faults, folder_faults, stamps
from fp8scope.checkpoint.doctor.contents import Contents
from fp8scope.checkpoint.doctor.diagnosis import Diagnosis, Fault
from fp8scope.checkpoint.doctor.fused import fused_faults
from fp8scope.checkpoint.doctor.kept import kept_faults
from fp8scope.checkpoint.doctor.lists import list_faults
from fp8scope.checkpoint.doctor.metadata import metadata_faults, read_config
from fp8scope.checkpoint.doctor.naming import prefix_faults
from fp8scope.checkpoint.doctor.realized import plan_faults
from fp8scope.checkpoint.doctor.scale_names import scale_tensors
from fp8scope.checkpoint.doctor.scales import scale_faults
from fp8scope.checkpoint.doctor.shapes import shape_faults
from fp8scope.checkpoint.doctor.stored import FLOATS8, stored_linears
from fp8scope.checkpoint.doctor.values import read_values
from fp8scope.checkpoint.doctor.weights import weight_faults
from fp8scope.checkpoint.header import TensorEntry
from fp8scope.checkpoint.listing import list_folder
from fp8scope.errors import BadInput

_LOOKS: tuple[Callable[[Contents], Iterator[Fault]], ...] = (
    folder_faults,
    absent_faults,
    prefix_faults,
    shape_faults,
    metadata_faults,
    list_faults,
    fused_faults,
    kept_faults,
    scale_faults,
    amount_faults,
    weight_faults,
    cache_faults,
    plan_faults,
)


def examine(
    folder: str | Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> Diagnosis:
    """Read a checkpoint, all of its bytes once and in constant memory, and say what is wrong.

    `progress` is told the bytes read and those in all. What is broken becomes a fault. Raises
    BadInput where there is no folder that can be read, nothing that looks like a checkpoint, or
    nothing that is quantized to FP8 or said to be; Interrupted where `stop()`.
    """
    folder = Path(folder)
    before = stamps(folder)
    listing = list_folder(folder)
    faults = list(file_faults(listing))
    about_files = len(faults)
    config, declarations = read_config(folder, faults)
    unread = frozenset(file for fault in faults[about_files:] for file in fault.where)
    linears = stored_linears(listing, config)
    scales = scale_tensors(listing, linears)
    is_fp8 = any(t.dtype in FLOATS8 and t.name not in scales for t in listing.tensors)
    is_said = any(said.promises_fp8 or said.kv_cache for said in declarations)
    if not (is_fp8 or is_said or any(fault.severity == "error" for fault in faults)):
        what = f"nothing here is FP8: {folder} holds {_dtypes(listing.tensors)}"
        raise BadInput(f"{what}, and no metadata says FP8", "give an FP8 checkpoint")
    values = read_values(listing, scales, progress, stop)
    changed = frozenset(name for name, stamp in stamps(folder).items() if before.get(name) != stamp)
    contents = Contents(
        folder, listing, linears, config, tuple(declarations), unread, changed, values
    )
    for look in _LOOKS:
        faults += look(contents)
    return Diagnosis(
        folder=folder,
        faults=tuple(sorted(faults, key=lambda fault: fault.severity != "error")),
        linears=Counter(each.module.wanted or "other" for each in contents.stored),
        bare=sum(each.is_bare for each in contents.stored),
        metadata=tuple(f"{said.form} in {said.file}" for said in declarations),
        form=contents.declaration.form if contents.declaration is not None else None,
        kv_cache=cache_facts(contents),
        tensors=len(listing.tensors),
        nbytes=sum(tensor.nbytes for tensor in listing.tensors),
    )


def _dtypes(tensors: tuple[TensorEntry, ...]) -> str:
    counts = Counter(tensor.dtype for tensor in tensors)
    shown = ", ".join(f"{count:,} tensors in {dtype}" for dtype, count in counts.most_common(3))
    return shown or "no tensors"
