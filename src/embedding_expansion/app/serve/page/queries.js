// What a step asks the server for: a page of results, of either collection.

import { Problem, ask, post, send } from "./api.js";
import { nameOf } from "./cards.js";
import { parameters } from "./filters.js";
import { partsOf, stepOf, uploads } from "./route.js";

const vectors = new Map(); // "collection upload" -> promise of its vector, so that scrolling sends no image again
let mostBytes = Infinity;

export function limit(bytes) {
  mostBytes = bytes;
}

// Results `offset` and following: { name, matches, known, threshold, asked, total, cluster }.
export async function page(view, offset, count, collection, signal) {
  const { step } = view;
  const found = step.kind === "browse" ? await browsed(view, offset, count, collection, signal)
    : step.kind === "cluster" ? await cluster(view, offset, count, signal)
    : await searched(view, offset, count, collection, signal);
  for (const item of found.matches) item.collection = collection;
  return found;
}

let lastIds = new Map(); // offset -> the id after which a page of browsing starts

async function browsed(view, offset, count, collection, signal) {
  if (!offset) lastIds = new Map([[0, 0]]);
  const query = parameters(view);
  query.set("after", lastIds.get(offset) ?? 0);
  query.set("n", count);
  if (collection) query.set("collection", collection);
  const { total, items } = await ask(`/api/items?${query}`, { signal });
  lastIds.set(offset + items.length, items.at(-1)?.id ?? 0);
  return { name: view.label || view.path || "All images", matches: items, known: null, total };
}

async function cluster({ step, groups }, offset, count, signal) {
  const query = new URLSearchParams({ n: count, offset, ...(groups && { k: groups }) });
  const found = await whenReady(() => ask(`/api/clusters/${step.id}?${query}`, { signal }));
  return { name: `Cluster ${step.id + 1}`, cluster: found, matches: found.items, known: null, total: found.size };
}

async function searched(view, offset, count, collection, signal) {
  const query = parameters(view);
  for (const [name, value] of Object.entries({ k: count, offset, qe: view.qe })) query.set(name, value);
  if (collection) query.set("collection", collection);
  if (view.step.kind === "text") {
    query.set("text", view.step.id);
    return { ...(await ask(`/api/text?${query}`, { signal })), name: `“${view.step.id}”` };
  }
  const parts = await Promise.all(partsOf(view.step).map((part) => resolved(part, collection, signal)));
  const items = parts.filter(({ item }) => item).map(({ item }) => item);
  const name = parts.length > 1 ? `${parts.length} images` : parts[0].name;
  if (parts.length === 1 && items.length) {
    return { ...(await ask(`/api/items/${items[0].id}/neighbours?${query}`, { signal })), asked: items[0], name };
  }
  const body = { ids: items.map(({ id }) => id), vectors: parts.filter(({ vector }) => vector).map(({ vector }) => vector) };
  return { ...(await post(`/api/query?${query}`, body, { signal })), name };
}

// An image of the query as the collection knows it: its item, or its vector.
async function resolved({ kind, id }, collection, signal) {
  if (kind === "upload") return { vector: await embedded(id, collection), name: uploads.get(id).name };
  const item = await ask(`/api/items/${id}`, { signal });
  if (!collection) return { item, name: nameOf(item) };
  const [twin] = (await ask(`/api/items?${new URLSearchParams({ path: item.path, n: 1, collection })}`, { signal })).items;
  if (!twin) throw new Problem(`the second collection does not have ${item.path}`);
  return { item: { ...twin, collection }, name: nameOf(item) };
}

// The step to the item of the first collection that has the path of an item of the second.
export async function ofTwin({ id }) {
  const { path } = await ask(`/api/items/${id}?collection=1`);
  const [item] = (await ask(`/api/items?${new URLSearchParams({ path, n: 1 })}`)).items;
  if (!item) throw new Problem(`the first collection does not have ${path}`);
  return stepOf("item", item.id);
}

function embedded(id, collection) {
  const image = uploads.get(id);
  if (!image) throw new Problem("the uploaded picture was lost when the page was reloaded; choose it again");
  if (image.blob.size > mostBytes) {
    throw new Problem(`the image has ${image.blob.size.toLocaleString("en")} bytes, but the server accepts at most ${mostBytes.toLocaleString("en")}; make it smaller`);
  }
  const key = `${collection} ${id}`;
  if (!vectors.has(key)) {
    const found = send(`/api/embed${collection ? `?collection=${collection}` : ""}`, image.blob).then(({ vector }) => vector);
    found.catch(() => vectors.delete(key)); // another attempt may succeed
    vectors.set(key, found);
  }
  return vectors.get(key);
}

// Repeats a request while the server computes the clusters.
async function whenReady(request) {
  for (;;) {
    const found = await request();
    if (found.state !== "computing") return found;
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}
