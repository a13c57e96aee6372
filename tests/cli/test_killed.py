"""A kill of the benchmark, so that it and what it shows stay true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# All of a scan is written after each forward, and the benchmark has many: half the time with these.
FEWER = ("--candidates", "fp8_tensor", "--sensitivity-samples", "4")


@pytest.mark.slow
def test_killed_anywhere_and_resumed_is_bit_identical() -> None:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "tests/bench/kill_resume.py"), "--kills", "1", "--", *FEWER],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["kills, each followed by --resume"] == 1
    assert result["equal"] == result["scans"]
