"""The sweep over spans and launches against the definition, one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fp8scope.traces.nsys_ranges import Ranges, Span, enclosing, sorted_spans

TIMES = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda pair: tuple(sorted(pair)))
INTERVALS = st.lists(TIMES, max_size=25)


def around(spans: list[Span], start: int, end: int) -> tuple[int, ...]:
    """What the projection means: every span that encloses the call."""
    return tuple(i for i, span in enumerate(spans) if span.start <= start and span.end >= end)


@given(INTERVALS, INTERVALS)
def test_the_sweep_finds_what_looking_at_every_span_finds(
    spans: list[tuple[int, int]], calls: list[tuple[int, int]]
) -> None:
    ordered = sorted_spans([Span(start, end, "") for start, end in spans])
    assert enclosing(ordered, calls) == [around(ordered, *call) for call in calls]


@st.composite
def nested(draw: st.DrawFn, start: int = 0, end: int = 1000, depth: int = 4) -> list[Span]:
    """Push/pop ranges: siblings one after the other, children inside, each named by its path."""
    spans: list[Span] = []
    at = start
    while depth and at < end and draw(st.booleans()):
        first = draw(st.integers(at, end))
        last = draw(st.integers(first, end))
        spans.append(Span(first, last, f"{first}-{last}"))
        spans += draw(nested(first, last, depth - 1))
        at = last + 1
    return spans


@given(nested(), st.lists(st.integers(0, 1000), max_size=20))
def test_of_nested_ranges_the_innermost_comes_last(spans: list[Span], calls: list[int]) -> None:
    ranges = Ranges({7: sorted_spans(spans)})
    for call, names in zip(calls, ranges.project(7, [(c, c) for c in calls]), strict=True):
        holding = [span for span in spans if span.start <= call <= span.end]
        assert sorted(names) == sorted(span.name for span in holding)
        lengths = [int(n.split("-")[1]) - int(n.split("-")[0]) for n in names]
        assert lengths == sorted(lengths, reverse=True)


@given(nested())
def test_parents_are_the_ranges_around(spans: list[Span]) -> None:
    for span in Ranges({7: sorted_spans(spans)}).listed():
        start, end = round(span.start_us * 1000), round(span.end_us * 1000)
        holding = [s.name for s in spans if s.start <= start and s.end >= end]
        holding.remove(span.name)
        # Of ranges that coincide, each is either around the other or inside it.
        same = [s for s in spans if (s.start, s.end) == (start, end)]
        assert len(holding) - len(same) < len(span.parents) <= len(holding)
        assert set(span.parents) <= set(holding) | {s.name for s in same}


def test_ranges_of_another_thread_do_not_count() -> None:
    ranges = Ranges({7: [Span(0, 100, "prefill")]})
    assert ranges.project(8, [(10, 20)]) == [()]
    assert ranges.project(7, [(10, 20), (90, 110)]) == [("prefill",), ()]
