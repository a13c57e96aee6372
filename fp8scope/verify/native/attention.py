"""Attention over a whole prompt, without a mask.

Where torch.compile traces it, transformers (up to 5.2x, and with torch before 2.14) always builds
the mask, since it cannot tell that nothing came before. SDPA then leaves its fast causal kernels
for one that reads the mask and multiplies what is masked too: time that has nothing to do with FP8.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

_MASKED, _CAUSAL = "sdpa", "fp8scope_causal"


@contextmanager
def without_mask(model: Any) -> Iterator[None]:
    """While it lasts the model's SDPA is causal by SDPA's own flag.

    For passes over an empty cache alone, whose windows hold all tokens. A model that attends in
    another way is left as it is.
    """
    config = model.config
    if config._attn_implementation != _MASKED:
        yield
        return
    # transformers makes no mask for an implementation of which it knows no kind of mask
    AttentionInterface.register(_CAUSAL, sdpa_attention_forward)
    config._attn_implementation = _CAUSAL
    try:
        yield
    finally:
        config._attn_implementation = _MASKED
