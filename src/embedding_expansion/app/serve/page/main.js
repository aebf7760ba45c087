// The page: reads the query and shows the results.

import { Problem, ask, picture, thumbnailOf, withoutPictures } from "./api.js";
import { match, nameOf, shortPath } from "./cards.js";
import { CollectionMap } from "./map.js";
import * as overview from "./overview.js";
import { address, amend, current, push, uploads } from "./route.js";

const at = (id) => document.getElementById(id);
const map = new CollectionMap((step) => go([step]));
let about = null;
let running = null; // the search in progress, aborted by the next one
let uploaded = Date.now(); // ids that no earlier page has used

function options() {
  return { k: Number(at("k").value), qe: Number(at("qe").value), label: at("label").value };
}

function setOptions({ k, qe, label }) {
  at("k").value = at("k-value").value = k;
  at("qe").value = at("qe-value").value = qe;
  at("label").value = label;
}

// Goes to the last step of a trail. Going to the current step adds no second history entry.
function go(trail) {
  const move = address(trail.at(-1), options()) === location.search ? amend : push;
  move(trail, options());
  return show({ focus: true });
}

async function show({ focus = false } = {}) {
  running?.abort();
  const search = (running = new AbortController());
  const view = current();
  setOptions(view);
  at("problem").hidden = true;
  at("answer").hidden = !view.step;
  at("asked").hidden = !view.step || view.step.kind === "cluster";
  if (!view.step) {
    map.mark(null, []);
    return;
  }
  at("answer").setAttribute("aria-busy", "true");
  try {
    const answer = await fetched(view, search.signal);
    if (search.signal.aborted) return;
    const last = { ...view.step, name: answer.name };
    view.trail = [...view.trail.slice(0, -1), last];
    amend(view.trail, view);
    render(view, answer);
    if (focus) {
      at("answer").focus({ preventScroll: true });
      at("answer").scrollIntoView({ block: "nearest", behavior: "instant" });
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Problem)) throw error;
    at("answer").hidden = true;
    at("problem").textContent = sentence(error.message);
    at("problem").hidden = false;
  } finally {
    if (running === search) at("answer").setAttribute("aria-busy", "false");
  }
}

async function fetched({ step, k, qe, label }, signal) {
  const query = new URLSearchParams({ k, qe, ...(label && { label }) });
  if (step.kind === "cluster") {
    const cluster = await ask(`/api/clusters/${step.id}?n=${k}`, { signal });
    return { name: `Cluster ${step.id + 1}`, cluster, matches: cluster.items, known: null };
  }
  if (step.kind === "item") {
    const [asked, answer] = await Promise.all([
      ask(`/api/items/${step.id}`, { signal }),
      ask(`/api/items/${step.id}/neighbours?${query}`, { signal }),
    ]);
    return { ...answer, asked, name: nameOf(asked) };
  }
  const image = uploads.get(step.id);
  if (!image) throw new Problem("the uploaded picture was lost when the page was reloaded; choose it again");
  if (about && image.blob.size > about.max_bytes) {
    throw new Problem(`the image has ${image.blob.size.toLocaleString("en")} bytes, but the server accepts at most ${about.max_bytes.toLocaleString("en")}; make it smaller`);
  }
  return { ...(await ask(`/api/search?${query}`, { method: "POST", body: image.blob, headers: { "Content-Type": "application/octet-stream" }, signal })), image, name: image.name };
}

function render(view, { matches, known, threshold, asked, cluster, image, name }) {
  if (asked) picture(at("asked-picture"), thumbnailOf(asked.id));
  else if (image) picture(at("asked-picture"), image.url);
  at("asked-picture").alt = `query: ${name}`;
  at("asked-name").textContent = name;
  at("asked-path").textContent = asked ? [asked.path, asked.width && `${asked.width} × ${asked.height}`].filter(Boolean).join(" · ") : "your image";
  at("answer-title").textContent = cluster ? titleOf(cluster) : `Closest to ${asked ? `${name}, ${shortPath(asked.path)}` : name}`;
  renderVerdict(known, threshold, matches, view);
  at("matches").replaceChildren(...matches.map((item, index) => match(item, index + 1, address({ kind: "item", id: item.id }, view), asked)));
  at("trail").hidden = view.trail.length < 2;
  at("trail").firstElementChild.replaceChildren(...view.trail.map((step, index) => crumb(view, step, index)));
  map.mark(asked?.id ?? null, matches.map((item) => item.id));
  const first = matches[0];
  const unknown = known === false ? "Unknown. " : "";
  at("status").textContent = first ? `${unknown}${matches.length} images; the closest is ${nameOf(first)}, similarity ${first.similarity.toFixed(2)}` : "No images found";
}

function titleOf({ id, size, label }) {
  return `Cluster ${id + 1}${label ? `, mostly ${label}` : ""}: ${size.toLocaleString("en")} images, sorted by similarity to its centre`;
}

function renderVerdict(known, threshold, matches, { qe, label }) {
  const verdict = at("verdict");
  const limit = threshold?.toFixed(3);
  verdict.hidden = known === null && matches.length > 0;
  verdict.className = known === false ? "unknown" : "";
  const [word, rest] = known === null || !matches.length ? ["Nothing found", `the collection has no image${label ? ` with the label ${label}` : ""}.`]
    : known ? ["Known", `the closest image reaches the calibrated threshold of ${limit}.`]
    : ["Unknown", `no image in the collection${label ? ` with the label ${label}` : ""} reaches the calibrated threshold of ${limit}${qe ? "" : `; the closest has ${matches[0].similarity.toFixed(3)}`}.`];
  verdict.replaceChildren(Object.assign(document.createElement("strong"), { textContent: word }), `: ${rest}`);
}

function crumb(view, step, index) {
  const item = document.createElement("li");
  const isLast = index === view.trail.length - 1;
  const inner = document.createElement(isLast ? "span" : "a");
  inner.textContent = step.name || `${step.kind} ${step.id}`;
  if (isLast) inner.setAttribute("aria-current", "page");
  else {
    inner.href = address(step, view);
    inner.dataset.back = index;
  }
  item.append(inner);
  return item;
}

function upload(file) {
  if (!file || about?.takes_images === false) return;
  uploads.set(++uploaded, { blob: file, url: URL.createObjectURL(file), name: file.name || "pasted image" });
  go([{ kind: "upload", id: uploaded, name: file.name || "pasted image" }]);
}

function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}${/[.?!]$/.test(text) ? "" : "."}`;
}

// Links within the page are handled here. With a modifier key, the browser opens them as usual.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='?']");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  const { trail } = current();
  if (link.dataset.back !== undefined) return go(trail.slice(0, Number(link.dataset.back) + 1));
  const [kind, id] = [...new URLSearchParams(link.search)].find(([name]) => name === "item" || name === "cluster") ?? [];
  const step = kind && { kind, id: Number(id), name: "" };
  return go(step ? [...(link.closest("#matches") ? trail : []), step] : []);
});
addEventListener("popstate", () => show());

let patience = 0;
at("options").addEventListener("submit", (event) => event.preventDefault());
at("options").addEventListener("input", (event) => {
  const value = at(`${event.target.id}-value`);
  if (value) value.value = event.target.value;
  clearTimeout(patience);
  patience = setTimeout(() => {
    amend(current().trail, options());
    show();
  }, event.target.id === "label" ? 350 : 120);
});

at("file").addEventListener("change", (event) => {
  upload(event.target.files[0]);
  event.target.value = "";
});
addEventListener("paste", (event) => upload([...event.clipboardData.files].find((file) => file.type.startsWith("image/"))));
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dragging"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  upload(event.dataTransfer.files[0]);
});
at("others").addEventListener("click", () => overview.samples(options()).catch(showError));

function showError(error) {
  if (!(error instanceof Problem)) throw error;
  at("problem").textContent = sentence(error.message);
  at("problem").hidden = false;
}

// A collection of vectors has no pictures and can only be searched by its items.
function takeImages(does) {
  withoutPictures(!does);
  for (const part of document.querySelectorAll("#choose, #file, #file + .hint")) part.hidden = !does;
}

async function refresh() {
  about = await overview.facts();
  await overview.clusters(options());
}

async function start() {
  setOptions(current()); // before the first response, because an image may be dropped at once
  about = await overview.facts();
  takeImages(about.takes_images);
  at("file").accept = about.formats.map((name) => `image/${name},.${name}`).join(); // phones convert other formats
  await Promise.all([show(), overview.samples(options())]);
  overview.keepMap(map, refresh); // refreshes the clusters as well
}
start().catch(showError);
