"""The plan, living: every key changes it, and shows at once what that does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from textual.binding import Binding, BindingType

from fp8scope.errors import BadInput, Fp8scopeError, OutputExists
from fp8scope.export.registry import names
from fp8scope.plan.cost import BF16
from fp8scope.tui.living import Living
from fp8scope.tui.plan_dialogs import Answer, ExportDialog, LineDialog, YesNo
from fp8scope.tui.plan_rows import CACHE, PLAIN
from fp8scope.tui.plan_view import PlanView

HELP = """\
What every fused group runs in, and what that costs. Every change shows at once: the **KL** that is
predicted for the whole model, with its error, against the budget; the **bits** per weight and the
share of weights in **BF16**; the **step**'s time, and how many times as fast that is as all in BF16
and as all in FP8 per tensor. `T` is FP8 per tensor, `K` per token, `B` per block, `S` smoothed.

- **KL**: nats per token of the group alone, as planned; the columns beside it, in each candidate.
- **µs**: the group's part of a step in FP8 and in BF16.
- Groups that smoothing ties together move together; the line at the bottom says which, and why.
- A group that you set is **pinned** (•): solving again (`R`) leaves it, unless you say otherwise.
- The KV caches of all layers go together (`v`, or the last row).
- A budget for `R` is `0.01` (nats per token), `8.5 bits`, `10%` (of the weights in BF16), or
  `safe`, `balanced`, `fast`.
"""
USUAL = {
    "hf-quant-config": "hf_quant_config.json",
    "list": "exclude.txt",
    "llm-compressor": "recipe.yaml",
    "modelopt": "recipe.yaml",
}
"""Files that exports commonly are."""


class PlanScreen(PlanView):
    """See `HELP`."""

    HELP = HELP
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "next", "next precision"),
        Binding("t", "set('fp8_tensor')", "FP8 per tensor"),
        Binding("k", "set('fp8_token')", "FP8 per token"),
        Binding("B", "set('fp8_block')", "FP8 per block"),
        Binding("s", "set('fp8_smooth')", "smooth, with the best α"),
        Binding("b", "set('bf16')", "BF16"),
        Binding("u", "undo", "undo"),
        Binding("ctrl+r", "redo", "redo"),
        Binding("R", "solve", "solve again under a budget"),
        Binding("p", "pin", "pin, or release"),
        Binding("v", "cache", "KV cache in FP8 or BF16"),
        Binding("w", "save", "save the plan"),
        Binding("x", "export", "export for an engine"),
        Binding("o", "order", "next order: module, KL, time"),
        Binding("slash", "find", "show rows by name"),
        Binding("escape", "show_all", "show all rows", show=False),
    ]

    def _ready(self) -> Living | None:
        """The plan, unless there is none, or something else must end first."""
        if self.busy or self.browser.living is None:
            self.notify(f"Still {self.busy} …" if self.busy else "There is no plan.")
            return None
        return self.browser.living

    def _change(self, do: Callable[[Living], str]) -> None:
        """Do it, or say why not."""
        living = self._ready()
        if living is None:
            return
        try:
            self.said = do(living)
        except Fp8scopeError as error:
            self.browser.problem(str(error))
            return
        self.show()

    def action_set(self, precision: str) -> None:
        """The group under the cursor in this precision."""
        key = self.rows.key
        if key == CACHE:
            self._change(partial(_set_cache, precision))
        elif key:
            self._change(lambda living: living.draft.set(key, precision))

    def action_next(self) -> None:
        """The group under the cursor in its next precision."""
        key = self.rows.key
        if key == CACHE:
            self.action_cache()
        elif key:
            self._change(lambda living: living.draft.next(key))

    def action_cache(self) -> None:
        """All KV caches in FP8, or back in BF16."""
        self._change(lambda living: living.draft.set_cache(not living.draft.cached))

    def action_pin(self) -> None:
        """What solving again leaves as it is."""
        key = self.rows.key
        if key == CACHE:
            self.browser.problem("The KV cache stays as it is when the plan is solved again.")
        elif key:
            self._change(lambda living: living.draft.pin(key))

    def action_undo(self) -> None:
        """One step back."""
        self._change(lambda living: living.draft.steps.undo())

    def action_redo(self) -> None:
        """What was undone."""
        self._change(lambda living: living.draft.steps.redo())

    def action_solve(self) -> None:
        """Under a budget that is asked for."""
        living = self._ready()
        if living is None:
            return
        pins = len(living.draft.step.pins)
        dialog = LineDialog(
            "Solve again: under which budget?",
            "0.01 (nats), 8.5 bits, 10% (in BF16), safe, fast; nothing is balanced",
            box=f"keep what is pinned ({pins})" if pins else "",
        )
        self.app.push_screen(dialog, partial(self._solve, living))

    def _solve(self, living: Living, answer: Answer | None) -> None:
        if answer is not None:
            solve = partial(living.draft.solve, answer.text, keep_pins=answer.ticked)
            self.work(solve, self._solved, busy="solving")

    def _solved(self, said: str) -> None:
        self.said = said
        self.show()
        self.explain()

    # --- writing ----------------------------------------------------------------------------

    def action_save(self) -> None:
        """To a file that is asked for."""
        living = self._ready()
        if living is None:
            return
        dialog = LineDialog(
            "Save the plan: where?",
            "plan.json; the smoothing factors go beside it, as .npz",
            str(living.own_path),
        )
        self.app.push_screen(dialog, partial(self._save, living))

    def _save(self, living: Living, answer: Answer | None) -> None:
        if answer is None:
            return
        path = _file(answer.text.strip() or str(living.own_path))
        self._write("saving", partial(living.save, path), lambda written: f"saved {written}")

    def action_export(self) -> None:
        """In the words of an engine."""
        living = self._ready()
        if living is None:
            return
        dialog = ExportDialog(names(), lambda name: USUAL.get(name, f"{name}.json"))
        self.app.push_screen(dialog, partial(self._export, living))

    def _export(self, living: Living, answer: tuple[str, str] | None) -> None:
        if answer is None:
            return
        consumer, path = answer
        write = partial(living.export, consumer, _file(path.strip()))
        self._write("exporting", write, str)

    def _write(self, busy: str, write: Callable[..., Any], say: Callable[[Any], str]) -> None:
        """Write in a thread; what is there already only if that is meant."""

        def written(result: object) -> None:
            self.said = say(result)
            self.notify(self.said, markup=False)
            self.show()

        def failed(error: Exception) -> None:
            if not isinstance(error, OutputExists):
                self.tell_problem(error)
                return
            again = partial(write, overwrite=True)

            def answered(yes: bool | None) -> None:
                if yes:
                    self.work(again, written, busy=busy)

            self.app.push_screen(YesNo(f"{error.what}. Overwrite it?"), answered)

        self.work(write, written, failed, busy)


def _file(text: str) -> Path:
    """`~` is a person's folder; where there is no such person, there will be no such folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def _set_cache(precision: str, living: Living) -> str:
    if precision not in (PLAIN, BF16):
        raise BadInput("a KV cache runs in FP8 per tensor or in BF16", "press t or b")
    return living.draft.set_cache(precision == PLAIN)
