// Listings are there to be copied.

function startListing(listing) {
  const button = make("button", { type: "button" }, "Copy");
  button.setAttribute("aria-label", `Copy ${one("h4", listing).textContent}`);
  button.addEventListener("click", () => copy(one("code", listing).textContent, "Copied"));
  one(".head", listing).append(button);
}
