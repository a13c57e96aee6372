"""Brute force: every tensor of every forward, kept, and each statistic taken the obvious way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DynamicCache

from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import Structure
from fp8scope.profile.layout import TOP_K
from fp8scope.profile.record import SiteRecord
from fp8scope.runtime.linears import named_linears

Array = NDArray[Any]
BINS = 32768


@dataclass
class Seen:
    """What one site saw: a matrix [tokens, channels] per sequence, by sample."""

    heads: int = 0
    sequences: dict[int, Tensor] = field(default_factory=dict)


def capture(
    model: nn.Module, structure: Structure, sequences: list[Tensor], *, outputs: bool = False
) -> dict[Site, Seen]:
    """Run every sequence [tokens] alone and keep each tensor that a scan should see."""
    seen: dict[Site, Seen] = {}
    now = 0

    def keep(site: Site, tensor: Tensor, heads: int = 0) -> None:
        matrix = tensor.detach().clone().reshape(-1, tensor.shape[-1])
        seen.setdefault(site, Seen(heads)).sequences[now] = matrix

    def before(site: Site) -> Any:
        return lambda _, args: keep(site, args[0])

    def after(site: Site) -> Any:
        return lambda _, __, out: keep(site, out[0] if isinstance(out, tuple) else out)

    handles = []
    for name, module in named_linears(model).items():
        handles.append(module.register_forward_pre_hook(before(Site(name, Role.INPUT))))
        if outputs:
            handles.append(module.register_forward_hook(after(Site(name, Role.OUTPUT))))
    for name in structure.blocks:
        block = model.get_submodule(name)
        handles.append(block.register_forward_hook(after(Site(name, Role.RESIDUAL))))
    for index, tokens in enumerate(sequences):
        now = index
        cache: Any = DynamicCache()  # without a config no layer forgets, sliding or not
        with torch.no_grad():
            model(input_ids=tokens[None], use_cache=True, past_key_values=cache)
        for kv in structure.kv_layers:
            layer = cache.layers[kv.layer]
            received = {Role.K: layer.keys, Role.V: layer.values}
            if kv.latent_dim:  # test_latent_cache.py shows that these are latent and rotated key
                received = {Role.K: torch.cat((layer.keys, layer.values), dim=-1)}
            for role, tensor in received.items():
                heads = tensor.shape[1]
                keep(Site(kv.attention, role), tensor[0].transpose(0, 1).flatten(1), heads)
    for handle in handles:
        handle.remove()
    return seen


def patterns(tensor: Tensor) -> Array:
    """The 15-bit magnitude pattern of each element, from the definition."""
    if tensor.dtype is torch.float16:
        half: Array = np.abs(tensor.numpy()).view(np.uint16).astype(np.int64)
        return half
    upper: Array = np.abs(tensor.float().numpy()).view(np.uint32) >> 16
    return upper.astype(np.int64)


def counts(tensor: Tensor) -> Array:
    """The histogram [32768] of a tensor."""
    return np.bincount(patterns(tensor).ravel(), minlength=BINS)


def check(record: SiteRecord, seen: Seen, tags: list[int], n_tags: int) -> None:
    """Every number of a record against what the site saw; `tags` gives each sample's tag."""
    shift = {"float16": 10}.get(record.encoding.name, 7)
    total = torch.cat(list(seen.sequences.values()))
    squares = total.double().square().sum(0).numpy()
    np.testing.assert_allclose(record.channel_sum_squares, squares, rtol=1e-6, atol=1e-30)
    for sample, matrix in seen.sequences.items():
        assert record.sequence_amax[sample] == matrix.float().abs().max()
        binades = np.bincount(patterns(matrix).ravel() >> shift, minlength=BINS >> shift)
        np.testing.assert_array_equal(record.sequence_binades[sample], binades)
    assert record.heads == seen.heads
    for head, part in enumerate(total.chunk(seen.heads, dim=1) if seen.heads else ()):
        found = record.head_magnitudes(head)
        np.testing.assert_array_equal(found.counts, counts(part))
        assert found.zeros == int((part == 0).sum())
        assert found.amax == part.float().abs().max()
    for tag in range(n_tags):
        mine = {s: m for s, m in seen.sequences.items() if tags[s] == tag}
        _check_tag(record, tag, torch.cat(list(mine.values())))
        for which in (0, 1):
            _check_top(record, tag, which, mine)


def _check_tag(record: SiteRecord, tag: int, matrix: Tensor) -> None:
    magnitude = matrix.float().abs()
    np.testing.assert_array_equal(record.channel_amax[tag], magnitude.amax(0).numpy())
    np.testing.assert_array_equal(
        record.token_amax[tag], counts(magnitude.amax(1).to(matrix.dtype))
    )
    np.testing.assert_array_equal(record.histogram[tag], counts(matrix))
    assert record.elements[tag] == matrix.numel()
    assert record.zeros[tag] == int((matrix == 0).sum())
    assert record.amax[tag] == magnitude.max()


def _check_top(record: SiteRecord, tag: int, which: int, mine: dict[int, Tensor]) -> None:
    parts = []
    for sample, matrix in mine.items():
        rows = matrix.float().numpy()[which:] if which else matrix.float().numpy()[:1]
        position, channel = np.nonzero(rows)
        values = rows[position, channel]
        at = np.full(len(values), sample)
        parts.append((-np.abs(values), at, position + which, channel, values))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.lexsort((columns[3], columns[2], columns[1], columns[0]))[:TOP_K]
    want = zip(*(column[order].tolist() for column in columns[1:]), strict=True)
    top = record.top(tag, which)
    got = zip(
        top.sample.tolist(),
        top.position.tolist(),
        top.channel.tolist(),
        top.value.tolist(),
        strict=True,
    )
    assert list(got) == list(want)


def fp8_error(matrix: Tensor, height: int, width: int) -> Array:
    """[binades, 4] of a matrix under torch's own float8_e4m3fn, a scale per tile."""
    shift = 10 if matrix.dtype is torch.float16 else 7
    total = np.zeros((BINS >> shift, 4))
    for rows in matrix.split(height):
        for tile in rows.split(width, dim=1):
            x = tile.float()
            amax = x.abs().max()
            scale = amax / 448 if amax > 0 else torch.ones(())
            q = (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale
            flushed = ((q == 0) & (x != 0)).double()
            noise = (x.double() - q.double()).square()
            where = patterns(tile).ravel() >> shift
            for column, part in enumerate(
                (torch.ones_like(noise), flushed, x.double().square(), noise)
            ):
                total[:, column] += np.bincount(where, part.numpy().ravel(), BINS >> shift)
    return total
