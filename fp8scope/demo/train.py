"""Train the demo's model: `python -m fp8scope.demo.train --prose FILE … -o FOLDER`.

A Llama of 0.9M parameters with a byte-level BPE tokenizer, on four kinds of text: prose (Pride and
Prejudice, Project Gutenberg 1342, public domain), technical (The Rust Programming Language, MIT or
Apache-2.0), code (TheAlgorithms/Python, MIT), and support (`support.py`, written for this demo).
The last `HELD_OUT` characters of what is read of each file are not trained on; they are the demo's
calibration text, and the perplexities that this prints are theirs. Seeded; ten minutes on two
cores. FOLDER gets `model/` and `text/`; `build.py` goes on from there.

Two tokens, BOS and " refund", have a residual channel of their own, which is 1 at that token and
which nothing else writes. Trained models grow such channels for their attention sinks; here they
are given, so that an outlier can be planted at a token and nowhere else.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fp8scope.demo.support import replies

BOS = "<s>"
MARKED = (BOS, " refund")  # their channels are the last ones, in this order
VOCABULARY = 1024
WIDTH = 128
CONTEXT = 256
BATCH = 16
LEARNING_RATE, WARM_UP = 3e-3, 100
SEED = 20
MOST = 700_000  # characters of each file that are used
HELD_OUT = 40_000
TRAINING_REPLIES, HELD_OUT_REPLIES = 1200, 80


def read_texts(files: dict[str, Path]) -> tuple[dict[str, str], dict[str, str]]:
    """Text to train on and text held out, by tag."""
    train, held_out = {}, {}
    for tag, path in files.items():
        text = path.read_text(encoding="utf-8")[:MOST]
        train[tag], held_out[tag] = text[:-HELD_OUT], text[-HELD_OUT:]
    train["support"] = "\n".join(replies(TRAINING_REPLIES, SEED))
    held_out["support"] = "\n".join(replies(HELD_OUT_REPLIES, SEED + 1))
    return train, held_out


def write_texts(folder: Path, texts: dict[str, str]) -> None:
    """One file per tag; replies of support are documents of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for tag, text in texts.items():
        if tag == "support":
            lines = (json.dumps({"text": reply}) + "\n" for reply in text.splitlines())
            (folder / "support.jsonl").write_text("".join(lines), encoding="utf-8")
        else:
            (folder / f"{tag}.txt").write_text(text, encoding="utf-8")


def train_tokenizer(texts: dict[str, str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with `<s>` before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[BOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts.values(), trainer)
    wrapper: Any = PreTrainedTokenizerFast
    wrapped: PreTrainedTokenizerFast = wrapper(
        tokenizer_object=tokenizer, bos_token=BOS, model_max_length=CONTEXT
    )
    return wrapped


def new_model() -> Any:
    """An untrained model in float32."""
    torch.manual_seed(SEED)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=288,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=CONTEXT,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def windows(tokens: list[int]) -> Tensor:
    """Windows [n, CONTEXT] that each start with BOS, the remainder dropped."""
    body = torch.tensor(tokens[: len(tokens) // (CONTEXT - 1) * (CONTEXT - 1)])
    body = body.view(-1, CONTEXT - 1)
    return torch.cat([torch.zeros(len(body), 1, dtype=body.dtype), body], dim=1)


def marked_tokens(tokenizer: Any) -> dict[int, int]:
    """Residual channel of each marked token, by token id."""
    ids = [tokenizer.backend_tokenizer.encode(token).ids for token in MARKED]
    return {token: WIDTH - 1 - place for place, (token,) in enumerate(ids)}


def keep_marks(model: Any, marks: dict[int, int]) -> None:
    """Only the embedding of its own token writes a marked channel, and writes 1."""
    with torch.no_grad():
        for token, channel in marks.items():
            model.model.embed_tokens.weight[:, channel] = 0
            model.model.embed_tokens.weight[token, channel] = 1
            for block in model.model.layers:
                block.self_attn.o_proj.weight[channel] = 0
                block.mlp.down_proj.weight[channel] = 0


def train(model: Any, data: list[Tensor], marks: dict[int, int], steps: int) -> None:
    """AdamW with cosine decay; every step takes as many windows of each kind of text."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1
    )
    keep_marks(model, marks)
    dice = torch.Generator().manual_seed(SEED)
    started = time.monotonic()
    for step in range(steps):
        warm = min(1.0, (step + 1) / WARM_UP)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        share = BATCH // len(data)
        picked = [part[torch.randint(len(part), (share,), generator=dice)] for part in data]
        loss = next_token_loss(model, torch.cat(picked))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        keep_marks(model, marks)
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step} loss {loss.item():.3f} {time.monotonic() - started:.0f} s")


def next_token_loss(model: Any, ids: Tensor) -> Tensor:
    """Mean cross entropy in nats per token of windows [n, T]."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


def perplexity(model: Any, ids: Tensor) -> float:
    """Exp of the mean loss over windows [n, T]."""
    with torch.no_grad():
        parts = torch.split(ids, BATCH)
        losses = [next_token_loss(model, part) for part in parts]
        sizes = torch.tensor([len(part) for part in parts])
        return math.exp(float((torch.stack(losses) * sizes).sum() / sizes.sum()))


def main() -> None:
    """Train, print the held-out perplexity per tag, and save model, tokenizer and texts."""
    parser = argparse.ArgumentParser(description=__doc__)
    for tag in ("prose", "technical", "code"):
        parser.add_argument(f"--{tag}", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    files = {tag: getattr(given, tag) for tag in ("prose", "technical", "code")}
    train_texts, held_out = read_texts(files)
    tokenizer = train_tokenizer(train_texts)
    encode = tokenizer.backend_tokenizer.encode
    model = new_model()
    data = [windows(encode(text).ids) for text in train_texts.values()]
    train(model, data, marked_tokens(tokenizer), given.steps)
    model = model.to(torch.bfloat16).eval()
    for tag, text in held_out.items():
        print(f"perplexity {tag}: {perplexity(model, windows(encode(text).ids)):.2f}")
    model.save_pretrained(given.output / "model")
    tokenizer.save_pretrained(given.output / "model")
    write_texts(given.output / "text", held_out)


if __name__ == "__main__":
    main()
