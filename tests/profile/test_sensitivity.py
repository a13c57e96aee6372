"""What the second pass found, in the file: round trip, damage, merged parts, partials."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fp8scope.core.choices import Kind, Part, Row, Term
from fp8scope.errors import DamagedProfile
from fp8scope.profile import layout
from fp8scope.profile.merge import merge_profiles
from fp8scope.profile.partial import Partials
from fp8scope.profile.reader import read_profile
from fp8scope.profile.record import Profile
from fp8scope.profile.sensitivity import Sensitivity
from fp8scope.profile.writer import write_profile
from tests.profiles import Array, build, differences, invented_sensitivity, same

Json = list[Any]
LEFT_OUT = "sensitivity is left out"


def part(plan: str, indices: range, every: int = 2) -> Profile:
    return build(plan, indices, sensitivity=invented_sensitivity(indices, every))


def sensitivity(profile: Profile) -> Sensitivity:
    assert profile.sensitivity is not None
    return profile.sensitivity


# ---- round trip

names = st.text(min_size=1, max_size=12).filter(lambda name: name.isprintable())
alphas = st.none() | st.floats(0, 1)
terms = st.builds(Term, names, names, alphas, alphas, st.sampled_from(Part))
rows = st.builds(Row, st.sampled_from(Kind), st.lists(terms, min_size=1, max_size=3).map(tuple))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(rows, max_size=4, unique=True),
    samples=st.lists(st.integers(0, 5), max_size=6, unique=True),
    data=st.data(),
)
def test_any_rows_and_numbers_come_back_bit_for_bit(
    tmp_path: Path, rows: list[Row], samples: list[int], data: st.DataObject
) -> None:
    zeros, ones = np.zeros(100, np.int32), np.ones(100, np.int32)
    found = Sensitivity.empty(rows, samples, zeros, ones)
    for array in (found.kl_token, found.kl_sequence, found.kl_measured):
        for place in np.ndindex(array.shape):
            array[place] = data.draw(st.floats())
    found.batches_done = data.draw(st.integers(0, 2**40))
    original = build(sites={}, weights={}, aliases={}, sensitivity=found)
    write_profile(original, tmp_path / "p.h5", 1)
    assert differences(read_profile(tmp_path / "p.h5"), original) == []


def test_rows_are_json_that_anyone_can_read(tmp_path: Path) -> None:
    write_profile(part("plan", range(6)), tmp_path / "p.h5")
    with h5py.File(tmp_path / "p.h5") as file:
        first, *others = json.loads(file["sensitivity/rows"][()].tobytes())
        assert file["sensitivity/kl_token"].shape == (1 + len(others), 3)
        assert file["sensitivity"].attrs["measured_done"] == 2
    (term,) = first["terms"]
    assert first["kind"] == "group"
    assert term == {
        "group": "model.layers.0.self_attn.qk_proj",
        "candidate": "fp8_tensor",
        "alpha": None,
        "folded": None,
        "part": "both",
    }


def test_a_profile_without_is_one_without(tmp_path: Path) -> None:
    write_profile(build(), tmp_path / "p.h5")
    assert read_profile(tmp_path / "p.h5").sensitivity is None
    with h5py.File(tmp_path / "p.h5") as file:
        assert layout.SENSITIVITY not in file


# ---- damage


def _put(name: str, change: Callable[[Array], Array]) -> Callable[[h5py.File], None]:
    def harm(file: h5py.File) -> None:
        old = file[f"sensitivity/{name}"][()]
        del file[f"sensitivity/{name}"]
        file[f"sensitivity/{name}"] = change(old)

    return harm


def _rows(change: Callable[[Json], Json]) -> Callable[[h5py.File], None]:
    def changed(old: Array) -> Array:
        text = json.dumps(change(json.loads(old.tobytes())))
        return np.frombuffer(text.encode(), np.uint8)

    return _put("rows", changed)


def _drop(name: str) -> Callable[[h5py.File], None]:
    return lambda file: file.__delitem__(f"sensitivity/{name}")


def _no_attribute(file: h5py.File) -> None:
    del file["sensitivity"].attrs["measured_done"]


def _term(**changes: object) -> Callable[[Json], Json]:
    def change(rows: Json) -> Json:
        rows[0]["terms"][0].update(changes)
        return rows

    return change


HARM = {
    "a sequence less": _put("kl_token", lambda x: x[:, 1:]),
    "a row less": _put("kl_measured", lambda x: x[1:]),
    "one axis": _put("kl_sequence", lambda x: x[0]),
    "float32": _put("kl_token", lambda x: x.astype(np.float32)),
    "beyond the samples": _put("samples", lambda x: x + np.int32(2)),
    "under zero": _put("samples", lambda x: x - np.int32(1)),
    "fewer rows": _rows(lambda rows: rows[1:]),
    "no rows": _rows(lambda rows: []),
    "a row without terms": _rows(lambda rows: [{**rows[0], "terms": []}, *rows[1:]]),
    "no list": _rows(lambda rows: [7] * len(rows)),
    "another kind": _rows(lambda rows: [{**rows[0], "kind": "what"}, *rows[1:]]),
    "another part": _rows(_term(part="upper")),
    "another field": _rows(_term(beta=1)),
    "not JSON": _put("rows", lambda x: x[:-2]),
    "no field": _drop("kl_measured"),
    "no rows at all": _drop("rows"),
    "no attribute": _no_attribute,
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_what_does_not_fit_is_damage(tmp_path: Path, harm: Callable[[h5py.File], None]) -> None:
    path = tmp_path / "p.h5"
    write_profile(part("plan", range(6)), path)
    with h5py.File(path, "r+") as file:
        harm(file)
    with pytest.raises(DamagedProfile, match="truncated or corrupt"):
        read_profile(path)


# ---- merge


def by_digest(profile: Profile) -> dict[bytes, list[bytes]]:
    """The numbers of each scored sequence under its words."""
    found = sensitivity(profile)
    digests = profile.samples["digest"][found.samples].tolist()
    return {
        digest: [found.kl_token[:, i].tobytes(), found.kl_measured[:, i].tobytes()]
        for i, digest in enumerate(digests)
    }


def test_parts_are_laid_end_to_end_under_their_new_numbers() -> None:
    a, b = part("novel", range(5)), part("forum", range(4))
    merged = merge_profiles([a, b])
    found = sensitivity(merged)
    assert found.samples.tolist() == [0, 2, 4, 5, 7]
    assert found.samples.dtype == np.int32
    assert found.rows == sensitivity(a).rows
    for name in ("kl_token", "kl_sequence", "kl_measured"):
        both = [getattr(sensitivity(x), name) for x in (a, b)]
        assert same(getattr(found, name), np.concatenate(both, axis=1)), name
    assert found.batches_done == 5
    assert by_digest(merged) == by_digest(a) | by_digest(b)
    said = [note for note in merged.notes if "sensitivity" in note]
    assert said == ["sensitivity: each part was scored under the static scales of its own text"]


def test_shards_of_one_text_take_the_numbers_of_the_plan() -> None:
    parts = [
        build(indices=indices, sensitivity=invented_sensitivity(indices, 1))
        for indices in ((1, 4), (0, 5), (2, 3))
    ]
    merged = merge_profiles(parts)
    assert sensitivity(merged).samples.tolist() == [0, 1, 2, 3, 4, 5]
    assert by_digest(merged) == {k: v for x in parts for k, v in by_digest(x).items()}
    write = [merge_profiles(order) for order in (parts, parts[::-1])]
    assert by_digest(write[0]) == by_digest(write[1])


def test_a_merged_profile_is_written_and_read(tmp_path: Path) -> None:
    merged = merge_profiles([part("novel", range(5)), part("forum", range(4))])
    write_profile(merged, tmp_path / "p.h5")
    assert differences(read_profile(tmp_path / "p.h5"), merged) == []


@pytest.mark.parametrize("which", [0, 1])
def test_one_part_without_leaves_it_out_and_says_so(which: int) -> None:
    parts = [part("novel", range(5)), part("forum", range(4))]
    parts[which].sensitivity = None
    merged = merge_profiles(parts)
    assert merged.sensitivity is None
    assert [note for note in merged.notes if LEFT_OUT in note]


def test_unlike_rows_leave_it_out_and_say_so() -> None:
    a, b = part("novel", range(5)), part("forum", range(4))
    old = sensitivity(b)
    b.sensitivity = replace(old, rows=(replace(old.rows[0], kind=Kind.PAIR), *old.rows[1:]))
    merged = merge_profiles([a, b])
    assert merged.sensitivity is None
    assert [note for note in merged.notes if LEFT_OUT in note]


def test_no_part_with_it_is_nothing_to_say() -> None:
    merged = merge_profiles([build("novel"), build("forum")])
    assert merged.sensitivity is None
    assert not any("sensitivity" in note for note in merged.notes)


# ---- partials


def unfinished(batches: int, scored: int, measured: int) -> Profile:
    found = replace(invented_sensitivity(range(6)), batches_done=scored, measured_done=measured)
    return build(complete=False, batches_done=batches, sensitivity=found)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ((3, 0, 0), (3, 1, 0)),
        ((3, 2, 0), (3, 2, 1)),
        ((3, 9, 9), (4, 0, 0)),
        ((3, 1, 9), (3, 2, 0)),
    ],
)
@pytest.mark.parametrize("turn", [1, -1])
def test_the_partial_that_got_furthest_is_the_one_to_go_on_from(
    older: tuple[int, int, int], newer: tuple[int, int, int], turn: int, tmp_path: Path
) -> None:
    partials = Partials(tmp_path / "out.h5")
    for progress in (older, newer)[::turn]:
        partials.save(unfinished(*progress))
    kept = Partials(tmp_path / "out.h5").load()
    assert kept is not None
    assert kept.progress == newer
    assert differences(kept, unfinished(*newer)) == []


def test_a_partial_of_the_first_pass_is_behind_one_of_the_second(tmp_path: Path) -> None:
    partials = Partials(tmp_path / "out.h5")
    partials.save(unfinished(3, 1, 0))
    partials.save(build(complete=False, batches_done=3))
    kept = Partials(tmp_path / "out.h5").load()
    assert kept is not None
    assert kept.progress == (3, 1, 0)
