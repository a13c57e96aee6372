"""Ranges around every module that a verdict speaks of, for the profilers to see.

NVTX ranges lie in a domain of their own; torch.profiler sees none of them, and gets its own kind.
Names hold no `/`, which ncu's filters would take for its own. Where nothing is tagged there are no
hooks: a model costs what it did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

import nvtx
import torch
from torch import nn

from fp8scope.core.structure import Structure
from fp8scope.traces.trace import DOMAIN
from fp8scope.verify.native.modules import grouped, running

TORCH_PREFIX = f"{DOMAIN}:"
"""Before the names of ranges that torch.profiler records: it has no domains."""


class Marker(Protocol):
    """Opens ranges, and closes the last one first."""

    def push(self, name: str) -> None:
        """Open one."""

    def pop(self) -> None:
        """Close the last one."""


class Nvtx:
    """Ranges for nsys and ncu."""

    def push(self, name: str) -> None:
        """See `Marker`."""
        nvtx.push_range(name, domain=DOMAIN)

    def pop(self) -> None:
        """See `Marker`."""
        nvtx.pop_range(domain=DOMAIN)


class TorchRanges:
    """Ranges for torch.profiler."""

    def __init__(self) -> None:
        self._open: list[Any] = []

    def push(self, name: str) -> None:
        """See `Marker`."""
        opened: Any = torch.profiler.record_function(TORCH_PREFIX + name)
        opened.__enter__()
        self._open.append(opened)

    def pop(self) -> None:
        """See `Marker`."""
        self._open.pop().__exit__(None, None, None)


@contextmanager
def tags(
    model: nn.Module, structure: Structure, markers: Sequence[Marker]
) -> Iterator[Callable[[str], AbstractContextManager[None]]]:
    """While it lasts each module runs in a range of its name; gives `phase(name)`, for the ranges
    around passes.

    Linears are tagged by their runtime names, an expert's GEMM by that of its stack; so are the
    attention modules that fill a KV cache, and experts that transformers runs as one.
    """
    with ExitStack() as stack:
        for name, module in _tagged(model, structure):
            for handle in _hooked(module, name, markers):
                stack.callback(handle.remove)
        yield lambda name: _range(name, markers)


def _tagged(model: nn.Module, structure: Structure) -> Iterator[tuple[str, nn.Module]]:
    for layer in structure.kv_layers:
        yield layer.attention, model.get_submodule(layer.attention)
    yield from grouped(model).items()
    for name, modules in running(model, structure).items():
        for module in modules:
            yield name, module


def _hooked(module: nn.Module, name: str, markers: Sequence[Marker]) -> Iterator[Any]:
    def before(*_: Any) -> None:
        for marker in markers:
            marker.push(name)

    def after(*_: Any) -> None:
        for marker in reversed(markers):
            marker.pop()

    yield module.register_forward_pre_hook(before)
    yield module.register_forward_hook(after, always_call=True)  # also where it raises


@contextmanager
def _range(name: str, markers: Sequence[Marker]) -> Iterator[None]:
    with ExitStack() as stack:
        for marker in markers:
            marker.push(name)
            stack.callback(marker.pop)
        yield
