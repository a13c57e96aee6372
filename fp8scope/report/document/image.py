"""A figure as PNG: drawn by Chromium, which kaleido finds and runs; nothing is fetched."""

from __future__ import annotations

import logging
from typing import Any

from fp8scope.errors import Missing, one_line
from fp8scope.report.document.blocks import Figure, View
from fp8scope.report.document.inert import inert
from fp8scope.report.document.plotlyjs import plotly_js
from fp8scope.report.palette import Palette, resolved

CANNOT = "a figure cannot be drawn as PNG"
MARGIN = {"l": 44, "r": 12, "t": 12, "b": 28}
TITLE = 36
"""Pixels that the title takes."""
REMEDY = "install Chromium or Chrome, or name it in BROWSER_PATH"


def png(
    figure: Figure,
    view: int | str,
    colours: Palette,
    width: int = 1000,
    height: int | None = None,
    scale: float = 2,
) -> bytes:
    """One view, by its number or its title, in `width` × `height` × `scale`² pixels.

    `height`: the figure's own unless given. Raises KeyError for a view that is not there, Missing
    where kaleido or a browser is.
    """
    chosen = _view(figure, view)
    drawing = resolved({"data": list(chosen.data), "layout": dict(chosen.layout)}, colours)
    # the template: what the drawing says itself comes first
    drawing["layout"]["template"] = {"layout": _manner(colours)}
    pixels = height or figure.height + TITLE
    _give_title(drawing, figure, chosen, pixels)
    return _drawn(drawing, {"format": "png", "width": width, "height": pixels, "scale": scale})


def _give_title(drawing: dict[str, Any], figure: Figure, view: View, pixels: int) -> None:
    """What a page writes over a figure, in room of its own: what hangs from the top hangs lower."""
    words = [figure.title, *([view.title] if len(figure.views) > 1 else [])]
    layout = drawing["layout"]
    margin = layout.get("margin", {})
    layout["margin"] = {**margin, "t": margin.get("t", MARGIN["t"]) + TITLE}
    for part in (layout.get("legend"), *(trace.get("colorbar") for trace in drawing["data"])):
        if part and part.get("yref") == "container":
            part["y"] = part.get("y", 1) - TITLE / pixels
    layout["title"] = {
        "text": inert(": ".join(words)),
        "font": {"size": 15},
        "x": 0,
        "xanchor": "left",
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "pad": {"t": 12, "l": 12},
    }


def _view(figure: Figure, view: int | str) -> View:
    by_title = {one.title: one for one in figure.views}
    if isinstance(view, str):
        return by_title[view]
    if not 0 <= view < len(figure.views):
        raise KeyError(view)
    return figure.views[view]


def _drawn(drawing: dict[str, Any], options: dict[str, Any]) -> bytes:
    try:
        import kaleido
        from kaleido.errors import BrowserClosedError, BrowserFailedError, ChromeNotFoundError
    except ImportError as error:
        raise Missing(f"{CANNOT}: {one_line(error)}", "pip install 'fp8scope[png]'") from None
    # what is drawn needs neither the network nor MathJax
    how = {"plotlyjs": str(plotly_js()), "mathjax": False}
    logging.getLogger("choreographer").setLevel(logging.ERROR)  # of a browser slow to end
    try:
        return bytes(kaleido.calc_fig_sync(drawing, opts=options, kopts=how))
    except ChromeNotFoundError:
        raise Missing(f"{CANNOT}: no Chromium or Chrome is found", REMEDY) from None
    except (BrowserClosedError, BrowserFailedError):
        raise Missing(f"{CANNOT}: the browser that is found does not run", REMEDY) from None


def _manner(colours: Palette) -> dict[str, Any]:
    """As a page shows drawings."""
    axis = {
        "automargin": True,
        "gridcolor": colours["@grid"],
        "linecolor": colours["@grid"],
        "zerolinecolor": colours["@grid"],
        "tickcolor": colours["@grid"],
        "tickfont": {"color": colours["@dim"]},
        "title": {"font": {"color": colours["@dim"]}},
    }
    return {
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": colours["@text"]},
        "paper_bgcolor": colours["@paper"],
        "plot_bgcolor": colours["@paper"],
        "margin": MARGIN,
        "colorway": [colours[f"@line{line}"] for line in range(8)],
        "xaxis": axis,
        "yaxis": axis,
    }
