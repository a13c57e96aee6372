"""plotly.js as plotly's Python package brings it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fp8scope.errors import Missing


def plotly_js() -> Path:
    """The file. The package is not imported, which would take a second. Raises Missing."""
    found = find_spec("plotly")
    if found is None or found.origin is None:
        raise Missing("plotly is not installed", "pip install plotly")
    return Path(found.origin).parent / "package_data" / "plotly.min.js"
