// The page: reads the state from the address, and shows the step with the parts that belong to it.

import { Problem, withoutPictures } from "./api.js";
import * as copies from "./copies.js";
import { at, sentence } from "./dom.js";
import * as edit from "./edit.js";
import * as filters from "./filters.js";
import * as lightbox from "./lightbox.js";
import { CollectionMap } from "./map.js";
import * as overview from "./overview.js";
import * as queries from "./queries.js";
import * as query from "./query.js";
import * as results from "./results.js";
import { address, amend, current, linked, push, uploads } from "./route.js";
import * as selection from "./selection.js";

const map = new CollectionMap(
  (step) => go([step]),
  ({ label, cluster }) => address(cluster === undefined ? null : { kind: "cluster", id: cluster }, { ...filters.options(), label: label ?? "", path: "", meta: [] }),
);
let about = null;
let running = null; // the search in progress, aborted by the next one
let ready = null; // resolves once the collection is known

// Goes to the last step of a trail. Going to the current step adds no second history entry.
async function go(trail, options = filters.options()) {
  try {
    if (trail.at(-1)?.kind === "twin") trail = [...trail.slice(0, -1), await queries.ofTwin(trail.at(-1))];
  } catch (error) {
    return showError(error);
  }
  const move = address(trail.at(-1), options) === location.search ? amend : push;
  move(trail, options);
  return show({ focus: true });
}

async function show({ focus = false } = {}) {
  running?.abort();
  const search = (running = new AbortController());
  const view = current();
  filters.set(view);
  const kind = view.step?.kind;
  at("problem").hidden = true;
  at("answer").hidden = !view.step || kind === "copies";
  at("copies").hidden = kind !== "copies";
  for (const id of ["samples", "clusters"]) at(id).hidden = Boolean(view.step);
  if (!view.step || kind === "copies") {
    query.show(null);
    results.clear();
    map.mark(null, []);
  }
  edit.offerAdding(false);
  if (!view.step) return;
  const part = at(kind === "copies" ? "copies" : "answer");
  part.setAttribute("aria-busy", "true");
  try {
    await ready;
    if (search.signal.aborted) return;
    if (kind === "twin") return void go([await queries.ofTwin(view.step)]);
    if (kind === "copies") await copies.show(view, search.signal);
    else await answer(view, search.signal);
    if (focus && !search.signal.aborted) {
      part.focus({ preventScroll: true });
      part.scrollIntoView({ block: "nearest", behavior: "instant" });
    }
    results.arm();
  } catch (error) {
    if (error.name === "AbortError" || search.signal.aborted) return;
    // Nothing of an earlier query stays beside the problem, but the ways to start again.
    results.clear();
    query.show(null);
    map.mark(null, []);
    part.hidden = true;
    for (const id of ["samples", "clusters"]) at(id).hidden = false;
    showError(error);
  } finally {
    if (running === search) part.setAttribute("aria-busy", "false");
  }
}

async function answer(view, signal) {
  if (view.step.kind === "upload") query.show(view.step, uploads.get(view.step.id)?.name); // before the answer
  const found = await results.show(view, signal);
  if (!found) return;
  view.trail = [...view.trail.slice(0, -1), { ...view.step, name: found.name }];
  amend(view.trail, view);
  query.show(view.step, found.name, found.asked);
  edit.offerAdding(true);
  at("trail").hidden = view.trail.length < 2;
  at("trail").firstElementChild.replaceChildren(...view.trail.map((step, index) => crumb(view, step, index)));
  map.mark(found.asked?.id ?? null, results.matches().map(({ id }) => id));
  at("status").textContent = results.spoken(found);
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

function showError(error) {
  if (!(error instanceof Problem)) throw error;
  at("problem").textContent = sentence(error.message);
  at("problem").hidden = false;
}

// Links within the page are handled here. With a modifier key, the browser opens them as usual.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='?']");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  const { trail } = current();
  if (link.dataset.back !== undefined) return go(trail.slice(0, Number(link.dataset.back) + 1));
  const step = linked(link);
  const isWalk = step && link.closest("#matches, #matches-beside, #copies-list");
  if (!step) { // the start, or the images of a label
    const label = new URLSearchParams(link.search).get("label") ?? "";
    history.pushState({}, "", address(null, { ...filters.options(), label, path: "", meta: [] }));
    return show({ focus: Boolean(label) }).then(() => link.dataset.part && at(link.dataset.part).scrollIntoView());
  }
  return go([...(isWalk ? trail : []), step]);
});
addEventListener("popstate", () => show());

filters.listen(() => {
  const { trail } = current();
  const [step] = trail.slice(-1);
  const options = filters.options();
  if (step && step.id !== "") amend(trail, options);
  else history.replaceState({}, "", address(null, options)); // browsing follows from the filters alone
  show();
});
at("collection").addEventListener("change", () => { amend(current().trail, filters.options()); show(); });
at("groups").addEventListener("change", () => {
  amend(current().trail, filters.options());
  overview.clusters(current()).catch(showError);
  overview.hurry();
});
query.listen((step) => go([step]));
selection.listen((step) => go([step]), showError);
copies.listen((similarity) => go([{ kind: "copies", id: similarity, name: "" }]));
lightbox.listen(async () => results.more(), () => filters.options());
edit.listen(async () => {
  about = await overview.facts();
  overview.hurry();
  if (current().step?.kind !== "upload" && current().step?.kind !== "several") await show();
  await overview.samples(filters.options());
}, showError);
results.listen((error) => {
  if (error) return showError(error);
  map.mark(map.askedId, results.matches().map(({ id }) => id));
});
at("ask-text").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("words").value.trim();
  if (text) go([{ kind: "text", id: text, name: "" }]);
});

addEventListener("paste", (event) => about?.takes_images && query.searchBy([...event.clipboardData.files].filter((file) => file.type.startsWith("image/"))));
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dragging"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  if (about?.takes_images !== false) query.searchBy(event.dataTransfer.files);
});
at("others").addEventListener("click", () => overview.samples(filters.options()).catch(showError));

async function known() {
  about = await overview.facts();
  await filters.offer(about);
}

async function start() {
  filters.set(current()); // before the first response, because an image may be dropped at once
  ready = known();
  await ready;
  queries.limit(about.max_bytes);
  withoutPictures(!about.takes_images);
  for (const part of [query, lightbox, selection]) part.allow(about);
  at("ask-text").hidden = !about.takes_text;
  at("beside").hidden = !about.beside;
  at("beside-name").textContent = at("beside-title").textContent = about.beside ?? "";
  at("own-title").textContent = about.name;
  for (const id of ["file", "another"]) at(id).accept = about.formats.map((name) => `image/${name},.${name}`).join(); // phones convert other formats
  await Promise.all([show(), overview.samples(filters.options()), edit.allow(about)]);
  overview.keepMap(map, async () => {
    await known();
    await overview.clusters(current());
  }, current);
}
start().catch(showError);
