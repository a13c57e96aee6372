"""What a checkpoint leads one to expect: planned, stored, and by which names it runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fp8scope.artefacts.plan import Plan
from fp8scope.artefacts.plan_file import write_plan
from fp8scope.core.roofline import GemmShape
from fp8scope.demo.files import DEMO_MODEL
from fp8scope.errors import BadModel, Stale
from fp8scope.judge.expected import Expected, ExpectedGroup, read_expected
from fp8scope.judge.gates import metadata_gate
from fp8scope.judge.metadata import Denied
from fp8scope.plan.make import make_plan
from fp8scope.profile.reader import read_profile
from tests.export.checkpoints import WIDTH, write

LAYER = "model.layers.0"
LLAMA = "LlamaForCausalLM"
PROFILE = Path(__file__).parents[2] / "profiles" / "demo.h5"


def by_name(expected: Expected) -> dict[str, ExpectedGroup]:
    return {group.name: group for group in expected.groups}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(read_profile(PROFILE))[0]


@pytest.fixture
def demo(tmp_path: Path, plan: Plan) -> Path:
    """The demo in BF16, with a plan beside it that is not carried out."""
    folder = tmp_path / "demo"
    shutil.copytree(DEMO_MODEL, folder)
    write_plan(plan.model_copy(update={"folds": ()}), {}, folder / "plan.json")
    return folder


def test_without_a_plan_what_is_stored_is_expected(tmp_path: Path) -> None:
    attention, mlp = f"{LAYER}.self_attn", f"{LAYER}.mlp"
    folder = write(
        tmp_path / "fp8",
        LLAMA,
        {
            f"{attention}.q_proj": "fp8_tensor",
            f"{attention}.k_proj": "fp8_tensor",
            f"{attention}.v_proj": "bf16",
            f"{attention}.o_proj": "fp8_block",
            f"{mlp}.gate_proj": "fp8_token",
            f"{mlp}.up_proj": "fp8_token",
            f"{mlp}.down_proj": "bf16",
            "lm_head": "bf16",
        },
        {"quant_method": "fp8", "modules_to_not_convert": ["down_proj"], "kv_cache_scheme": "fp8"},
    )
    expected = read_expected(folder)
    found = by_name(expected)
    assert {name: (group.planned, group.expected) for name, group in found.items()} == {
        f"{attention}.qkv": ("mixed", False),
        f"{attention}.o_proj": ("fp8_block", True),
        f"{mlp}.gate_up": ("fp8_token", True),
        f"{mlp}.down_proj": ("bf16", False),
        "lm_head": ("bf16", False),
    }
    assert found[f"{mlp}.gate_up"].gemms == (GemmShape(WIDTH, 2 * WIDTH),)
    assert found["lm_head"].gemms == (GemmShape(WIDTH, WIDTH, sampled=True),)
    assert found[f"{mlp}.down_proj"].listed == (f"{mlp}.down_proj",)
    assert found[f"{mlp}.gate_up"].listed == ()
    assert not expected.has_plan
    assert expected.model.name == "fp8"
    assert expected.group_of[f"{attention}.qkv_proj"] == f"{attention}.qkv"
    assert expected.group_of[f"{mlp}.up_proj"] == f"{mlp}.gate_up"
    assert [(c.name, c.planned) for c in expected.caches] == [(f"{attention}.kv_cache", "fp8")]
    assert expected.cache_of == {attention: f"{attention}.kv_cache"}


def test_metadata_that_denies_what_lies_in_fp8(tmp_path: Path) -> None:
    """By its list, or as a target of none; each file for itself."""
    down, up = f"{LAYER}.mlp.down_proj", f"{LAYER}.mlp.up_proj"
    stored = {down: "fp8_tensor", up: "fp8_tensor", "lm_head": "bf16"}
    said = {"quant_method": "fp8", "modules_to_not_convert": ["lm_head"]}
    folder = write(tmp_path / "fp8", LLAMA, stored, said)  # type: ignore[arg-type]
    assert read_expected(folder).denied == ()
    assert metadata_gate(read_expected(folder)) is None
    mixed = {"quant_algo": "MIXED_PRECISION", "quantized_layers": {up: {"quant_algo": "FP8"}}}
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": mixed}))
    assert read_expected(folder).denied == (Denied(down, "hf_quant_config.json", False),)
    gate = metadata_gate(read_expected(folder))
    assert gate is not None
    assert gate.words.startswith(f"hf_quant_config.json names {down} in no target, and its")
    (folder / "hf_quant_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["modules_to_not_convert"] = ["lm_head", down]
    (folder / "config.json").write_text(json.dumps(config))
    gate = metadata_gate(read_expected(folder))
    assert gate is not None
    assert (gate.outcome, gate.value) == ("failed", 1)
    assert gate.words == (
        f"config.json lists {down} as not quantized, and its weights are FP8: engines load the "
        "codes as numbers."
    )
    assert gate.remedy == f"fp8scope doctor {folder}; then correct the metadata"


def test_experts_are_one_group_with_a_gemm_per_stack(tmp_path: Path) -> None:
    """Mixtral's files, which transformers runs under other names."""
    moe = f"{LAYER}.block_sparse_moe"
    names = {f"{moe}.experts.{e}.{w}": "fp8_tensor" for e in range(3) for w in ("w1", "w2", "w3")}
    folder = write(tmp_path / "moe", "MixtralForCausalLM", {**names, f"{moe}.gate": "bf16"})  # type: ignore[dict-item]
    group = by_name(read_expected(folder))[f"{LAYER}.mlp.experts"]
    stack = f"{LAYER}.mlp.experts"
    assert (group.kind, group.planned, group.expected) == ("expert", "fp8_tensor", True)
    assert dict(zip(group.members, group.gemms, strict=True)) == {
        f"{stack}.gate_up_proj": GemmShape(WIDTH, 2 * WIDTH, 3),
        f"{stack}.down_proj": GemmShape(WIDTH, WIDTH, 3),
    }
    assert by_name(read_expected(folder))[f"{moe}.gate"].kind == "router"


def test_a_plan_says_what_was_asked_and_files_what_there_is(demo: Path, plan: Plan) -> None:
    expected = read_expected(demo)
    assert expected.has_plan
    of = plan.model
    assert (expected.model.config_hash, expected.model.weights_hash) == (
        of.config_hash,
        of.weights_hash,
    )
    asked = {group.name: group.precision for group in plan.groups}
    assert by_name(expected).keys() == asked.keys()
    for name, group in by_name(expected).items():
        assert group.expected == (asked[name] != "bf16"), name
        assert group.stored == "bf16", name
    assert any(group.expected for group in expected.groups)
    assert {c.name for c in expected.caches} == {cache.name for cache in plan.kv_cache}
    qkv = by_name(expected)[f"{LAYER}.self_attn.qkv"]
    shapes = {module.name: module for module in plan.modules}
    assert qkv.gemms[0].out_features == sum(shapes[name].out_features for name in qkv.members)


def test_a_plan_of_another_model(demo: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", LLAMA, {"model.layers.0.mlp.down_proj": "bf16"})
    shutil.copy(demo / "plan.json", other / "plan.json")
    with pytest.raises(Stale, match="which its plan"):
        read_expected(other)


def test_a_side_that_no_fp8_gemm_takes(demo: Path, plan: Plan) -> None:
    groups = by_name(read_expected(demo)).values()
    sides = {m.name: (m.out_features, m.in_features) for g in groups for m in g.linears}
    odd = {name for name, side in sides.items() if side[0] % 16 or side[1] % 16}
    assert {g.odd.name for g in groups if g.odd} <= odd
    assert all((g.odd is not None) == any(m.name in odd for m in g.linears) for g in groups)


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="no such folder"):
        read_expected(tmp_path / "none")
    folder = write(tmp_path / "bad", LLAMA, {"lm_head": "bf16"})
    (folder / "hf_quant_config.json").write_text("{")
    with pytest.raises(BadModel, match="not JSON"):
        read_expected(folder)
    (folder / "config.json").write_text(json.dumps([]))
    with pytest.raises(BadModel, match="not a JSON object"):
        read_expected(folder)
