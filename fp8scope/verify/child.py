"""One pass of the native engine in a process of its own: `python -m fp8scope.verify.child ORDER`.

A profiler wraps this process and sees nothing else; a fault of CUDA's or a hang ends it alone. It
leaves run.json in the order's folder, or error.json where it refuses. stderr is for people.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from fp8scope.artefacts.atomic import temporary_path, write_atomically
from fp8scope.errors import Fp8scopeError, Missing, one_line
from fp8scope.verify.order import ENDED, REFUSAL, RUN, TORCH_TRACE, Order, refusal

INTERRUPTED = 130
INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h, as the command's


def main(path: Path) -> int:
    """Run the order in a file; the exit code."""
    folder = path.parent
    try:
        order = Order.read(path)
        folder = Path(order.folder)
        _end_on_signals(folder)
        run(order, tell)
    except Fp8scopeError as error:
        return _refused(folder, error)
    except Exception as error:  # whatever torch and models raise; the parent gets one line
        if os.environ.get("FP8SCOPE_TRACEBACK"):
            traceback.print_exc()
        what = f"the native engine failed: {type(error).__name__}: {one_line(error, 300)}"
        failure = Fp8scopeError(what, "FP8SCOPE_TRACEBACK=1 shows where")
        failure.exit_code = INTERNAL_ERROR
        return _refused(folder, failure)
    return 0


def run(order: Order, tell: Callable[[str], None]) -> None:
    """Run the pass and write its record. Raises Fp8scopeError."""
    tell("loading torch")
    import torch  # seconds, and an order can be refused before

    from fp8scope.runtime.quiet import quiet_transformers
    from fp8scope.verify.native.engine import open_engine
    from fp8scope.verify.native.record import record_of
    from fp8scope.verify.native.tagged import run_tagged
    from fp8scope.verify.native.timing import timed

    quiet_transformers()
    tell(f"loading {order.checkpoint}")
    engine = open_engine(order)
    load = f"{order.batch} × {order.prompt_len} tokens"
    try:
        if order.what == "timing":
            record = record_of(engine, order, timed(engine, order, tell))
        else:
            tell(f"tagged: a prefill of {load}, {order.decode_steps} steps")
            run_tagged(engine, order)
            record = record_of(engine, order, None)
    except torch.OutOfMemoryError as error:
        what = f"{order.device} has no room for {load} beside {order.checkpoint}"
        raise Missing(what, "give a smaller --batch or --prompt-len") from error
    path = Path(order.folder) / RUN
    write_atomically(path, record.model_dump_json(indent=1).encode())


def tell(line: str) -> None:
    """A line for people."""
    print(f"fp8scope: {line} …", file=sys.stderr, flush=True)


def _refused(folder: Path, error: Fp8scopeError) -> int:
    print(f"fp8scope: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    if folder.is_dir():
        write_atomically(folder / REFUSAL, refusal(error))
    return error.exit_code


def _end_on_signals(folder: Path) -> None:
    """Ctrl-C and SIGTERM end the process wherever it is, with nothing half-written."""

    def end(number: int, frame: FrameType | None) -> None:
        for name in (RUN, TORCH_TRACE, REFUSAL):
            temporary_path(folder / name).unlink(missing_ok=True)
        os.write(2, f"{ENDED}\n".encode())
        os._exit(INTERRUPTED)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
