"""Run a compiled body on the threads that torch already keeps.

torch's OpenMP threads spin for milliseconds after each operation, waiting for the next one. A
thread of ours would have to compete with them for a core; so the body is handed to that very
team. A body takes the address of its job and claims lanes until none are left (`claim`), so
it does the whole job whether one thread runs it or many.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import cfunc, njit, types
from numba.extending import intrinsic


def compiled(function: Any) -> Any:
    """Decorator of what a body calls."""
    return _cached(njit, function)


def body(function: Any) -> Any:
    """Decorator of a body: a function of its job's address."""
    return _cached(partial(cfunc, types.void(types.int64)), function)


def _cached(compiler: Any, function: Any) -> Any:
    try:
        return compiler(cache=True)(function)
    except RuntimeError:  # numba finds no folder to write to: compile in every process
        return compiler()(function)


def run(work: Any, job: np.ndarray[Any, np.dtype[Any]], most: int) -> None:
    """Run a body over a job on up to `most` of torch's threads.

    On this thread alone if `most` is 1, or where torch has no GNU OpenMP.
    """
    threads = min(most, torch.get_num_threads())
    start = _parallel() if threads > 1 else _alone
    start(work.address, job.ctypes.data, threads)


@intrinsic
def claim(_typing: Any, counter: Any) -> Any:
    """Add 1 to the int64 at an address, atomically; returns what it was."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        pointer = builder.inttoptr(arguments[0], word.as_pointer())
        return builder.atomic_rmw("add", pointer, ir.Constant(word, 1), "seq_cst")

    return types.int64(types.int64), generate


@intrinsic
def at(_typing: Any, address: Any) -> Any:
    """An integer address as the pointer that `numba.carray` takes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.voidptr(types.int64), generate


Parallel = Callable[[int, int, int], None]


@cache
def _parallel() -> Parallel:
    """(function, job, threads) → None, by the GNU OpenMP runtime that torch has loaded."""
    found = sorted(Path(torch.__file__).parent.glob("lib/libgomp*.so*"))
    if not found:
        return _alone
    start = ctypes.CDLL(str(found[0])).GOMP_parallel
    start.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    start.restype = None
    return lambda function, job, threads: start(function, job, threads, 0)


def _alone(function: int, job: int, _threads: int) -> None:
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)(job)
