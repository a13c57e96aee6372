"""Where each linear stands in a heatmap: blocks down, kinds of linears across."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fp8scope.core.structure import Structure

CACHE = "kv_cache"


@dataclass(frozen=True)
class Grid:
    """`rows` are the blocks, and last "" for linears outside of them (lm_head); `columns` the kinds
    of linears in module order (`self_attn.q_proj`) and `kv_cache`. Without blocks, `rows` are the
    modules.

    `modules` by (row, column): the linear there, or the attention module of the cache; `groups` the
    fused group (or cache) by module.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    modules: Mapping[tuple[int, int], str]
    groups: Mapping[str, str]

    def group(self, module: str) -> str:
        """The fused group of a module, or the cache of an attention module."""
        return self.groups.get(module, module)

    @classmethod
    def of(cls, structure: Structure) -> Grid:
        """Of a model. Where it has no blocks that are known, each linear is a row of its own."""
        if not structure.blocks:
            return cls._without_blocks(structure)
        blocks = {block: number for number, block in enumerate(structure.blocks)}
        rest = len(blocks)
        placed: dict[tuple[int, str], str] = {}
        for linear in structure.linears:
            block = _block_of(linear.name, blocks)
            kind = linear.name if block is None else linear.name.removeprefix(f"{block}.")
            placed[rest if block is None else blocks[block], kind] = linear.name
        columns = list(dict.fromkeys(kind for _, kind in placed))
        if structure.kv_layers:
            columns.append(CACHE)
        for layer in structure.kv_layers:
            block = _block_of(layer.attention, blocks)
            placed[rest if block is None else blocks[block], CACHE] = layer.attention
        number = {kind: at for at, kind in enumerate(columns)}
        outside = any(row == rest for row, _ in placed)
        return cls(
            rows=(*structure.blocks, *([""] if outside else [])),
            columns=tuple(columns),
            modules={(row, number[kind]): name for (row, kind), name in placed.items()},
            groups=_groups(structure),
        )

    @classmethod
    def _without_blocks(cls, structure: Structure) -> Grid:
        """A row for each module: nothing else would fit a screen."""
        names = [linear.name for linear in structure.linears]
        caches = [layer.attention for layer in structure.kv_layers]
        modules = {(row, 0): name for row, name in enumerate(names)}
        modules |= {(len(names) + row, 1): name for row, name in enumerate(caches)}
        columns = ("linear", CACHE) if caches else ("linear",)
        return cls((*names, *caches), columns, modules, _groups(structure))


def _groups(structure: Structure) -> dict[str, str]:
    found = {name: group.name for group in structure.groups for name in group.members}
    return found | {layer.attention: layer.group for layer in structure.kv_layers}


def _block_of(name: str, blocks: Mapping[str, int]) -> str | None:
    parts = name.split(".")
    found = (".".join(parts[:depth]) for depth in range(len(parts), 0, -1))
    return next((prefix for prefix in found if prefix in blocks), None)
