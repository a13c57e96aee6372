"""What the plan's screen shows: numbers, every group, and what the last change did."""

from __future__ import annotations

from functools import partial

from textual.actions import SkipAction
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Input, Static

from fp8scope.artefacts.plan import Point
from fp8scope.errors import in_words
from fp8scope.report.snapshot import Snapshot
from fp8scope.tui.living import Living
from fp8scope.tui.plan_rows import CACHE, ORDERS, Row, Rows, arranged, candidates_shown, matching
from fp8scope.tui.plan_table import PlanTable
from fp8scope.tui.plan_words import FIXED, about, cells, columns, frontier, headline
from fp8scope.tui.working import WorkingScreen

WIDE = 130
"""Columns from which on there is room for what other budgets would buy."""
KEYS = "space tkBsb  u undo  R solve  p pin  v KV  w save  x export  o order  / find"


class PlanView(WorkingScreen):
    """`said` is the last line of all: what the last change did."""

    DEFAULT_CSS = """
    PlanView #head { height: auto; max-height: 4; padding: 0 1; }
    PlanView #body { height: 1fr; }
    PlanView #body PlanTable { width: 1fr; }
    PlanView #side { width: 44; padding: 0 1; background: $surface; display: none; }
    PlanView.-wide #side { display: block; }
    PlanView #find { display: none; border: none; height: 1; padding: 0 1; }
    PlanView #find.-open { display: block; }
    PlanView #about { height: 2; padding: 0 1; background: $surface; }
    PlanView #said { height: auto; max-height: 3; padding: 0 1; text-style: bold; }
    PlanView #keys { height: 1; padding: 0 1; color: $foreground 70%; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.said = ""
        self._refused = ""
        self._order = next(iter(ORDERS))
        self._rows: Rows | None = None
        self._shown: dict[str, Row] = {}
        self._sequence: list[str] = []
        """Names in the order that was asked for: a row that is changed stays where it is."""
        self._heights: dict[str, int] = {}
        self._frontier: dict[bool, tuple[Point, ...]] = {}

    def compose(self) -> ComposeResult:
        """Numbers, table, what is under the cursor, and what the last change did."""
        yield Static(id="head", markup=False)
        with Horizontal(id="body"):
            yield PlanTable(FIXED)
            with VerticalScroll(id="side", can_focus=False):
                yield Static(id="frontier")
        yield Input(placeholder="part of a name; escape shows all", id="find")
        yield Static(id="about", markup=False)
        yield Static(id="said", markup=False)
        yield Static(KEYS, id="keys", markup=False)

    @property
    def rows(self) -> PlanTable[Row]:
        """The table."""
        return self.query_one(PlanTable)

    @property
    def named(self) -> str | None:
        """The group under the cursor."""
        key = self.rows.key
        layers = self.browser.snapshot.profile.structure.kv_layers
        return layers[0].attention if key == CACHE else key

    def on_mount(self) -> None:
        """The keys are the table's."""
        self.rows.focus()

    def on_resize(self) -> None:
        """A wide screen has room for more."""
        self.set_class(self.size.width >= WIDE, "-wide")
        self._show_frontier()

    def refresh_from(self, snapshot: Snapshot) -> None:
        """Make the plan when the screen is first seen; then show it."""
        if self.browser.living is None:
            self._begin(snapshot)
        else:
            self.show()

    def _begin(self, snapshot: Snapshot) -> None:
        if self._refused or self.busy:
            return
        if snapshot.profile.sensitivity is None:
            self._refuse(
                "This profile was not scored, so nobody knows what FP8 would cost, and there is no "
                "plan. Scan again without --sensitivity none."
            )
            return
        self.query_one("#head", Static).update("Making the plan …")
        make = partial(Living.of, snapshot)
        self.work(make, self._begun, lambda error: self._refuse(in_words(error)), "making the plan")

    def _refuse(self, why: str) -> None:
        self._refused = why
        self.query_one("#head", Static).update(f"There is no plan.\n{why}")

    def _begun(self, living: Living) -> None:
        self.browser.living = living
        self.said = "; ".join(living.draft.notes)
        self.show()
        if not living.reasons:
            self.explain()

    def explain(self) -> None:
        """Say why of each group, once that is known: it reads records of every group."""
        living = self.browser.living
        if living is not None:
            self.work(living.plan, lambda _: self.show())

    def show(self) -> None:
        """The plan as it is now."""
        living = self.browser.living
        if living is None:
            return
        if self._rows is None:
            self._rows = Rows(self.browser.snapshot, living)
        draft = living.draft
        every = self._rows.all()
        self._shown = {row.name: row for row in every}
        self._sequence = self._sequence or [row.name for row in arranged(every, self._order)]
        wanted = self.query_one("#find", Input).value
        found = matching([self._shown[name] for name in self._sequence], wanted)
        self.rows.show(columns(every), found, partial(cells, candidates_shown(every)))
        head = headline(draft.predicted, draft.objective, cached=draft.cached)
        self._put("#head", head)
        self._put("#said", self.said)
        self._tell()
        self._show_frontier()
        self.tell_status()

    def _put(self, where: str, text: str | Content) -> None:
        """Say it; anew laid out, which takes 40 ms, only where it takes more lines, or fewer."""
        line = self.query_one(where, Static)
        line.update(text, layout=False)
        height = line.get_content_height(self.size, self.size, line.size.width)
        if height != self._heights.get(where):
            self._heights[where] = height
            line.refresh(layout=True)

    def _tell(self) -> None:
        row = self._shown.get(self.rows.key or "")
        said = about(row) if row else "no such group"
        self.query_one("#about", Static).update(said, layout=False)  # two lines, always

    def _show_frontier(self) -> None:
        living = self.browser.living
        if living is None or not self.has_class("-wide"):
            return
        draft, cached = living.draft, living.draft.cached
        if cached not in self._frontier:
            self._frontier[cached] = ()  # on its way
            self.work(partial(draft.frontier, draft.step), partial(self._keep_frontier, cached))
            return
        shown = frontier(self._frontier[cached], draft.point)
        self.query_one("#frontier", Static).update(shown)

    def _keep_frontier(self, cached: bool, points: tuple[Point, ...]) -> None:
        self._frontier[cached] = points
        self._show_frontier()

    def on_plan_table_moved(self) -> None:
        """Another row."""
        self._tell()

    def on_plan_table_opened(self) -> None:
        """Open the layer."""
        if self.named:
            self.browser.open_layer(self.named)

    # --- order and search -------------------------------------------------------------------

    def action_order(self) -> None:
        """The next order of the rows."""
        orders = list(ORDERS)
        self._order = orders[(orders.index(self._order) + 1) % len(orders)]
        self.said = f"rows by {self._order}"
        self._sequence = []
        self.show()

    def action_find(self) -> None:
        """Show the rows whose names hold some words."""
        field = self.query_one("#find", Input)
        field.add_class("-open")
        field.focus()

    def on_input_changed(self) -> None:
        """As it is typed."""
        self.show()

    def on_input_submitted(self) -> None:
        """Back to the table, with the rows that were found."""
        field = self.query_one("#find", Input)
        field.set_class(bool(field.value), "-open")
        self.rows.focus()

    def action_show_all(self) -> None:
        """All rows again; if they are shown, go back."""
        field = self.query_one("#find", Input)
        if not field.has_class("-open"):
            raise SkipAction
        field.value = ""
        field.remove_class("-open")
        self.rows.focus()
