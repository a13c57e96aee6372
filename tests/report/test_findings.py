"""What is said of headroom, convergence, scaling and the KV cache, and the rows for JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from fp8scope.analyze.compare import compare_profiles
from fp8scope.analyze.convergence import convergence
from fp8scope.analyze.headroom import tag_headroom
from fp8scope.analyze.kvcache import kv_cache
from fp8scope.analyze.scaling import scaling
from fp8scope.profile.record import Profile
from fp8scope.report.compare import comparison_row, comparison_sentences
from fp8scope.report.convergence import convergence_rows, convergence_sentences
from fp8scope.report.headroom import headroom_rows, headroom_sentences
from fp8scope.report.kvcache import kvcache_rows, kvcache_sentences
from fp8scope.report.scaling import scaling_row, scaling_sentences
from tests.analyze.sites import of_amax, of_values, with_outlier
from tests.analyze.test_kvcache import cache, kl, of
from tests.analyze.test_scaling import gaussian
from tests.profiles import CHANNELS, build

NAME = "layers.0.self_attn.q_proj input"
EVIL = "\x1b[31m[red]\u202eevil"


def test_headroom() -> None:
    found = tag_headroom(of_amax(("prose", "code"), *[8.0, 8.0] * 9, 8.0, 32.0))
    assert headroom_sentences(found) == [
        f"Scales from prose alone clip at 1 of 1 sites, worst {NAME}: in 10% of the sequences of "
        "code (1.8% to 40%), by more than 20% in 10% (1.8% to 40%); 0.31% of the values (0 to "
        "0.94%), the largest 4.00× over.",
        "Scales from code alone clip nothing at any of 1 sites.",
    ]
    assert headroom_sentences(tag_headroom(of_amax(("one",), 1, 2))) == []
    (row, _) = headroom_rows(found)
    assert row["calibration"] == "prose"
    assert row["tags"]["code"]["saturated_sequences"] == 1
    assert row["tags"]["code"]["saturation_rate"] == 1 / 320
    assert row["tags"]["prose"]["saturated_share_interval"][0] == 0


def said_of_convergence(*amax: float) -> str:
    return " ".join(convergence_sentences(convergence(of_amax(("prose",), *amax))))


def test_convergence() -> None:
    assert said_of_convergence(*[8.0] * 30) == (
        "The amax has settled at 1 of 1 sites: twice as much such text would clip nothing. "
        "What fewer than 1 in 10 sequences of a tag do may be missing altogether."
    )
    alone = said_of_convergence(*[8.0] * 29, 24)
    assert f"worst {NAME} (one sequence alone sets its scale, 3.00× the next): about 30" in alone
    growing = said_of_convergence(*np.geomspace(2, 8, 30))
    assert "Still growing at 1" in growing
    assert "no affordable text settles it" in growing
    assert "Not known for 1 sites: a tag has under 8 sequences." in said_of_convergence(8, 8)
    assert convergence_sentences([]) == []
    (row,) = convergence_rows(convergence(of_amax(("prose",), *[8.0] * 30)))
    assert (row["state"], row["more_sequences"]) == ("settled", 0)
    assert row["tags"]["prose"]["curve"][-1] == [30, 8.0]
    assert row["tags"]["prose"]["next_exceeds_at_most"] == 1 / 31


def test_of_few_sequences_nothing_is_claimed() -> None:
    found = convergence(of_amax(("prose",), *(1.0,) * 3))
    assert convergence_sentences(found) == [
        "The amax has settled at 0 of 1 sites.",
        "Not known for 1 sites: a tag has under 8 sequences.",
    ]


def said_of_scaling(profile: Profile) -> list[str]:
    return scaling_sentences(scaling(profile))


def test_scaling() -> None:
    x = gaussian(20)
    assert said_of_scaling(of_values(("a", "b"), *x)) == [
        "Static scales are safe for all 1 linear inputs."
    ]
    x[:, 0, 5] = 2.0**20
    (none, token) = said_of_scaling(of_values(("a", "b"), *x))
    assert none == "Static scales are safe for 0 of 1 linear inputs."
    assert token.startswith(f"A scale per token for 1, worst {NAME}: the body of ")
    x[:, :, 5] = 2.0**20
    assert "1 damaged with a scale per token too" in said_of_scaling(of_values(("a",), *x))[1]
    x = gaussian(20)
    x[7, 0, 0] = 64
    (_, unsettled, keep) = said_of_scaling(of_values(("a", "b"), *x))
    assert "its amax has not settled, about 10 more sequences of b" in unsettled
    assert keep == "1 scale hangs on b alone: keep it in the calibration."
    x = gaussian(40)
    x[:, 0, 0] = np.geomspace(4, 32, 40).astype(np.float16)
    assert "1 want a margin, scales up to" in said_of_scaling(of_values(("a",), *x))[1]
    assert said_of_scaling(of_values(("a",), *gaussian(3)))[1] == (
        "Not known for 1: too few sequences."
    )
    assert said_of_scaling(build(sites={})) == []
    row = scaling_row(scaling(of_values(("a", "b"), *gaussian(20))))
    assert (row["need"], row["counts"]["static"]) == ("static", 1)


def test_kv_cache() -> None:
    large, small = cache(1e6), cache(2.0**-11)
    profile = of(k0=cache(1, 1), v0=small, k1=np.concatenate([large, cache(1.0)], axis=1))
    calibrated, unit = kvcache_sentences(kv_cache(profile))
    assert "1 safe, 1 unsafe of 2 layers; lowest body SQNR" in calibrated
    assert "(layers.1.self_attn k head 1)" in calibrated
    assert "all 2 layers unsafe; 1 of 3 tensors are clipped, the largest" in unit
    assert "× over (layers.1.self_attn k), underflow at most" in unit
    assert "(layers.0.self_attn v)" in unit
    (plain, one) = kvcache_sentences(kv_cache(of(k0=cache(1.0))))
    assert "all 1 layers safe" in plain
    assert "nothing is clipped" in one
    layers = kv_cache(kl(of(k0=cache(1.0)), kl0=0.02, unit0=0.003))
    assert kvcache_sentences(layers)[-1] == (
        "In nats per token a layer's cache costs at most 0.020 (layers.0.self_attn), "
        "with scale 1 0.0030 (layers.0.self_attn)."
    )
    (row,) = kvcache_rows(layers)
    assert (row["kl_nats"], row["unit_kl_nats"]) == pytest.approx((0.02, 0.003))
    assert kvcache_sentences([]) == []
    assert [head["head"] for head in kvcache_rows(kv_cache(profile))[0]["k"]["heads"]] == [1, 0]


def test_comparison() -> None:
    a, b = with_outlier(1), with_outlier(1.5e5)
    said = " ".join(comparison_sentences(compare_profiles(a, b)))
    assert f"Newly damaged (body SQNR under 25 dB): {NAME}" in said
    assert f"most severe in both is {NAME}" in said
    assert f"New outlier channels: {NAME} channel 5" in said
    assert "fell most" not in said
    back = " ".join(comparison_sentences(compare_profiles(b, a)))
    assert "clip nothing of B" in back
    assert "The amax fell most at" in back


def silent() -> Profile:
    return of_values(("a", "b"), *[np.zeros((4, CHANNELS), np.float32)] * 20)


@pytest.mark.parametrize("profile", [build(), build(tags=("one",)), silent(), with_outlier(1e5)])
def test_every_row_is_json(profile: Profile) -> None:
    rows = [
        headroom_rows(tag_headroom(profile)),
        convergence_rows(convergence(profile)),
        scaling_row(scaling(profile)),
        kvcache_rows(kv_cache(profile)),
        comparison_row(compare_profiles(profile, profile)),
    ]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_foreign_names_do_nothing_to_a_terminal() -> None:
    profile = build(indices=range(40), tags=("a", EVIL))
    profile.sites = {
        site._replace(module=site.module + EVIL): record for site, record in profile.sites.items()
    }
    profile.aliases = {}
    said = [
        *headroom_sentences(tag_headroom(profile)),
        *convergence_sentences(convergence(profile)),
        *scaling_sentences(scaling(profile)),
        *kvcache_sentences(kv_cache(profile)),
        *comparison_sentences(compare_profiles(profile, replace(profile, tags=("x", "y" + EVIL)))),
    ]
    assert "[red]" in " ".join(said)
    assert not any("\x1b" in sentence or "\u202e" in sentence for sentence in said)
