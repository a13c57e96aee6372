// Search over headings, layers and rows of tables.

const MOST = 60;

const lettersOf = (element) => {
  const copied = element.cloneNode(true);
  for (const sign of all(".pilcrow", copied)) sign.remove();
  return copied.textContent.replace(/\s+/g, " ").trim();
};

const entry = (rank, element, label, where, more = "") => ({
  rank,
  element,
  label,
  where,
  text: `${label} ${more}`.toLowerCase(),
});

function searchIndex() {
  if (searchIndex.made) return searchIndex.made;
  const title = (element) => {
    const section = element.parentElement.closest("section");
    return section ? lettersOf(one("h2, h3, h4", section)) : "";
  };
  const sections = all("main section").map((section) =>
    entry(0, section, lettersOf(one("h2, h3, h4", section)), title(section), section.dataset.keywords));
  const layers = all("details[id]").map((folded) =>
    entry(1, folded, lettersOf(one("summary", folded)), title(folded), folded.id));
  const figures = all("figure").map((figure) =>
    entry(2, figure, lettersOf(one("h4", figure)), title(figure)));
  const places = new Map();
  const lines = rows().map((row, place) => {
    const cells = [...row.cells].map((cell) => cell.textContent);
    const table = row.closest("table");
    if (!places.has(table)) places.set(table, title(table));
    if (!row.id) row.id = `:row${place}`;
    return entry(3, row, cells.slice(0, 3).join("  "), places.get(table), `${cells.slice(3).join(" ")} ${row.id}`);
  });
  return (searchIndex.made = [...sections, ...layers, ...figures, ...lines]);
}

function found(query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return [];
  const hits = searchIndex().filter((candidate) => words.every((word) => candidate.text.includes(word)));
  const whole = words.join(" ");
  const order = (hit) => hit.rank + (hit.label.toLowerCase().includes(whole) ? 0 : 4);
  return hits.sort((a, b) => order(a) - order(b)); // stable: else as they stand
}

function listed(hit) {
  const link = make("a", { href: `#${encodeURIComponent(hit.element.id)}` }, hit.label.slice(0, 160));
  return make("li", {}, link, make("span", {}, hit.where));
}

function startSearch() {
  const input = document.getElementById(":query");
  const panel = document.getElementById(":hits");
  const close = () => (panel.hidden = true);
  const look = () => {
    const hits = found(input.value);
    panel.hidden = !input.value.trim();
    const count = hits.length.toLocaleString("en-US");
    const says = `${count} ${hits.length === 1 ? "hit" : "hits"}`;
    one("p", panel).textContent = hits.length > MOST ? `${says}, the first ${MOST}` : says;
    one("ol", panel).replaceChildren(...hits.slice(0, MOST).map(listed));
    panel.scrollTop = 0;
  };
  input.addEventListener("input", look);
  input.addEventListener("focus", () => input.value && look());
  panel.addEventListener("click", (event) => event.target.closest("a") && close());
  document.addEventListener("click", (event) => event.target.closest("search") || close());
  document.addEventListener("focusin", (event) => event.target.closest("search") || close());
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      input.focus();
      input.select();
    } else if (event.key === "Escape" && event.target.closest("search")) {
      input.value = "";
      close();
      input.blur();
      document.activeElement.blur();
    } else if (event.target.closest("search")) {
      step(event, input, all("a", panel));
    }
  });
}

function step(event, input, links) {
  const at = links.indexOf(document.activeElement);
  if (event.key === "Enter" && at < 0 && links.length) {
    event.preventDefault();
    links[0].click();
    input.blur();
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    const next = at + (event.key === "ArrowDown" ? 1 : -1);
    (next < 0 ? input : (links[next] ?? links[at] ?? input)).focus();
  }
}
