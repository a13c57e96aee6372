"use strict";
// Links into folded or hidden parts, and links to copy.

const one = (selector, at = document) => at.querySelector(selector);
const all = (selector, at = document) => [...at.querySelectorAll(selector)];
const make = (tag, properties = {}, ...inside) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...inside);
  return element;
};

function tell(words) {
  const told = one(".told");
  told.textContent = words;
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => (told.textContent = ""), 2500);
}

function targetOf(hash) {
  const name = hash.slice(1);
  let target = document.getElementById(name);
  if (target) return target;
  try {
    target = document.getElementById(decodeURIComponent(name));
  } catch {
    return null; // not a fragment of ours
  }
  return target || rowOf(name);
}

// Rows without an anchor are found by where they stood at first, before anything was sorted.
const rows = () => (rows.found ??= all("tbody tr"));
const rowOf = (name) => (/^:row\d+$/.test(name) ? (rows()[Number(name.slice(4))] ?? null) : null);

function reveal(element) {
  for (let at = element; at; at = at.parentElement) {
    if (at.localName === "details" && !at.classList.contains("contents")) at.open = true;
    if (at.localName === "tbody" && at.className === "rest") unfold(at.closest("table"), true);
  }
}

function follow(hash) {
  for (const marked of all(".marked")) marked.classList.remove("marked");
  const target = hash.length > 1 ? targetOf(hash) : null;
  if (!target) return;
  reveal(target);
  target.classList.add("marked");
  target.scrollIntoView({ block: target.localName === "tr" ? "center" : "start" });
}

function goTo(hash) {
  if (location.hash === hash) follow(hash);
  else location.hash = hash;
}

async function copy(text, said) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // a page from a file may have no clipboard
    const field = make("textarea", { value: text, readOnly: true, className: "aside" });
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    if (!done) return tell("Not copied: the browser does not allow it");
  }
  tell(said);
}

function startLinks() {
  addEventListener("hashchange", () => follow(location.hash));
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.('a[href^="#"]');
    if (!link) return;
    if (link.getAttribute("href") === location.hash) follow(location.hash);
    if (link.classList.contains("pilcrow")) copy(link.href, "Link copied");
    if (!matchMedia(WIDE).matches) one(".contents").open = false;
  });
  follow(location.hash);
}
