"""Built, read back, and run: the KL is that of the fake-quantized plan.

Our own loader reads both formats, dequantizing and through `torch._scaled_mm`; transformers reads
compressed-tensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from transformers import AutoModelForCausalLM

from fp8scope.artefacts.plan import Plan
from fp8scope.artefacts.plan_file import write_plan
from fp8scope.build.api import Built, build_checkpoint
from fp8scope.build.order import WRITTEN, Format
from fp8scope.demo.files import DEMO_MODEL
from fp8scope.errors import BadInput
from fp8scope.export.consumer import CannotExpress
from fp8scope.export.readers import readers
from fp8scope.runtime.fp8.linear import Gemm
from tests.build.planned import MIX, Scanned, mixed_plan, scan_text, scanned
from tests.build.round_trip import Reference

SHARED = Path(__file__).parents[3] / "shared" / "data"
TRAINED = ("stories260K", "babyllama361")
STATIC = ("fp8_smooth", "fp8_tensor", "bf16")
WITHIN = 0.05


@cache
def subject(name: str, dtype: str = "float32") -> Scanned:
    if name.startswith("wide "):
        return scanned(name.removeprefix("wide "), dtype, wide=True)
    if name not in (*TRAINED, "demo"):
        return scanned(name, dtype)
    folder = DEMO_MODEL if name == "demo" else SHARED / "models" / name
    text = SHARED / "text" / "prose_pride_and_prejudice.txt"
    if not text.exists():
        pytest.skip(f"no {text}: the trained models are not on this machine")
    return scan_text(folder, text, dtype)


@cache
def reference(name: str, dtype: str = "float32") -> Reference:
    return Reference(subject(name, dtype), dtype)


Build = Callable[..., tuple[Plan, Built]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds, each of them made once: nobody changes them."""

    @cache
    def build(
        name: str,
        form: Format,
        mix: tuple[str, ...] = MIX,
        dtype: str = "float32",
        *,
        cache: bool = True,
    ) -> tuple[Plan, Built]:
        what, folder = subject(name, dtype), tmp_path_factory.mktemp("built")
        plan, factors = mixed_plan(what, mix, cache=cache)
        path = folder / "plan.json"
        write_plan(plan, factors, path)
        where = str(what.folder)
        return plan, build_checkpoint(path, folder / "fp8", model=where, format=form)

    return build


def mix_of(name: str, form: Format) -> tuple[str, ...]:
    """ModelOpt's metadata has no word for experts per token that an engine reads."""
    return STATIC if name == "mixtral" and form == "modelopt" else MIX


def assert_within(found: float, planned: float) -> None:
    assert planned > 1e-4
    assert abs(found / planned - 1) < WITHIN, (found, planned)


@pytest.mark.parametrize("form", get_args(Format))
@pytest.mark.parametrize("name", ["llama", "mixtral", "phi3", *TRAINED, "demo"])
def test_the_build_costs_what_the_plan_does(name: str, form: Format, built: Build) -> None:
    plan, made = built(name, form, mix_of(name, form))
    wanted = {*mix_of(name, form)}
    assert {group.precision for group in plan.groups} >= wanted
    assert {cache.precision for cache in plan.kv_cache} == {"fp8"}
    of_plan = reference(name).of_plan(plan)
    for gemm in get_args(Gemm):
        assert_within(reference(name).of_build(made.folder, gemm), of_plan)


@pytest.mark.parametrize("form", get_args(Format))
def test_so_it_does_in_bf16(form: Format, built: Build) -> None:
    plan, made = built("phi3", form, dtype="bfloat16")
    of_plan = reference("phi3", "bfloat16").of_plan(plan)
    for gemm in get_args(Gemm):
        assert_within(reference("phi3", "bfloat16").of_build(made.folder, gemm), of_plan)


@pytest.mark.parametrize("name", ["llama", "phi3", *TRAINED])
def test_transformers_loads_compressed_tensors(name: str, built: Build) -> None:
    plan, made = built(name, "compressed-tensors", cache=False)
    model, info = loaded_by_transformers(made.folder)
    assert not any(info.values()), info
    assert_within(reference(name).of_model(model), reference(name).of_plan(plan))


@pytest.mark.parametrize("name", ["llama", "mixtral", "phi3"])
def test_transformers_knows_every_tensor(name: str, built: Build) -> None:
    """Also of experts, whose inputs it does not quantize, and of a cache in FP8."""
    _, made = built(name, "compressed-tensors")
    model, info = loaded_by_transformers(made.folder)
    assert not any(info.values()), info
    assert reference(name).of_model(model) < 0.3


def loaded_by_transformers(folder: Path) -> tuple[Any, dict[str, Any]]:
    loader: Any = AutoModelForCausalLM
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, info = loader.from_pretrained(folder, output_loading_info=True)
    return model.eval(), info


@pytest.mark.parametrize("form", get_args(Format))
def test_blocks_cost_what_the_plan_does(form: Format, built: Build) -> None:
    plan, made = built("wide llama", form, ("fp8_block", "fp8_token"))
    for gemm in get_args(Gemm):
        found = reference("wide llama").of_build(made.folder, gemm)
        assert_within(found, reference("wide llama").of_plan(plan))


def test_modelopt_cannot_write_the_scale_of_a_single_block(built: Build) -> None:
    with pytest.raises(BadInput, match=r"no block scale of .*q_proj, which at 48×32 is one block"):
        built("llama", "modelopt", ("fp8_block",))


@pytest.mark.parametrize("form", get_args(Format))
def test_experts_per_token_are_for_compressed_tensors(form: Format, built: Build) -> None:
    if form == "modelopt":
        with pytest.raises(
            CannotExpress, match=r"no engine reads experts per token .*--format compr"
        ):
            built("mixtral", form, ("fp8_token",))
        return
    assert_read_by_vllm(built("mixtral", form, ("fp8_token",))[1])


def test_modelopt_loses_the_names_of_experts_in_blocks(built: Build) -> None:
    with pytest.raises(BadInput, match="cannot write these tensors by the names of the model's"):
        built("wide mixtral", "modelopt", ("fp8_block",))


@pytest.mark.parametrize("mix", [MIX, STATIC, ("fp8_tensor",), ("fp8_token",), ("fp8_block",)])
@pytest.mark.parametrize("form", get_args(Format))
@pytest.mark.parametrize("name", ["llama", "mixtral", "phi3"])
def test_doctor_and_check_pass(name: str, form: Format, mix: tuple[str, ...], built: Build) -> None:
    """Doctor is asked by the build itself, which keeps nothing that has a fault."""
    if name == "mixtral" and form == "modelopt":
        mix = STATIC  # see above
    name = f"wide {name}" if "fp8_block" in mix else name
    assert_read_by_vllm(built(name, form, mix)[1])


def assert_read_by_vllm(made: Built) -> None:
    assert made.diagnosis.healthy
    found = {reader.name: reader.fault for reader in readers(made.folder, WRITTEN[made.format])}
    assert found["vllm"] == ""
