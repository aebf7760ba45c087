// The options of a search: how many results, query expansion, and filters by label, path and metadata.

import { ask } from "./api.js";
import { at, element } from "./dom.js";

let labels = new Set(); // those that the server lists; it may have more
let hasMore = false;
let meta = [];

export function options() {
  return { k: Number(at("k").value), qe: Number(at("qe").value), label: at("label").value, path: at("path").value, meta, groups: at("groups").value, collection: at("collection").checked ? "both" : "" };
}

export function set(view) {
  for (const name of ["k", "qe"]) at(name).value = at(`${name}-value`).value = view[name];
  // A field is left alone while somebody types in it.
  for (const name of ["label", "path", "groups"]) if (document.activeElement !== at(name)) at(name).value = view[name];
  at("collection").checked = view.collection === "both";
  meta = view.meta;
  showMeta();
}

// The filters as parameters of a request. A text that is no label is searched for within the labels.
export function parameters({ label, path, meta: facts }) {
  const query = new URLSearchParams();
  if (label) query.set(labels.has(label) ? "label" : "label_contains", label);
  if (path) query.set("path_contains", path);
  for (const text of facts) query.append("meta", text);
  return query;
}

export function inWords({ label, path, meta: facts }) {
  const parts = facts.map((text) => text.replace("=", " "));
  if (path) parts.unshift(`“${path}” in the path`);
  if (label) parts.unshift(labels.has(label) ? `the label ${label}` : `“${label}” in the label`);
  return parts.length > 1 ? `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}` : (parts[0] ?? "");
}

// Labels and metadata that can be filtered by, once the server knows them.
export async function offer(about) {
  labels = new Set(about.labels.map(({ label }) => label));
  hasMore = about.number_of_labels > labels.size;
  complete(about.labels);
  const { facts } = await ask("/api/facts");
  at("meta").hidden = !facts.length;
  const chosen = at("key").value;
  at("key").replaceChildren(...facts.map(({ key }) => element("option", { value: key }, key)));
  if (facts.some(({ key }) => key === chosen)) at("key").value = chosen;
  const offerValues = () => {
    const values = facts.find(({ key }) => key === at("key").value)?.values ?? [];
    at("values").replaceChildren(...values.map(({ value, count }) => element("option", { value }, `${count}`)));
  };
  at("key").onchange = offerValues;
  offerValues();
}

// Calls back when an option has changed: at once, or a moment after the last key.
export function listen(changed) {
  let patience = 0;
  const later = (wait) => {
    clearTimeout(patience);
    patience = setTimeout(changed, wait);
  };
  at("options").addEventListener("submit", (event) => event.preventDefault());
  at("options").addEventListener("input", (event) => {
    const { id, value } = event.target;
    if (id === "key" || id === "value") return;
    if (at(`${id}-value`)) at(`${id}-value`).value = value;
    if (id === "label" && hasMore) more(value).catch(() => {});
    later(id === "k" || id === "qe" ? 120 : 350);
  });
  const add = () => {
    const text = `${at("key").value}=${at("value").value}`;
    if (!at("value").value || meta.includes(text)) return;
    meta = [...meta, text];
    at("value").value = "";
    showMeta();
    changed();
  };
  at("meta-add").addEventListener("click", add);
  // A list of suggestions may take the key that ends the input, but not its end.
  at("value").addEventListener("change", add);
  at("value").addEventListener("keydown", (event) => event.key === "Enter" && add());
  at("meta-list").addEventListener("click", (event) => {
    const text = event.target.closest("button")?.dataset.text;
    if (text === undefined) return;
    meta = meta.filter((other) => other !== text);
    showMeta();
    changed();
  });
}

function showMeta() {
  at("meta-list").replaceChildren(...meta.map((text) => {
    const button = element("button", { type: "button", title: "remove this filter", ariaLabel: `remove the filter ${text}` }, text.replace("=", ": "), " ×");
    button.dataset.text = text;
    return element("li", {}, button);
  }));
}

function complete(found) {
  at("labels").replaceChildren(...found.map(({ label, count }) => element("option", { value: label }, `${count}`)));
}

// Of a collection with very many labels, those that contain what is typed.
async function more(text) {
  const found = (await ask(`/api/labels?${new URLSearchParams({ contains: text })}`)).labels;
  if (at("label").value !== text) return;
  for (const { label } of found) labels.add(label);
  complete(found);
}
