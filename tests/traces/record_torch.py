"""Records the trace of a CPU that the tests read: a decoder layer's linears, one of them in FP8.

`python -m tests.traces.record_torch tests/traces/data/torch/cpu.json.gz`, with torch 2.13.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.profiler import ProfilerActivity, profile, record_function

LAYER = "model.layers.0"


class Layer(torch.nn.Module):
    """q_proj in BF16, down_proj in FP8 per tensor, attention between them."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = torch.nn.Linear(64, 64, dtype=torch.bfloat16)
        weight = torch.randn(64, 64, dtype=torch.bfloat16)
        self.down, self.scale = weight.to(torch.float8_e4m3fn), torch.ones(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [tokens, 64] in BF16."""
        with record_function(f"fp8scope:{LAYER}.self_attn"):
            with record_function(f"fp8scope:{LAYER}.self_attn.q_proj"):
                q = self.q_proj(x)
            heads = q.view(1, len(x), 4, 16).transpose(1, 2)
            mixed = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
            x = mixed.transpose(1, 2).reshape(len(x), 64)
        with record_function(f"fp8scope:{LAYER}.mlp.down_proj"):
            return torch._scaled_mm(
                x.to(torch.float8_e4m3fn), self.down.t(), scale_a=self.scale, scale_b=self.scale,
                out_dtype=torch.bfloat16,
            )  # fmt: skip


def record(path: Path) -> None:
    """A prefill of 16 tokens and two decode steps; what ran before is not in the trace."""
    torch.manual_seed(0)
    layer = Layer()
    with torch.no_grad():
        layer(torch.randn(16, 64, dtype=torch.bfloat16))
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
            with record_function("fp8scope:prefill"):
                layer(torch.randn(16, 64, dtype=torch.bfloat16))
            for _ in range(2):
                with record_function("fp8scope:decode"):
                    layer(torch.randn(1, 64, dtype=torch.bfloat16))
    with TemporaryDirectory() as folder:
        written = Path(folder) / "cpu.json"
        recorded.export_chrome_trace(str(written))
        text = written.read_text().replace(str(written), "cpu.json")
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    record(Path(sys.argv[1]))
