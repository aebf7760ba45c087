// What there is to begin with: facts of the collection, samples, clusters and the map; looked at again as it changes.

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
  const part = found.grouped < found.total ? ` of ${number(found.grouped)} images drawn from ${number(found.total)}` : "";
  document.getElementById("clusters-hint").textContent = found.clusters.length
    ? `${found.clusters.length} groups${part} by k-means, the largest first, each by its most frequent label`
    : "the collection is empty";
  document.querySelector("#clusters ul").replaceChildren(...found.clusters.map((one) => group(one, address({ kind: "cluster", id: one.id }, options))));
}

// Draws the map, and again every two seconds until it is the final one; then looks now and then whether it has changed.
export async function keepMap(map, changed) {
  let seen = "";
  for (;;) {
    let state = "away";
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
    } catch { /* the server is away; the next search says so */ }
    await new Promise((resolve) => setTimeout(resolve, state === "ready" ? 20_000 : 2_000));
  }
}

function describe({ ids, total, method, state }) {
  if (!ids.length) return "the collection is empty";
  const part = ids.length < total ? ` of ${number(total)}` : "";
  return `${number(ids.length)}${part} images by ${method}${state === "refining" ? "; t-SNE is being computed…" : ""}`;
}
