"""Decoder blocks that need not run again, because what they return is known.

What a block returns depends on the batch and on what is changed in it and in the blocks before it.
It is kept as deep as memory allows; a forward under other terms starts at the first block that
they change. Blocks that hand each other more than their output (shared keys and values) do not
allow that. So wherever a forward is first cut short it runs whole as well, and unless both give the
same bits, all of them run whole from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fp8scope.core.choices import Term
from fp8scope.core.structure import Structure
from fp8scope.runtime.forwards import forward_replaced
from fp8scope.runtime.memory import available_bytes

SHARE = 0.25
"""Of the memory that is free, for what is kept."""
UNKNOWN_ROOM = 1 << 30
"""Bytes to keep where the system does not say how much is free."""


class _Kept(NamedTuple):
    """What the last of the first blocks returned under `terms` in them."""

    terms: frozenset[Term]
    output: Any
    size: int


class Prefixes:
    """What the blocks of a model returned, by batch.

    `batches` is how many are kept at a time, each at up to `most` depths (None: after every
    block), within `SHARE` of the free memory. `warn` gets a sentence where the model has to run
    whole.
    """

    def __init__(
        self,
        model: nn.Module,
        structure: Structure,
        *,
        batches: int = 1,
        most: int | None = None,
        warn: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._blocks: list[Any] = [model.get_submodule(name) for name in structure.blocks]
        self._names = structure.blocks
        self._numbers: dict[str, int] = {}
        self._caches = {layer.group for layer in structure.kv_layers}
        free = available_bytes(next(model.parameters()).device)
        self._room = UNKNOWN_ROOM if free is None else int(SHARE * free)
        self._batches, self._most = batches, most or len(self._blocks)
        self._every: int | None = None
        self._kept: dict[Hashable, dict[int, _Kept]] = {}
        self._used = 0
        self._same: set[tuple[int, bool]] = set()
        self._warn = warn

    def clear(self) -> None:
        """Forget all batches."""
        self._kept.clear()
        self._used = 0

    def run(
        self,
        batch: Hashable,
        terms: Collection[Term],
        forward: Callable[[], Tensor],
        *,
        keep: bool = True,
    ) -> Tensor:
        """What `forward` gives, the logits of `batch` while `terms` are applied.

        `keep`: what its blocks return takes the place of what is kept of the batch.
        """
        depth, known = self._deepest(batch, terms)
        if known is None:
            return self._recorded(batch, terms, forward, 0, keep)
        place = depth, any(term.group in self._caches for term in terms)
        if place in self._same:
            with self._cut_short(depth, known.output):
                return self._recorded(batch, terms, forward, depth, keep)
        whole = self._recorded(batch, terms, forward, depth, keep)
        with self._cut_short(depth, known.output):
            found = _attempt(forward)
        if found is not None and _same_bits(found, whole):
            self._same.add(place)
        else:
            self._give_up()
        return whole

    def _deepest(self, batch: Hashable, terms: Collection[Term]) -> tuple[int, _Kept | None]:
        for depth, kept in sorted(self._kept.get(batch, {}).items(), reverse=True):
            if kept.terms == self._within(depth, terms):
                return depth, kept
        return 0, None

    def _within(self, depth: int, terms: Collection[Term]) -> frozenset[Term]:
        """Those terms that the output of the first `depth` blocks may depend on."""
        return frozenset(term for term in terms if self._block(term.group) < depth)

    def _block(self, group: str) -> int:
        """The number of the group's block; -1 outside, where it may come before all."""
        if group not in self._numbers:
            inside = (i for i, name in enumerate(self._names) if group.startswith(f"{name}."))
            self._numbers[group] = next(inside, -1)
        return self._numbers[group]

    @contextmanager
    def _cut_short(self, depth: int, output: Any) -> Iterator[None]:
        with ExitStack() as back:
            for block in self._blocks[:depth]:
                back.enter_context(forward_replaced(block, lambda *_, **__: output))
            yield

    def _recorded(
        self,
        batch: Hashable,
        terms: Collection[Term],
        forward: Callable[[], Tensor],
        after: int,
        keep: bool,
    ) -> Tensor:
        with ExitStack() as back:
            for number, block in enumerate(self._blocks[after:] if keep else ()):
                depth = after + number + 1
                hook = self._keeper(batch, depth, self._within(depth, terms))
                back.enter_context(block.register_forward_hook(hook))
            return forward()

    def _keeper(
        self, batch: Hashable, depth: int, terms: frozenset[Term]
    ) -> Callable[[Any, Any, Any], None]:
        def hook(_: Any, __: Any, output: Any) -> None:
            size = _size(output)
            if size is None:
                self._give_up()
                return
            if self._every is None:
                fits = min(self._most, self._room // max(1, size * self._batches))
                self._every = -(-len(self._blocks) // fits) if fits else 0
            kept = self._kept.setdefault(batch, {})
            if depth in kept:
                self._used -= kept.pop(depth).size
            wanted = self._every and (len(self._blocks) - depth) % self._every == 0
            if wanted and self._used + size <= self._room:
                kept[depth] = _Kept(terms, output, size)
                self._used += size

        return hook

    def _give_up(self) -> None:
        if self._blocks:
            self._warn("blocks hand on more than hidden states: every measuring runs all of them")
        self._blocks, self._every = [], 0
        self.clear()


def _size(output: Any) -> int | None:
    """Bytes of what a block returned; None where that is more than tensors."""
    parts = [
        part for part in (output if isinstance(output, tuple) else (output,)) if part is not None
    ]
    tensors = [part for part in parts if isinstance(part, Tensor)]
    return sum(tensor.nbytes for tensor in tensors) if len(tensors) == len(parts) else None


def _attempt(forward: Callable[[], Tensor]) -> Tensor | None:
    """None where a block misses what one that was left out should have handed it."""
    try:
        return forward()
    except torch.OutOfMemoryError:
        raise
    except Exception:
        return None


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(
        a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)
    )
