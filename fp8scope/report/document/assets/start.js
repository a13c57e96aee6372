// At the end of the page, when all of it is there.

const WIDE = "(min-width: 66rem)";

function startContents() {
  const contents = one(".contents");
  const wide = matchMedia(WIDE);
  const fit = () => (contents.open = wide.matches);
  wide.addEventListener("change", fit);
  fit();
  one("summary", contents).addEventListener("click", (event) => {
    if (wide.matches) event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !wide.matches) contents.open = false;
  });
}

// In the contents, the section that is read is marked.
function startMarking() {
  const links = new Map(all(".contents a").map((link) => [targetOf(link.hash), link]));
  const seen = new Set();
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (isIntersecting) seen.add(target);
        else seen.delete(target);
      }
      const inside = [...links.keys()].filter((section) => seen.has(section)).at(-1);
      for (const [section, link] of links) {
        if (section === inside) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    },
    { rootMargin: "-15% 0px -80% 0px" },
  );
  for (const section of links.keys()) if (section) observer.observe(section);
}

// The bar names the report once its title is out of sight.
function startName() {
  const bar = one("header");
  const watch = ([{ isIntersecting }]) => bar.classList.toggle("under", !isIntersecting);
  new IntersectionObserver(watch, { rootMargin: "-44px 0px 0px" }).observe(one("h1"));
}

all(".table table").forEach(startTable);
all(".listing").forEach(startListing);
startContents();
startSearch();
startMarking();
startName();
startFigures();
startLinks();
