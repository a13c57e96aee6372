"""Write a profile: plain HDF5, compressed, checksummed, and whole or not at all.

The file is built in memory and lands by fsync + rename, so that a crash or a full disk
leaves either the old file or the new one, never half of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fp8scope.artefacts.atomic import write_atomically
from fp8scope.core.sites import Role, Site
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

Record = SiteRecord | WeightRecord | ExpertRecord | ExpertWeightRecord


def write_profile(profile: Profile, path: Path, compression: int = 4) -> None:
    """Write to `path` atomically. Raises CannotWrite (disk full, no permission)."""
    write_atomically(path, profile_bytes(profile, compression))


def profile_bytes(profile: Profile, compression: int = 4) -> bytes:
    """The HDF5 file as bytes."""
    # v110 object headers carry checksums, so attributes and links are covered as well
    with h5py.File(
        "profile", "w", driver="core", backing_store=False, libver=("v110", "v110")
    ) as file:
        _Writer(file, compression).write(profile)
        file.flush()
        return bytes(file.id.get_file_image())


class _Writer:
    def __init__(self, file: h5py.File, compression: int) -> None:
        self.file = file
        self.compression = compression

    def write(self, profile: Profile) -> None:
        root = self.file.attrs
        root[layout.FORMAT_ATTR] = fixed_text(layout.FORMAT)
        root[layout.VERSION_ATTR] = layout.VERSION
        root[layout.COMPLETE_ATTR] = profile.complete
        root[layout.BATCHES_DONE_ATTR] = profile.batches_done
        for group in (layout.SITES, layout.EXPERTS):
            self.file.create_group(group, track_order=True)  # in the order of the forward
        self.attributes(layout.MODEL, profile.model)
        self.attributes(layout.SETTINGS, profile.settings)
        self.attributes(layout.ENVIRONMENT, profile.environment)
        self.json(layout.CONFIG, profile.config)
        self.json(layout.STRUCTURE, profile.structure.to_json())
        self.json(layout.NOTES, list(profile.notes))
        self.json(layout.TAGS, list(profile.tags))
        self.json(layout.SOURCES, list(profile.sources))
        self.table(layout.SAMPLES, profile.samples)
        self.table(layout.BATCHES, profile.batches)
        self.table(layout.EXCERPTS, profile.excerpts)
        for site, record in profile.sites.items():
            self.record(site_path(site), record, layout.SITE_FIELDS)
        for module, weight in profile.weights.items():
            self.record(site_path(Site(module, Role.WEIGHT)), weight, layout.WEIGHT_FIELDS)
        for site, experts in profile.experts.items():
            self.record(expert_path(site), experts, layout.EXPERT_FIELDS)
        for module, stack in profile.expert_weights.items():
            path = expert_path(Site(module, Role.WEIGHT))
            self.record(path, stack, layout.EXPERT_WEIGHT_FIELDS)
        if profile.sensitivity is not None:
            self.sensitivity(profile.sensitivity)
        for alias, owner in profile.aliases.items():
            self.file[site_path(alias)] = h5py.SoftLink("/" + site_path(owner))

    def sensitivity(self, scored: Sensitivity) -> None:
        self.json(layout.SENSITIVITY_ROWS, [row.to_json() for row in scored.rows])
        for name in layout.SENSITIVITY_FIELDS:
            self.dataset(f"{layout.SENSITIVITY}/{name}", getattr(scored, name))
        attrs = self.file[layout.SENSITIVITY].attrs
        for name in layout.SENSITIVITY_ATTRS:
            attrs[name] = getattr(scored, name)

    def attributes(self, path: str, values: Mapping[str, Any]) -> None:
        attrs = self.file.require_group(path).attrs
        for name, value in values.items():
            attrs[name] = fixed_text(value) if isinstance(value, str) else value

    def json(self, path: str, value: Any) -> None:
        self.dataset(path, np.frombuffer(utf8(json.dumps(value, ensure_ascii=False)), np.uint8))

    def table(self, path: str, table: Table) -> None:
        for name, column in table.items():
            self.dataset(f"{path}/{name}", column)

    def record(self, path: str, record: Record, fields: Mapping[str, layout.Field]) -> None:
        self.file.require_group(path).attrs[layout.ENCODING_ATTR] = fixed_text(record.encoding.name)
        for name, field in fields.items():
            array = getattr(record, name)
            if array is None:
                continue
            if field.windowed:
                self.windowed(f"{path}/{name}", array)
            else:
                self.dataset(f"{path}/{name}", np.asarray(array))

    def windowed(self, path: str, array: NDArray[Any]) -> None:
        used = np.flatnonzero(array.any(axis=tuple(range(array.ndim - 1))))
        first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
        dataset = self.dataset(path, array[..., first:last])
        dataset.attrs[layout.FIRST_BIN_ATTR] = first
        dataset.attrs[layout.BINS_ATTR] = array.shape[-1]

    def dataset(self, path: str, array: NDArray[Any]) -> h5py.Dataset:
        if array.size == 0:  # cannot be chunked
            return self.file.create_dataset(path, data=array)
        return self.file.create_dataset(
            path,
            data=array,
            chunks=array.shape if array.nbytes <= 1 << 20 else True,
            shuffle=True,
            compression="gzip",
            compression_opts=self.compression,
            fletcher32=True,
        )


def fixed_text(text: str) -> NDArray[Any]:
    """A string of fixed length: HDF5 keeps those of variable length where no checksum is."""
    raw = utf8(text)
    return np.array(raw, h5py.string_dtype("utf-8", max(1, len(raw))))


def utf8(text: str) -> bytes:
    """UTF-8; a byte of a file name that is not is written as its escape (`\\udce9`)."""
    return text.encode("utf-8", "backslashreplace")


def site_path(site: Site) -> str:
    """Path of a site's group: `sites/model.layers.0.mlp.down_proj/input`."""
    return f"{layout.SITES}/{site.module}/{site.role}"


def expert_path(site: Site) -> str:
    """Path of the group that tells a site's experts apart."""
    return f"{layout.EXPERTS}/{site.module}/{site.role}"
