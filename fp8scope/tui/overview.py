"""The overview: every linear of every block in one heatmap, under the verdict."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Static

from fp8scope.core.words import short_name
from fp8scope.report.colours import PRECISIONS, STEPS
from fp8scope.report.headline import verdict_line
from fp8scope.report.measures import Measure, Reading, measures
from fp8scope.report.snapshot import Snapshot
from fp8scope.tui.colours import precision_style, shade
from fp8scope.tui.heat import At, Cell, Heat
from fp8scope.tui.picking import Picker
from fp8scope.tui.screen import BrowserScreen

HELP = """\
Every linear of the model: blocks from top to bottom, kinds of linears from left to right, the KV
cache last. The **colour** and the number in a cell are the chosen measure (`m`, `M`, or `v` for a
list); orange is worse. A cell too narrow for its number shows the digit 0 to 9 of its shade in the
legend. `·` is not known, or still being read.

- **KL in fp8_tensor**: nats per token that the fused group alone costs with one static scale per
  tensor. 0.01 is about what a perplexity 1% higher costs. Members of a group share the number.
- **KL in the cheapest FP8**: the same with whichever of the FP8 candidates costs least.
- **body SQNR**: of the input or the weight, whichever is lower; 31-32 dB is E4M3's rounding floor,
  under 25 dB the tensor counts as damaged.
- **underflow**: the share of values that become zero. **amax/rms**: the largest value over the RMS
  of the body; from 25,000 on the body suffers.
- **headroom**: the largest value of all other tags over that of the tag named; under 0.8 a scale
  without that tag would clip it. **scales from TAG alone** say how far other traffic is clipped.
- **planned precision**: `T` per tensor, `K` per token, `B` per block, `S` smoothed, `16` BF16.
"""


class OverviewScreen(BrowserScreen):
    """See `HELP`."""

    HELP = HELP
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("m", "measure(1)", "next measure"),
        Binding("M", "measure(-1)", "previous measure"),
        Binding("v", "choose_measure", "choose a measure from a list"),
        Binding("n", "worst(1)", "next worst"),
        Binding("N", "worst(-1)", "back to the one before"),
    ]
    DEFAULT_CSS = """
    OverviewScreen #verdict {
        height: auto; max-height: 2; padding: 0 1; text-style: bold;
        text-overflow: ellipsis;
    }
    OverviewScreen #legend { height: 1; padding: 0 1; }
    OverviewScreen Heat { height: 1fr; }
    OverviewScreen #detail { height: 2; padding: 0 1; background: $surface; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._measure = ""
        self._readings: dict[At, Reading] = {}
        self._jumped: At | None = None

    def compose(self) -> ComposeResult:
        """Verdict, legend, heatmap, and what is under the cursor."""
        grid = self.browser.snapshot.grid
        yield Static(id="verdict", markup=False)
        yield Static(id="legend")
        yield Heat(self.browser.snapshot.row_labels, grid.columns, frozenset(grid.modules))
        yield Static(id="detail", markup=False)

    @property
    def heat(self) -> Heat:
        """The heatmap."""
        return self.query_one(Heat)

    @property
    def measure(self) -> Measure:
        """The chosen measure; the first where nothing was chosen, or what was is no more."""
        found = self._measures()
        return next((one for one in found if one.name == self._measure), found[0])

    @property
    def named(self) -> str | None:
        """The module under the cursor."""
        return self.browser.snapshot.grid.modules.get(self.heat.cursor)

    def refresh_from(self, snapshot: Snapshot) -> None:
        """Colour every cell by the chosen measure."""
        measure = self.measure
        found = {at: measure.of(snapshot, module) for at, module in snapshot.grid.modules.items()}
        self._readings = {at: reading for at, reading in found.items() if reading}
        self.heat.show({at: Cell(one.texts, one.tone) for at, one in self._readings.items()})
        self.query_one("#verdict", Static).update(verdict_line(snapshot))
        self.query_one("#legend", Static).update(_legend(measure, self.app.current_theme.dark))
        self._tell()

    def _measures(self) -> tuple[Measure, ...]:
        living = self.browser.living
        return measures(self.browser.snapshot, living.precision if living else None)

    def _tell(self) -> None:
        """Name what the mouse or the cursor is on, and its number as `analyze --json` has it."""
        snapshot, at = self.browser.snapshot, self.heat.pointed
        module = snapshot.grid.modules.get(at)
        if module is None:
            return
        group = snapshot.grid.group(module)
        where = " in ".join(short_name(name, "") for name in dict.fromkeys((module, group)))
        reading = self._readings.get(at)
        said = reading.detail if reading else f"{self.measure.name}: not known, or not yet"
        self.query_one("#detail", Static).update(f"{where}\n{said}")

    # --- keys -------------------------------------------------------------------------------

    def action_measure(self, step: int) -> None:
        """Colour by the next measure, or the one before."""
        names = [one.name for one in self._measures()]
        self._choose(names[(names.index(self.measure.name) + step) % len(names)])

    def action_choose_measure(self) -> None:
        """Choose from a list."""
        names = [one.name for one in self._measures()]
        self.app.push_screen(Picker("Colour by", names, self.measure.name), self._choose)

    def _choose(self, name: str | None) -> None:
        if name is not None:
            self._measure, self._jumped = name, None
            self.refresh_from(self.browser.snapshot)

    def action_worst(self, step: int) -> None:
        """To the worst cell, then to the next worst one; of a fused group to its first member."""
        ranking = self._ranking()
        if not ranking:
            return
        start = -1 if step > 0 else len(ranking)
        again = self._jumped in ranking and self._jumped == self.heat.cursor
        at = ranking.index(self._jumped) if again and self._jumped else start
        self._jumped = ranking[(at + step) % len(ranking)]
        self.heat.move_to(self._jumped)

    def _ranking(self) -> list[At]:
        """Cells, the worst first."""
        grid, seen, found = self.browser.snapshot.grid, set(), []
        for at in sorted(self._readings, key=lambda at: (-self._readings[at].badness, at)):
            name = grid.group(grid.modules[at]) if self.measure.by_group else grid.modules[at]
            key = (name, at[1] if name == grid.modules[at] else None)
            if key not in seen:
                seen.add(key)
                found.append(at)
        return found

    def on_heat_moved(self) -> None:
        """Another cell is pointed at."""
        self._tell()

    def on_heat_opened(self) -> None:
        """Open the layer."""
        if self.named:
            self.browser.open_layer(self.named)


def _legend(measure: Measure, dark: bool) -> Content:
    """The measure and its scale, or its letters."""
    parts: list[Content | str | tuple[str, str]] = [(measure.name, "bold"), "   "]
    if measure.scale is None:
        for name, (letter, word) in PRECISIONS.items():
            if name != "fp8":
                shown = Segment(f" {letter} ", precision_style(name, dark))
                parts += [_content(shown), f" {word}  "]
    else:
        good, bad = measure.scale.ends
        parts.append(f"{good} ")
        parts += [_content(Segment(str(step), shade(step, dark))) for step in range(STEPS)]
        parts.append(f" {bad}" + (", log" if measure.scale.log else ""))
    return Content.assemble(*parts)


def _content(segment: Segment) -> Content:
    style = segment.style
    if style is None or style.color is None or style.bgcolor is None:
        return Content(segment.text)
    colour, background = (part.get_truecolor().hex for part in (style.color, style.bgcolor))
    return Content.styled(segment.text, f"{colour} on {background}")
