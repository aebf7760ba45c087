// The lightbox: an original in full, with the arrow keys to the next and the previous of its list.

import { originalOf, picture, thumbnailOf } from "./api.js";
import { at, number } from "./dom.js";
import { nameOf } from "./cards.js";
import { address } from "./route.js";

let list = null; // the list of the image, whose li carry the items
let place = 0;
let hasOriginals = true;
let loadMore = async () => {};
let options = () => ({});

export function allow(about) {
  hasOriginals = about.originals;
}

export function listen(onEnd, getOptions) {
  [loadMore, options] = [onEnd, getOptions];
  document.addEventListener("click", (event) => {
    const card = event.target.closest(".open")?.closest("li");
    if (card) open(card);
  });
  at("lightbox-next").addEventListener("click", () => move(1));
  at("lightbox-back").addEventListener("click", () => move(-1));
  at("lightbox-close").addEventListener("click", () => at("lightbox").close());
  at("lightbox").addEventListener("click", (event) => {
    if (event.target === at("lightbox") || event.target.closest("a")) at("lightbox").close();
  });
  at("lightbox").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) { event.preventDefault(); move(step); }
    else if (event.key === "Home") show(0);
    else if (event.key === "End") show(cards().length - 1);
  });
  at("lightbox").addEventListener("close", () => {
    at("lightbox-picture").removeAttribute("src");
    cards()[place]?.querySelector("a")?.focus(); // on the image that was shown last
  });
}

export function open(card) {
  list = card.parentElement;
  at("lightbox").showModal();
  show(cards().indexOf(card));
}

const cards = () => (list ? [...list.children].filter((one) => one.item) : []);

async function move(step) {
  if (place + step >= cards().length) await loadMore();
  show(Math.min(cards().length - 1, Math.max(0, place + step)));
}

function show(index) {
  place = index;
  const { item } = cards()[place];
  const image = at("lightbox-picture");
  image.alt = nameOf(item);
  at("lightbox-note").textContent = hasOriginals ? "" : "a thumbnail; this server does not hand out originals";
  const small = () => {
    at("lightbox-note").textContent = "a thumbnail; the original cannot be shown";
    picture(image, thumbnailOf(item));
  };
  image.removeAttribute("src");
  if (hasOriginals) picture(image, originalOf(item), small);
  else picture(image, thumbnailOf(item));
  at("lightbox-name").textContent = item.label ?? "no label";
  if (item.label === null) at("lightbox-name").removeAttribute("href");
  else at("lightbox-name").href = address(null, { ...options(), label: item.label, path: "", meta: [] });
  at("lightbox-search").href = address({ kind: "item", id: item.id }, options());
  const facts = [item.path, item.width && `${item.width} × ${item.height}`, item.similarity !== undefined && `similarity ${item.similarity.toFixed(3)}`];
  at("lightbox-facts").textContent = facts.filter(Boolean).join(" · ");
  at("lightbox-place").textContent = `${number(place + 1)} of ${number(cards().length)}`;
  at("lightbox-back").disabled = place === 0;
}
