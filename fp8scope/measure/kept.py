"""What measuring keeps on disk while it runs, so that any crash can be resumed.

The sums of every finished batch, by plan, in a small JSON file that is written anew (fsync and
rename) after each. A float is written so that it reads back to the bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fp8scope.artefacts.atomic import temporary_path, write_atomically
from fp8scope.core.choices import Term
from fp8scope.errors import CannotResume

FORMAT, VERSION = "fp8scope-measuring", 1
RESTART = "start again without --resume (and with --force)"

Sums = Sequence[float]


class Kept:
    """The file beside an output, `<output>.measuring`.

    `of` says what is measured, in the words of a refusal: `{"model": digest, "text": digest}`.
    """

    def __init__(self, output: Path, of: Mapping[str, str]) -> None:
        self.path = kept_path(output)
        self._of = dict(of)
        self._plans: dict[str, dict[str, Sums]] = {}

    def load(self) -> bool:
        """Go on with what is there; False where nothing is.

        Raises CannotResume if it is unreadable, or of something else.
        """
        if not self.path.exists():
            return False
        try:
            data = json.loads(self.path.read_bytes())
            if (data["format"], data["version"]) != (FORMAT, VERSION):
                raise ValueError("of another version")
            of, plans = dict(data["of"]), _plans(data["plans"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CannotResume(f"{self.path} is not readable ({error!r})", RESTART) from error
        changed = [name for name, digest in self._of.items() if of.get(name) != digest]
        if changed:
            raise CannotResume(
                f"{self.path} is of another measuring: another {' and another '.join(changed)}",
                RESTART,
            )
        self._plans = plans
        return True

    def sums(self, terms: Iterable[Term]) -> dict[int, Sums]:
        """The sums of each finished sequence under these terms, by its index."""
        found = self._plans.get(digest_of_terms(terms), {})
        return {int(sample): sums for sample, sums in found.items()}

    def save(self, terms: Iterable[Term], sums: Mapping[int, Sums]) -> None:
        """Add the sums of a batch. Raises CannotWrite."""
        plan = self._plans.setdefault(digest_of_terms(terms), {})
        plan.update({str(sample): list(values) for sample, values in sums.items()})
        data = {"format": FORMAT, "version": VERSION, "of": self._of, "plans": self._plans}
        write_atomically(self.path, json.dumps(data).encode())

    def remove(self) -> None:
        """Delete it, and what a killed writer left."""
        self.path.unlink(missing_ok=True)
        temporary_path(self.path).unlink(missing_ok=True)


def kept_path(output: Path) -> Path:
    """Where the measuring for `output` is kept."""
    return output.with_name(f"{output.name}.measuring")


def digest_of_terms(terms: Iterable[Term]) -> str:
    """The same for the same terms in any order."""
    rows = sorted(json.dumps(term._asdict(), sort_keys=True) for term in terms)
    return hashlib.blake2b(json.dumps(rows).encode(), digest_size=16).hexdigest()


def _plans(data: Mapping[str, Mapping[str, Sequence[Any]]]) -> dict[str, dict[str, Sums]]:
    return {
        plan: {str(int(sample)): [float(value) for value in sums] for sample, sums in kept.items()}
        for plan, kept in data.items()
    }
