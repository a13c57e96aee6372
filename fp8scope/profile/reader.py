"""Read a profile: refuse what is not ours, what is of another version, what is damaged.

`open_profile` reads the tables at once and each site when it is asked for, so that a large
profile opens quickly; `read_profile` reads everything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from fp8scope.core.choices import Row
from fp8scope.core.magnitude import encoding
from fp8scope.core.sites import Role, Site
from fp8scope.core.structure import Structure
from fp8scope.errors import BadInput, DamagedProfile, NotAProfile, ProfileVersion
from fp8scope.profile import layout
from fp8scope.profile.record import (
    ExpertRecord,
    ExpertWeightRecord,
    Profile,
    SiteRecord,
    Table,
    WeightRecord,
)
from fp8scope.profile.sensitivity import Sensitivity
from fp8scope.profile.writer import expert_path, site_path

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# what HDF5, JSON and our own decoding raise on a broken file
BROKEN = (
    *(OSError, KeyError, RuntimeError, ValueError, TypeError, IndexError),
    *(AttributeError, ArithmeticError, MemoryError, BadInput),
)
KEPT = 8  # records: what is said of one fused group is read once
K = TypeVar("K")
R = TypeVar("R")


def open_profile(path: str | Path, *, unfinished: bool = False) -> Profile:
    """Open a profile; its sites are read as they are asked for.

    Raises NotAProfile, ProfileVersion, DamagedProfile (truncated, corrupt, or an unfinished
    partial unless `unfinished`), BadInput (no such file). Reading a site may raise
    DamagedProfile as well.
    """
    profile, _ = _open(Path(path), unfinished=unfinished)
    return profile


def read_profile(path: str | Path, *, unfinished: bool = False) -> Profile:
    """Read a whole profile into memory. Raises as `open_profile`."""
    profile, file = _open(Path(path), unfinished=unfinished)
    with file:
        profile.sites = dict(profile.sites)
        profile.weights = dict(profile.weights)
        profile.experts = dict(profile.experts)
        profile.expert_weights = dict(profile.expert_weights)
    return profile


def _open(path: Path, *, unfinished: bool) -> tuple[Profile, h5py.File]:
    """The profile and the open file that its sites are read from; closed if refused."""
    _check_signature(path)
    with _damage(path):
        file = h5py.File(path, "r")
    try:
        _check_header(path, file)
        with _damage(path):
            profile = _Reader(path, file).read()
        if not (profile.complete or unfinished):
            raise DamagedProfile(
                f"{path} is the unfinished part of a scan",
                "repeat that scan's command with --resume to finish it",
            )
    except BaseException:
        file.close()
        raise
    return profile, file


def _check_signature(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(len(SIGNATURE))
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", "check the path") from None
    if start != SIGNATURE:
        raise NotAProfile(
            f"{path} is not an fp8scope profile (not an HDF5 file)",
            "give a file written by `fp8scope scan`",
        )


def _check_header(path: Path, file: h5py.File) -> None:
    with _damage(path):
        found = _plain(file.attrs.get(layout.FORMAT_ATTR))
        version = _plain(file.attrs.get(layout.VERSION_ATTR))
    if not (isinstance(found, str) and found == layout.FORMAT and isinstance(version, int)):
        raise NotAProfile(
            f"{path} is an HDF5 file but not an fp8scope profile",
            "give a file written by `fp8scope scan`",
        )
    if version != layout.VERSION:
        raise ProfileVersion(
            f"{path} is a profile of version {version}, this fp8scope reads {layout.VERSION}",
            "scan again, or use the release that wrote it",
        )


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What HDF5 and our own decoding raise on a broken file, as one refusal."""
    try:
        yield
    except BROKEN as error:
        cause = " ".join(str(error).split())[:160]
        raise DamagedProfile(
            f"{path} is truncated or corrupt ({cause})", "scan again, or restore it from a copy"
        ) from error


def _plain(value: Any) -> Any:
    """An attribute as a Python string, number or bool."""
    if isinstance(value, bytes):  # np.bytes_ too
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value


class _Reader:
    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self.file = file

    def read(self) -> Profile:
        attrs = self.file.attrs
        owners, aliases = self.sites()
        samples = self.table(layout.SAMPLES, layout.SAMPLE_COLUMNS)
        tags = tuple(self.json(layout.TAGS))
        activations = [site for site in owners if site.role is not Role.WEIGHT]
        modules = [site.module for site in owners if site.role is Role.WEIGHT]
        experts = self.experts()
        inputs = [site for site in experts if site.role is not Role.WEIGHT]
        stacks = [site.module for site in experts if site.role is Role.WEIGHT]
        return Profile(
            model=self.attributes(layout.MODEL),
            settings=self.attributes(layout.SETTINGS),
            environment=self.attributes(layout.ENVIRONMENT),
            config=self.json(layout.CONFIG),
            structure=Structure.from_json(self.json(layout.STRUCTURE)),
            tags=tags,
            sources=tuple(self.json(layout.SOURCES)),
            samples=samples,
            batches=self.table(layout.BATCHES, layout.BATCH_COLUMNS),
            sites=_Lazy(activations, lambda site: self.activation(site, len(tags), samples)),
            weights=_Lazy(modules, self.weight),
            aliases=aliases,
            experts=_Lazy(inputs, lambda site: self.expert(site, len(tags))),
            expert_weights=_Lazy(stacks, self.expert_weight),
            excerpts=self.table(layout.EXCERPTS, layout.EXCERPT_COLUMNS),
            notes=tuple(self.json(layout.NOTES)),
            sensitivity=self.sensitivity(samples),
            batches_done=int(attrs[layout.BATCHES_DONE_ATTR]),
            complete=bool(attrs[layout.COMPLETE_ATTR]),
        )

    def sites(self) -> tuple[list[Site], dict[Site, Site]]:
        owners: list[Site] = []
        aliases: dict[Site, Site] = {}
        for module, roles in self.file[layout.SITES].items():
            for name in roles:
                site, link = Site(module, Role(name)), roles.get(name, getlink=True)
                if isinstance(link, h5py.SoftLink):
                    *_, owner, role = link.path.split("/")
                    aliases[site] = Site(owner, Role(role))
                else:
                    owners.append(site)
        return owners, aliases

    def experts(self) -> list[Site]:
        if layout.EXPERTS not in list(self.file):  # in older files; `in file` hides damage
            return []
        groups = self.file[layout.EXPERTS].items()
        return [Site(module, Role(name)) for module, roles in groups for name in roles]

    def sensitivity(self, samples: Table) -> Sensitivity | None:
        if layout.SENSITIVITY not in list(self.file):
            return None
        group = self.file[layout.SENSITIVITY]
        rows = tuple(Row.from_json(row) for row in self.json(layout.SENSITIVITY_ROWS))
        fields = layout.SENSITIVITY_FIELDS
        arrays: dict[str, Any] = {
            name: self.array(group[name], field) for name, field in fields.items()
        }
        shape = (len(rows), len(arrays["samples"]))
        known = np.isin(arrays["samples"], np.arange(len(samples["index"])))
        if any(array.shape not in (shape, shape[1:]) for array in arrays.values()) or not (
            known.all() and all(row.terms for row in rows)
        ):
            raise ValueError("the sensitivity does not fit its rows and samples")
        done: dict[str, Any] = {n: int(group.attrs[n]) for n in layout.SENSITIVITY_ATTRS}
        return Sensitivity(rows=rows, **arrays, **done)

    def attributes(self, path: str) -> dict[str, Any]:
        return {name: _plain(value) for name, value in self.file[path].attrs.items()}

    def json(self, path: str) -> Any:
        return json.loads(self.file[path][()].tobytes())

    def table(self, path: str, columns: Mapping[str, str]) -> Table:
        return {name: self.file[f"{path}/{name}"][()] for name in columns}

    def activation(self, site: Site, tags: int, samples: Table) -> SiteRecord:
        with _damage(self.path):
            record = SiteRecord(**self.arrays(site_path(site), layout.SITE_FIELDS))
            if record.tags != tags or len(record.sequence_amax) != len(samples["index"]):
                raise ValueError(f"{site} does not fit the file's tags and samples")
            if not np.array_equal(record.histogram.sum(axis=1), record.elements):
                raise ValueError(f"{site}: histogram and element count disagree")
            return record

    def weight(self, module: str) -> WeightRecord:
        with _damage(self.path):
            path = site_path(Site(module, Role.WEIGHT))
            return WeightRecord(**self.arrays(path, layout.WEIGHT_FIELDS))

    def expert(self, site: Site, tags: int) -> ExpertRecord:
        with _damage(self.path):
            record = ExpertRecord(**self.arrays(expert_path(site), layout.EXPERT_FIELDS))
            if len(record.tokens) != tags:
                raise ValueError(f"the experts of {site} do not fit the file's tags")
            return record

    def expert_weight(self, module: str) -> ExpertWeightRecord:
        with _damage(self.path):
            path = expert_path(Site(module, Role.WEIGHT))
            return ExpertWeightRecord(**self.arrays(path, layout.EXPERT_WEIGHT_FIELDS))

    def arrays(self, path: str, fields: Mapping[str, layout.Field]) -> dict[str, Any]:
        """Encoding and datasets of a record, by the names that it has in memory."""
        group = self.file[path]
        return {
            "encoding": encoding(_plain(group.attrs[layout.ENCODING_ATTR])),
            **{
                name: self.array(group[name], field)
                for name, field in fields.items()
                if name in group or not field.only
            },
        }

    def array(self, dataset: h5py.Dataset, field: layout.Field) -> NDArray[Any]:
        stored: NDArray[Any] = dataset[()]
        if stored.dtype != field.dtype or stored.ndim != len(field.dims):
            raise ValueError(f"{dataset.name} is not {field.dtype} {field.dims}")
        if not field.windowed:
            return stored
        first = int(dataset.attrs[layout.FIRST_BIN_ATTR])
        bins = int(dataset.attrs[layout.BINS_ATTR])
        whole = np.zeros((*stored.shape[:-1], bins), stored.dtype)
        whole[..., first : first + stored.shape[-1]] = stored
        return whole


class _Lazy(Mapping[K, R], Generic[K, R]):
    """A mapping whose values are read when asked for; the last `KEPT` are kept."""

    def __init__(self, keys: list[K], read: Callable[[K], R]) -> None:
        self._keys = dict.fromkeys(keys)
        self._read = lru_cache(maxsize=KEPT)(read)

    def __getitem__(self, key: K) -> R:
        if key not in self._keys:
            raise KeyError(key)
        return self._read(key)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[K]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)
