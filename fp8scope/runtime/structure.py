"""From a loaded model to its `Structure`: blocks, linears, groups, folds, KV layers.

An architecture known by name (`families/`) gets fused groups, folds and KV layers. Any other
gets each linear as its own group and nothing else: a fold that is wrong would change the
model's function without a word, so none is guessed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from fp8scope.core.structure import Fold, FusedGroup, Linear, Structure
from fp8scope.runtime.checkpoint_names import CheckpointNames
from fp8scope.runtime.experts import Experts, named_experts
from fp8scope.runtime.families.family import BlockContext, Family, Heads
from fp8scope.runtime.families.registry import family_of
from fp8scope.runtime.linears import is_transposed, named_linears, weight_matrix


def discover(
    model: nn.Module, tensor_names: Mapping[str, tuple[int, ...]] | None = None
) -> Structure:
    """Describe `model` by its runtime module names.

    `tensor_names` maps the tensors of the safetensors files to their shapes; without it (or
    where nothing fits) a linear's `checkpoint_weight` is None. The model may be on any device,
    the meta device included; its weights are not read.
    """
    modules = named_linears(model)
    linears = _linears(model, modules, CheckpointNames(model, tensor_names or {}))
    known = _known_blocks(model, linears)
    if known is None:
        groups = tuple(FusedGroup(name, (name,)) for name in linears)
        return Structure(
            None, _repeated_blocks(model, linears), tuple(linears.values()), groups, (), ()
        )
    family, config, blocks = known
    heads = Heads.from_config(config)
    return Structure(
        family=family.name,
        blocks=blocks,
        linears=tuple(linears.values()),
        groups=_groups(linears, blocks, family),
        folds=tuple(
            fold
            for block in blocks
            for fold in _folds(
                BlockContext(model.get_submodule(block), config, heads), family, block
            )
            if _applies(fold, linears)
        ),
        kv_layers=tuple(
            family.cache(layer, f"{block}.{family.attention}", config)
            for layer, block in enumerate(blocks)
        ),
    )


def _known_blocks(
    model: nn.Module, linears: Mapping[str, Linear]
) -> tuple[Family, Any, tuple[str, ...]] | None:
    """Family, text config and block names; None unless the blocks hold what it describes."""
    config = getattr(model, "config", None)
    # Remote code may compute something else under a known model_type and known names.
    if not isinstance(config, PreTrainedConfig) or _is_remote(model):
        return None
    config = config.get_text_config()
    family = family_of(config)
    if family is None:
        return None
    matching = [
        names
        for _, names in _module_lists(model)
        if all(_matches(block, family, linears) for block in names)
    ]
    return (family, config, max(matching, key=len)) if matching else None


def _matches(block: str, family: Family, linears: Mapping[str, Linear]) -> bool:
    return any(
        all(f"{block}.{part}" in linears for part in (*family.linears, *variant))
        for variant in family.variants
    )


def _is_remote(model: nn.Module) -> bool:
    return type(model).__module__.split(".")[0] == "transformers_modules"


def _module_lists(model: nn.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Name and entry names of every non-empty ModuleList, outer lists before inner ones."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) > 0:
            prefix = f"{name}." if name else ""
            yield name, tuple(f"{prefix}{index}" for index in range(len(module)))


def _repeated_blocks(model: nn.Module, linears: Iterable[str]) -> tuple[str, ...]:
    """Blocks of an unknown architecture: the longest list of one class that holds linears.

    Lists inside such a list are passed over: a block's experts may outnumber the blocks.
    """
    inside = {parent for name in linears for parent in _ancestors(name)}
    found: dict[str, tuple[str, ...]] = {}
    for name, entries in _module_lists(model):
        one_class = len({type(model.get_submodule(entry)) for entry in entries}) == 1
        nested = any(parent in found for parent in _ancestors(name))
        if one_class and not nested and inside.issuperset(entries):
            found[name] = entries
    return max(found.values(), key=len, default=())


def _ancestors(name: str) -> Iterator[str]:
    """Names of the modules that contain `name`, and `name` itself."""
    parts = name.split(".")
    return (".".join(parts[:depth]) for depth in range(1, len(parts) + 1))


def _groups(
    linears: Mapping[str, Linear], blocks: Iterable[str], family: Family
) -> tuple[FusedGroup, ...]:
    """Every linear in exactly one group, in module order of each group's first linear."""
    group_of: dict[str, FusedGroup] = {}
    for block in blocks:
        for name, members in family.fused:
            group = FusedGroup(f"{block}.{name}", tuple(f"{block}.{part}" for part in members))
            if all(member in linears for member in group.members):
                group_of.update(dict.fromkeys(group.members, group))
    return tuple(dict.fromkeys(group_of.get(name, FusedGroup(name, (name,))) for name in linears))


def _folds(context: BlockContext, family: Family, block: str) -> Iterator[Fold]:
    for fold in family.folds(context):
        consumers = tuple(f"{block}.{name}" for name in fold.consumers)
        yield replace(fold, producer=f"{block}.{fold.producer}", consumers=consumers)


def _applies(fold: Fold, linears: Mapping[str, Linear]) -> bool:
    """Whether this very model can take the fold: shapes agree and no weight is shared."""
    producer = linears.get(fold.producer)
    if not all(name in linears for name in fold.consumers):  # a reader that cannot be scaled
        return False
    touched = [linears[name] for name in fold.consumers]
    columns = len(fold.consumer_channels())
    fits = all(linear.in_features == columns for linear in touched)
    if producer is not None:
        touched.append(producer)
        fits = fits and max(stop for _, stop in fold.rows) <= producer.out_features
    return fits and all(linear.tied_to is None for linear in touched)


def _linears(
    model: nn.Module, modules: Mapping[str, nn.Module], names: CheckpointNames
) -> dict[str, Linear]:
    aliases = _aliases(model)
    experts = named_experts(model)
    linears = {}
    for name, _ in model.named_modules():
        if name in modules:
            linears[name] = _linear(name, modules[name], aliases[f"{name}.weight"], names)
        elif name in experts:
            for stack, weight in experts[name].stacks().items():
                linears[stack] = _stack(stack, experts[name], weight, aliases[stack], names)
    return linears


def _stack(
    name: str, experts: Experts, weight: Tensor, aliases: tuple[str, ...], names: CheckpointNames
) -> Linear:
    module, (count, rows, columns) = experts.module, weight.shape
    stored = (count, columns, rows) if module.is_transposed else (count, rows, columns)
    return Linear(
        name=name,
        in_features=columns,
        out_features=rows,
        bias=module.has_bias,
        transposed=module.is_transposed,
        checkpoint_weight=names.find((name, *aliases), stored),
        tied_to=next(iter(aliases), None),
        experts=count,
        checkpoint_shards=names.shards(name, (count, rows, columns)),
    )


def _linear(
    name: str, module: nn.Module, aliases: tuple[str, ...], names: CheckpointNames
) -> Linear:
    matrix = weight_matrix(module)
    stored = tuple(reversed(matrix.shape)) if is_transposed(module) else tuple(matrix.shape)
    return Linear(
        name=name,
        in_features=matrix.shape[1],
        out_features=matrix.shape[0],
        bias=getattr(module, "bias", None) is not None,
        transposed=is_transposed(module),
        checkpoint_weight=names.find((f"{name}.weight", *aliases), stored),
        tied_to=next(iter(aliases), None),
    )


def _aliases(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """For each parameter name, the other names of the same memory, in module order."""
    owners: dict[object, list[str]] = defaultdict(list)
    keys: dict[str, object] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        keys[name] = _memory(parameter)
        owners[keys[name]].append(name)
    return {name: tuple(o for o in owners[key] if o != name) for name, key in keys.items()}


def _memory(parameter: Tensor) -> object:
    # Not the storage: unrelated parameters may be slices of one flat buffer or mapped file.
    if parameter.is_meta or parameter.numel() == 0:
        return id(parameter)
    return parameter.device, parameter.data_ptr(), tuple(parameter.shape)
