"""`fp8scope` without the start of a new Python: what it imports is imported once for all pages.

A command on a page is a real process with its own folder, environment, streams and exit code, as a
child of one that has imported torch before; starting anew would cost 7 s of CPU each time. That a
new process works as well is tested in tests/cli.

python -m tests.docs.warm SOCKET serves; client(SOCKET) is the text of a program that asks it.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from importlib import import_module

# What is worth importing before a command runs, by words of which each such command line has one.
TORCH = ("fp8scope.observe.api", "transformers.models.llama.modeling_llama")
HEAVY = {
    "fp8scope": ("fp8scope.report.plan", "fp8scope.profile.reader", "fp8scope.plan.make"),
    "scan": TORCH,
    "--measure": ("fp8scope.measure.api", *TORCH),
    "build": ("fp8scope.build.modelopt", "fp8scope.build.api", *TORCH),
}
CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect({path!r})
    asked = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(line, [len(asked).to_bytes(4, "big")], [0, 1, 2])
    line.sendall(asked)
    code = line.recv(1)
sys.exit(code[0] if code else 70)
"""


def client(path: str) -> str:
    """A program that has the server run its arguments."""
    return CLIENT.format(path=path)


def serve(path: str) -> None:
    """Answer until the parent goes away: one process for each command."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that answer
        print("ready", flush=True)
        while True:
            line, _ = listening.accept()
            with line:
                head, streams, _, _ = socket.recv_fds(line, 4, 3)
                asked = _read(line, int.from_bytes(head, "big"))
                words, folder, environment = json.loads(asked)
                for module in wanted(words):
                    import_module(module)
                if os.fork() == 0:
                    _answer(line, streams, words, folder, environment)
            for stream in streams:
                os.close(stream)


def wanted(words: Sequence[str]) -> list[str]:
    """Modules that the command is going to import."""
    named = {"fp8scope", *words}
    return [module for word, modules in HEAVY.items() if word in named for module in modules]


def _read(line: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size:
        read += line.recv(size - len(read))
    return read


def _answer(
    line: socket.socket,
    streams: Sequence[int],
    words: list[str],
    folder: str,
    environment: dict[str, str],
) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        line.sendall(bytes([code if code >= 0 else 128 - code]))
        os._exit(0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = words
    _run()


def _run() -> None:
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    for name, number in (("stdout", 1), ("stderr", 2)):
        raw = io.FileIO(number, "w", closefd=False)
        setattr(sys, name, io.TextIOWrapper(raw, "utf-8", write_through=True))
    from fp8scope.cli.app import main

    code = 0
    try:
        main()
    except SystemExit as done:
        code = int(done.code or 0)
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
