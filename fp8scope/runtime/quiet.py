"""transformers without words of its own."""

from __future__ import annotations

from typing import Any


def quiet_transformers() -> None:
    """Its bars and advice are about loading; our own refusals say what matters."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    logging.disable_progress_bar()
    logging.set_verbosity_error()
