"""plan.json: which precision every layer runs in, why, and all that a build needs beside the model.

The fields are documented in docs/reference/plan-format.md; plan.schema.json beside it is made from
these classes. Smoothing factors lie beside it in plan.npz, for they are long.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fp8scope.core.choices import Term

FORMAT: Literal["fp8scope-plan"] = "fp8scope-plan"
VERSION: Literal[1] = 1

Precision = Literal["fp8_tensor", "fp8_token", "fp8_block", "fp8_smooth", "bf16"]
Rate = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Part(BaseModel):
    """Base of all: frozen, and nothing that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelId(Part):
    """Which model: a fine-tune has another `weights_hash`, another shape another `config_hash`."""

    name: str
    architecture: str
    model_type: str
    family: str | None
    dtype: str
    config_hash: str
    weights_hash: str


class Source(Part):
    """A text of the calibration."""

    location: str
    tag: str
    sha256: str
    documents: int


class ProfileId(Part):
    """Which profile, and from which text; `settings` are those of the scan."""

    profile_hash: Sha256
    settings: dict[str, Any]
    tags: tuple[str, ...]
    sequences: int
    scored_sequences: int
    tokens: int
    sources: tuple[Source, ...]


class Objective(Part):
    """What was asked. `value` limits nats per token, bits per weight, or the share of weights in
    BF16; `kept` and `excluded` are patterns as they were written. `solved_for`: the tighter budget
    that measuring led to, None where there was none.
    """

    limit: Literal["max_kl", "effective_bits", "max_bf16_share"]
    value: NotNegative
    preset: str | None
    solved_for: NotNegative | None = None
    candidates: tuple[str, ...]
    kept: tuple[str, ...]
    excluded: tuple[str, ...]
    kv_cache: Literal["bf16", "fp8", "auto"]


class CostSource(Part):
    """Where times come from: the roofline of a GPU for a workload, or what was measured."""

    source: Literal["roofline", "measured"]
    gpu: str
    batch: int
    context: int
    generate: int
    measured_from: str | None = None


class Module(Part):
    """One linear: W is [out_features, in_features], of stacked experts [experts, out, in].

    `name` is the runtime's, `checkpoint_*` are the files' (`core.structure.Linear`).
    """

    name: str
    group: str
    in_features: int
    out_features: int
    experts: int
    bias: bool
    transposed: bool
    checkpoint_weight: str | None
    checkpoint_shards: tuple[str, ...]
    tied_to: str | None


class Scale(Part):
    """Static input scale of one GEMM: largest |x| over all text, after smoothing, by 448.

    The scale of its weights follows at build time: the largest |W| of all members, after folding,
    by 448.
    """

    members: tuple[str, ...]
    input_amax: NotNegative
    input_scale: NotNegative


class Evidence(Part):
    """What the precision was decided by; nats per token of the group alone, µs of a step.

    `candidates` are the cheapest of each that was scored. `share` of `resamples` in which the
    group is as it is here, in FP8 or in BF16; `near_ties` change places with it. `fp8_time_us` is
    that of its precision, or in BF16 that of the fastest of the candidates that were allowed.
    """

    kl: NotNegative
    kl_error: NotNegative
    candidates: dict[str, float]
    fp8_time_us: NotNegative
    bf16_time_us: NotNegative
    cause: str | None = None
    asked: str | None = None
    resamples: int = 0
    share: Rate | None = None
    near_ties: tuple[str, ...] = ()


class Group(Part):
    """A fused group. `alpha` is that of its own smoothing, `folded` that of its readers, whose
    factors divide rows of its weights. `blocks`: tiles [rows, columns] of input and weight. Not
    `decided`: it stays in BF16 unless it is asked for (lm_head), or always (routers).
    """

    name: str
    members: tuple[str, ...]
    precision: Precision
    decided: bool = True
    reason: str
    alpha: float | None = None
    folded: float | None = None
    scales: tuple[Scale, ...] = ()
    blocks: tuple[tuple[int, int], tuple[int, int]] | None = None
    evidence: Evidence


class FoldPlan(Part):
    """Factors that divide the producer's `rows` and multiply the consumers' columns.

    `key` names them in plan.npz, [channels] or [experts, channels]; see `core.structure.Fold`.
    """

    key: str
    alpha: float
    producer: str
    kind: Literal["norm", "linear"]
    rows: tuple[tuple[int, int], ...]
    consumers: tuple[str, ...]
    block: int
    repeat: int


class Cache(Part):
    """KV cache of one layer; static scales (amax / 448) in FP8. A latent (MLA) has `k_scale` only.

    `folded`: the α of the fold that divides the cached values; `kl`: nats per token of it alone.
    """

    layer: int
    attention: str
    name: str
    precision: Literal["fp8", "bf16"]
    folded: float | None = None
    kl: NotNegative = 0.0
    k_scale: NotNegative | None = None
    v_scale: NotNegative | None = None


class Nats(Part):
    """KL(BF16 ‖ plan) in nats per token, with its standard error."""

    kl: NotNegative
    error: NotNegative


class Point(Part):
    """A plan that might be had: the best at its own time."""

    kl: NotNegative
    effective_bits: NotNegative
    step_time_us: NotNegative
    bf16_groups: int


class Predicted(Part):
    """What the plan will cost and give. Bits and shares are over the weights that are decided on
    (without lm_head, embeddings and routers); times over all linears and the KV cache, as a bound.
    `plain_fp8`: all groups in `fp8_tensor`; None where that is not finite.
    """

    nats: Nats
    tags: dict[str, Nats]
    plain_fp8: Nats | None
    effective_bits: NotNegative
    bf16_share: Rate
    step_time_us: NotNegative
    bf16_step_time_us: NotNegative
    fp8_step_time_us: NotNegative


class MeasuredTag(Part):
    """One tag, or all: nats per token and perplexity over held-out text, the model's own and under
    the plan; share of positions whose most probable token stays. None is not finite.
    """

    kl_nats: float | None
    kl_error_nats: float | None
    true_perplexity: float | None
    perplexity: float | None
    log_perplexity_change: float | None
    log_perplexity_change_error: float | None
    top1_agreement: float | None
    tokens: int
    sequences: int


class Compared(MeasuredTag):
    """A measurement beside its prediction; whether both agree within two standard errors."""

    predicted_kl_nats: float | None
    predicted_kl_error_nats: float | None
    measured_over_predicted: float | None
    within_two_errors: bool


class Round(Compared):
    """One plan that was measured: the KL limit it was solved for, and how many groups and caches
    it quantizes.
    """

    limit_nats: float
    quantized: int


class Measured(Compared):
    """What `--measure` found of this plan, which is the last of `rounds`. `met`: it is within the
    budget; true where none was asked for.
    """

    budget_nats: float | None
    met: bool
    tags: dict[str, MeasuredTag]
    text: dict[str, Any]
    rounds: tuple[Round, ...]


class Factors(Part):
    """The file of the smoothing factors, beside this one."""

    file: str
    sha256: Sha256


class Plan(Part):
    """The whole plan. `ignore` are the modules in BF16, in module order."""

    format: Literal["fp8scope-plan"] = FORMAT
    version: Literal[1] = VERSION
    fp8scope: str
    model: ModelId
    profile: ProfileId
    objective: Objective
    cost: CostSource
    summary: str
    modules: tuple[Module, ...]
    groups: tuple[Group, ...]
    folds: tuple[FoldPlan, ...]
    factors: Factors | None
    kv_cache: tuple[Cache, ...]
    ignore: tuple[str, ...]
    predicted: Predicted
    frontier: tuple[Point, ...]
    measured: Measured | None = None
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        """Groups are of modules. They and `ignore` say what stays in BF16, and readers take one or
        the other.
        """
        precision = {name: group.precision for group in self.groups for name in group.members}
        if strange := precision.keys() - {module.name for module in self.modules}:
            raise ValueError(f"{min(strange)} is in a group, and is no module")
        ignored = set(self.ignore)
        for module in self.modules:
            if (module.name in ignored) != (precision.get(module.name, "bf16") == "bf16"):
                raise ValueError(f"ignore and groups disagree on {module.name}")
        return self

    def terms(self) -> tuple[Term, ...]:
        """What is quantized: groups, then caches."""
        groups = (
            Term(group.name, group.precision, group.alpha, group.folded)
            for group in self.groups
            if group.precision != "bf16"
        )
        caches = (
            Term(cache.name, "fp8_tensor", folded=cache.folded)
            for cache in self.kv_cache
            if cache.precision == "fp8"
        )
        return (*groups, *caches)
