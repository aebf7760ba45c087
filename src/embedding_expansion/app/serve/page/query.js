// The query as the page shows it: its images, adding one more, taking one away, and cropping.

import { originalOf, picture, thumbnailOf } from "./api.js";
import { shortPath } from "./cards.js";
import { crop } from "./crop.js";
import { at, element } from "./dom.js";
import { joined, keep, partsOf, uploads } from "./route.js";

let shown = []; // the images of the query
let go = () => {};
let hasOriginals = true;

export function listen(onQuery) {
  go = onQuery;
  at("file").addEventListener("change", (event) => take(event, []));
  at("another").addEventListener("change", (event) => take(event, shown));
  at("crop-start").addEventListener("click", start);
  at("parts").addEventListener("click", (event) => {
    const place = event.target.closest("button")?.dataset.place;
    if (place !== undefined) go(joined(shown.filter((_, index) => index !== Number(place))));
  });
}

export function allow(about) {
  hasOriginals = about.originals;
  // A collection of vectors has no pictures and can only be searched by its items.
  for (const part of document.querySelectorAll("#choose, #file, #file + .hint")) part.hidden = !about.takes_images;
}

// Searches by files, together with images that the query has already.
export function searchBy(files, others = []) {
  const added = [...files].map((file) => ({ kind: "upload", id: keep(file, file.name || "pasted image") }));
  if (added.length) go(joined([...others, ...added]));
}

// Shows the query; null for none. `asked` is its item, where it is one.
export function show(step, name = "", asked = null) {
  shown = step ? partsOf(step) : [];
  const isSingle = shown.length === 1;
  at("asked").hidden = !shown.length && step?.kind !== "text";
  at("asked-picture").hidden = !isSingle;
  at("parts").hidden = shown.length < 2;
  at("asked-tools").hidden = !shown.length;
  at("crop-start").hidden = !isSingle;
  if (isSingle) {
    picture(at("asked-picture"), sourceOf(shown[0]));
    at("asked-picture").alt = `query: ${name}`;
  }
  at("parts").replaceChildren(...(isSingle ? [] : shown.map(part)));
  at("asked-name").textContent = name;
  at("asked-path").textContent = asked ? [asked.path, asked.width && `${asked.width} × ${asked.height}`].filter(Boolean).join(" · ")
    : step?.kind === "text" ? "your text" : isSingle ? "your image" : shown.length ? "as one query: the mean of their vectors" : "";
}

export const ofUploads = () => shown.filter(({ kind }) => kind === "upload");

function sourceOf({ kind, id }) {
  return kind === "upload" ? (uploads.get(id)?.url ?? "") : thumbnailOf({ id });
}

function part({ kind, id }, place) {
  const image = element("img", { alt: kind === "upload" ? (uploads.get(id)?.name ?? "") : `image ${id}` });
  picture(image, sourceOf({ kind, id }));
  const button = element("button", { type: "button", title: "take it out of the query", ariaLabel: `take image ${place + 1} out of the query` }, "×");
  button.dataset.place = place;
  return element("li", { className: "picture" }, image, button);
}

function take(event, others) {
  searchBy(event.target.files, others);
  event.target.value = "";
}

async function start() {
  const [one] = shown;
  const name = at("asked-name").textContent;
  const file = await crop(one.kind === "upload" ? [uploads.get(one.id)?.url ?? ""] : [...(hasOriginals ? [originalOf(one)] : []), thumbnailOf(one)]);
  if (file) go(joined([{ kind: "upload", id: keep(file, `part of ${shortPath(name)}`) }]));
}
