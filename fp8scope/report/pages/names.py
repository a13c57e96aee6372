"""Names as a report writes them, and where each leads: one anchor for every module."""

from __future__ import annotations

import re

from fp8scope.analyze.thresholds import CAST_ROLES
from fp8scope.core.words import short_name
from fp8scope.report.document.blocks import Code, Inline, Link, Words
from fp8scope.report.figures.anchors import anchor
from fp8scope.report.snapshot import Snapshot

_WORD = re.compile(r"([^\s,;:()«»]+)")


class Names:
    """Every linear, fused group, attention module and KV cache of a model.

    The first part of a report that `claim`s a name has its anchor; `left` are those that nobody
    has claimed, so that in the end every link leads somewhere, and no anchor stands twice.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        structure = snapshot.profile.structure
        self.prefix = snapshot.prefix
        self._left = dict.fromkeys(
            [
                *(linear.name for linear in structure.linears),
                *(group.name for group in structure.groups),
                *(layer.attention for layer in structure.kv_layers),
                *(layer.group for layer in structure.kv_layers),
                *(site.module for site in snapshot.profile.sites if site.role in CAST_ROLES),
            ]
        )
        self._by_words = {name: name for name in self._left}
        self._by_words |= {self.short(name): name for name in self._left}

    def short(self, name: str) -> str:
        """Without what all names begin with, and safe to print."""
        return short_name(name, self.prefix)

    def claim(self, name: str) -> str:
        """The anchor of a name, for whoever asks first; "" for all others, and for no module."""
        if name not in self._left:
            return ""
        del self._left[name]
        return anchor(name)

    @property
    def left(self) -> tuple[str, ...]:
        """Names that have no anchor yet."""
        return tuple(self._left)

    def link(self, name: str) -> Inline:
        """To where the module is."""
        short = self.short(name)
        return Link(short, anchor(name)) if name in self._by_words else Code(short)

    def placed(self, name: str) -> tuple[Words, str]:
        """The name and the anchor of a row that is about it; a link where it is told of elsewhere
        already.
        """
        anchor_here = self.claim(name)
        return (self.short(name) if anchor_here else (self.link(name),)), anchor_here

    def linked(self, sentence: str) -> Words:
        """A sentence whose names of modules are links."""
        parts: list[Inline] = []
        for at, text in enumerate(_WORD.split(sentence)):
            name = self._by_words.get(text.rstrip(".")) if at % 2 else None
            if name is None:
                if parts and isinstance(parts[-1], str):
                    parts[-1] += text
                else:
                    parts.append(text)
            else:
                bare = text.rstrip(".")
                parts += [Link(self.short(name), anchor(name)), text[len(bare) :]]
        return tuple(part for part in parts if part)
