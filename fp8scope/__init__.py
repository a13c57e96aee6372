"""fp8scope: where FP8 would hurt an LLM on your traffic, layer by layer, with evidence.

Names are imported on first use: `import fp8scope` alone loads neither torch nor h5py.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "scan": "fp8scope.observe.api",
    "open_profile": "fp8scope.profile.reader",
    "read_profile": "fp8scope.profile.reader",
    "merge_profiles": "fp8scope.profile.merge",
    "compare_profiles": "fp8scope.analyze.compare",
    "analyze_profile": "fp8scope.analyze.analysis",
    "make_plan": "fp8scope.plan.make",
    "PlanSettings": "fp8scope.plan.settings",
    "read_plan": "fp8scope.artefacts.plan_file",
    "write_plan": "fp8scope.artefacts.plan_file",
    "estimate_model": "fp8scope.estimate.api",
    "read_served": "fp8scope.estimate.reading",
    "Workload": "fp8scope.core.roofline",
    "gpu": "fp8scope.core.gpus",
    "export_plan": "fp8scope.export.checking",
    "check": "fp8scope.export.checking",
    "examine": "fp8scope.checkpoint.doctor.examine",
    "build_checkpoint": "fp8scope.build.api",
    "verify_checkpoint": "fp8scope.verify.api",
    "Wanted": "fp8scope.verify.wanted",
    "judge_reports": "fp8scope.verify.api",
    "Limits": "fp8scope.judge.gates",
    "read_verdict": "fp8scope.artefacts.verdict_file",
    "write_verdict": "fp8scope.artefacts.verdict_file",
    "make_report": "fp8scope.report.api",
    "make_comparison": "fp8scope.report.api",
    "measure_sites": "fp8scope.analyze.measures",
    "Profile": "fp8scope.profile.record",
    "Fp8scopeError": "fp8scope.errors",
}
__all__ = ["__version__", *_WHERE]  # noqa: PLE0604  (the names come from the table)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'fp8scope' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
