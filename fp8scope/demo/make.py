"""Make the model and text that `fp8scope scan demo` scans: a small random Llama.

Random weights are enough to see the whole tool work; they have no massive activations. The prose
is the opening of Pride and Prejudice (public domain), the rest was written for fp8scope.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fp8scope.runtime.sources import Source

BOS = "<s>"
SEED = 20


def make_demo(folder: Path) -> list[Source]:
    """Save a model and a byte-level tokenizer to `folder`; return the text, in three tags."""
    tokenizer = _byte_tokenizer()
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.bos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model: Any = LlamaForCausalLM(config)  # transformers' .to() is not typed
        model.to(torch.bfloat16).save_pretrained(folder)
    package = files("fp8scope")
    places = {
        "prose": package / "demo" / "text" / "prose.txt",
        "support": package / "demo" / "text" / "support.jsonl",
        "code": package / "core" / "histogram.py",
    }
    sources = []
    for tag, place in places.items():
        with as_file(place) as path:
            copy = folder / f"{tag}{path.suffix}"
            copy.write_bytes(path.read_bytes())
        sources.append(Source(tag, str(copy)))
    return sources


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([BOS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapper: Any = PreTrainedTokenizerFast
    wrapped: PreTrainedTokenizerFast = wrapper(tokenizer_object=tokenizer, bos_token=BOS)
    return wrapped
