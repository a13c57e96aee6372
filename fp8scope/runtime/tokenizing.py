"""One document → its token ids, by the model's tokenizer and chat template."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fp8scope.errors import BadModel, BadText, one_line
from fp8scope.runtime.documents import Document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Longer texts are tokenized in pieces: an encoding takes some hundred bytes per character.
_PIECE_CHARACTERS = 1 << 18

Tokens = NDArray[np.int32]


def tokenize(document: Document, tokenizer: "PreTrainedTokenizerBase") -> Tokens:
    """Token ids of one document, int32 [n], with no special tokens but those it spells out."""
    if document.text is None:
        return np.asarray(_apply_template(document, tokenizer), dtype=np.int32)
    pieces = [
        np.asarray(
            tokenizer(document.text[start:stop], add_special_tokens=False)["input_ids"],
            dtype=np.int32,
        )
        for start, stop in cut_text(document.text, _PIECE_CHARACTERS)
    ]
    return np.concatenate(pieces)


def cut_text(text: str, most: int) -> Iterator[tuple[int, int]]:
    """Start and end of pieces of at most `most` characters: cut after a newline, else before a
    space, so that few words are torn.
    """
    start = 0
    while len(text) - start > most:
        limit = start + most
        end = text.rfind("\n", start, limit) + 1
        if end <= start:
            end = text.rfind(" ", start + 1, limit)
        end = end if end > start else limit
        yield start, end
        start = end
    yield start, len(text)


def _apply_template(document: Document, tokenizer: "PreTrainedTokenizerBase") -> Any:
    where = f"{document.location}:{document.number}"
    messages: Any = [dict(message) for message in document.messages or ()]
    try:
        # transformers 5 gives a BatchEncoding unless told not to.
        return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    except Exception as error:  # a template is code of the model's authors: it raises what it likes
        if not getattr(tokenizer, "chat_template", None):
            raise BadText(
                f"{where} holds chat messages, and the tokenizer has no chat template",
                'take the tokenizer of the instruct model, or give rendered prompts as "text"',
            ) from error
        raise BadText(
            f"the chat template refuses {where}: {one_line(error, 200)}",
            "check the order and the roles of the messages",
        ) from error


def check_vocabulary(tokens: Tokens, bos: int | None, vocab_size: int | None) -> None:
    """Refuse (BadModel) a token that the model, of `vocab_size` tokens, does not have."""
    largest = max(int(tokens.max(initial=0)), bos or 0)
    if vocab_size is not None and largest >= vocab_size:
        raise BadModel(
            "tokenizer and model do not belong together: "
            f"token id {largest}, and the model has {vocab_size} tokens",
            "use the tokenizer that came with the model",
        )


@contextmanager
def no_length_warning() -> Iterator[None]:
    """Tokenizers warn about texts longer than the context; here they are cut afterwards."""
    logger = logging.getLogger("transformers.tokenization_utils_base")

    def other(record: logging.LogRecord) -> bool:
        return "sequence length is longer" not in str(record.msg)

    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)
