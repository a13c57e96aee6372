// Tables: the first rows and all of them; sorting by a column.

function unfold(table, whole) {
  table.classList.toggle("whole", whole);
  const button = one(".more", table.closest(".table"));
  button.textContent = button.dataset[whole ? "fewer" : "more"];
  button.setAttribute("aria-expanded", whole);
}

function startTable(table) {
  const bodies = [...table.tBodies];
  const shown = bodies[0].rows.length;
  const original = bodies.flatMap((body) => [...body.rows]);
  const heads = [...table.tHead.rows[0].cells];
  fold(table);
  for (const [column, head] of heads.entries()) {
    const button = make("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      rows();
      const next = following(head, heads);
      const sorted = next ? inOrder(original, column, head, next) : original;
      bodies[0].append(...sorted.slice(0, shown));
      bodies[1]?.append(...sorted.slice(shown));
    });
  }
  if (!bodies[1]) return;
  const count = original.length.toLocaleString("en-US");
  const more = make("button", { type: "button", className: "more" });
  more.dataset.more = `Show all ${count} rows`;
  more.dataset.fewer = `Show the first ${shown} of ${count} rows`;
  table.closest(".scrolls").after(more);
  more.addEventListener("click", () => unfold(table, !table.classList.contains("whole")));
  unfold(table, false);
}

// A phone shows the beginning of what is long, and all of it after a tap: a row of ten lines would
// be nine lines of nothing for whoever has not scrolled there.
function fold(table) {
  for (const cell of all("td", table)) {
    if (cell.textContent.length < 160) continue;
    const inner = make("div", { className: "long" }, ...cell.childNodes);
    cell.append(inner);
    inner.addEventListener("click", () => inner.classList.toggle("open"));
  }
}

// Numbers: largest first, then smallest, then as it was. Words: the other way round.
function following(head, heads) {
  const turns = head.dataset.ranks ? ["descending", "ascending"] : ["ascending", "descending"];
  const next = turns[turns.indexOf(head.getAttribute("aria-sort")) + 1] ?? null;
  for (const other of heads) other.removeAttribute("aria-sort");
  if (next) head.setAttribute("aria-sort", next);
  return next;
}

function inOrder(original, column, head, direction) {
  const sign = direction === "ascending" ? 1 : -1;
  const ranks = head.dataset.ranks?.split(",");
  const letters = new Intl.Collator("en", { numeric: true });
  const keyed = original.map((row, place) => ({
    row,
    place,
    key: ranks ? ranks[place] : row.cells[column].textContent,
  }));
  const compare = ranks ? (a, b) => a - b : letters.compare;
  keyed.sort((a, b) => {
    if (a.key === "" || b.key === "") return (a.key === "") - (b.key === "") || a.place - b.place;
    return sign * compare(a.key, b.key) || a.place - b.place;
  });
  return keyed.map((entry) => entry.row);
}
