"""Tests run in as many processes as there are cores, up to four: a thread for each is enough."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
