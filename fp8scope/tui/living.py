"""The plan that a person changes: what screens ask of it, and how it gets to files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fp8scope.artefacts.atomic import write_atomically
from fp8scope.artefacts.plan import Plan, Precision
from fp8scope.artefacts.plan_file import factors_path, write_plan
from fp8scope.errors import BadInput, OutputExists
from fp8scope.export.checking import export_plan
from fp8scope.export.consumer import SAYS, Document, Form
from fp8scope.plan.draft import Draft
from fp8scope.report.snapshot import Snapshot

DEFAULT = Path("plan.json")
"""Where a plan goes that came from no file, as `fp8scope plan` has it."""


class Living:
    """A draft, and the file that it is of. `path` is where it was read from or saved to, if it was.

    `reasons`: the precision of each group when its plan was last made in full, and why.
    """

    def __init__(self, draft: Draft, profile: Path, path: Path | None = None) -> None:
        self.draft, self.path, self._profile = draft, path, profile
        self.reasons: Mapping[str, tuple[Precision, str]] = {}

    @classmethod
    def of(cls, snapshot: Snapshot) -> Living:
        """That of the plan which was given, or else of the preset; takes seconds of a large model.

        Raises BadInput and Stale as `Draft`.
        """
        draft = Draft(snapshot.profile, snapshot.plan)
        found = cls(draft, snapshot.path, snapshot.plan_path if snapshot.plan else None)
        if snapshot.plan is not None:
            found._explain(snapshot.plan)
        return found

    @property
    def changed(self) -> bool:
        """Whether there is something that is not saved."""
        return self.draft.changed

    @property
    def own_path(self) -> Path:
        """The plan's own file, or a new one."""
        return self.path or free(DEFAULT)

    def precision(self, name: str) -> Precision | None:
        """What a fused group runs in; of a KV cache fp8_tensor or bf16; None if unknown."""
        return self.draft.precision(name)

    def plan(self) -> Plan:
        """The plan as it is now, complete; takes seconds of a large model."""
        plan, _ = self.draft.plan()
        self._explain(plan)
        return plan

    def save(self, path: Path | None = None, *, overwrite: bool = False) -> Path:
        """Write plan.json, and its factors beside it; without `path` to the plan's own file, or a
        new one. Raises OutputExists (not with `overwrite`), BadInput and CannotWrite.
        """
        overwrite = overwrite or (path is None and self.path is not None)
        path = path or self.own_path
        self._check(path, overwrite)
        if factors_path(path).exists() and not path.exists() and not overwrite:
            raise OutputExists(f"{factors_path(path)} exists already", "choose another name")
        step = self.draft.step
        plan, factors = self.draft.plan(step)
        write_plan(plan, factors, path)
        self.path = path
        self.draft.saved(step)
        return path

    def document(self, consumer: str) -> Document:
        """What a consumer would be given. Raises CannotExpress."""
        return export_plan(self.plan(), consumer)

    def export(self, consumer: str, path: Path, *, overwrite: bool = False) -> str:
        """Write the plan as a consumer reads it, in the form that the file's suffix says, and say
        what it is. Raises CannotExpress, OutputExists, BadInput and CannotWrite.
        """
        self._check(path, overwrite)
        document = self.document(consumer)
        text = _form(document, path).text
        write_atomically(path, (text if text.endswith("\n") else f"{text}\n").encode())
        said = f"wrote {path}: {SAYS[document.kind]}"
        if self.draft.smooths:
            said += ". The plan smooths: it holds for weights into which fp8scope build has folded"
        return said

    def _check(self, path: Path, overwrite: bool) -> None:
        if path.is_dir():
            raise BadInput(f"{path} is a folder", "give a file in it")
        if not path.absolute().parent.is_dir():
            raise BadInput(f"there is no folder {path.absolute().parent}", "make it first")
        if path.exists() and self._profile.exists() and path.samefile(self._profile):
            raise BadInput(f"{path} is the profile", "choose another name")
        if path.exists() and not overwrite:
            raise OutputExists(f"{path} exists already", "overwrite it, or choose another name")

    def _explain(self, plan: Plan) -> None:
        self.reasons = {group.name: (group.precision, group.reason) for group in plan.groups}


def free(path: Path) -> Path:
    """The path, or the first of plan-2.json, plan-3.json, … that is free, with its factors."""
    names = (path, *(path.with_stem(f"{path.stem}-{number}") for number in range(2, 1000)))
    found = (name for name in names if not (name.exists() or factors_path(name).exists()))
    return next(found, path)


def _form(document: Document, path: Path) -> Form:
    """The form of the path's suffix, or the only one there is."""
    alike = [form for form in document.forms.values() if form.suffix == path.suffix]
    if not alike and len(document.forms) > 1:
        known = ", ".join(sorted({form.suffix for form in document.forms.values()}))
        raise BadInput(f"which form is {path.name}?", f"let it end in one of {known}")
    return (alike or list(document.forms.values()))[0]
