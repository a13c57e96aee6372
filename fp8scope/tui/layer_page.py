"""What stands on the layer screen apart from its numbers: titles, hints, help and style."""

from __future__ import annotations

TITLES = {
    "histogram": "h  magnitudes of",
    "why": "w  why, and what helps",
    "costs": "k  what it costs: ● measured, ○ predicted, ├─┤ one standard error each way",
    "pairs": "smoothed, with what it is folded into in FP8",
    "spread": "l  channels",
    "values": "v  largest values",
    "traffic": "t  tags, headroom, convergence",
}
JUMPS = (
    ("h", "histogram", "to the magnitudes"),
    ("w", "why", "to cause and remedy"),
    ("k", "costs", "to the costs"),
    ("l", "spread", "to the channels"),
    ("v", "values", "to the largest values"),
    ("t", "traffic", "to tags, headroom and convergence"),
)
HINT = (
    "[b]tab[/] site  [b]n p[/] next, previous  [b]h w k l v t[/] sections  "
    "[b]\\[ ] { } = o a A[/] what if"
)

HELP = """
Everything about one module or fused group, as `analyze --layer` says it.

**Magnitudes**: how many values (log axis) of which size (log axis). The zones are those of the
number format under the scale of the what-if: values that round to zero, subnormals, normals, and
values that are clamped. Orange is lost, blue is kept.

**What if**: move the scale, the format or α and see what changes against E4M3 with scale amax/448.
Without α all numbers are exact. With α, amax, scale and rms are exact, ≤ marks a bound, and ≈ an
estimate from each channel's rms.

**What it costs**: KL in nats per token of this group alone, by candidate, on a log axis.
"""

CSS = """
    LayerScreen #heading { height: 2; padding: 0 1; background: $panel; }
    LayerScreen #hint { height: 1; padding: 0 1; color: $text-muted; }
    LayerScreen #columns { height: auto; }
    LayerScreen.-narrow #columns { layout: vertical; }
    LayerScreen .column { height: auto; width: 1fr; }
    LayerScreen.-narrow .column { width: 100%; }
    LayerScreen .section { height: auto; border-top: solid $secondary; padding: 0 1;
                           border-title-color: $text; }
    LayerScreen #plot { height: 11; }
    LayerScreen.-wide #plot { height: 20; }
    LayerScreen Static { height: auto; }
    LayerScreen #scheme { height: 1; }
    LayerScreen #outcome { height: 11; }
    """
