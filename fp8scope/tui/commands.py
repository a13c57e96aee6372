"""The command palette: every module by name, every key of every screen as words."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast

from rich.text import Text
from textual.binding import Binding
from textual.command import CommandPalette, DiscoveryHit, Hit, Hits, Provider
from textual.system_commands import SystemCommandsProvider
from textual.types import IgnoreReturnCallbackType

if TYPE_CHECKING:
    from fp8scope.tui.app import BrowseApp


class _Command(NamedTuple):
    name: str
    help: str
    run: IgnoreReturnCallbackType


class _Ours(Provider):
    """Fuzzy matches among `commands`."""

    discovered = 0
    """How many are shown before anything is typed."""

    @property
    def browse(self) -> BrowseApp:
        """The app."""
        return cast("BrowseApp", self.app)

    def commands(self) -> Iterator[_Command]:
        """All of them."""
        raise NotImplementedError

    async def discover(self) -> Hits:
        """The first few."""
        for command, _ in zip(self.commands(), range(self.discovered), strict=False):
            shown = Text(command.name)  # of a string it would obey the markup
            yield DiscoveryHit(shown, command.run, command.name, help=command.help)

    async def search(self, query: str) -> Hits:
        """Those that match every word, in whatever order."""
        matchers = [self.matcher(word) for word in query.split()]
        for name, said, run in self.commands():
            scores = [matcher.match(name) for matcher in matchers]
            if scores and all(scores):
                yield Hit(sum(scores) / len(scores), Text(name), run, help=said)


class Modules(_Ours):
    """Any module, fused group or cache by its name."""

    discovered = 12

    def commands(self) -> Iterator[_Command]:
        """In module order, groups of more than one member after their members."""
        if not self.browse.started:
            return
        structure = self.browse.snapshot.profile.structure
        named = {linear.name: "a linear" for linear in structure.linears}
        for group in structure.groups:
            named.setdefault(group.name, f"a fused group of {len(group.members)}")
        named |= {layer.group: "the KV cache of a layer" for layer in structure.kv_layers}
        for name, what in named.items():
            yield _Command(name, f"open {what}", partial(self.browse.open_layer, name))


class Screens(_Ours):
    """The app's keys, and those of each screen: chosen here, the screen is shown first."""

    discovered = 100

    def commands(self) -> Iterator[_Command]:
        """Each described binding once."""
        from fp8scope.tui.app import screen_class

        app = self.browse
        if not app.started:
            return
        for binding in _described(app.BINDINGS):
            if binding.action not in ("back", "quit", "dark"):
                key = app.get_key_display(binding)
                run = partial(self._in, app.current_mode, binding.action, app=True)
                yield _Command(binding.description.capitalize(), f"key {key}", run)
        for mode in app.MODES:
            for binding in _described(screen_class(mode).BINDINGS):
                name = f"{mode.capitalize()}: {binding.description}"
                run = partial(self._in, mode, binding.action)
                yield _Command(name, f"key {app.get_key_display(binding)}", run)

    async def _in(self, mode: str, action: str, *, app: bool = False) -> None:
        browse = self.browse
        if app:
            await browse.run_action(action)
            return
        await browse.action_show(mode)
        await browse.run_action(action, browse.screen)


class Everything(Provider):
    """All of them in one order: textual keeps its providers in a set, which has none."""

    async def discover(self) -> Hits:
        """The first few of each."""
        for provider in self._providers():
            async for hit in provider.discover():
                yield hit

    async def search(self, query: str) -> Hits:
        """Those that match, of each."""
        for provider in self._providers():
            async for hit in provider.search(query):
                yield hit

    def _providers(self) -> Iterator[Provider]:
        for kind in (Screens, SystemCommandsProvider, Modules):
            yield kind(self.screen, self.match_style)


def everything() -> type[Provider]:
    """For `App.COMMANDS`."""
    return Everything


def search() -> CommandPalette:
    """A palette of modules alone."""
    return CommandPalette([Modules], placeholder="Part of a module's name …")


def _described(bindings: object) -> Iterator[Binding]:
    for binding in cast("list[object]", bindings):
        if isinstance(binding, Binding) and binding.description:
            yield binding
