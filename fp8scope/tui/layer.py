"""The screen of one module or fused group: everything that is known of it, and the what-if."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from rich.console import RenderableType
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static
from textual.worker import get_current_worker

from fp8scope.analyze.detail import SiteDetail
from fp8scope.core.sites import Site
from fp8scope.core.words import printable
from fp8scope.errors import in_words
from fp8scope.report.snapshot import Snapshot
from fp8scope.tui import layer_page, sections
from fp8scope.tui.bars import KlBars
from fp8scope.tui.panel import KEYS, NO_FOLD, outcome_table, scheme_words
from fp8scope.tui.plot import HistogramPlot
from fp8scope.tui.printed import Printed
from fp8scope.tui.screen import BrowserScreen
from fp8scope.tui.study import Study, readable, siblings, study
from fp8scope.tui.whatif import EIGHTHS, Trial, WhatIf

PASSED = 0.04  # seconds


class LayerScreen(BrowserScreen):
    """One module, fused group, or attention module (of which what its cache receives)."""

    HELP = layer_page.HELP
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (130, "-wide")]  # noqa: RUF012  (textual's type)
    CSS = layer_page.CSS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "next_site(1)", "next site", priority=True),
        Binding("shift+tab", "next_site(-1)", "previous site", priority=True),
        Binding("n", "sibling(1)", "next module"),
        Binding("p", "sibling(-1)", "previous module"),
        Binding("[", "scale(-1)", "scale down by an eighth of an octave"),
        Binding("]", "scale(1)", "scale up by an eighth of an octave"),
        Binding("{", f"scale(-{EIGHTHS})", "scale down by an octave"),
        Binding("}", f"scale({EIGHTHS})", "scale up by an octave"),
        Binding("=", "reset_scale", "scale back to amax/max"),
        Binding("o", "format", "next format"),
        Binding("a", "alpha(1)", "smooth more"),
        Binding("A", "alpha(-1)", "smooth less"),
        *(Binding(key, f"jump('{name}')", words) for key, name, words in layer_page.JUMPS),
    ]

    def __init__(self, module: str) -> None:
        super().__init__()
        self.module = module
        self.study: Study | None = None
        self.at = 0
        self.trial = Trial()
        self._told: tuple[object, ...] = ()

    def compose(self) -> ComposeResult:
        """Heading, and two columns: beside each other if there is room, or one below the other."""
        yield Static(id="heading", markup=False)
        with VerticalScroll(id="page"), Horizontal(id="columns"):
            with Vertical(classes="column"):
                with Vertical(id="histogram", classes="section"):
                    yield HistogramPlot(id="plot")
                    yield Static(id="scheme", markup=False)
                    yield Static(Content.from_markup(KEYS), id="keys")
                    yield Static(id="outcome", markup=False)
                yield Printed(id="why", classes="section")
                with Vertical(id="costs", classes="section"):
                    yield KlBars(id="scores")
                with Vertical(id="pairs", classes="section"):
                    yield KlBars(id="pair_scores")
                yield Printed(id="spread", classes="section")
            with Vertical(classes="column"):
                for name in ("values", "traffic"):
                    yield Printed(id=name, classes="section")
        yield Static(Content.from_markup(layer_page.HINT), id="hint")

    def on_mount(self) -> None:
        """Show what the snapshot knows at once, and read the rest."""
        for name, title in layer_page.TITLES.items():
            self.query_one(f"#{name}").border_title = Content(title)
        self._open(self.module)

    @property
    def named(self) -> str | None:
        """The module."""
        return self.module

    @property
    def group(self) -> str:
        """The fused group (or cache) of the module; of a group itself."""
        module = readable(self.browser.snapshot.profile, self.module)
        return self.browser.snapshot.grid.groups.get(module, self.module)

    @property
    def detail(self) -> SiteDetail | None:
        """The site that is shown."""
        details = self.study.findings.details if self.study else []
        return details[self.at] if details else None

    @property
    def what_if(self) -> WhatIf | None:
        """What can be tried on it."""
        detail = self.detail
        return self.study.trials[detail.measures.site] if self.study and detail else None

    def _open(self, module: str) -> None:
        """The name at once, which answers the key; the page after that has been painted."""
        self.module, self.study, self.at, self.trial = module, None, 0, Trial()
        self._told = ()
        text = sections.heading(self.browser, module, self.group)
        self.query_one("#heading", Static).update(text, layout=False)
        self.call_after_refresh(self._known, module)

    def _known(self, module: str) -> None:
        if module != self.module:
            return
        self.query_one("#page").scroll_home(animate=False)
        self.refresh_from(self.browser.snapshot)
        self._show_site()
        # not for what is only passed on the way to another
        self.set_timer(PASSED, lambda: self._start(module))

    def _start(self, module: str) -> None:
        if module == self.module:
            self.run_worker(self._reading(module), thread=True, exclusive=True, exit_on_error=False)

    def _reading(self, module: str) -> Callable[[], None]:
        browser, profile = self.browser, self.browser.snapshot.profile

        def read() -> None:
            """In a thread: a profile of 80 blocks takes 0.1 to 0.4 s."""
            worker = get_current_worker()
            try:
                found = study(profile, readable(profile, module))
            except Exception as error:  # a fault of ours must not cost a plan that is not saved
                if not worker.is_cancelled:
                    self.app.call_from_thread(browser.problem, in_words(error))
                return
            if not worker.is_cancelled:
                self.app.call_from_thread(self._read, found)
                found.prepare(lambda: worker.is_cancelled)

        return read

    def _read(self, found: Study) -> None:
        if not self.is_attached:
            return
        self.study, self.at = found, found.worst
        self.refresh_from(self.browser.snapshot)
        self._show_site()

    def refresh_from(self, snapshot: Snapshot) -> None:
        """Name, costs, causes and the plan; what was read of the sites does not change."""
        group, read = self.group, self.study
        told = (group, read, snapshot.groups is None, sections.precision(self.browser, group))
        if told == self._told:
            return  # most snapshots say nothing new of one module
        self._told = told
        text = sections.heading(self.browser, self.module, group)
        self.query_one("#heading", Static).update(text, layout=False)
        self.query_one("#why", Printed).show(sections.why(self.browser, group, read))
        known = sorted(snapshot.scores.get(group, {}).values(), key=lambda score: score.kl)
        scores, pairs = (read.findings.scores, read.findings.pairs) if read else (known, [])
        self.query_one("#scores", KlBars).show(scores)
        self.query_one("#pair_scores", KlBars).show(pairs)
        self.query_one("#costs").display = bool(scores)
        self.query_one("#pairs").display = bool(pairs)

    def _show_site(self) -> None:
        """What the keys act on first, and what is below once that has been painted."""
        self.query_one("#histogram").border_title = self._site_names()
        self._try(self.trial)
        self.call_after_refresh(self._show_tables)

    def _show_tables(self) -> None:
        detail, read = self.detail, self.study
        parts: dict[str, RenderableType] = dict.fromkeys(
            ("spread", "values", "traffic"), sections.READING
        )
        if read and detail:
            parts = {
                "spread": sections.spread(detail),
                "values": sections.values(detail),
                "traffic": sections.traffic(read, detail),
            }
        elif read:
            parts = dict.fromkeys(parts, Text("The text never reached it: nothing was recorded."))
        for name, text in parts.items():
            self.query_one(f"#{name}", Printed).show(text)

    def _site_names(self) -> Content:
        """The sites of this module, the one that is shown marked; a click shows another."""
        details = self.study.findings.details if self.study else []
        several = len({detail.measures.site.module for detail in details}) > 1
        parts = [Content(layer_page.TITLES["histogram"])]
        for number, detail in enumerate(details):
            name = Content(f" {_site_words(detail.measures.site, several)} ")
            style = "reverse" if number == self.at else "underline"
            parts.append(name.stylize(style).stylize(f"@click=screen.show_site({number})"))
        return Content(" ").join(parts)

    def _try(self, trial: Trial) -> None:
        """Show what a trial makes of the site."""
        plot, what = self.query_one("#plot", HistogramPlot), self.what_if
        scheme, table = self.query_one("#scheme", Static), self.query_one("#outcome", Static)
        if what is None or self.study is None or self.detail is None:
            plot.show(None)
            scheme.update("", layout=False)
            table.update("", layout=False)
            return
        tried = what.outcome(trial)
        plain = tried if tried.exact else what.outcome(Trial(trial.format, trial.eighths))
        scored = self.study.scored(self.detail, tried.trial)
        self.trial = tried.trial
        plot.show(tried)
        scheme.update(scheme_words(tried), layout=False)
        said = outcome_table(tried, what.current, plain, scored)
        table.update(said, layout=False)  # its height is fixed, and a layout takes 50 ms

    def _tried(self, trial: Trial) -> None:
        if self.what_if is not None:
            self._try(trial)
            if self.query_one("#page").scroll_y:
                self.query_one("#page").scroll_home(animate=False)

    def action_scale(self, eighths: int) -> None:
        """Move the scale by eighths of an octave."""
        self._tried(self.trial.moved(eighths))

    def action_reset_scale(self) -> None:
        """Back to amax / max."""
        self._tried(self.trial.moved(-self.trial.eighths))

    def action_format(self) -> None:
        """Try the next format."""
        self._tried(self.trial.next_format())

    def action_alpha(self, steps: int) -> None:
        """Smooth more, or less."""
        what = self.what_if
        if what is not None and what.smooth is None:
            self.notify(NO_FOLD)
        else:
            self._tried(self.trial.next_alpha(steps))

    def action_next_site(self, steps: int) -> None:
        """Show another site of the module, and again the first after the last."""
        if self.study and self.study.findings.details:
            self.action_show_site((self.at + steps) % len(self.study.findings.details))

    def action_show_site(self, number: int) -> None:
        """Show this site, as it is."""
        self.at, self.trial = number, Trial()
        self._show_site()

    def action_sibling(self, steps: int) -> None:
        """Show the next module of the kind, or the previous one."""
        names = siblings(
            self.browser.snapshot, readable(self.browser.snapshot.profile, self.module)
        )
        at = names.index(readable(self.browser.snapshot.profile, self.module)) + steps
        if 0 <= at < len(names):
            self._open(names[at])
        else:
            self.notify("This is the last." if steps > 0 else "This is the first.")

    def action_jump(self, name: str) -> None:
        """Scroll to a section."""
        section = self.query_one(f"#{name}")
        self.query_one("#page").scroll_to_widget(section, animate=False, top=True)


def _site_words(site: Site, several: bool) -> str:
    """`input`, or where there are several modules `k_proj weight`."""
    name = printable(site.module.rpartition(".")[2])
    return f"{name} {site.role}" if several else str(site.role)
