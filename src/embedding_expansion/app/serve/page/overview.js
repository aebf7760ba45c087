// The overview of the collection: facts, samples, clusters and the map, refreshed when the collection changes.

import { ask } from "./api.js";
import { element, group, sample } from "./cards.js";
import { address } from "./route.js";

const number = (value) => value.toLocaleString("en");

export async function facts() {
  const about = await ask("/api/about");
  document.title = `${about.name}: image search`;
  document.getElementById("name").textContent = about.name;
  const search = about.recall === null ? "exact search" : `${about.kind}, recall ${about.recall.toFixed(3)}`;
  const parts = [`${number(about.count)} images`, `${about.dimensions} dimensions`, search];
  if (about.labels.length) parts.splice(1, 0, `${number(about.labels.length)}${about.labels.length === 2000 ? " or more" : ""} labels`);
  if (about.model.backbone) parts.push(about.model.backbone);
  document.getElementById("facts").textContent = parts.join(" · ");
  document.getElementById("labels").replaceChildren(...about.labels.map(({ label, count }) => element("option", { value: label }, `${count}`)));
  return about;
}

export async function samples(options) {
  const { items } = await ask("/api/samples?n=18");
  document.querySelector("#samples ul").replaceChildren(...items.map((item) => sample(item, address({ kind: "item", id: item.id }, options))));
}

export async function clusters(options) {
  const found = await ask("/api/clusters");
  if (found.state === "computing") return;
  const part = found.grouped < found.total ? ` of ${number(found.grouped)} images sampled from ${number(found.total)}` : "";
  document.getElementById("clusters-hint").textContent = found.clusters.length
    ? `${found.clusters.length} k-means clusters${part}, the largest first, named by their most frequent label`
    : "the collection is empty";
  document.querySelector("#clusters ul").replaceChildren(...found.clusters.map((one) => group(one, address({ kind: "cluster", id: one.id }, options))));
}

// Keeps the map up to date: polls every two seconds until the map is final, and every 20 seconds afterwards.
export async function keepMap(map, changed) {
  let seen = "";
  for (;;) {
    let state = "unreachable";
    try {
      const data = await ask("/api/map");
      state = data.state;
      const now = `${state} ${data.method} ${data.version}`;
      if (state !== "computing" && now !== seen) {
        map.show(data);
        document.getElementById("map-state").textContent = describe(data);
        await changed();
        seen = now;
      }
    } catch { /* the server is unreachable; the next search reports it */ }
    await new Promise((resolve) => setTimeout(resolve, state === "ready" ? 20_000 : 2_000));
  }
}

function describe({ ids, total, method, state }) {
  if (!ids.length) return "the collection is empty";
  const part = ids.length < total ? ` of ${number(total)}` : "";
  return `${number(ids.length)}${part} images by ${method}${state === "refining" ? "; t-SNE is being computed…" : ""}`;
}
