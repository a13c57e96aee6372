"""Real models: what is predicted on the calibration is measured on text that it has not seen."""

from __future__ import annotations

import math

import pytest

from fp8scope.analyze.sensitivity import Scores
from fp8scope.core.choices import Kind
from fp8scope.measure.api import measured_plan
from fp8scope.measure.budget import Spending
from fp8scope.measure.held_out import held_out_text
from fp8scope.measure.measuring import Subject
from fp8scope.observe import scan as scanning
from fp8scope.observe.sensitivity import SensitivityOptions
from fp8scope.runtime.loading import LoadOptions, load
from fp8scope.runtime.sources import Source
from fp8scope.runtime.structure import discover
from fp8scope.runtime.text import build_calibration
from tests.measure.subjects import Plan
from tests.planting import DATA, MODELS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no real models: {DATA}"),
]


@pytest.fixture(scope="module", params=MODELS)
def subject(request: pytest.FixtureRequest) -> Subject:
    loaded = load(str(DATA / "models" / request.param), LoadOptions())
    paths = sorted((DATA / "text").iterdir())
    sources = [Source(path.stem.partition("_")[0], str(path)) for path in paths]
    text = build_calibration(sources, loaded.tokenizer, samples=48, seq_len=96, context=None)
    scanned = scanning.Subject(
        loaded.model, None, loaded.config, loaded.identity, discover(loaded.model), text
    )
    options = scanning.ScanOptions(sensitivity=SensitivityOptions(samples=48))
    profile = scanning.Scan(scanned, options).run()
    held_out = held_out_text(profile, loaded.model, loaded.tokenizer, samples=48)
    return Subject(loaded.model, loaded.identity, profile, held_out)


@pytest.fixture(scope="module")
def whole(subject: Subject) -> Spending:
    """Every linear of the blocks in FP8 per tensor, which the scan has measured on its own text."""
    score = next(
        score
        for score in Scores(subject.profile).kind(Kind.MODEL)
        if {term.candidate for term in score.row.terms} == {"fp8_tensor"}
        and not any("kv_cache" in term.group for term in score.row.terms)
    )
    plan = Plan(score.row.terms, score.nats.kl, score.nats.error)
    return measured_plan(plan, subject)


def test_no_sequence_was_calibrated_on(subject: Subject) -> None:
    seen = {digest.decode() for digest in subject.profile.samples["digest"].tolist()}
    assert len(seen) == len(subject.text.samples) == 48
    assert not seen & {sample.digest for sample in subject.text.samples}
    assert subject.text.tags == subject.profile.tags == ("code", "prose", "technical")


def test_what_was_found_on_one_text_is_found_on_the_other(whole: Spending) -> None:
    compared = whole.result.comparison
    assert 0.8 < compared.ratio < 1.25
    assert 0 < compared.measured.error < 0.2 * compared.measured.kl


def test_perplexity_and_agreement_tell_the_same(whole: Spending) -> None:
    found = whole.result.measurement
    for part in (found.whole, *found.tags.values()):
        ratio = math.log(part.perplexity / part.true_perplexity)
        assert part.log_change.kl == pytest.approx(ratio, abs=1e-12)
        assert abs(part.log_change.kl) < 4 * part.log_change.error + part.kl.kl
        assert 0.8 < part.agreement < 1
