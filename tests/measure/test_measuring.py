"""The numbers of a plan: exactly nothing for no plan, and what a plain computation gives."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fp8scope.analyze.ratios import Nats
from fp8scope.core.choices import Term
from fp8scope.errors import CannotWrite, Interrupted, Missing
from fp8scope.measure.kept import Kept, kept_path
from fp8scope.measure.measurement import Comparison, Measurement
from fp8scope.measure.measuring import Events, Measuring, Subject
from fp8scope.observe.applied import Applied
from fp8scope.runtime.quantized import QuantizedParts
from tests import models
from tests.measure import subjects
from tests.observe import scans
from tests.observe.quantized_models import prepared


def measure(what: Subject, terms: Any, events: Events | None = None) -> Measurement:
    return Measuring(what, events or Events())(terms)


def same(a: Measurement, b: Measurement) -> bool:
    """To the bit, NaN included."""
    return repr(a) == repr(b)


@pytest.mark.parametrize("name", [*models.CONFIGS])
def test_no_plan_costs_nothing_at_all(name: str) -> None:
    found = measure(subjects.subject(name), ())
    for part in (found.whole, *found.tags.values()):
        assert part.kl == Nats(0.0, 0.0)
        assert part.log_change == Nats(0.0, 0.0)
        assert part.perplexity == part.true_perplexity
        assert part.agreement == 1
    assert (found.whole.tokens, found.whole.sequences) == (74, 7)


def sums(what: Subject, terms: Any) -> list[dict[str, float]]:
    """Of each sequence by itself, with torch's own functions."""
    applied = Applied.of(what.model, QuantizedParts.of(what.model, what.profile))
    found = []
    for sample in what.text.samples:
        ids = torch.from_numpy(sample.tokens.astype(np.int64))[None]
        true = applied.logits(ids)[0].double()
        with applied.terms(terms):
            other = applied.logits(ids)[0].double()

        def ahead(logits: Tensor, ids: Tensor = ids) -> float:
            return float(F.cross_entropy(logits[:-1], ids[0, 1:], reduction="sum"))

        p, q = true.log_softmax(-1), other.log_softmax(-1)
        found.append(
            {
                "kl": float(F.kl_div(q, p, reduction="sum", log_target=True)),
                "agreed": float((true.argmax(-1) == other.argmax(-1)).sum()),
                "true": ahead(true),
                "other": ahead(other),
                "length": float(len(sample.tokens)),
            }
        )
    return found


@pytest.mark.parametrize("name", ["llama", "mixtral", "gpt2", "deepseek_v3", "opt_post_norm"])
def test_it_is_what_a_plain_computation_gives(name: str) -> None:
    what = subjects.subject(name)
    terms = subjects.smoothed_with_caches(what)
    found, rows = measure(what, terms), sums(what, terms)
    tags = np.array([sample.tag for sample in what.text.samples])
    calibrated = [sum(lengths) for lengths in scans.LENGTHS.values()]
    means = []
    for number, tag in enumerate(what.text.tags):
        mine = {
            k: sum(r[k] for r, t in zip(rows, tags, strict=True) if t == number) for k in rows[0]
        }
        count = int((tags == number).sum())
        mean = {
            "kl": mine["kl"] / mine["length"],
            "agreed": mine["agreed"] / mine["length"],
            "true": mine["true"] / (mine["length"] - count),
            "other": mine["other"] / (mine["length"] - count),
        }
        part = found.tags[tag]
        assert part.kl.kl == pytest.approx(mean["kl"], rel=2e-4)
        assert part.agreement == mean["agreed"]
        assert part.true_perplexity == pytest.approx(math.exp(mean["true"]), rel=1e-5)
        assert part.perplexity == pytest.approx(math.exp(mean["other"]), rel=1e-5)
        assert part.log_change.kl == pytest.approx(mean["other"] - mean["true"], abs=1e-6)
        assert (part.tokens, part.sequences) == (mine["length"], count)
        means.append(mean)
    shares = np.array(calibrated) / sum(calibrated)
    kl = found.whole.kl.kl
    assert kl == pytest.approx(shares @ [mean["kl"] for mean in means], rel=2e-4)
    perplexity = math.exp(shares @ [mean["other"] for mean in means])
    assert found.whole.perplexity == pytest.approx(perplexity, rel=1e-5)
    assert kl > 0


def test_the_errors_are_those_of_ratios() -> None:
    """Standard error of Σ x / Σ n, from residuals; of the log perplexities their difference's."""
    what = subjects.subject("llama")
    terms = subjects.whole(what)
    found, rows = measure(what, terms), sums(what, terms)
    prose = rows[: len(subjects.LENGTHS["prose"])]

    def error(values: list[float], tokens: list[float]) -> float:
        x, n = np.array(values), np.array(tokens)
        residuals = x - x.sum() / n.sum() * n
        return float(np.sqrt(len(x) / (len(x) - 1) * (residuals**2).sum()) / n.sum())

    lengths = [row["length"] for row in prose]
    kl = error([row["kl"] for row in prose], lengths)
    change = error([r["other"] - r["true"] for r in prose], [n - 1 for n in lengths])
    assert found.tags["prose"].kl.error == pytest.approx(kl, rel=1e-3)
    assert found.tags["prose"].log_change.error == pytest.approx(change, rel=1e-3)


def test_a_tag_that_was_not_calibrated_on_counts_by_its_own_tokens() -> None:
    lengths = {"prose": (12, 12), "other": (6, 6)}
    what = replace(subjects.subject("llama"), text=subjects.text(lengths))
    found = measure(what, subjects.whole(what))
    mean = (2 * found.tags["prose"].kl.kl + found.tags["other"].kl.kl) / 3
    assert found.whole.kl.kl == pytest.approx(mean, rel=1e-12)


def test_a_group_without_scales_is_no_plan() -> None:
    what = subjects.subject("llama")
    with pytest.raises(ValueError, match=r"no input of model\.layers\.9\.mlp"):
        measure(what, [Term("model.layers.9.mlp", "fp8_tensor")])


def test_json_has_no_nan() -> None:
    what = subjects.subject("llama")
    found = measure(what, subjects.whole(what))
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["kl_nats"] == found.whole.kl.kl
    assert set(data["tags"]) == {"prose", "code"}
    assert data["text"]["digest"] == what.text.digest
    one = replace(what, text=subjects.text({"prose": (1, 1)}))  # nothing comes next
    alone = measure(one, subjects.whole(what)).to_json()
    assert alone["perplexity"] is None
    json.dumps(alone, allow_nan=False)


@pytest.mark.parametrize(
    ("predicted", "found", "ratio", "agrees"),
    [
        (Nats(0.02, 0.002), Nats(0.023, 0.001), 1.15, True),
        (Nats(0.02, 0.001), Nats(0.03, 0.001), 1.5, False),
        (Nats(0.02, 0.01), Nats(0.03, math.nan), 1.5, True),
        (Nats(0.0, 0.0), Nats(0.01, 0.001), math.inf, False),
        (Nats(0.01, 0.001), Nats(math.nan, math.nan), math.nan, False),
    ],
)
def test_predicted_against_measured(
    predicted: Nats, found: Nats, ratio: float, agrees: bool
) -> None:
    compared = Comparison(predicted, found)
    assert compared.ratio == pytest.approx(ratio, nan_ok=True)
    assert compared.agrees == agrees
    json.dumps(compared.to_json(), allow_nan=False)


def test_a_broken_output_is_infinitely_far() -> None:
    what = prepared("llama", seed=3)
    with torch.no_grad():
        what.model.model.norm.weight[0] = math.nan
    found = measure(subjects.of(what), ())
    assert found.kl == math.inf
    assert found.to_json()["kl_nats"] is None


# ---- stopping and going on


class StopAfter:
    def __init__(self, batches: int) -> None:
        self.batches, self.seen = batches, [(0, 0, 0)]
        self.events = Events(measured=self._measured, stop=self._stop)

    def _measured(self, *state: int) -> None:
        self.seen.append((state[0], state[1], state[2]))

    def _stop(self) -> bool:
        return len(self.seen) - 2 >= self.batches


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_stopped_after_any_batch_it_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    what = subjects.subject(name)
    terms = subjects.whole(what)
    want = measure(what, terms)
    watched = StopAfter(99)
    measure(what, terms, watched.events)
    total = watched.seen[-1][2]
    assert watched.seen[1:] == [(1, done, total) for done in range(total + 1)]
    assert total > 3
    for stop in range(1, total + 1):
        output = tmp_path / f"{stop}.json"
        with pytest.raises(Interrupted, match=f"plan 1 after {stop} of {total} batches"):
            Measuring(what, StopAfter(stop).events, Kept(output, what.digests))(terms)
        kept = Kept(output, what.digests)
        assert kept.load()
        again = StopAfter(99)
        assert same(Measuring(what, again.events, kept)(terms), want)
        assert again.seen[1:] == [(1, done, total) for done in range(stop, total + 1)]
        kept.remove()
        assert not kept_path(output).exists()


def test_what_is_kept_belongs_to_its_terms(tmp_path: Path) -> None:
    what = subjects.subject("llama")
    first, other = subjects.whole(what), subjects.whole(what, "fp8_token")
    kept = Kept(tmp_path / "plan.json", what.digests)
    Measuring(what, Events(), kept)(first)
    assert same(Measuring(what, Events(), kept)(other), measure(what, other))
    backwards = StopAfter(99)
    assert same(Measuring(what, backwards.events, kept)(first[::-1]), measure(what, first))
    assert len(backwards.seen) == 2  # nothing was left to measure


def test_a_full_disk_does_not_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise CannotWrite("cannot write it: No space left on device")

    monkeypatch.setattr("fp8scope.measure.kept.write_atomically", full)
    what, said = subjects.subject("llama"), list[str]()
    kept = Kept(tmp_path / "plan.json", what.digests)
    found = Measuring(what, Events(warn=said.append), kept)(subjects.whole(what))
    assert same(found, measure(what, subjects.whole(what)))
    assert said == ["nothing is kept for --resume: cannot write it: No space left on device"]


def test_out_of_memory_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("fp8scope.measure.measuring.moved", full)
    with pytest.raises(Missing, match="out of memory"):
        measure(subjects.subject("llama"), ())
