"""What a plan costs: by fake quantization, and as it was built and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fp8scope.artefacts.plan import Plan
from fp8scope.observe.applied import Applied
from fp8scope.observe.divergence import moved
from fp8scope.runtime.fp8.checkpoint import load_fp8
from fp8scope.runtime.fp8.linear import Gemm
from fp8scope.runtime.loading import LoadOptions, load
from fp8scope.runtime.quantized import QuantizedParts
from tests.build.planned import Scanned


class Reference:
    """The model itself, and under plans by fake quantization."""

    def __init__(self, what: Scanned, dtype: str = "float32") -> None:
        self.what = what
        self.model: Any = load(str(what.folder), LoadOptions(dtype=dtype)).model
        self.applied = Applied.of(self.model, QuantizedParts.of(self.model, what.profile))
        self.true = [self.applied.logits(ids) for ids in self.batches()]

    def batches(self) -> list[Tensor]:
        """Each held-out sequence, [1, T]."""
        return [torch.from_numpy(s.tokens.astype(np.int64))[None] for s in self.what.text.samples]

    def of_plan(self, plan: Plan) -> float:
        """KL in nats per token under `plan`."""
        with self.applied.terms(plan.terms()):
            return self._kl([self.applied.logits(ids) for ids in self.batches()])

    def of_build(self, folder: Path, gemm: Gemm, dtype: str | None = None) -> float:
        """KL in nats per token of a built checkpoint."""
        built = load_fp8(folder, gemm=gemm, dtype=dtype)
        return self._kl([built.logits(ids) for ids in self.batches()])

    def of_model(self, model: Any) -> float:
        """KL in nats per token of any model with these tokens."""
        with torch.no_grad():
            return self._kl([model(ids, use_cache=False).logits for ids in self.batches()])

    def _kl(self, logits: list[Tensor]) -> float:
        total = tokens = 0.0
        for true, other, ids in zip(self.true, logits, self.batches(), strict=True):
            total += float(moved(true, other, ids, [ids.shape[1]]).kl.sum())
            tokens += ids.shape[1]
        return total / tokens
