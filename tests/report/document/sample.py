"""A document with every kind of block, shaped like a report, with hostile text in it."""

from __future__ import annotations

import math
from typing import Any

from fp8scope.report.document.blocks import (
    Cell,
    Code,
    Column,
    Details,
    Document,
    Excerpt,
    Fact,
    Facts,
    Figure,
    Items,
    Link,
    Listing,
    Paragraph,
    Row,
    Section,
    Strong,
    Table,
    View,
)
from fp8scope.report.document.inert import inert

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    '"><svg onload=alert(2)>',
    "<!-- --> {{7*7}} {% raw %} &amp; &lt;b&gt; %{x}",
    "`code` | **bold** [link](https://evil.example) @someone #123",
    "javascript:alert(3) \u2028 line",
)
BLOCKS, KINDS = 80, ("qkv", "o", "gate_up", "down", "k cache", "v cache", "router", "experts")


def sample() -> Document:
    """The whole of it. Nothing in it is random."""
    return Document(
        "Where FP8 hurts demo-70B " + HOSTILE[0],
        "80 blocks, 560 linears, 4 use cases, 512 sequences of prose, code and support replies",
        verdict(),
        (overview(), layers(), every_tensor(), hostile(), export()),
    )


def verdict() -> Section:
    facts = (
        Fact("KL of the plan", "0.0041 nats", "± 5%; plain FP8 everywhere 0.242", "good"),
        Fact("Kept in BF16", "2 of 320 groups", "0.4% of the weights"),
        Fact("Step time", "61% of BF16", "a roofline bound, h100-sxm"),
        Fact("Static scales", "not safe", "code reaches 1.8× support's range", "bad"),
        Fact("Text", "nearly enough", "3 sites have not settled", "warn"),
        Fact("KV cache", "FP8 in 79 of 80", "block 3 in BF16"),
    )
    return Section(
        "Keep 2 of 320 groups in BF16; smooth 6; the rest may run in FP8",
        "verdict",
        (
            Facts(facts),
            Items(
                (
                    (
                        Link("layers.0.mlp.down_proj", "layer-0"),
                        " in BF16: one token (",
                        Excerpt("the customer asks for a", " refund", " of the whole sum"),
                        ") reaches 702,264× the body's rms. ",
                        Strong("0.063 → 0 nats."),
                    ),
                    (
                        Link("layers.3.mlp.down_proj", "layer-3"),
                        " smoothed at α 0.75, folded into ",
                        Code("layers.3.mlp.up_proj"),
                        ": one product of gate and up. 0.059 → 0.0003 nats.",
                    ),
                    ("Use scales per token for ", Code("qkv"), " of blocks 2, 7 and 11."),
                ),
                numbered=True,
            ),
            Paragraph(("Use case that suffers most: ", Strong("code"), " (0.30 nats).")),
        ),
    )


def overview() -> Section:
    return Section(
        "Overview",
        "overview",
        (
            Paragraph("Every block is a row, every kind of linear a column. Darker is worse."),
            heatmap(),
        ),
        keywords="heatmap",
    )


def heatmap() -> Figure:
    def view(title: str, shift: int) -> View:
        levels = [
            [
                round(abs(math.sin(block * 0.7 + kind * 1.3 + shift)) ** 6, 4)
                for kind in range(len(KINDS))
            ]
            for block in range(BLOCKS)
        ]
        trace = {
            "type": "heatmap",
            "z": levels,
            "x": list(KINDS),
            "y": [str(block) for block in range(BLOCKS)],
            "customdata": [[f"#layer-{block % 6}"] * len(KINDS) for block in range(BLOCKS)],
            "colorscale": "@ramp",
            "xgap": 1,
            "ygap": 1,
            "hovertemplate": inert(f"{HOSTILE[0]} {HOSTILE[2]}") + " %{z}<extra></extra>",
            "colorbar": {"thickness": 10, "title": {"text": title, "side": "right"}},
        }
        layout = {
            "yaxis": {"autorange": "reversed", "title": {"text": "block"}, "nticks": 20},
            "xaxis": {"side": "top"},
        }
        return View(title, [trace], layout)

    titles = ("KL, nats", "body SQNR, dB", "headroom", "underflow", HOSTILE[1])
    return Figure(
        "heatmap",
        "Blocks and kinds",
        ("Block 3's ", Code("down"), " loses most; 4 of 640 cells are dark."),
        [view(title, number) for number, title in enumerate(titles)],
        height=520,
    )


def histogram(name: str) -> Figure:
    heights = [math.exp(-((place - 60) ** 2) / 300) * 1e6 + 1 for place in range(120)]
    bars: dict[str, Any] = {
        "type": "bar",
        "x": [place / 4 - 20 for place in range(120)],
        "y": heights,
        "marker": {"color": ["@accent" if place < 20 else "@main" for place in range(120)]},
    }
    zones = [
        {
            "type": "rect",
            "xref": "x",
            "yref": "paper",
            "x0": -15,
            "x1": 3,
            "y0": 0,
            "y1": 1,
            "fillcolor": "@second",
            "opacity": 0.15,
            "line": {"width": 0},
        }
    ]
    layout = {
        "xaxis": {"title": {"text": "log2 of |x|"}},
        "yaxis": {"type": "log", "title": {"text": "values"}},
        "shapes": zones,
        "bargap": 0,
    }
    return Figure(
        name, "Magnitudes", "0.2% of the values become zero.", [View("input", [bars], layout)]
    )


def layers() -> Section:
    return Section(
        "Layers",
        "layers",
        (Paragraph("The groups that cost most."), *(layer(number) for number in range(6))),
    )


def layer(number: int) -> Details:
    name = f"model.layers.{number}.mlp.down_proj"
    return Details(
        (Code(name), f"  0.0{63 - number} nats, one token in one channel"),
        (
            Paragraph(
                ("Cause: a massive activation. Also see ", Link("verdict", "verdict", False))
            ),
            Details("Figures", (histogram(f"magnitudes-{number}"),), open=number == 0),
            Table(
                (
                    Column("Text"),
                    Column("|x|", numeric=True, about="The largest value"),
                    Column("Channel", numeric=True),
                ),
                [
                    Row(
                        (
                            Cell((Excerpt("asks for a", " refund\n", HOSTILE[place % 4]),)),
                            Cell(f"{9000 - place:,}", 9000 - place, "bad" if place < 2 else ""),
                            Cell("232", 232),
                        )
                    )
                    for place in range(4)
                ],
                "Largest values",
            ),
        ),
        anchor=f"layer-{number}",
    )


def every_tensor(count: int = 1000) -> Section:
    columns = (
        Column("Site"),
        Column("Body SQNR, dB", numeric=True, about="Of values up to the .9 quantile"),
        Column("Underflow", numeric=True),
        Column("Headroom", numeric=True, about="Scale of all text over that of one use case"),
        Column("Where"),
    )

    def row(place: int) -> Row:
        ratio = 20 + 12 * math.sin(place)
        known = place % 17 != 0
        more = " and what is written there" * 20 if place == 3 else ""
        return Row(
            (
                Cell((Code(f"layers.{place // 7}.mlp.linear_{place % 7}"), " input")),
                Cell(f"{ratio:.1f}", ratio, "bad" if ratio < 10 else "good" if ratio > 31 else ""),
                Cell(f"{place / 10:.1f}%" if known else "", place / 10 if known else None),
                Cell("1.20×", 1.2, "warn" if place % 9 == 0 else ""),
                Cell(f"{('prose', 'code', 'support')[place % 3]}, sequence {place}" + more),
            ),
            anchor=f"site-{place}",
        )

    rows = [row(place) for place in range(count)]
    return Section("Every tensor", "tensors", (Table(columns, rows, "All cast sites"),))


def hostile() -> Section:
    texts = [Paragraph((text, Code(text), Strong(text))) for text in HOSTILE]
    facts = Facts([Fact(text, text, text) for text in HOSTILE[:2]])
    table = Table(
        [Column(text, about=text) for text in HOSTILE[:3]],
        [Row([Cell(text)] * 3, f"hostile {number} {text}") for number, text in enumerate(HOSTILE)],
        HOSTILE[0],
    )
    inner = Section(HOSTILE[1], "hostile-inner", (Items(HOSTILE),), keywords=HOSTILE[1])
    return Section(HOSTILE[0], "hostile", (*texts, facts, table), HOSTILE[2], (inner,))


def export() -> Section:
    config = "\n".join(
        ["quant_cfg:", *(f'  "*layers.{block}.mlp*": {{enable: false}}' for block in range(40))]
    )
    return Section(
        "Export",
        "export",
        (
            Listing("vLLM", config, "yaml", ("Save it as ", Code("ignore.yaml"), ".")),
            Listing(HOSTILE[0], "\n".join(HOSTILE), HOSTILE[1], HOSTILE[2]),
        ),
    )
