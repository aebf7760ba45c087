// The overview of the collection: facts, samples, clusters and the map, refreshed when the collection changes.

import { ask } from "./api.js";
import { group, sample } from "./cards.js";
import { at, element, images, number } from "./dom.js";
import { address } from "./route.js";

export async function facts() {
  const about = await ask("/api/about");
  document.title = `${about.name}: image search`;
  at("name").textContent = about.name;
  const search = about.recall === null ? "exact search" : `${about.kind}, recall ${about.recall.toFixed(3)}`;
  const parts = [images(about.count), `${about.dimensions} dimensions`, search];
  if (about.number_of_labels) parts.splice(1, 0, about.number_of_labels === 1 ? "1 label" : `${number(about.number_of_labels)} labels`);
  if (about.model.backbone) parts.push(about.model.backbone);
  at("facts").textContent = parts.join(" · ");
  advise(about);
  return about;
}

// What to do with a collection that has no images.
function advise(about) {
  at("empty").hidden = about.count > 0;
  for (const id of ["samples", "clusters", "map"]) at(id).classList.toggle("useless", !about.count);
  const advice = about.takes_images ? ["Add images on the server, and they appear here: ", element("code", {}, `embex add ${about.name} FOLDER`)]
    : ["Add vectors on the server, and they appear here: ", element("code", {}, `embex index RUN FEATURES.npz --out ${about.name}`)];
  if (about.can_edit) advice.push(". Or choose an image, and then “Add to the collection”.");
  at("empty-advice").replaceChildren(...advice);
}

export async function samples(options) {
  const { items } = await ask("/api/samples?n=18");
  document.querySelector("#samples ul").replaceChildren(...items.map((item) => sample(item, address({ kind: "item", id: item.id }, options))));
}

// The clusters. Those for another k take a while; the latest call counts.
let calls = 0;

export async function clusters(options) {
  const own = ++calls;
  for (;;) {
    const found = await ask(`/api/clusters${options.groups ? `?k=${options.groups}` : ""}`);
    if (own !== calls) return;
    if (found.state !== "computing") return showClusters(found, options);
    at("clusters-hint").textContent = "being computed…";
    if (!options.groups) return; // the map is not there yet, and calls again when it is
    await new Promise((resolve) => setTimeout(resolve, 500));
    if (own !== calls) return;
  }
}

const DECIDED = { labels: "as many as labels", size: "as many as the square root of half the images", request: "as many as asked for" };

function showClusters(found, options) {
  const part = found.grouped < found.total ? ` of ${number(found.grouped)} images sampled from ${number(found.total)}` : "";
  const count = found.clusters.length;
  at("clusters-hint").textContent = count
    ? `${count === 1 ? "1 k-means cluster" : `${number(count)} k-means clusters`}${part}, ${DECIDED[found.decided]}, the largest first, named by their most frequent label`
    : "the collection is empty";
  at("groups").placeholder = options.groups ? "" : String(count);
  document.querySelector("#clusters ul").replaceChildren(...found.clusters.map((one) => group(one, address({ kind: "cluster", id: one.id }, options))));
}

// Keeps the map up to date: polls every two seconds until the map is final, and every 20 seconds afterwards.
let wake = () => {};
let hurried = 0;

export function hurry() { // after a change of the collection, or for other clusters
  hurried = 8;
  wake();
}

export async function keepMap(map, changed, options) {
  let seen = "";
  for (;;) {
    let state = "unreachable";
    try {
      const { groups } = options();
      const data = await ask(`/api/map${groups ? `?k=${groups}` : ""}`);
      state = data.state;
      const now = `${state} ${data.method} ${data.version} ${groups} ${data.cluster}`;
      if (state !== "computing" && now !== seen) {
        map.show(data);
        at("map-state").textContent = describe(data);
        await changed();
        seen = now;
      }
    } catch { /* the server is unreachable; the next search reports it */ }
    const isSoon = state !== "ready" || hurried-- > 0;
    await new Promise((resolve) => { wake = resolve; setTimeout(resolve, isSoon ? 2_000 : 20_000); });
  }
}

function describe({ ids, total, method, state }) {
  if (!ids.length) return "the collection is empty";
  const part = ids.length < total ? ` of ${number(total)}` : "";
  return `${number(ids.length)}${part} images by ${method}${state === "refining" ? "; t-SNE is being computed…" : ""}`;
}
