"""Prompts for a run: what they say changes nothing of how long it takes."""

from __future__ import annotations

import torch
from torch import Tensor

from fp8scope.verify.native.engine import Engine
from fp8scope.verify.order import Order


def prompts(engine: Engine, order: Order) -> Tensor:
    """Random token ids [batch, prompt_len], BOS first where the tokenizer has one."""
    draw = torch.Generator().manual_seed(order.seed)
    shape = order.batch, order.prompt_len
    ids = torch.randint(engine.vocabulary, shape, generator=draw)
    if engine.bos is not None:
        ids[:, 0] = engine.bos
    return ids.to(engine.device)
