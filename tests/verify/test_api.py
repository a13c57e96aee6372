"""verify from a wish to a verdict, on a GPU of paper and on none; and reports from elsewhere."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fp8scope.artefacts.verdict import Verdict
from fp8scope.errors import BadInput, BadModel, Fp8scopeError, Missing
from fp8scope.judge.gates import Limits
from fp8scope.traces.record import Load
from fp8scope.verify import api
from fp8scope.verify.api import judge_reports, prepare, verify_checkpoint
from fp8scope.verify.engines.command import Command
from fp8scope.verify.engines.native import Native
from fp8scope.verify.order import RUN, TORCH_TRACE
from fp8scope.verify.profilers.choose import Finders
from fp8scope.verify.profilers.torch import Torch
from fp8scope.verify.wanted import ON_CPU, ON_GPU, Wanted
from tests.judge import runs
from tests.judge.runs import by_name, gates
from tests.verify import constructed
from tests.verify.constructed import BF16, DOWN, GPU, MARLIN
from tests.verify.engines.test_engines import on_path

BASELINE, CHECKPOINT = 0, 1


@pytest.fixture
def fp8() -> Path:
    return constructed.folders()[CHECKPOINT]


@pytest.fixture
def bf16() -> str:
    return str(constructed.folders()[BASELINE])


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "present", lambda: ())
    monkeypatch.setattr(api, "unlisted", lambda: ())


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "present", lambda: (GPU,))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def none_of(name: str) -> Any:
    def find() -> None:
        raise Missing(f"{name} is not installed", "install it")

    return find


TORCH_ALONE = Finders(none_of("nsys"), none_of("ncu"), lambda: Torch("2.13"))


# --- before anything runs ------------------------------------------------------------------------


@pytest.mark.usefixtures("without_gpu")
def test_on_a_cpu(fp8: Path) -> None:
    ready = prepare(Wanted(fp8))
    assert ready.task.load == ON_CPU
    assert ready.session.used.gpu is None
    assert ready.session.choice.passes == (("timing", "none"), ("tagged", "torch"))
    assert isinstance(ready.session.engine, Native)
    assert ready.baseline is None


@pytest.mark.usefixtures("with_gpu")
def test_on_a_gpu(fp8: Path, bf16: str, tmp_path: Path) -> None:
    """Every pass of both gets the GPU by its UUID, and the order says cuda."""
    ready = prepare(Wanted(fp8, bf16, gen_len=9), finders=TORCH_ALONE)
    assert ready.task.load == ON_GPU.model_copy(update={"gen_len": 9})
    assert ready.baseline is not None
    assert (ready.baseline.baseline, ready.baseline.checkpoint) == (True, bf16)
    for task in (ready.task, ready.baseline):
        (launch,) = ready.session.engine.timing(task, tmp_path / "pass")
        assert launch.environment == {"CUDA_VISIBLE_DEVICES": GPU.uuid}
        order = json.loads(Path(launch.words[-1]).read_text())
        assert (order["device"], order["batch"], order["gen_len"]) == ("cuda", 8, 9)


@pytest.mark.usefixtures("with_gpu")
def test_a_gpu_that_is_not_wanted_or_hidden(fp8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepare(Wanted(fp8, where="cpu")).session.used.gpu is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    match = "no NVIDIA GPU here: CUDA_VISIBLE_DEVICES=-1 hides all 1 GPUs"
    with pytest.raises(Missing, match=match):
        prepare(Wanted(fp8, where="cuda"))
    assert "hides all" in prepare(Wanted(fp8)).session.used.notes[0]


@pytest.mark.usefixtures("without_gpu")
@pytest.mark.parametrize("wish", [{"require_gpu": True}, {"where": "cuda"}])
def test_a_gpu_that_is_required(wish: dict[str, Any], fp8: Path) -> None:
    with pytest.raises(Missing, match="no NVIDIA GPU here → run this where there is one, or judge"):
        prepare(Wanted(fp8, **wish))


def plain_fp8(config: dict[str, Any]) -> None:
    del config["quantization_config"]


def by_gptq(config: dict[str, Any]) -> None:
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}


def of_few_tokens(config: dict[str, Any]) -> None:
    config["max_position_embeddings"] = 32


def changed(fp8: Path, folder: Path, change: Any) -> Path:
    """A copy with another config.json, and without what else tells of it."""
    shutil.copytree(fp8, folder)
    for name in ("hf_quant_config.json", "plan.json"):
        (folder / name).unlink()
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.usefixtures("without_gpu")
def test_no_checkpoint(fp8: Path, bf16: str, tmp_path: Path) -> None:
    for checkpoint, words in (
        (Path("org/name"), r"^org/name: no such folder, .* → fetch it: hf download org/name "),
        (tmp_path / "none", r"none: no such folder → give a folder"),
        (Path(__file__), r"test_api.py is a file, and a checkpoint is a folder → give the folder"),
        (Path(bf16), r"bf16 is not quantized → give an FP8 checkpoint"),
        (changed(fp8, tmp_path / "gptq", by_gptq), r"gptq is quantized by gptq → modelopt, "),
        (changed(fp8, tmp_path / "unsaid", plain_fp8), r"unsaid is not quantized"),
    ):
        with pytest.raises(BadModel, match=words):
            prepare(Wanted(checkpoint))
    with pytest.raises(BadModel, match=r"^org/name: no such folder"):
        judge_reports(Path("org/name"), [constructed.trace(tmp_path / TORCH_TRACE)])


@pytest.mark.usefixtures("without_gpu")
def test_a_short_context(fp8: Path, tmp_path: Path) -> None:
    """What nobody asked for gets shorter; what was asked for is refused."""
    folder = changed(fp8, tmp_path / "short", of_few_tokens)
    assert prepare(Wanted(folder)).task.load == Load(batch=2, prompt_len=24, gen_len=8)
    load = prepare(Wanted(folder, gen_len=20)).task.load
    assert (load.prompt_len, load.gen_len) == (12, 20)
    assert prepare(Wanted(folder, prompt_len=27, gen_len=1)).task.load.prompt_len == 27
    match = r"short takes 32 tokens, and \d+ are asked for → give a shorter --prompt-len"
    wishes = (
        Wanted(folder, prompt_len=64),
        Wanted(folder, prompt_len=28, gen_len=1),
        Wanted(folder, gen_len=32),
    )
    for wish in wishes:
        with pytest.raises(BadInput, match=match):
            prepare(wish)


def test_loads() -> None:
    wanted = Wanted(Path("x"), batch=3)
    assert wanted.load(cuda=True) == Load(batch=3, prompt_len=2048, gen_len=128)
    assert wanted.load(cuda=True, context=1024) == Load(batch=3, prompt_len=896, gen_len=128)
    assert wanted.load(cuda=True, context=8) == Load(batch=3, prompt_len=3, gen_len=2)
    assert wanted.load(cuda=False, context=10**6) == Load(batch=3, prompt_len=64, gen_len=8)
    with pytest.raises(BadInput, match="takes 5 tokens, and 6 are asked for"):
        wanted.load(cuda=True, context=5)
    for none in (Wanted(wanted.checkpoint, batch=0), Wanted(wanted.checkpoint, gen_len=-1)):
        with pytest.raises(BadInput, match=r" is (0|-1) → give a whole number above 0"):
            none.load(cuda=False)


@pytest.mark.usefixtures("without_gpu")
def test_a_baseline_that_is_none(fp8: Path, bf16: str, tmp_path: Path) -> None:
    """Known in a moment, not when the checkpoint has run."""
    other = tmp_path / "other"
    shutil.copytree(bf16, other)
    last = max(other.glob("*00001.safetensors"))
    config = json.loads((other / "config.json").read_text()) | {"num_hidden_layers": 1}
    index = json.loads((other / "model.safetensors.index.json").read_text())
    index["weight_map"] = {k: v for k, v in index["weight_map"].items() if v != last.name}
    last.unlink()
    (other / "config.json").write_text(json.dumps(config))
    (other / "model.safetensors.index.json").write_text(json.dumps(index))
    for baseline, words in (
        (str(fp8), "is quantized itself → give the BF16 model"),
        (str(other), r"another model: model\.layers\.1\.\S+ is not there, and \d+ x \d+ in "),
        (str(tmp_path / "none"), "no such folder"),
    ):
        with pytest.raises(BadInput, match=words):
            prepare(Wanted(fp8, baseline))
    assert prepare(Wanted(fp8, "org/name")).baseline is not None  # it is fetched by its child


@pytest.mark.usefixtures("with_gpu")
def test_other_engines(fp8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nsys = Finders(lambda: Torch("as nsys"), none_of("ncu"), none_of("torch"))
    ready = prepare(Wanted(fp8, engine="command", command=("sh", "x.sh")), finders=nsys)
    assert isinstance(ready.session.engine, Command)
    refused: tuple[tuple[dict[str, Any], Finders, str], ...] = (
        ({"engine": "command"}, nsys, "needs a command after --"),
        ({"engine": "command", "command": ("/no",)}, nsys, "the command /no is not there"),
        ({"engine": "command", "command": ("sh",)}, TORCH_ALONE, "cannot be put around a command"),
        (
            {"engine": "command", "command": ("sh",), "baseline": "org/name"},
            nsys,
            "runs the words as they are, for a baseline too → verify both by themselves",
        ),
        ({"engine": "native", "profiler": "ncu"}, nsys, "ncu is not installed → install it"),
    )
    for wish, finders, words in refused:
        with pytest.raises(Fp8scopeError, match=words):
            prepare(Wanted(fp8, **wish), finders=finders)
    monkeypatch.setenv("PATH", str(tmp_path))
    for engine in ("vllm", "trtllm"):
        with pytest.raises(Missing, match="is not installed"):
            prepare(Wanted(fp8, engine=engine), finders=nsys)
    on_path("vllm", tmp_path, monkeypatch, "0.9.2")
    with pytest.raises(Missing, match=r"install vLLM 0\.13 or newer"):
        prepare(Wanted(fp8, engine="vllm"), finders=nsys)


# --- a run ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("with_gpu")
def test_a_checkpoint_and_its_baseline(
    fp8: Path, bf16: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside each other: the GPU's roofline, times of both, and who was run when."""
    engine, told = constructed.shell(tmp_path), list[str]()
    slow = constructed.record(tmp_path / "slow.json", ttft=36.0, tpot=7.5)
    before = constructed.trace(tmp_path / "bf16.json", fp8=BF16)
    for watcher, file, other in (("none", RUN, slow), ("torch", TORCH_TRACE, before)):
        copy = engine.scripts[watcher]
        engine.scripts[watcher] = f"case $PWD in *baseline*) cp {other} {file};; *) {copy};; esac"
    monkeypatch.setattr(api, "Native", lambda order: engine)
    folder = tmp_path / "reports"
    folder.mkdir()
    wanted = Wanted(fp8, bf16, limits=Limits(speedup=1.4))
    with ExitStack() as cleanup:
        verdict = verify_checkpoint(
            wanted, folder, tell=told.append, cleanup=cleanup, finders=TORCH_ALONE
        )
    uuid = GPU.uuid
    assert engine.passes == [
        f"fp8 none {uuid}", f"fp8 torch {uuid}", f"bf16 none {uuid}", f"bf16 torch {uuid}",
    ]  # fmt: skip
    assert told == [f"running {fp8} (native)", f"running the baseline {bf16}"]
    assert [task.baseline for task, _ in engine.checked] == [False, True]
    assert (verdict.checkpoint, verdict.baseline) == (str(fp8), bf16)
    assert verdict.ran.gpu_known_as == "h200-sxm"
    assert (verdict.expected, verdict.in_fp8) == (8, 8)
    assert gates(verdict) == {
        "precision": "passed", "kept_in_bf16": "passed", "sm_active": "not_measured",
        "speedup": "passed",
    }  # fmt: skip
    assert verdict.speedup["prefill"].measured == pytest.approx(1.8)
    assert verdict.speedup["prefill"].estimated is not None
    assert verdict.speed.mbu is not None
    down = by_name(verdict)[DOWN].phases["prefill"]
    assert (down.time_us, down.baseline_time_us) == (40, 80)
    # decode and 1/128 of the prefill, as `plan --cost` takes it
    assert verdict.times_us()[DOWN] == {
        "fp8_tensor": pytest.approx(5 + 40 / runs.GENERATE),
        "bf16": pytest.approx(10 + 80 / runs.GENERATE),
    }
    assert any("nsys was not used: nsys is not installed" in note for note in verdict.notes)


# --- reports from elsewhere ----------------------------------------------------------------------


def judged(fp8: Path, folder: Path, **kernels: str) -> Verdict:
    report = constructed.trace(folder / TORCH_TRACE, {DOWN: kernels["down"]} if kernels else None)
    return judge_reports(fp8, [report, constructed.record(folder / RUN)])


def test_reports_and_a_record(fp8: Path, tmp_path: Path) -> None:
    verdict = judged(fp8, tmp_path)
    assert verdict.passed
    assert verdict.ran.reports == (str(tmp_path / TORCH_TRACE),)
    assert verdict.ran.gpu_known_as == "h200-sxm"
    assert verdict.speedup["decode"].estimated is not None  # by the roofline; measured it was not
    assert verdict.speedup["decode"].measured is None


@pytest.mark.parametrize(
    ("kernel", "cause"),
    [(BF16, "multiplies bf16, and the files hold FP8"), (MARLIN, "is a weight-only kernel")],
)
def test_one_layer_fell_back(kernel: str, cause: str, fp8: Path, tmp_path: Path) -> None:
    verdict = judged(fp8, tmp_path, down=kernel)
    assert gates(verdict)["precision"] == "failed"
    assert DOWN in verdict.gates[0].words
    assert {each.name for each in verdict.groups if each.judged == "not_as_planned"} == {DOWN}
    assert cause in str(by_name(verdict)[DOWN].cause)


def test_without_a_record_the_report_names_the_gpu(fp8: Path, tmp_path: Path) -> None:
    report = constructed.trace(tmp_path / TORCH_TRACE)
    verdict = judge_reports(fp8, [report])
    assert verdict.ran.reports == (str(report),)
    assert verdict.ran.gpu_known_as == "h200-sxm"
    assert verdict.speedup == {}
    assert verdict.times_us() == {}  # of which load is not known


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({"name": "NVIDIA H200", "memory_bytes": None}, "h200-sxm"),
        ({"name": "NVIDIA H200 MIG 1g.18gb", "mig": True}, None),
        ({"name": "NVIDIA H200", "mig": True}, None),
        ({"name": "NVIDIA Unheard-of 9000"}, None),
    ],
)
def test_the_roofline_is_of_a_gpu_that_is_known(
    changes: dict[str, Any], known: str | None, fp8: Path, tmp_path: Path
) -> None:
    device = runs.H200.model_copy(update=changes)
    record = constructed.record(tmp_path / RUN, device)
    verdict = judge_reports(fp8, [record, constructed.trace(tmp_path / TORCH_TRACE)])
    assert verdict.ran.gpu_known_as == known
    assert bool(verdict.speedup) == (known is not None)
    assert verdict.passed


def test_so_many_gpus_as_no_roofline_is_for(fp8: Path, tmp_path: Path) -> None:
    """A fault of the estimate's is none of the run's: 3 GPUs do not share 4 heads."""
    three = runs.H200.model_copy(update={"count": 3})
    record = constructed.record(tmp_path / RUN, three)
    verdict = judge_reports(fp8, [record, constructed.trace(tmp_path / TORCH_TRACE)])
    assert verdict.ran.devices == 3
    assert verdict.speedup == {}
    assert verdict.passed


def test_a_baseline_may_be_a_record_alone(fp8: Path, tmp_path: Path) -> None:
    """Its times are all that a speed-up needs."""
    report, record = constructed.trace(tmp_path / TORCH_TRACE), constructed.record(tmp_path / RUN)
    slow = constructed.record(tmp_path / "slow.json", ttft=30.0)
    verdict = judge_reports(
        fp8, [record, report], baseline_reports=[slow], limits=Limits(speedup=9.0)
    )
    assert verdict.speedup["prefill"].measured == pytest.approx(1.5)
    assert gates(verdict)["speedup"] == "failed"


def test_reports_that_do_not_go_together(fp8: Path, tmp_path: Path) -> None:
    """The same file twice, two timelines by one tool, and FP8 as the BF16 model's."""
    report, other = (constructed.trace(tmp_path / name) for name in ("a.json", "b.json"))
    plain = constructed.trace(tmp_path / "plain.json", fp8=BF16)
    again = tmp_path / "again.json"
    again.symlink_to(report)
    cases: tuple[tuple[list[Path], list[Path], str], ...] = (
        ([report, report], [], r"a\.json is given twice → leave one out"),
        ([report, again], [], r"again\.json is given twice, first as \S+a\.json"),
        ([report], [report], r"a\.json is given twice"),
        ([report, other], [], r"a\.json and \S+b\.json are two reports by torch, and times are"),
        ([report], [plain, other], "are two reports by torch"),
        (
            [report],
            [other],
            r"b\.json multiplies FP8 in model\.layers\.0\.self_attn\.qkv: it is not of the BF16 "
            "model → give the BF16 model, or its report",
        ),
    )
    for reports, before, words in cases:
        with pytest.raises(BadInput, match=words):
            judge_reports(fp8, reports, baseline_reports=before)
    assert judge_reports(fp8, [report], baseline_reports=[plain]).passed


def test_files_that_are_no_reports(fp8: Path, tmp_path: Path) -> None:
    report, record = constructed.trace(tmp_path / TORCH_TRACE), constructed.record(tmp_path / RUN)
    other = constructed.record(tmp_path / "other.json", ttft=21.0)
    later = tmp_path / "later.json"
    later.write_text(json.dumps(json.loads(record.read_text()) | {"version": 2}))
    (tmp_path / "x.json").write_text('{"format": "fp8scope-verdict"}')
    (tmp_path / "empty.csv").touch()
    for files, words in (
        ([record], "none of the files is a profiler's report → give its"),
        (
            [record, report, other],
            r"run\.json and \S+other\.json are two runs → give the run\.json",
        ),
        ([report, later], r"later\.json: version: .* → run it again with this release"),
        ([report, tmp_path / "x.json"], r"x\.json is no Chrome trace"),
        ([tmp_path / "gone.sqlite"], r"gone\.sqlite cannot be read: no such file"),
        ([tmp_path], "cannot be read: is a directory"),
        ([report, tmp_path / "empty.csv"], r"empty\.csv is empty → profile again"),
    ):
        with pytest.raises(BadInput, match=words):
            judge_reports(fp8, files)
