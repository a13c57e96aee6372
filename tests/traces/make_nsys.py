"""Makes the exports of `tests/traces/nsys`: real nsys, no GPU. See the README beside them.

    python make_nsys.py FOLDER --nvtx FOLDER_OF_NVTX_0.2.11 --newer FOLDER_OF_NVTX_0.2.16

It needs nsys with its importer and exporter, and gcc with NVIDIA's header-only nvtx3 (`--include`)
for the ranges whose text is not registered, as `torch.cuda.nvtx` pushes them.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOMAIN = "fp8scope"
LAYERS, STEPS = 2, 4
BLOCK = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
"""A block of the model: the modules that are ranges, and the linears in them."""
TABLES = (
    "NVTX_EVENTS,StringIds,META_DATA_CAPTURE,META_DATA_EXPORT,PROCESSES,ThreadNames,"
    "CUPTI_ACTIVITY_KIND_KERNEL,CUPTI_ACTIVITY_KIND_RUNTIME,CUDA_GRAPH_EVENTS,"
    "TARGET_INFO_GPU,TARGET_INFO_GPU_METRICS,GPU_METRICS"
)
"""The last six only a GPU fills: the exporter creates them, empty."""
SCRUB = """
DELETE FROM META_DATA_EXPORT WHERE name NOT LIKE 'EXPORT_SCHEMA%' AND name NOT IN (
    'EXPORT_PRODUCT_NAME', 'EXPORT_PRODUCT_VERSION', 'EXPORT_PRODUCT_DATE', 'EXPORT_PLATFORM',
    'EXPORT_ARCH', 'EXPORT_PARAM_LAZY');
DELETE FROM META_DATA_CAPTURE WHERE name NOT LIKE '%COLLECT%TRACE' AND name NOT IN (
    'CAPTURE_EVENT_TYPE', 'START_TRIGGER', 'STOP_TRIGGER');
DELETE FROM ThreadNames WHERE globalTid NOT IN (SELECT globalTid FROM NVTX_EVENTS);
DELETE FROM PROCESSES WHERE globalPid NOT IN (SELECT globalTid & ~16777215 FROM NVTX_EVENTS);
DELETE FROM StringIds WHERE id NOT IN (
    SELECT nameId FROM ThreadNames UNION SELECT textId FROM NVTX_EVENTS WHERE textId IS NOT NULL);
PRAGMA page_size = 1024;
VACUUM;
"""
"""Takes out what tells of the machine: environment, user, host, paths, times, other processes."""
UNREGISTERED = """
#include <nvtx3/nvToolsExt.h>
void push(const char *text) { nvtxRangePushA(text); }
void pop(void) { nvtxRangePop(); }
void push_in(const char *domain, const char *text) {
    nvtxEventAttributes_t event = {0};
    event.version = NVTX_VERSION;
    event.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
    event.messageType = NVTX_MESSAGE_TYPE_ASCII;
    event.message.ascii = text;
    nvtxDomainHandle_t handle = nvtxDomainCreateA(domain);
    nvtxDomainRangePushEx(handle, &event);
    nvtxDomainRangePop(handle);
}
"""


def linears() -> Iterator[tuple[str, str]]:
    for layer in range(LAYERS):
        for module, members in BLOCK.items():
            for member in members:
                yield f"model.layers.{layer}.{module}", member


def one_pass() -> None:
    import nvtx  # type: ignore[import-not-found,import-untyped,unused-ignore]

    for module, member in linears():
        inner = nvtx.annotate(f"{module}.{member}", domain=DOMAIN)
        with nvtx.annotate(module, domain=DOMAIN), inner:
            time.sleep(0.0002)


def tagged(unregistered: Any) -> None:
    """What the tagged pass pushes, and around it all that can go wrong."""
    import nvtx

    with nvtx.annotate("not ours"), nvtx.annotate("prefill", domain=DOMAIN):
        one_pass()
    for _ in range(STEPS):
        with nvtx.annotate("decode", domain=DOMAIN):
            one_pass()
    with nvtx.annotate("prefill", domain=DOMAIN):
        worker = threading.Thread(target=one_pass)
        worker.start()
        worker.join()
    elsewhere = nvtx.start_range("ended elsewhere", domain=DOMAIN)
    other = threading.Thread(target=nvtx.end_range, args=[elsewhere])
    other.start()
    other.join()
    here = nvtx.start_range("started and ended here", domain=DOMAIN)
    time.sleep(0.0002)
    nvtx.end_range(here)
    unregistered.push_in(DOMAIN.encode(), b"model.norm")
    nvtx.push_range("never closed", domain=DOMAIN)


def silent(_: Any) -> None:
    """A pass with an nvtx that is too new for this nsys: it drops the ranges."""
    import nvtx

    with nvtx.annotate("prefill", domain=DOMAIN):
        one_pass()


def layerwise(unregistered: Any) -> None:
    """As the hooks of vLLM's --enable-layerwise-nvtx-tracing push them, in the default domain."""
    for module, member in linears():
        name = f"top.{module}.{member}"
        shown = {"Module": name, "TrainableParams": {"weight": [64, 64]}, "Inputs": [[8, 64]]}
        unregistered.push(b"{'Module': 'top', 'Inputs': [[8]]}")
        unregistered.push(str(shown).encode())
        time.sleep(0.0002)
        unregistered.pop()
        unregistered.push(str({"Module": name, "Outputs": [[8, 64]]}).encode())
        unregistered.pop()
        unregistered.pop()
    unregistered.push(b"{'Module': 'Torch Compiled Module (input):LlamaModel', 'Inputs': [[8]]}")
    unregistered.pop()


SCENARIOS = {"tagged": tagged, "layerwise": layerwise, "silent": silent}


def record(scenario: str, library: Path, nvtx: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        report = Path(work) / "report.nsys-rep"
        environment = {**os.environ, "PYTHONPATH": str(nvtx)}
        nsys = ["nsys", "profile", "-t", "nvtx", "-s", "none", "--cpuctxsw=none", "-f", "true"]
        child = [
            sys.executable,
            __file__,
            str(folder),
            "--run",
            scenario,
            "--library",
            str(library),
        ]
        subprocess.run([*nsys, "-o", str(report), *child], check=True, env=environment)
        exported = folder / f"{scenario}.sqlite"
        tables = ",".join(f"^{name}$" for name in TABLES.split(","))
        export = ["nsys", "export", "--type", "sqlite", "-f", "true", "--lazy=false"]
        subprocess.run([*export, f"--tables={tables}", "-o", exported, report], check=True)
    with contextlib.closing(sqlite3.connect(exported)) as database:
        database.executescript(SCRUB)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--nvtx", type=Path, help="where nvtx 0.2.11 is installed")
    arguments.add_argument("--newer", type=Path, help="where nvtx 0.2.16 is installed")
    arguments.add_argument("--include", default="/usr/local/cuda/include")
    arguments.add_argument("--run", choices=SCENARIOS, help="push the ranges; nsys starts this")
    arguments.add_argument("--library", type=Path)
    given = arguments.parse_args()
    if given.run:
        SCENARIOS[given.run](ctypes.CDLL(given.library))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    library = given.library or Path(tempfile.mkdtemp()) / "unregistered.so"
    if not given.library:
        compiler = ["gcc", "-shared", "-fPIC", "-xc", "-", "-I", given.include, "-ldl"]
        subprocess.run([*compiler, "-o", library], input=UNREGISTERED, text=True, check=True)
    for scenario in SCENARIOS:
        record(scenario, library, given.newer if scenario == "silent" else given.nvtx, given.folder)


if __name__ == "__main__":
    main()
