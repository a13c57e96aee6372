"""Small tokenizers made on the spot, so that no test needs a network or a file."""

from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{% if message.role == 'tool' %}{{ raise_exception('no tools\nhere') }}{% endif %}"
    "<|{{ message.role }}|>{{ message.content }}</s>{% endfor %}"
)
_BOS, _EOS, _UNK = "<s>", "</s>", "<unk>"
_CORPUS = [
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, "
    "must be in want of a wife. The quick brown fox jumps over the lazy dog, café naïve 日本語.",
    "def add(a, b):\n    return a + b\n\nfor i in range(10):\n    print(add(i, i))\n",
]


@cache
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[_BOS, _EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer.to_str()


def byte_tokenizer(*, bos: bool = True, chat: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 320 tokens; BOS `<s>` is token 0. Its stated context is 16 tokens, so
    that a warning about longer texts would show."""
    tokenizer = _wrap(
        Tokenizer.from_str(_trained()),
        bos_token=_BOS if bos else None,
        eos_token=_EOS,
        model_max_length=16,
    )
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    return tokenizer


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """Words with `▁` for the space before them, whose decoder drops the first space of a text."""
    words = [_BOS, _UNK, "▁the", "▁cat", "▁", "s", "."]
    tokenizer = Tokenizer(
        models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[], unk_token=_UNK)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _wrap(tokenizer, bos_token=_BOS, unk_token=_UNK)


def _wrap(tokenizer: Tokenizer, **settings: Any) -> PreTrainedTokenizerFast:
    wrap: Any = PreTrainedTokenizerFast  # its constructor has no types
    wrapped: PreTrainedTokenizerFast = wrap(tokenizer_object=tokenizer, **settings)
    return wrapped
