"""What each candidate costs, in nats per token: the scores of a profile's second pass, with errors.

The profile holds nats per row and sequence. The scored sequences are a part of each tag's, so the
whole is the mean over tags weighted by their tokens in the calibration (stratified ratio
estimator; Cochran, Sampling Techniques, 3rd ed., 6.10). Its standard error comes from how the
sequences differ, which holds the noise of the sampled labels as well.

An estimate has a doubt beside its noise: see `analyze.forms`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fp8scope.analyze.forms import reconcile
from fp8scope.analyze.ratios import Nats, Ratios, Sampled
from fp8scope.core.choices import Kind, Part, Row, Term
from fp8scope.profile.record import Profile

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """One row: `estimate` is that of both forms; `check` squares the sum of each
    sequence (unbiased to second order, more noise); `measured` is the KL itself
    where it was measured in all sequences. `nats` is the best known: of each sequence (in a merged
    profile they may differ) measured, or else the estimate; `tags` holds that of each tag.
    """

    row: Row
    nats: Nats
    estimate: Nats
    check: Nats
    measured: Nats | None
    tags: Mapping[str, Nats]

    @property
    def kl(self) -> float:
        """The best known KL in nats per token."""
        return self.nats.kl

    @property
    def worst_tag(self) -> str:
        """The tag that it costs most; "" where there is no choice."""
        return max(self.tags, key=lambda tag: self.tags[tag].kl) if len(self.tags) > 1 else ""


class Scores:
    """All `rows` of a profile that was scored. Raises ValueError for one that was not.

    `nats` [rows, scored sequences] is the best known of each, summed over the sequence's tokens.
    """

    def __init__(self, profile: Profile) -> None:
        found = profile.sensitivity
        if found is None:
            raise ValueError("the profile holds no sensitivity")
        lengths, tags = profile.samples["length"], profile.samples["tag"][found.samples]
        self.rows = found.rows
        self._tags, self._scored = profile.tags, set(tags.tolist())
        tokens = lengths[found.samples].astype(np.float64)
        # parts of a merged profile are strata of their own: they were sampled each by itself
        keys = np.stack((tags.astype(np.float64), found.stands_for), axis=1)
        strata = [np.flatnonzero((keys == key).all(axis=1)) for key in np.unique(keys, axis=0)]
        weights = np.array([float((found.stands_for * tokens)[s].sum()) for s in strata])
        of_tag = [int(tags[stratum[0]]) for stratum in strata]
        self._forms = reconcile(found.rows, found.kl_token, found.kl_sequence, profile.structure)
        estimate = found.kl_token * self._forms.ratio[:, None]
        known = np.isfinite(found.kl_measured)
        self._all_measured: list[bool] = [bool(row.all()) for row in known]
        self.nats: Float64 = np.where(known, found.kl_measured, estimate)
        self._sampled = Sampled(tokens, strata, weights, of_tag)
        self._best, self._estimate, self._check, self._measured = (
            Ratios(nats, self._sampled)
            for nats in (self.nats, estimate, found.kl_sequence, found.kl_measured)
        )
        self._number = {row: i for i, row in enumerate(found.rows)}
        self._alone: dict[str, list[Row]] = {}
        self._pairs: dict[str, list[Row]] = {}
        for row in found.rows:
            if row.kind in (Kind.GROUP, Kind.KV):
                self._alone.setdefault(row.terms[0].group, []).append(row)
            elif row.kind is Kind.PAIR and len(row.terms) == 2:
                self._pairs.setdefault(row.terms[1].group, []).append(row)

    def of(self, row: Row) -> Score:
        """The score of a row. Raises KeyError for one that was not scored."""
        number = self._number[row]
        known = self._all_measured[number]

        def judged(nats: Nats) -> Nats:
            return nats if known else self._doubted(nats, number)

        return Score(
            row=row,
            nats=judged(self._best.whole(number)),
            estimate=self._doubted(self._estimate.whole(number), number),
            check=self._check.whole(number),
            measured=self._measured.whole(number) if known else None,
            tags={
                tag: judged(self._best.of(number, i))
                for i, tag in enumerate(self._tags)
                if i in self._scored
            },
        )

    def kind(self, kind: Kind) -> list[Score]:
        """Every score of a kind, the worst first; one that is not known before all."""
        found = [self.of(row) for row in self.rows if row.kind is kind]
        return sorted(found, key=lambda score: -np.nan_to_num(score.kl, nan=np.inf))

    def candidates(self, group: str) -> dict[str, Score]:
        """The group alone in each candidate, at its best α where it is smoothed, by name.

        Without those whose KL is not known (not a number); infinite is known, and worst.
        """
        best: dict[str, tuple[float, Row]] = {}
        for row in self._alone.get(group, ()):
            term = row.terms[0]
            if term.folded is None and term.part is Part.BOTH:
                kl = self._best.whole(self._number[row]).kl
                known = best.get(term.candidate)
                if not np.isnan(kl) and (known is None or kl < known[0]):
                    best[term.candidate] = kl, row
        return {name: self.of(row) for name, (_, row) in best.items()}

    def alone(self, group: str) -> Iterator[Score]:
        """Every row of the group (or cache) by itself."""
        return map(self.of, self._alone.get(group, ()))

    def parts(self, group: str, candidate: str) -> dict[Part, Score]:
        """The group with its weights alone, or its inputs alone, in a candidate; often empty."""
        found = {
            part: Row(Kind.GROUP, (Term(group, candidate, part=part),))
            for part in (Part.WEIGHT, Part.INPUT)
        }
        return {part: self.of(row) for part, row in found.items() if row in self._number}

    def pairs(self, reader: str) -> list[Score]:
        """The group `reader` smoothed, together with what it is folded into, by α; the best first.

        Without the KV cache; empty where nothing folds.
        """
        found = map(self.of, self._pairs.get(reader, ()))
        known = [score for score in found if not np.isnan(score.kl)]
        return sorted(known, key=lambda score: score.kl)

    def groups(self) -> list[str]:
        """The fused groups that were scored, in module order."""
        rows = (row for row in self.rows if row.kind is Kind.GROUP)
        return list(dict.fromkeys(row.terms[0].group for row in rows))

    def terms(self) -> dict[Term, int]:
        """Number of the row of each group or cache that was scored alone, both sides quantized."""
        alone = ((row.terms[0], i) for row, i in self._number.items() if len(row.terms) == 1)
        return {term: i for term, i in alone if term.part is Part.BOTH}

    def together(self, rows: Sequence[int]) -> tuple[Nats, dict[str, Nats]]:
        """The sum of rows, with its error, and that of each tag; zero of none.

        Their noise comes from the same sequences, the doubt of estimates from each row.
        """
        chosen = list(rows)
        sums = Ratios(self.nats[chosen].sum(axis=0, keepdims=True), self._sampled)
        guessed = [row for row in chosen if not self._all_measured[row]]

        def doubted(found: Nats, kl: Float64) -> Nats:
            if not np.isfinite(found.kl):
                return Nats(found.kl, np.nan)
            noise = 0.0 if np.isnan(found.error) else found.error
            return Nats(found.kl, float(np.hypot(noise, self._forms.doubt(guessed, kl))))

        return doubted(sums.whole(0), self._best.of_all()[guessed]), {
            tag: doubted(sums.of(0, i), self._best.of_all(i)[guessed])
            for i, tag in enumerate(self._tags)
            if i in self._scored
        }

    def weights(self, rng: np.random.Generator | None = None) -> Float64:
        """What one nat of each sequence adds to the KL per token, [scored sequences].

        With `rng`, of sequences drawn anew from each stratum, as many, with replacement.
        """
        return self._sampled.weights_of_sequences(rng)

    def _doubted(self, found: Nats, number: int) -> Nats:
        """An estimate with the error of its noise, and the doubt of the method."""
        noise = 0.0 if np.isnan(found.error) else found.error
        doubt = self._forms.doubt([number], np.array([found.kl]))
        return Nats(found.kl, float(np.hypot(noise, doubt)))
