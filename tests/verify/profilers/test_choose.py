"""Which profilers run, by which are there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fp8scope.errors import BadInput, Missing
from fp8scope.verify import supervise
from fp8scope.verify.devices import Present
from fp8scope.verify.launch import Launch
from fp8scope.verify.profilers.choose import Asked, Finders, choose
from fp8scope.verify.profilers.ncu import Ncu
from fp8scope.verify.profilers.nsys import Nsys
from fp8scope.verify.profilers.torch import Torch, find_torch
from tests.verify.profilers.fake import put_ncu, put_nsys

NSYS = Nsys(Path("nsys"), "2025.1", frozenset(), None, ("SM activity was not sampled",))
NCU = Ncu(Path("ncu"), "2025.3", ("sm__x",))
TORCH = Torch("2.11")
ALL = Finders(lambda: NSYS, lambda: NCU, lambda: TORCH)


def missing(name: str) -> Any:
    def find() -> None:
        raise Missing(f"{name} is not installed", "install it")

    return find


def test_auto_takes_the_best_that_is_here() -> None:
    best = choose("auto", cuda=True, finders=ALL)
    assert best.passes == (("timing", "none"), ("tagged", "nsys"), ("tagged", "ncu"))
    assert best.profilers == {"nsys": NSYS, "ncu": NCU}
    assert best.unseen == NSYS.notes
    without = choose("auto", cuda=True, finders=replace(ALL, nsys=missing("nsys")))
    assert without.passes == (("timing", "none"), ("tagged", "torch"), ("tagged", "ncu"))
    assert without.unseen[0] == "nsys was not used: nsys is not installed → install it"
    least = choose("auto", cuda=True, finders=Finders(missing("nsys"), missing("ncu"), ALL.torch))
    assert least.passes == (("timing", "none"), ("tagged", "torch"))
    assert any("FP8 is judged by kernel names" in words for words in least.unseen)


@pytest.mark.parametrize("asked", ["auto", "torch"])
def test_on_a_cpu_torch_alone_sees_anything(asked: Asked) -> None:
    choice = choose(asked, cuda=False, finders=ALL)
    assert choice.passes == (("timing", "none"), ("tagged", "torch"))


@pytest.mark.parametrize(
    ("asked", "unseen"),
    [("nsys", "counters were not read"), ("ncu", "no timeline"), ("torch", "counters were not")],
)
def test_one_that_is_asked_for_runs_alone(asked: Asked, unseen: str) -> None:
    choice = choose(asked, cuda=True, finders=ALL)
    assert list(choice.profilers) == [asked]
    assert any(unseen in words for words in choice.unseen)


def test_one_that_is_asked_for_and_is_not_here() -> None:
    with pytest.raises(Missing, match="ncu is not installed → install it"):
        choose("ncu", cuda=True, finders=replace(ALL, ncu=missing("ncu")))
    with pytest.raises(Missing, match=r"--profiler nsys sees kernels of a GPU, and there is none"):
        choose("nsys", cuda=False, finders=ALL)


def test_torch_is_found_and_its_trace(tmp_path: Path) -> None:
    torch = find_torch()
    launch = Launch(("sh", "-c", f"echo '{{}}' > {tmp_path}/rank0.123.pt.trace.json.gz"), tmp_path)
    assert torch.around(launch) == launch
    engine = torch.report(supervise.run(launch.words, tmp_path))
    assert engine.name == "rank0.123.pt.trace.json.gz"
    (tmp_path / "trace.json").write_text("{}")
    ours = torch.report(supervise.run(("true",), tmp_path))
    assert ours == tmp_path / "trace.json" == torch.export(ours)


def test_a_run_that_left_no_trace(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"left no trace of torch\.profiler"):
        TORCH.report(supervise.run(("true",), tmp_path))


def test_profilers_are_found_for_the_gpu_that_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put_nsys(tmp_path)
    put_ncu(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    gpu = Present(1, "GPU-7", "NVIDIA H200", None, (9, 0), False, "580")
    choice = choose("auto", cuda=True, finders=Finders.of(gpu))
    nsys, ncu = choice.profilers["nsys"], choice.profilers["ncu"]
    assert isinstance(nsys, Nsys)
    assert nsys.metrics == "--gpu-metrics-device=1"
    assert isinstance(ncu, Ncu)
    assert "sm__ops_path_tensor_src_fp8.sum" in ncu.metrics  # GH100's spelling
