"""The profile file: reader∘writer is the identity, and h5py alone can read it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fp8scope.core.choices import Kind, Part, Term
from fp8scope.core.magnitude import BF16, FP16, FP32, Encoding
from fp8scope.core.schemes import CANDIDATES, KV_CANDIDATES
from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import Structure
from fp8scope.errors import (
    BadInput,
    CannotWrite,
    DamagedProfile,
    Fp8scopeError,
    NotAProfile,
    ProfileVersion,
)
from fp8scope.observe.sensitivity import SensitivityOptions
from fp8scope.profile import layout
from fp8scope.profile.reader import open_profile, read_profile
from fp8scope.profile.record import (
    ExpertRecord,
    ExpertWeightRecord,
    Profile,
    SiteRecord,
    WeightRecord,
    empty_table,
)
from fp8scope.profile.writer import profile_bytes, write_profile
from tests.profiles import (
    K_INPUT,
    KEYS,
    Q_INPUT,
    K,
    Q,
    build,
    differences,
    invented_sensitivity,
    same,
    weight_record,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "profile-format.md"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "p.h5"
    write_profile(whole(), path)
    return path


def whole() -> Profile:
    """A profile with all there can be."""
    return build(full=True, sensitivity=invented_sensitivity(range(6)))


@pytest.mark.parametrize("full", [False, True])
def test_reading_what_was_written_is_the_identity(tmp_path: Path, full: bool) -> None:
    original = whole() if full else build()
    for compression in (1, 4):
        write_profile(original, tmp_path / "p.h5", compression)
        assert differences(read_profile(tmp_path / "p.h5"), original) == []
    assert [path.name for path in tmp_path.iterdir()] == ["p.h5"]


def test_a_profile_without_sites_or_excerpts_is_one_too(tmp_path: Path) -> None:
    empty = build(
        sites={},
        weights={},
        aliases={},
        experts={},
        expert_weights={},
        excerpts=empty_table(layout.EXCERPT_COLUMNS),
        notes=(),
        model={"name": "", "hash": "x" * 3000},
        structure=Structure(None, (), (), (), (), ()),
    )
    write_profile(empty, tmp_path / "p.h5")
    assert differences(read_profile(tmp_path / "p.h5"), empty) == []


@pytest.mark.parametrize("kind", [FP16, FP32], ids=lambda kind: kind.name)
def test_other_encodings(tmp_path: Path, kind: Encoding) -> None:
    record = SiteRecord.empty(kind, tags=2, samples=6, channels=3)
    record.sequence_binades[2, kind.binades - 1] = 7
    weights = {Q: weight_record(np.ones((2, 2), np.float32), kind)}
    profile = build(sites={Q_INPUT: record}, weights=weights)
    write_profile(profile, tmp_path / "p.h5")
    assert differences(read_profile(tmp_path / "p.h5"), profile) == []


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    binades=hnp.arrays(
        np.uint32,
        (6, BF16.binades),
        elements=st.integers(0, 2**32 - 1),
        fill=st.just(0),
    )
)
def test_windows_lose_nothing(tmp_path: Path, binades: NDArray[np.uint32]) -> None:
    record = SiteRecord.empty(BF16, tags=2, samples=6, channels=1)
    record.sequence_binades = binades
    profile = build(sites={Q_INPUT: record}, weights={}, aliases={})
    write_profile(profile, tmp_path / "p.h5", 1)
    assert same(read_profile(tmp_path / "p.h5").sites[Q_INPUT].sequence_binades, binades)


def test_sites_are_read_as_they_are_asked_for(written: Path) -> None:
    profile = open_profile(written)
    assert differences(profile, whole()) == []
    assert len(profile.sites) == 3
    with pytest.raises(KeyError):
        profile.sites[K_INPUT]
    assert same(profile.site(K_INPUT).histogram, profile.sites[Q_INPUT].histogram)
    assert profile.sharers(Q_INPUT) == (Q_INPUT.module, K_INPUT.module)
    assert profile.sites[Q_INPUT] is profile.sites[Q_INPUT], "read twice in a row"


def test_the_same_profile_gives_the_same_bytes() -> None:
    assert profile_bytes(build()) == profile_bytes(build())


# ---- the file as others see it


def _datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    found: dict[str, h5py.Dataset] = {}
    file.visititems(
        lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None
    )
    return found


def test_everything_is_checked_and_compressed(written: Path) -> None:
    with h5py.File(written) as file:
        datasets = _datasets(file)
        assert len(datasets) > 60
        for name, dataset in datasets.items():
            assert dataset.fletcher32, name
            assert dataset.compression == "gzip", name
            assert dataset.shuffle, name


def test_no_string_is_where_hdf5_keeps_no_checksum(written: Path) -> None:
    def check(name: str, item: h5py.Group | h5py.Dataset) -> None:
        for attribute in item.attrs:
            kind = item.attrs.get_id(attribute).get_type()
            assert not (isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str()), name

    with h5py.File(written) as file:
        check("/", file)
        file.visititems(check)


def test_plain_h5py_reads_numbers_and_follows_aliases(written: Path) -> None:
    expected = build(full=True)
    with h5py.File(written) as file:
        assert file.attrs["format"].decode() == "fp8scope-profile"
        assert file.attrs["version"] == 1
        link = file.get(f"sites/{K_INPUT.module}/input", getlink=True)
        assert isinstance(link, h5py.SoftLink)
        alias = file[f"sites/{K_INPUT.module}/input"]
        assert alias == file[f"sites/{Q_INPUT.module}/input"]
        assert np.array_equal(alias["amax"][()], expected.sites[Q_INPUT].amax)
        assert json.loads(file["text/tags"][()].tobytes()) == ["prose", "code"]
        stored = file[f"sites/{KEYS.module}/k/histogram"]
        first, bins = int(stored.attrs["first_bin"]), int(stored.attrs["bins"])
        assert bins == 32768
        window = expected.sites[KEYS].histogram[..., first : first + stored.shape[-1]]
        assert np.array_equal(stored[()], window)
        assert window.sum() == expected.sites[KEYS].elements.sum()


@pytest.mark.parametrize(
    ("record", "table", "site", "there"),
    [
        (SiteRecord, layout.SITE_FIELDS, Q_INPUT, {"", "full"}),
        (SiteRecord, layout.SITE_FIELDS, KEYS, {"", "kv"}),
        (WeightRecord, layout.WEIGHT_FIELDS, Site(Q, Role.WEIGHT), {"", "full"}),
        (ExpertRecord, layout.EXPERT_FIELDS, K_INPUT, {""}),
        (ExpertWeightRecord, layout.EXPERT_WEIGHT_FIELDS, Site(K, Role.WEIGHT), {""}),
    ],
)
def test_layout_records_and_file_agree(
    record: type[Any],
    table: Mapping[str, layout.Field],
    site: Site,
    there: set[str],
    written: Path,
) -> None:
    attributes = {field.name for field in fields(record)} - {"encoding"}
    assert attributes == set(table)
    optional = {field.name for field in fields(record) if field.default is None}
    assert optional == {name for name, field in table.items() if field.only}
    table = {name: field for name, field in table.items() if field.only in there}
    with h5py.File(written) as file:
        place = "experts" if record in (ExpertRecord, ExpertWeightRecord) else "sites"
        group = file[f"{place}/{site.module}/{site.role}"]
        assert set(group) == set(table)
        for name, field in table.items():
            assert group[name].dtype == field.dtype
            assert group[name].ndim == len(field.dims)
            assert (layout.FIRST_BIN_ATTR in group[name].attrs) == field.windowed


def test_the_document_names_everything() -> None:
    text = DOCUMENT.read_text()
    rows = re.findall(r"^\| `([a-z_/0-9]+)` \|(.*)$", text, re.M)
    for table, heading in (
        (layout.SITE_FIELDS, "## Activation sites"),
        (layout.WEIGHT_FIELDS, "## Weights"),
        (layout.EXPERT_FIELDS, "### Inputs of experts"),
        (layout.EXPERT_WEIGHT_FIELDS, "### Weights of experts"),
        (layout.SENSITIVITY_FIELDS, "### Scores"),
    ):
        section = re.split(r"\n###? ", text.split(heading)[1])[0]
        described = dict(re.findall(r"^\| `([a-z_]+)` \|(.*)$", section, re.M))
        assert list(described) == list(table)
        for name, field in table.items():
            axes = ", ".join(field.dims)
            assert f"[{axes}]" in described[name], name
            assert field.dtype in described[name], name
            assert ("windowed" in described[name]) == field.windowed, name
            assert ("full" in described[name]) == (field.only == "full"), name
            assert ("`k` and `v` only" in described[name]) == (field.only == "kv"), name
            assert field.combine.value in described[name], name
    named = {name for name, _ in rows}
    for columns in (layout.SAMPLE_COLUMNS, layout.BATCH_COLUMNS, layout.EXCERPT_COLUMNS):
        assert set(columns) <= named
    for name in (
        *(layout.FORMAT, layout.MODEL, layout.SETTINGS, layout.ENVIRONMENT, layout.CONFIG),
        *(layout.STRUCTURE, layout.NOTES, layout.TAGS, layout.SOURCES, layout.SAMPLES),
        *(layout.BATCHES, layout.EXCERPTS, layout.FORMAT_ATTR, layout.VERSION_ATTR),
        *(layout.COMPLETE_ATTR, layout.BATCHES_DONE_ATTR, layout.ENCODING_ATTR),
        *(layout.EXPERTS, layout.SENSITIVITY, layout.SENSITIVITY_ROWS, *layout.SENSITIVITY_ATTRS),
        *SensitivityOptions().settings(),
        *map(str, (*Kind, *Part)),
        *(*Term._fields, *CANDIDATES, *KV_CANDIDATES),
        *(layout.FIRST_BIN_ATTR, layout.BINS_ATTR, *layout.TOP_LISTS, *layout.ERROR_MEASURES),
        *(str(role) for role in Role),
        *(str(way) for way in layout.Combine),
    ):
        assert re.search(rf"[` ]{re.escape(name)}[`/, ]", text), name


def test_the_example_of_the_document_runs(
    written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S)
    monkeypatch.chdir(written.parent)
    written.with_name("profile.h5").write_bytes(written.read_bytes())
    exec(compile(example, str(DOCUMENT), "exec"), {})  # noqa: S102
    shown = capsys.readouterr().out
    record = build(full=True).sites[Q_INPUT]
    assert f"{Q} input" in shown
    assert f"{float(record.amax.max()):.4g}" in shown


# ---- refusals


def _refusal(path: Path) -> Fp8scopeError:
    with pytest.raises(Fp8scopeError) as caught:
        read_profile(path)
    assert caught.value.remedy
    assert str(path) in caught.value.what
    return caught.value


def test_what_is_not_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    assert type(_refusal(path)) is BadInput
    assert type(_refusal(tmp_path)) is BadInput
    for content in (b"", b"hello", b"\x89HDF", b"PK\x03\x04" + bytes(5000)):
        path.write_bytes(content)
        assert "not an HDF5 file" in _refusal(path).what
    for value in (None, "anndata", b"\xff\xfe", 7, [1, 2]):
        with h5py.File(path, "w") as file:
            if value is not None:
                file.attrs["format"] = value
        assert isinstance(_refusal(path), NotAProfile | DamagedProfile)


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_version_is_named(tmp_path: Path, version: int) -> None:
    path = tmp_path / "p.h5"
    write_profile(build(), path)
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = version
    refusal = _refusal(path)
    assert isinstance(refusal, ProfileVersion)
    assert f"of version {version}" in refusal.what
    assert "reads 1" in refusal.what


def test_an_unfinished_scan_is_not_a_profile(tmp_path: Path) -> None:
    write_profile(build(complete=False), tmp_path / "p.h5")
    refusal = _refusal(tmp_path / "p.h5")
    assert isinstance(refusal, DamagedProfile)
    assert "--resume" in refusal.remedy
    assert not read_profile(tmp_path / "p.h5", unfinished=True).complete


def _drop(file: h5py.File) -> None:
    del file[f"sites/{Q}/input/amax"]


def _miscount(file: h5py.File) -> None:
    file[f"sites/{Q}/input/elements"][0] += 1


def _untag(file: h5py.File) -> None:
    del file["text/tags"]


def _retype(file: h5py.File) -> None:
    del file[f"sites/{Q}/input/zeros"]
    file[f"sites/{Q}/input/zeros"] = np.zeros((2, 1), np.float32)


def _group_for_dataset(file: h5py.File) -> None:
    del file["notes"]
    file.create_group("notes")


def _encode(file: h5py.File) -> None:
    file[f"sites/{Q}/input"].attrs["encoding"] = "float64"


@pytest.mark.parametrize(
    "harm",
    [_drop, _miscount, _untag, _retype, _group_for_dataset, _encode],
    ids=lambda f: f.__name__,
)
def test_a_profile_that_contradicts_itself_is_damaged(tmp_path: Path, harm: Any) -> None:
    path = tmp_path / "p.h5"
    write_profile(build(), path)
    with h5py.File(path, "r+") as file:
        harm(file)
    assert isinstance(_refusal(path), DamagedProfile)


# ---- damage: never wrong numbers


def _small() -> Profile:
    profile = build(indices=range(2))
    site = profile.sites[Q_INPUT]
    weights = {Q: profile.weights[Q]}
    return build(
        indices=range(2),
        sites={Q_INPUT: site},
        weights=weights,
        expert_weights={},
        sensitivity=invented_sensitivity(range(2), every=1),
    )


def _verdict(path: Path, data: bytes, original: Profile) -> str:
    path.write_bytes(data)
    try:
        found = read_profile(path)
    except (DamagedProfile, NotAProfile):
        return "refused"
    return "; ".join(differences(found, original)) or "equal"


def test_truncation_is_always_seen(tmp_path: Path) -> None:
    original = _small()
    whole = profile_bytes(original)
    rng = np.random.default_rng(1)
    lengths = {0, 1, 7, 8, 9, 48, 512, 4096, len(whole) - 1, len(whole) - 4096}
    for length in lengths | set(rng.integers(0, len(whole), 150).tolist()):
        assert _verdict(tmp_path / "p.h5", whole[:length], original) == "refused", length


def test_a_flipped_bit_never_gives_wrong_numbers(tmp_path: Path) -> None:
    original = _small()
    whole = profile_bytes(original)
    rng = np.random.default_rng(2)
    verdicts = []
    for at in (*range(64), *rng.integers(0, len(whole), 300).tolist()):
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        verdicts.append(_verdict(tmp_path / "p.h5", bytes(data), original))
        assert verdicts[-1] in {"refused", "equal"}, at
    # bytes that nobody reads (gaps between objects) are the only ones that may pass
    assert verdicts.count("refused") > len(verdicts) / 2


def test_zeroed_pages_never_give_wrong_numbers(tmp_path: Path) -> None:
    original = _small()
    whole = profile_bytes(original)
    for start in range(0, len(whole), 512):
        data = whole[:start] + bytes(512) + whole[start + 512 :]
        verdict = _verdict(tmp_path / "p.h5", data[: len(whole)], original)
        assert verdict in {"refused", "equal"}, start


def test_damage_in_a_site_is_seen_when_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "p.h5"
    write_profile(build(), path)
    with h5py.File(path) as file:
        place = file[f"sites/{Q}/input/histogram"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[place + 10] ^= 4
    path.write_bytes(bytes(data))
    profile = open_profile(path)
    assert Q_INPUT in profile.sites
    with pytest.raises(DamagedProfile, match="truncated or corrupt"):
        profile.sites[Q_INPUT]


def test_writing_refuses_in_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "no folder" / "p.h5", Path("/dev/null/p.h5")):
        with pytest.raises(CannotWrite, match="cannot write"):
            write_profile(build(), path)
