"""A hash that says which profile a plan was made from."""

from __future__ import annotations

import hashlib
import json

from fp8scope.profile.record import Profile

NUMBERS = ("samples", "stands_for", "kl_token", "kl_sequence", "kl_measured")


def profile_hash(profile: Profile) -> str:
    """SHA-256, in hex, over what a plan depends on: the model, the settings, which sequences of
    which tag, and every number of the second pass. When and where it was scanned is left out, and
    so is the statistics' bulk, which follows from model, settings and text.
    """
    model = {key: value for key, value in profile.model.items() if key != "name"}
    samples = [profile.samples[name].tolist() for name in ("tag", "length")]
    digests = [digest.decode() for digest in profile.samples["digest"].tolist()]
    head = [model, profile.settings, profile.structure.to_json(), profile.tags, samples, digests]
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    scored = profile.sensitivity
    if scored is not None:
        digest.update(json.dumps([row.to_json() for row in scored.rows]).encode())
        for name in NUMBERS:
            digest.update(getattr(scored, name).tobytes())
    return digest.hexdigest()
