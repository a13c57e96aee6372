"""`fp8scope browse …` in a terminal of its own, where `q` is pressed once the screen is there.

python -m tests.docs.terminal browse profile.h5
"""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from importlib.util import find_spec

WAIT = 60.0
DRAWN = "fused groups"  # of the first screen


def main(words: Sequence[str]) -> int:
    """Exit code of the command; what it said goes to stdout only where that is not 0."""
    if "--serve" in words:
        return _served(words)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    running = subprocess.Popen(
        [sys.executable, "-m", "fp8scope", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(theirs)
    sent, pressed, end = "", False, time.monotonic() + WAIT
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    while time.monotonic() < end:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                sent += decode(os.read(ours, 65536))
            except OSError:  # it ended
                break
        if not pressed and DRAWN in sent:
            os.write(ours, b"q")
            pressed = True
    else:
        running.kill()
    code = running.wait()
    if code or not pressed:
        print(sent)
        return code or 1
    return 0


def _served(words: Sequence[str]) -> int:
    """Without the extra it must say which; with it, it must serve until it is stopped."""
    command = [sys.executable, "-m", "fp8scope", *words]
    if find_spec("textual_serve") is None:
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        print(ran.stdout, ran.stderr)
        return 0 if ran.returncode == 3 and "fp8scope[serve]" in ran.stderr else 1
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
    except subprocess.TimeoutExpired:
        return 0
    print(ran.stdout, ran.stderr)
    return ran.returncode or 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
