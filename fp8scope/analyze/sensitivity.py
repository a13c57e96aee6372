"""What each candidate costs, in nats per token: the scores of a profile's second pass, with errors.

The profile holds nats per row and sequence. The scored sequences are a part of each tag's, so the
whole is the mean over tags weighted by their tokens in the calibration (stratified ratio
estimator; Cochran, Sampling Techniques, 3rd ed., 6.10). Its standard error comes from how the
sequences differ, which holds the noise of the sampled labels as well.

Two forms estimate one KL. That which squares the score of each token has little noise, but leaves
out how the errors of two tokens work together; that which squares a sequence's sum is unbiased and
noisy. The mean of their ratio over all groups is known well, so the first is multiplied by it. In
two small trained models, with two seeds each, it came out as 1.03, 1.05, 1.07 and 1.06 where
measured KLs said 1.04, 1.05, 1.11 and 1.07. What is left differs from group to group by `SPREAD`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fp8scope.core.choices import Kind, Part, Row, Term
from fp8scope.profile.record import Profile

Float64 = NDArray[np.float64]

SPREAD = 0.12
"""Standard deviation of measured/estimated over the groups of those models, noise apart: part of
every estimate's error."""
BIAS_SPREAD = 0.1
"""How far the mean ratio of the two forms may plausibly be from 1: it counts as much as its error
allows beside this (an empirical Bayes estimate), so that a few sequences change nothing."""


@dataclass(frozen=True)
class Nats:
    """KL in nats per token with its standard error; NaN where one sequence gives none."""

    kl: float
    error: float


@dataclass(frozen=True)
class Score:
    """One row: `estimate` squares the score of each token, less its mean bias; `check` that of each
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
    """All `rows` of a profile that was scored. Raises ValueError for one that was not."""

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
        self._bias, self._bias_error = self._form_ratio(found.kl_token, found.kl_sequence)
        estimate = found.kl_token * self._bias
        known = np.isfinite(found.kl_measured)
        self._all_measured: list[bool] = [bool(row.all()) for row in known]
        self._best, self._estimate, self._check, self._measured = (
            _Ratios(nats, tokens, strata, weights, of_tag)
            for nats in (
                np.where(known, found.kl_measured, estimate),
                estimate,
                found.kl_sequence,
                found.kl_measured,
            )
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
            return nats if known else self._doubted(nats)

        return Score(
            row=row,
            nats=judged(self._best.whole(number)),
            estimate=self._doubted(self._estimate.whole(number)),
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
        best: dict[str, Score] = {}
        for row in self._alone.get(group, ()):
            term = row.terms[0]
            if term.folded is None and term.part is Part.BOTH:
                score = self.of(row)
                known = best.get(term.candidate)
                if not np.isnan(score.kl) and (known is None or score.kl < known.kl):
                    best[term.candidate] = score
        return best

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

    def _form_ratio(self, token: Float64, sequence: Float64) -> tuple[float, float]:
        """Mean over the groups of check / estimate, drawn towards 1 by its error; and that error,
        relative.
        """
        alone = [
            i
            for i, row in enumerate(self.rows)
            if row.kind is Kind.GROUP and row.terms[0].folded is None
        ]
        token, sequence = token[alone], sequence[alone]
        total = token.sum(axis=1, keepdims=True)
        used = np.isfinite(total[:, 0]) & np.isfinite(sequence).all(axis=1) & (total[:, 0] > 0)
        if not used.any() or token.shape[1] < 2:
            return 1.0, BIAS_SPREAD
        # what each sequence adds to the mean ratio, less what it would at a ratio of 1
        added = ((sequence - token)[used] / total[used]).mean(axis=0)
        error = float(np.sqrt(len(added) * added.var(ddof=1)))
        weight = BIAS_SPREAD**2 / (BIAS_SPREAD**2 + error**2)
        return 1 + weight * float(added.sum()), float(np.sqrt(weight)) * error

    def _doubted(self, found: Nats) -> Nats:
        """An estimate with the error of its noise, and those of the mean bias and the spread."""
        noise = 0.0 if np.isnan(found.error) else found.error
        doubt = np.hypot(SPREAD, self._bias_error / self._bias) * found.kl
        return Nats(found.kl, float(np.hypot(noise, doubt)))


class _Ratios:
    """Nats over tokens by row and stratum, a ratio whose error is that of its residuals.

    nats [rows, sequences]; tokens [sequences]; strata: the sequences of each, none without; the
    calibration's tokens that each stands for, and its tag. One with a single sequence is taken to
    spread as the others do, relative to its nats, and where no other tells, its error is NaN.
    """

    def __init__(
        self,
        nats: Float64,
        tokens: Float64,
        strata: Sequence[NDArray[np.intp]],
        weights: Float64,
        tags: Sequence[int],
    ) -> None:
        self._kl, self._error = np.full((2, len(nats), len(strata)), np.nan)
        self._weights, self._tags = weights, np.array(tags)
        for i, stratum in enumerate(strata):
            total, count = tokens[stratum].sum(), len(stratum)
            self._kl[:, i] = nats[:, stratum].sum(axis=1) / total
            if count > 1:
                residuals = nats[:, stratum] - self._kl[:, i, None] * tokens[stratum]
                variance = count / (count - 1) * (residuals**2).sum(axis=1) / total**2
                self._error[:, i] = np.sqrt(variance)
        _borrow(self._kl, self._error, np.array([len(stratum) for stratum in strata]))

    def of(self, row: int, tag: int) -> Nats:
        """One tag of a row."""
        return self._mean(row, self._tags == tag)

    def whole(self, row: int) -> Nats:
        """All tags of a row."""
        return self._mean(row, np.full(len(self._tags), True))

    def _mean(self, row: int, used: NDArray[np.bool_]) -> Nats:
        shares = self._weights[used] / max(self._weights[used].sum(), 1)
        kl = float(self._kl[row, used] @ shares)
        return Nats(kl, float(np.sqrt((self._error[row, used] ** 2) @ shares**2)))


def _borrow(kl: Float64, error: Float64, counts: NDArray[np.intp]) -> None:
    """Give tags with one sequence an error [rows, tags]: by the pooled relative variance of one
    sequence in the other tags.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        one = counts * (error / kl) ** 2
        freedom = np.where(np.isfinite(one), counts - 1, 0)
        pooled = np.where(freedom > 0, freedom * one, 0).sum(axis=1) / freedom.sum(axis=1)
    single = counts == 1
    error[:, single] = kl[:, single] * np.sqrt(pooled)[:, None]
