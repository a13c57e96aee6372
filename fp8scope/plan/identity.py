"""What a plan says of where it comes from: the model with its modules, and the profile."""

from __future__ import annotations

from dataclasses import asdict

from fp8scope.artefacts.plan import ModelId, Module, ProfileId, Source
from fp8scope.profile.digest import profile_hash
from fp8scope.profile.record import Profile


def model_id(profile: Profile) -> ModelId:
    """The model's identity, as the scan found it."""
    known = ("name", "architecture", "model_type", "config_hash", "weights_hash")
    return ModelId(
        **{key: str(profile.model[key]) for key in known},
        family=profile.structure.family,
        dtype=str(profile.settings["dtype"]),
    )


def profile_id(profile: Profile) -> ProfileId:
    """The profile's identity, and the text that it saw."""
    scored = profile.sensitivity
    return ProfileId(
        profile_hash=profile_hash(profile),
        settings=profile.settings,
        tags=profile.tags,
        sequences=len(profile.samples["index"]),
        scored_sequences=len(scored.samples) if scored else 0,
        tokens=int(profile.samples["length"].sum()),
        sources=tuple(
            Source(**{key: source[key] for key in Source.model_fields})
            for source in profile.sources
        ),
    )


def modules(profile: Profile) -> tuple[Module, ...]:
    """Every linear, routers and lm_head included, in module order."""
    group_of = {name: group.name for group in profile.structure.groups for name in group.members}
    return tuple(
        Module(**asdict(linear), group=group_of.get(linear.name, linear.name))
        for linear in profile.structure.linears
    )
