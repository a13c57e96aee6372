"""plan.json beside the weights: what was planned, against what the files hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from fp8scope.artefacts.plan import Cache, Plan
from fp8scope.artefacts.plan_file import factors_path, read_factors, read_plan
from fp8scope.checkpoint.doctor.absent import absent_faults
from fp8scope.checkpoint.doctor.contents import ASIDE, LAYER, Contents
from fp8scope.checkpoint.doctor.diagnosis import Fault
from fp8scope.checkpoint.doctor.naming import RENAME, prefixes
from fp8scope.checkpoint.doctor.phrases import BARE, many, some, verb
from fp8scope.checkpoint.planned import planned_model
from fp8scope.core.modules import WORDS, Model, Treatment
from fp8scope.errors import BadInput, Fp8scopeError

PLAN = "plan.json"
TOLERANCE = 1e-3
BUILD = "build the plan again: fp8scope build"


def plan_faults(contents: Contents) -> Iterator[Fault]:
    """Every fault that plan.json shows; none where there is none."""
    path = contents.folder / PLAN
    if not path.exists() or not _is_ours(path):
        return
    try:
        plan = read_plan(path)
        model = planned_model(plan)
    except Fp8scopeError as error:
        yield Fault("plan-unreadable", "error", error.what, error.remedy, (PLAN,))
        return
    try:
        read_factors(plan, path)
    except Exception as error:  # numpy and zipfile raise as they please for what is damaged
        what = error.what if isinstance(error, BadInput) else f"the factors of {PLAN} are damaged"
        where = (factors_path(path).name,)
        yield Fault("plan-factors", "error", what, "take the file from where the plan is", where)
    named = contents.architecture
    if named is not None and named != plan.model.architecture:
        what = f"{PLAN} is of {plan.model.architecture}, and the model is {named}"
        yield Fault("plan-other-model", "error", what, "put the right plan there", (PLAN,))
        return
    if apart := _apart_by_prefix(contents, model):
        yield apart
        return
    yield from _linears(contents, model)
    yield from _input_scales(contents, plan, model)
    yield from _static(contents, model)
    yield from _caches(contents, plan)


def _is_ours(path: Path) -> bool:
    """Whether it is a plan, or damaged so that one cannot tell; others write a plan.json too."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return True
    return not isinstance(data, dict) or "fp8scope" in {*data, str(data.get("format"))[:8]}


def _apart_by_prefix(contents: Contents, model: Model) -> Fault | None:
    planned = {module.name for module in model.modules}
    real = {each.name for each in contents.stored}
    strangers = sorted(n for n in real - planned if LAYER.match(n) and not ASIDE.search(n))
    heads = prefixes(strangers, planned - real)
    if heads is None:
        return None
    here, there = heads
    what = f"{many(strangers, 'linear')} {verb(strangers, 'begins', 'begin')} with {here!r} "
    what += f"where {PLAN} has {there!r}: only the prefix of the names differs"
    return Fault("plan-prefix", "error", what, RENAME, tuple(strangers))


def _linears(contents: Contents, model: Model) -> Iterator[Fault]:
    realized = {each.name: each.module.wanted for each in contents.stored}
    bare = {each.name for each in contents.stored if each.is_bare}
    planned = {module.name: module for module in model.modules}
    if contents.listing.tensors:
        told = {name for fault in absent_faults(contents) for name in fault.where}
        lost = [
            name
            for name, module in planned.items()
            if name not in realized
            and told.isdisjoint(_and_above(name))
            and not contents.may_be_lost((name, f"{name}.weight"))
            and (module.wanted != "bf16" or module.kind == "linear")
        ]
        if lost:
            what = f"{many(lost, 'linear')} of {PLAN} {verb(lost, 'is', 'are')} not in the files"
            yield Fault("plan-linears-missing", "error", what, BUILD, tuple(lost))
    extra = [
        each.name
        for each in contents.stored
        if each.name not in planned and (each.is_fp8 or each.module.kind in {"linear", "expert"})
    ]
    if extra:
        what = f"{many(extra, 'linear')} of the files {verb(extra, 'is', 'are')} not in {PLAN}"
        yield Fault("plan-linears-extra", "error", what, BUILD, tuple(extra))
    apart: dict[tuple[Treatment, str], list[str]] = {}
    for name, module in planned.items():
        wanted, real = module.wanted or "bf16", realized.get(name)
        if real is not None and real != wanted:
            found = BARE if name in bare else WORDS[real]
            apart.setdefault((wanted, found), []).append(name)
    if apart:
        words = (
            f"{some(names)} should be {WORDS[wanted]} and {verb(names, 'is', 'are')} {found}"
            for (wanted, found), names in apart.items()
        )
        names = tuple(name for each in apart.values() for name in each)
        what = f"{PLAN} is not what was built: {'; '.join(words)}"
        yield Fault("plan-not-realized", "error", what, BUILD, names)


def _and_above(name: str) -> Iterator[str]:
    """`a.b.c`, `a.b`, `a`."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _input_scales(contents: Contents, plan: Plan, model: Model) -> Iterator[Fault]:
    planned: Mapping[str, float] = {
        name: scale.input_scale for g in plan.groups for scale in g.scales for name in scale.members
    }
    runtime = {module.name: module.runtime for module in model.modules}
    apart = []
    for each in contents.fp8:
        values, wanted = contents.scale(each.input_scale), planned.get(runtime.get(each.name, ""))
        real = values.single if values is not None else None
        if real is not None and wanted and abs(real - wanted) > TOLERANCE * wanted:
            apart.append((each.input_scale.name if each.input_scale else each.name, real, wanted))
    if apart:
        name, real, wanted = apart[0]
        names = tuple(each[0] for each in apart)
        what = (
            f"{many(names, 'input scale')} {verb(names, 'differs', 'differ')} from {PLAN}: "
            f"{real:.4g} in {name}, planned {wanted:.4g}"
        )
        yield Fault("plan-input-scales", "error", what, BUILD, names)


def _static(contents: Contents, model: Model) -> Iterator[Fault]:
    """What is said of inputs, where the scales of a static plan lie in the files all the same."""
    static = {module.name for module in model.modules if module.wanted == "fp8_tensor"}
    apart = [
        each.name
        for each in contents.fp8
        if each.name in static
        and each.input_scale is not None
        and (said := contents.declared(each)).granularity is not None
        and not said.static
    ]
    if apart and contents.declaration is not None:
        are = verb(apart, "is", "are")
        what = f"{many(apart, 'linear')} {are} planned static, and {contents.declaration.file} "
        what += "gives their inputs no static scales"
        yield Fault("plan-not-realized", "error", what, BUILD, tuple(apart))


def _caches(contents: Contents, plan: Plan) -> Iterator[Fault]:
    found: dict[tuple[str, str], tuple[str, float | None]] = {}
    names: dict[str, str] = {}
    for scale in contents.cache_scales:
        values = contents.values.scales.get(scale.name)
        real = values.single if values is not None else None
        for what in scale.what:
            found[scale.attention, what] = scale.name, real
        names[scale.attention] = scale.name
    said = contents.declaration
    is_said = said is None or said.kv_cache is not None
    undone: list[str] = []
    unasked: list[str] = []
    unsaid: list[str] = []
    apart: list[tuple[str, float, float]] = []
    for cache in plan.kv_cache:
        place = _place(cache, names)
        if (place is None) != (cache.precision == "bf16"):
            (undone if place is None else unasked).append(cache.attention)
        elif place is not None:
            unsaid += [] if is_said else [cache.attention]
            for each, wanted in (("k", cache.k_scale), ("v", cache.v_scale)):
                name, value = found.get((place, each), ("", None))
                if wanted and value is not None and abs(value - wanted) > TOLERANCE * wanted:
                    apart.append((name, value, wanted))
    for layers, words in (
        (undone, "FP8, and has no scales"),
        (unasked, "BF16, and has scales"),
        (unsaid, f"FP8, and {said.file if said else 'nothing'} does not say so"),
    ):
        if layers:
            what = f"the KV cache of {many(layers, 'layer')} is planned in {words}"
            yield Fault("plan-kv-cache", "error", what, BUILD, tuple(layers))
    if apart:
        name, value, wanted = apart[0]
        scales = tuple(dict.fromkeys(each[0] for each in apart))
        what = f"{many(scales, 'KV scale')} {verb(scales, 'differs', 'differ')} from {PLAN}: "
        what += f"{value:.4g} in {name}, planned {wanted:.4g}"
        yield Fault("plan-kv-scales", "error", what, BUILD, scales)


def _place(cache: Cache, attentions: Mapping[str, str]) -> str | None:
    """The attention module in the files: of that name, else of that layer's number."""
    if cache.attention in attentions:
        return cache.attention
    number = re.compile(rf"(^|\.){cache.layer}\.")
    return next((name for name in attentions if number.search(f"{name}.")), None)
