"""`report` from the command line: what it writes, where to, and what it refuses."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fp8scope.artefacts.verdict import ModelId
from fp8scope.artefacts.verdict_file import write_verdict
from fp8scope.cli.documented import Wanted, figure_view, write_document
from fp8scope.errors import BadInput, CannotWrite
from fp8scope.profile.reader import open_profile
from fp8scope.profile.writer import write_profile
from fp8scope.report import snapshot as snapshots
from fp8scope.report.document.blocks import Document, Figure, Section, View
from tests.artefacts import verdicts
from tests.cli.conftest import Fp8scope, InterruptAt
from tests.profiles import build
from tests.report.document.sample import sample

RECORDED = Path(__file__).parents[2] / "profiles/demo.h5"


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "profile.h5"
    write_profile(build(tags=("prose", "code")), path)
    return path


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_html_is_written_where_it_was_asked_for(
    fp8scope: Fp8scope, profile: Path, tmp_path: Path
) -> None:
    output = tmp_path / "report.html"
    ran = fp8scope("report", profile, "-o", output)
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.startswith(f"wrote {output} (")
    page = output.read_text()
    assert page.startswith("<!doctype html>")
    assert "layers.0.self_attn.q_proj" in page
    assert left_in(tmp_path) == ["profile.h5", "report.html"]


def test_the_same_bytes_again(fp8scope: Fp8scope, profile: Path, tmp_path: Path) -> None:
    a, b = tmp_path / "a.html", tmp_path / "b.html"
    assert fp8scope("report", profile, "-o", a).code == 0
    assert fp8scope("report", profile, "-o", b).code == 0
    assert a.read_bytes() == b.read_bytes()


def test_without_a_place_html_goes_to_report_html(
    fp8scope: Fp8scope, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fp8scope("report", "profile.h5").code == 0
    assert (tmp_path / "report.html").stat().st_size > 1_000_000  # plotly is inside


def test_nothing_is_overwritten_unasked(fp8scope: Fp8scope, profile: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.md"
    output.write_text("mine")
    ran = fp8scope("report", profile, "-o", output)
    assert ran.code == 2
    assert "exists already" in ran.refusal
    assert output.read_text() == "mine"
    assert fp8scope("report", profile, "-o", output, "--force").code == 0
    assert output.read_text() != "mine"


def test_markdown_goes_to_stdout(fp8scope: Fp8scope, profile: Path, tmp_path: Path) -> None:
    ran = fp8scope("report", profile, "--format", "md")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("# ")
    assert fp8scope("report", profile, "-o", tmp_path / "report.md").code == 0
    assert (tmp_path / "report.md").read_text() == ran.out


def test_json_says_what_was_written(fp8scope: Fp8scope, profile: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    said = json.loads(fp8scope("report", profile, "-o", output, "--json").out)
    assert said == {
        "profile": str(profile),
        "plan": None,
        "verdict": None,
        "output": str(output),
        "format": "html",
        "bytes": output.stat().st_size,
    }


def test_a_plan_is_shown(fp8scope: Fp8scope, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    assert fp8scope("plan", RECORDED, "-o", plan).code == 0
    ran = fp8scope("report", RECORDED, "--plan", plan, "--format", "md")
    assert ran.code == 0
    summary = json.loads(plan.read_text())["summary"]
    assert summary[1:30] in ran.out


def test_a_plan_of_another_profile(fp8scope: Fp8scope, profile: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    assert fp8scope("plan", RECORDED, "-o", plan).code == 0
    ran = fp8scope("report", profile, "--plan", plan)
    assert ran.code == 2
    assert "plan.json" in ran.refusal


def test_a_verdict_is_shown_on_its_own_model_alone(
    fp8scope: Fp8scope, profile: Path, tmp_path: Path
) -> None:
    path = tmp_path / "verdict.json"
    model = open_profile(profile).model
    known = {key: str(model[key]) for key in ModelId.model_fields}
    write_verdict(verdicts.verdict(model=ModelId(**known), summary="All of it ran."), path)
    ran = fp8scope("report", profile, "--verdict", path, "--format", "md")
    assert ran.code == 0
    assert "## What ran" in ran.out
    assert "All of it ran." in ran.out
    write_verdict(verdicts.verdict(), path)
    ran = fp8scope("report", profile, "--verdict", path, "-o", tmp_path / "report.md")
    assert ran.code == 2
    assert "another model: config.json and the weights differ" in ran.refusal
    assert left_in(tmp_path) == ["profile.h5", "verdict.json"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-o", "report.txt"), "what should report.txt be?"),
        (("-o", "report.html", "--format", "md"), "--format md does not go with report.html"),
        (("-o", "report.html", "--figure", "heatmap"), "--figure and --dark are for --format png"),
        (("--format", "md", "--dark"), "--figure and --dark are for --format png"),
        (("--format", "md", "--json"), "the report itself goes to stdout"),
        (("-o", "profile.h5", "--format", "html"), "is what the report is made from"),
        (("-o", "nowhere/report.html"), "there is no folder"),
        (("-o", ".", "--format", "html"), "is a folder"),
        (("-o", "a.png", "--figure", "nothing"), "there is no figure 'nothing'"),
        (("-o", "a.png", "--figure", "heatmap:99"), "heatmap has no view '99'"),
        (("-o", "a.png", "--figure", "heatmap:x"), "heatmap has no view 'x'"),
        (("--layers", "-1"), "Invalid value for '--layers'"),
        (("--plan", "missing.json"), "missing.json"),
    ],
)
def test_refusals(
    options: tuple[str, ...],
    said: str,
    fp8scope: Fp8scope,
    profile: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(profile.parent)
    ran = fp8scope("report", "profile.h5", *options)
    assert ran.code == 2
    assert said in ran.refusal
    assert left_in(profile.parent) == ["profile.h5"]


def test_a_figure_that_there_is_not_is_answered_with_those_that_there_are(
    fp8scope: Fp8scope, profile: Path, tmp_path: Path
) -> None:
    ran = fp8scope("report", profile, "--figure", "nothing", "-o", tmp_path / "a.png")
    assert "one of heatmap, " in ran.refusal


def test_a_png_without_a_browser(
    fp8scope: Fp8scope, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    ran = fp8scope("report", profile, "--figure", "heatmap", "-o", tmp_path / "a.png")
    assert ran.code == 3
    assert "pip install 'fp8scope[png]'" in ran.refusal
    assert left_in(tmp_path) == ["profile.h5"]


def test_ctrl_c_leaves_nothing(
    fp8scope: Fp8scope, profile: Path, tmp_path: Path, interrupt_at: InterruptAt
) -> None:
    with interrupt_at(snapshots, "measure", call=3):
        ran = fp8scope("report", profile, "-o", tmp_path / "report.html")
    assert ran.code == 130
    assert left_in(tmp_path) == ["profile.h5"]


def test_a_damaged_profile(fp8scope: Fp8scope, profile: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.h5"
    broken.write_bytes(profile.read_bytes()[:5000])
    ran = fp8scope("report", broken, "-o", tmp_path / "report.html")
    assert ran.code == 2
    assert "broken.h5" in ran.refusal
    assert not (tmp_path / "report.html").exists()


def test_from_python(fp8scope: Fp8scope, profile: Path) -> None:
    import fp8scope as package

    assert (
        package.make_report(profile, form="md") == fp8scope("report", profile, "--format", "md").out
    )


def test_a_full_disk_behind_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr("sys.stdout", SimpleNamespace(buffer=full))
        with pytest.raises(CannotWrite, match="cannot write to stdout: No space left"):
            write_document(sample(), Wanted("md", None))


def test_a_name_that_is_no_utf8(fp8scope: Fp8scope, profile: Path, tmp_path: Path) -> None:
    odd = profile.rename(tmp_path / "odd\udcff.h5")
    for suffix in ("html", "md"):
        assert fp8scope("report", odd, "-o", tmp_path / f"report.{suffix}").code == 0
    assert "odd?.h5" in (tmp_path / "report.md").read_text()


def test_as_many_layers_as_the_report_says_there_are(fp8scope: Fp8scope, tmp_path: Path) -> None:
    page = tmp_path / "report.md"
    assert fp8scope("report", RECORDED, "--layers", "1", "-o", page).code == 0
    count = re.findall(r"or this report with --layers (\d+)", page.read_text())
    assert count == ["17"]
    assert fp8scope("report", RECORDED, "--layers", "1000", "-o", page, "--force").code == 0
    assert "or this report with" not in page.read_text()


def test_a_layer_of_a_figure_may_be_named_in_short() -> None:
    found = {
        name: Figure(name, "", "", (View("", [], {}),))
        for name in ("heatmap", "costs-model.layers.0.mlp", "costs-model.layers.1.mlp")
    }
    blocks = tuple(found.values())
    document = Document("", "", Section("", "a", blocks), ())
    assert figure_view(document, "costs-layers.1.mlp")[0].name == "costs-model.layers.1.mlp"
    assert figure_view(document, "")[0].name == "heatmap"
    for unclear in ("costs-mlp", "costs-", "layers.1.mlp", "costs-ayers.1.mlp"):
        with pytest.raises(BadInput, match=f"there is no figure '{unclear}'"):
            figure_view(document, unclear)


def test_a_form_that_there_is_not(profile: Path) -> None:
    import fp8scope as package

    with pytest.raises(BadInput, match="there is no form 'pdf' → one of html, md"):
        package.make_report(profile, form="pdf")
