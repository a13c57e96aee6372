"""Why a child failed, in one line: what it left word of itself, else what its end shows."""

from __future__ import annotations

import re

from fp8scope.errors import ChildFailed
from fp8scope.verify.order import ENDED, read_refusal
from fp8scope.verify.supervise import ERRORS, Ended

# torch.OutOfMemoryError's words, those of older torch, cuBLAS's and the driver's
_GPU_MEMORY = re.compile(
    r"out of memory. tried to allocate|cuda out of memory|cuda error: out of memory"
    r"|outofmemoryerror|CUBLAS_STATUS_ALLOC_FAILED|CUDA_ERROR_OUT_OF_MEMORY",
    re.IGNORECASE,
)
_SMALLER = "take a smaller --batch, --prompt-len or --gen-len, or a GPU with more memory"


def check(ended: Ended, name: str) -> None:
    """Nothing where the child succeeded; `name`: how it is called in the sentence.

    Raises the refusal that it left in its folder; else ChildFailed: it hung, ran out of memory,
    was ended by a signal, or failed with a last line of its own.
    """
    left = read_refusal(ended.folder)
    if left is not None:
        raise left
    if ended.timed_out:
        raise ChildFailed(
            f"{name} did not end within {ended.seconds:.0f} s and was stopped{_last(ended)}",
            f"give it more with --timeout, or a smaller load; what it left: {ended.folder}",
        )
    if ended.succeeded:
        return
    if _GPU_MEMORY.search("\n".join(ended.stderr_tail)):
        raise ChildFailed(f"{name} ran out of GPU memory{_last(ended)}", _SMALLER)
    log = f"what it printed: {ended.folder / ERRORS}"
    if ended.signal == "SIGKILL":
        what = f"{name} was killed (SIGKILL), most likely because memory ran out{_last(ended)}"
        raise ChildFailed(what, f"{_SMALLER}; {log}")
    if ended.signal is not None:
        raise ChildFailed(f"{name} crashed ({ended.signal}){_last(ended)}", log)
    raise ChildFailed(f"{name} failed with exit code {ended.exit_code}{_last(ended)}", log)


def _last(ended: Ended) -> str:
    words = [line.strip() for line in ended.stderr_tail if line.strip()]
    words = [line for line in words if line != ENDED]
    return f": {words[-1][:160]}" if words else ""
