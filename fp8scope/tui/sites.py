"""The screen of all sites: sorted, filtered, searched."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from textual import events, on
from textual.actions import SkipAction
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Input, Static

from fp8scope.core.words import printable
from fp8scope.report.snapshot import Snapshot
from fp8scope.tui.screen import BrowserScreen
from fp8scope.tui.site_rows import Cells, View, block_of, columns, findings
from fp8scope.tui.site_table import Header, SiteTable

HINT = (
    "[b]⏎[/] open  [b]s[/] sort  [b]r[/] reverse  [b]f[/] role  [b]b[/] block  [b]x[/] findings  "
    "[b]/[/] search"
)


class SitesScreen(BrowserScreen):
    """Every tensor that was recorded, as `analyze --sites` shows it."""

    HELP = """
Every site (a linear's input or weight, what the KV cache receives, residual stream, output) in E4M3
with one static scale, the worst first; `!` marks what belongs to a finding.

**body SQNR** of the values up to the .9 quantile of |x|: about 31 dB is E4M3's floor, under 25 dB
the tensor is damaged. **underflow**: share of the values that become zero. **amax/rms**: the
largest value over the rms of the body. **headroom**: what the scale of all other tags would leave
of this tag's largest value. Then the largest value, its channel, and the token that it stands at.

**Severity** is the order of all of them, less what is noise.
"""
    CSS = """
    SitesScreen #state { height: 1; padding: 0 1; color: $text-muted; }
    SitesScreen #hint { height: 1; padding: 0 1; color: $text-muted; }
    SitesScreen #search { display: none; height: 1; border: none; padding: 0 1; }
    SitesScreen #search.-open { display: block; }
    SitesScreen .table--cursor { background: $primary 40%; text-style: bold; }
    SitesScreen .table--mark { color: $accent; text-style: bold; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "open the layer"),
        Binding("s", "sort", "sort by the next column"),
        Binding("r", "reverse", "reverse the order"),
        Binding("f", "roles", "show the next role"),
        Binding("b", "block", "show this block alone, or all"),
        Binding("x", "findings", "show findings alone, or all"),
        Binding("slash", "search", "search the names", key_display="/"),
        Binding("escape", "clear", "show all again", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.view = View()

    def compose(self) -> ComposeResult:
        """What is shown, in a line; the table; the search."""
        self.columns = columns(self.browser.snapshot.short)
        header = Header()
        yield Static(id="state", markup=False)
        yield header
        yield SiteTable(Cells(self.columns), header)
        yield Input(
            id="search", placeholder="part of a name, such as layers.12. or down_proj input"
        )
        yield Static(Content.from_markup(HINT), id="hint")

    def on_mount(self) -> None:
        """Show what is known."""
        self.table.focus()

    @property
    def table(self) -> SiteTable:
        """The table."""
        return self.query_one(SiteTable)

    @property
    def named(self) -> str | None:
        """The module under the cursor."""
        return self.table.site.module if self.table.site else None

    def refresh_from(self, snapshot: Snapshot) -> None:
        """More rows, perhaps in another order."""
        view = self.view
        rows = view.rows(snapshot, self.columns)
        self.table.show(rows, findings(snapshot), (view.column, view.reverse))
        self.query_one("#state", Static).update(self._state(snapshot, len(rows)), layout=False)

    def _state(self, snapshot: Snapshot, shown: int) -> Content:
        view, known = self.view, len(snapshot.sites or {})
        profile = snapshot.profile
        order = "severity" if view.column is None else self.columns[view.column].header
        said = [f"{shown:,} of {known:,} sites by {order}{', reversed' * view.reverse}", view.roles]
        if view.block is not None:
            said.append(f"block {snapshot.short(view.block)}")
        if view.findings:
            said.append("findings" if snapshot.groups is not None else "findings (not known yet)")
        if view.search:
            said.append(f"“{view.search}”")
        if not snapshot.measured:
            said.insert(0, f"{known:,} of {len(profile.sites) + len(profile.weights):,} read")
        return Content(printable("; ".join(said)))

    def _see(self, view: View) -> None:
        self.view = view
        self.refresh_from(self.browser.snapshot)

    def action_open(self) -> None:
        """Open the layer of the site under the cursor."""
        if self.table.site is not None:
            self.browser.open_layer(self.table.site.module)

    @on(SiteTable.Chosen)
    def _chosen(self) -> None:
        self.action_open()

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._see(self.view.next_column(len(self.columns)))

    def action_reverse(self) -> None:
        """Turn the order around."""
        self._see(replace(self.view, reverse=not self.view.reverse))

    @on(Header.Clicked)
    def _sort_by(self, message: Header.Clicked) -> None:
        again = message.column == self.view.column
        reverse = again and not self.view.reverse
        self._see(replace(self.view, column=message.column, reverse=reverse))

    def action_roles(self) -> None:
        """Show the next role."""
        there = {site.role for site in self.browser.snapshot.sites or {}}
        if there:
            self._see(self.view.next_roles(there))

    def action_block(self) -> None:
        """Show the block under the cursor alone, or all again."""
        site, block = self.table.site, None
        if self.view.block is None and site is not None:
            block = block_of(self.browser.snapshot, site.module)
            if block is None:
                self.notify("This site is in no block.")
                return
        self._see(replace(self.view, block=block))

    def action_findings(self) -> None:
        """Show findings alone, or all again."""
        self._see(replace(self.view, findings=not self.view.findings))

    def action_search(self) -> None:
        """Type a part of a name; every letter is answered."""
        search = self.query_one("#search", Input)
        search.add_class("-open")
        search.focus()

    @on(Input.Changed, "#search")
    def _typed(self, message: Input.Changed) -> None:
        self._see(replace(self.view, search=message.value))

    @on(Input.Submitted, "#search")
    def _found(self) -> None:
        self._end_search()

    def on_key(self, event: events.Key) -> None:
        """In the search, arrows move the cursor of the table."""
        if self.query_one("#search").has_focus and event.key in ("up", "down"):
            self.table.action_move(1 if event.key == "down" else -1)
            event.stop()

    def action_clear(self) -> None:
        """End the search, or undo what limits the rows; if nothing does, go back."""
        if self.query_one("#search").has_class("-open") or self.view.search:
            self.query_one("#search", Input).value = ""
            self._end_search()
            return
        everything = replace(View(), column=self.view.column, reverse=self.view.reverse)
        if everything == self.view:
            raise SkipAction
        self._see(everything)

    def _end_search(self) -> None:
        search = self.query_one("#search", Input)
        search.set_class(bool(search.value), "-open")  # what is searched for stays to be seen
        self.table.focus()
