"""Find the module that a person means."""

from __future__ import annotations

from difflib import get_close_matches

from fp8scope.errors import BadInput
from fp8scope.profile.record import Profile


def find_module(profile: Profile, name: str) -> str:
    """The module or fused group called `name`, or the only one whose name ends in `.name`.

    Raises BadInput, which names what is near.
    """
    sites = (*profile.sites, *profile.aliases)
    groups = (group.name for group in profile.structure.groups)
    modules = dict.fromkeys([*(site.module for site in sites), *profile.weights, *groups])
    if name in modules:
        return name
    ending = [module for module in modules if module.endswith(f".{name}")]
    if len(ending) == 1:
        return ending[0]
    near = ending or [module for module in modules if name in module]
    near = near or get_close_matches(name, modules, cutoff=0.3) or list(modules)
    what = f"{len(ending)} modules are called {name}" if ending else f"there is no module {name}"
    shown = ", ".join(near[:4]) + (", …" if len(near) > 4 else "")
    raise BadInput(f"{what} in the profile", f"give one of {shown}")
