// Figures: drawn when they come near, in the colours of the screen, or of paper.

const PAPER_WIDTH = 680;
const night = matchMedia("(prefers-color-scheme: dark)");
const finger = matchMedia("(pointer: coarse)");
const palettes = () =>
  (palettes.read ??= JSON.parse(document.getElementById(":palettes").textContent));

// plotly.js takes a second to start: it does so for the first figure. Whether `window.Plotly` is
// there says nothing: an element may be called so, for modules are.
function startPlotly() {
  const kept = document.getElementById(":plotly");
  if (!kept) return;
  document.body.append(make("script", { textContent: kept.textContent }));
  kept.remove();
}

// The same as fp8scope.report.palette.resolved: names stand only under keys that hold colours.
function resolved(part, colours, coloured = false) {
  if (typeof part === "string") return coloured && part[0] === "@" ? colours[part] : part;
  if (Array.isArray(part)) return part.map((inner) => resolved(inner, colours, coloured));
  if (!part || typeof part !== "object") return part;
  const entries = Object.entries(part);
  return Object.fromEntries(
    entries.map(([key, value]) => [key, resolved(value, colours, /(color|colorscale)$/.test(key))]),
  );
}

function manner(colours) {
  const axis = {
    automargin: true,
    gridcolor: colours["@grid"],
    linecolor: colours["@grid"],
    zerolinecolor: colours["@grid"],
    tickcolor: colours["@grid"],
    tickfont: { color: colours["@dim"] },
    title: { font: { color: colours["@dim"] } },
  };
  return {
    layout: {
      font: { family: "system-ui, sans-serif", size: 12, color: colours["@text"] },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 44, r: 12, t: 12, b: 28 },
      colorway: Array.from({ length: 8 }, (_, line) => colours[`@line${line}`]),
      hoverlabel: {
        align: "left",
        bgcolor: colours["@paper"],
        bordercolor: colours["@dim"],
        font: { color: colours["@text"], size: 12 },
      },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colours["@dim"], activecolor: colours["@main"] },
      xaxis: axis,
      yaxis: axis,
    },
  };
}

// What views have in common is written once.
function unpacked(part, same) {
  if (Array.isArray(part)) return part.map((inner) => unpacked(inner, same));
  if (!part || typeof part !== "object") return part;
  if ("=" in part) return same[part["="]];
  const entries = Object.entries(part);
  return Object.fromEntries(entries.map(([key, value]) => [key, unpacked(value, same)]));
}

function viewsOf(plot) {
  const { same, views } = JSON.parse(one("script", plot.parentElement).textContent);
  return unpacked(views, same);
}

function viewOf(plot) {
  plot.views ??= viewsOf(plot);
  return plot.views[one("select", plot.parentElement)?.value ?? 0];
}

function draw(plot, paper = false) {
  startPlotly();
  const colours = palettes()[night.matches && !paper ? "dark" : "light"];
  const view = resolved(viewOf(plot), colours);
  const layout = { template: manner(colours), ...view.layout };
  layout.height = Math.round(parseInt(plot.style.height, 10) * (paper ? 0.8 : 1));
  // a finger that drags wants to scroll the page
  if (finger.matches) layout.dragmode = false;
  layout.autosize = !paper;
  if (paper) layout.width = PAPER_WIDTH;
  const config = {
    responsive: !paper,
    displaylogo: false,
    displayModeBar: finger.matches || paper ? false : "hover",
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
    scrollZoom: false,
    showTips: false,
  };
  try {
    Plotly.react(plot, view.data, layout, config);
  } catch (error) {
    plot.textContent = `This figure could not be drawn: ${error}`;
    throw error;
  }
  if (!plot.drawn) follows(plot);
  plot.drawn = true;
}

function linkIn(data) {
  return [data].flat(2).find((value) => typeof value === "string" && value[0] === "#");
}

function follows(plot) {
  plot.on("plotly_click", (event) => {
    const hash = linkIn(event.points[0]?.customdata);
    if (!hash || !targetOf(hash)) return;
    if (finger.matches) offer(plot, hash);
    else goTo(hash);
  });
  plot.on("plotly_hover", (event) =>
    plot.classList.toggle("linked", Boolean(linkIn(event.points[0]?.customdata))));
  plot.on("plotly_unhover", () => plot.classList.remove("linked"));
}

// A tap shows what a pointer sees on its way: going there at once would hide it.
function offer(plot, hash) {
  const target = targetOf(hash);
  const title = lettersOf(one("summary, h2, h3, h4, td", target) ?? target).slice(0, 80);
  one(".offer", plot.parentElement)?.remove();
  plot.after(make("p", { className: "offer" }, make("a", { href: hash }, `Go to ${title}`)));
}

function startFigures() {
  const plots = all(".plot");
  const near = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        near.unobserve(target);
        draw(target);
      }
    },
    { rootMargin: "300px" },
  );
  for (const plot of plots) {
    near.observe(plot);
    one("select", plot.parentElement)?.addEventListener("change", () => draw(plot));
  }
  const drawn = () => plots.filter((plot) => plot.drawn);
  night.addEventListener("change", () => drawn().forEach((plot) => draw(plot)));
  startPrinting(plots, drawn);
}

function startPrinting(plots, drawn) {
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = all("main details:not([open])");
    for (const folded of opened) folded.open = true;
    for (const plot of plots) draw(plot, true);
  });
  addEventListener("afterprint", () => {
    for (const folded of opened) folded.open = false;
    drawn().forEach((plot) => draw(plot));
  });
}
