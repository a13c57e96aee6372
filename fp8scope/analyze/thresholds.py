"""From where on a measure of E4M3, one static scale per tensor, means something.

The figures are of a Gaussian body with a few far larger channels or tokens, and of such outliers
planted in small trained models. What harms a model is the change in its output, which is not
measured here: a threshold says that a *tensor* suffers.
"""

from fp8scope.core.formats import E4M3
from fp8scope.core.sites import Role

FLOOR_DB = 30.0
"""Body SQNR from which on a tensor is as good as E4M3 gets: 31 to 32.5 dB by its shape alone.

Under it the body begins to be flushed to zero, at amax/rms of about 2.5e4. Outliers of ×10 to
×1000, which ruin INT8, leave E4M3 at the floor.
"""

DAMAGED_DB = 25.0
"""Body SQNR under which a tensor counts as damaged: amax/rms of about 5e4.

The model's output suffers later: with one such tensor the KL was up to 2 times that of plain
rounding at 2.5e4, 10 times at 1e5 (20 dB), 100 times and more at 3e5 (10 dB).
"""

HARM_NATS = 0.01
"""KL in nats per token from which on one group is a finding, whatever the cause: it alone costs
what a perplexity 1% higher would (where the model's own distribution is the truth), twice what a
whole model is commonly allowed."""

AVOIDABLE_NATS, AVOIDABLE_TIMES = 0.001, 3.0
"""KL in nats per token, and how many times that of the cheapest candidate, from which on a group
with an outlier is a finding, although it alone would not break the model: the cost is avoidable.
Of a tenth of `HARM_NATS` a few such groups add up; between FP8 candidates plain rounding differs by
1.4 times at most in 41 of the 42 groups of two small trained models (4.0 times in the other)."""

UNEXPLAINED_TIMES = 2.0
"""How many times what its groups cost alone a whole model's measured KL is, from which on second
order does not hold. In the small trained models, planted or not, the ratio is near 1; where a small
error tips something over, predictions were too low by thousands of times."""

NOISE_UNDERFLOW = 0.01
"""Rate under which underflow is no finding: a Gaussian body loses 1% at amax/rms of 6e3, where
its SQNR is untouched, and 4% at 2.5e4, where it begins to fall."""

LOW_HEADROOM = 0.8
"""Headroom under which a static scale depends on one tag: without it in the calibration, that
tag's largest values would be clipped by more than 20%, three times the worst rounding error."""

NO_HEADROOM = E4M3.max / 464
"""Headroom from which on nothing would be clipped: up to 464, E4M3 rounds to its largest, 448."""

STARVED_TOKENS = 100
"""Tokens under which an expert counts as starved. The largest of n tokens is exceeded by the next
with a chance of 1 / (n + 1): under 100, a static scale from this text would clip more than one in
a hundred of the expert's later tokens."""

CAST_ROLES = (Role.INPUT, Role.WEIGHT, Role.K, Role.V)
"""What FP8 serving casts. Residual streams and outputs stay as they are: there an outlier is an
explanation, not damage."""

OUTLIER_RATIO = 5e3
"""amax/rms from which on an outlier explains anything. There 0.9% of a Gaussian body is flushed to
zero and its SQNR lies 0.1 dB under that without an outlier; what is lost below is plain rounding.
No site of two small trained models comes near it: all are under 100, but for one of 385."""

USUAL = 0.75
"""Quantile of the amax of all tokens (channels, rows, columns) that stands for most of them. What
is larger than the usual by far is in few of them."""

FEW_TOKENS = 64.0
"""The largest token over the usual one from which on an outlier is one of few tokens. A channel
that is large in every token spreads as well, and a product of gate and up most: over all channels
of the two models 12 in the median, 42 at most but for one that is itself of few tokens (210). A
token outlier of OUTLIER_RATIO is at 140 or more, for the usual token is at 36 × the rms or less."""

STANDS_OUT = 8.0
"""The largest channel, row or column over the usual one, or the first tokens over all others, from
which on it stands out. Those of the models' channels that are larger at the first token are so by
4.9 at most."""
