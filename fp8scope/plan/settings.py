"""What a person asks of a plan, as it comes from a command line, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from fp8scope.artefacts.identity import check_same_model
from fp8scope.artefacts.plan import CostSource, Plan
from fp8scope.artefacts.verdict import Verdict
from fp8scope.artefacts.verdict_file import read_verdict
from fp8scope.core.choices import Kind
from fp8scope.core.gemms import USUAL_EXPERTS_PER_TOKEN, experts_per_token, routers, units
from fp8scope.core.gpus import gpu
from fp8scope.core.roofline import Roofline, Workload
from fp8scope.core.schemes import DEFAULT_CANDIDATES
from fp8scope.core.selection import select_groups
from fp8scope.errors import BadInput
from fp8scope.plan.cost import Cost
from fp8scope.plan.objective import DEFAULT_PRESET, PRESETS
from fp8scope.plan.planner import Asked
from fp8scope.profile.record import Profile

CACHES: dict[str, bool | None] = {"bf16": False, "fp8": True, "auto": None}


@dataclass(frozen=True)
class PlanSettings:
    """At most one of the first four; none is the preset `balanced`.

    `max_kl` in nats per token, `effective_bits` per weight, `max_bf16_share` of the weights.
    `kept` and `excluded` are patterns (`core.selection`) of groups or their members. `times` is a
    verdict.json with measured µs, in place of the roofline of `gpu`; then its load is the workload.
    """

    max_kl: float | None = None
    effective_bits: float | None = None
    max_bf16_share: float | None = None
    preset: str | None = None
    gpu: str = "h100-sxm"
    workload: Workload = field(default_factory=Workload)
    times: Path | None = None
    kept: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    candidates: tuple[str, ...] = DEFAULT_CANDIDATES
    kv_cache: Literal["bf16", "fp8", "auto"] = "bf16"

    @classmethod
    def of(cls, plan: Plan) -> PlanSettings:
        """Those that a plan was made with."""
        asked, cost = plan.objective, plan.cost
        return cls(
            **{asked.limit: None if asked.preset else asked.value},
            preset=asked.preset,
            gpu=cost.gpu if cost.source == "roofline" else cls.gpu,
            workload=Workload(cost.batch, cost.context, cost.generate),
            times=Path(cost.measured_from) if cost.measured_from else None,
            kept=asked.kept,
            excluded=asked.excluded,
            candidates=asked.candidates,
            kv_cache=asked.kv_cache,
        )

    def limited(self, text: str) -> PlanSettings:
        """With the limit that a person writes: `0.01` (nats per token), `8.5 bits`, `10%` (of the
        weights in BF16), `safe`; nothing is the preset `balanced`. Raises BadInput.
        """
        words = text.strip().lower()
        free = replace(self, max_kl=None, effective_bits=None, max_bf16_share=None, preset=None)
        if not words or words in PRESETS:
            return replace(free, preset=words or DEFAULT_PRESET)
        number = words.removesuffix("bits").removesuffix("%")
        try:
            value = float(number)
        except ValueError:
            what = f"“{text.strip()}” is no budget"
            remedy = f"give 0.01 (nats per token), 8.5 bits, 10%, or {', '.join(PRESETS)}"
            raise BadInput(what, remedy) from None
        if words.endswith("%"):
            return replace(free, max_bf16_share=value / 100)
        if words.endswith("bits"):
            return replace(free, effective_bits=value)
        return replace(free, max_kl=value)

    def asked(self, profile: Profile) -> Asked:
        """The groups that are meant. Raises BadInput where a pattern matches nothing, a group is
        both kept and excluded, or no group was scored in any of the candidates.
        """
        scored = _scored(profile)
        if scored and not scored & set(self.candidates):
            raise BadInput(
                f"the profile scored no group in {' or '.join(self.candidates)}",
                f"plan with what it scored: --candidates {','.join(sorted(scored))}",
            )
        members = {
            unit.name: [name for gemm in unit.gemms for name in gemm.members]
            for unit in units(profile.structure)
        }
        left = {name: (name,) for name in routers(profile.structure)}
        known = {**members, **left}
        kept, excluded = select_groups(self.kept, known), select_groups(self.excluded, known)
        if both := sorted(kept.groups & excluded.groups):
            raise BadInput(f"{both[0]} is both kept in FP8 and excluded from it", "choose one")
        cache = CACHES[self.kv_cache]
        notes = kept.notes + excluded.notes
        if gates := sorted((kept.groups | excluded.groups) & left.keys()):
            notes += (f"{', '.join(gates)}: routers stay in BF16, no engine quantizes them",)
        # a frozenset less keys() is a set
        excluded_groups, kept_groups = (x.groups.difference(left) for x in (excluded, kept))
        return Asked(self.candidates, excluded_groups, kept_groups, cache, notes)

    def cost(self, profile: Profile) -> tuple[Cost, CostSource]:
        """Raises BadInput (no such GPU, no verdict, one without times) and Stale (a verdict on
        another model).
        """
        measured = _measured(self.times, profile) if self.times else None
        workload = _load(measured) or self.workload if measured else self.workload
        known_as = measured.ran.gpu_known_as if measured else None
        chosen = experts_per_token(profile.config) or USUAL_EXPERTS_PER_TOKEN
        roofline = Roofline(gpu(known_as or self.gpu), workload, chosen)
        source = CostSource(
            source="measured" if measured else "roofline",
            gpu=(measured.ran.gpu if measured else "") or roofline.gpu.name,
            batch=workload.batch,
            context=workload.context,
            generate=workload.generate,
            measured_from=str(self.times) if self.times else None,
        )
        return Cost(roofline, profile.structure, measured.times_us() if measured else {}), source


def _load(measured: Verdict) -> Workload | None:
    """What was run, where the verdict says it: times of one load are not those of another."""
    ran = measured.ran
    if ran.batch is None or ran.prompt_len is None or ran.gen_len is None:
        return None
    return Workload(ran.batch, ran.prompt_len, ran.gen_len)


def _measured(path: Path, profile: Profile) -> Verdict:
    found = read_verdict(path)
    remedy = "give the verdict on this model, or plan without --cost"
    model = found.model.model_dump()
    check_same_model(model, str(path), profile.model, "the profile", remedy)
    on_a_gpu = "verify on a GPU with a profiler that times kernels, or plan without --cost"
    if found.ran.device == "cpu":
        raise BadInput(f"{path} was measured on a CPU, which tells no times of a GPU", on_a_gpu)
    times = found.times_us()
    if not times:
        raise BadInput(f"{path} holds no times", on_a_gpu)
    known = {group.name for group in profile.structure.groups}
    known |= {layer.group for layer in profile.structure.kv_layers}
    if not times.keys() & known:
        raise BadInput(f"{path} holds no time of any group of this model", remedy)
    return found


def _scored(profile: Profile) -> set[str]:
    """The candidates that groups were scored in."""
    rows = profile.sensitivity.rows if profile.sensitivity else ()
    return {row.terms[0].candidate for row in rows if row.kind is Kind.GROUP}
