// The results of a step: a first page, and more as the reader scrolls; with a second collection in two columns.

import { nameOf, shortPath, card } from "./cards.js";
import { at, element, images, number } from "./dom.js";
import { inWords } from "./filters.js";
import { page } from "./queries.js";
import { address, isFiltered } from "./route.js";

const PAGE = 60; // results that scrolling adds
const AHEAD = 600; // pixels below the window from which they are loaded
let view = null;
let columns = []; // { list, collection, matches, asked, isDone }
let signal = null;
let loading = null;
let scrollsFrom = Infinity; // the position from which the reader scrolls
let onMore = () => {};

export function listen(changed) {
  onMore = changed;
  at("more").addEventListener("click", () => more());
  addEventListener("scroll", fill, { passive: true });
}

// The first page of a step. Throws what the request throws, and shows nothing then.
export async function show(next, aborted) {
  const second = next.collection === "both" && /^(item|upload|several|text)$/.test(next.step.kind);
  const found = await Promise.all([0, 1].slice(0, second ? 2 : 1).map((collection) => page(next, 0, next.k, collection, aborted)));
  if (aborted.aborted) return null;
  [view, signal, loading, scrollsFrom] = [next, aborted, null, Infinity];
  columns = found.map((answer, collection) => ({
    list: at(collection ? "matches-beside" : "matches"), collection, matches: [], asked: answer.asked ?? null, total: answer.total, isDone: false,
  }));
  at("matches-beside").parentElement.hidden = !second;
  at("answer").classList.toggle("beside", second);
  for (const column of columns) column.list.replaceChildren();
  found.forEach((answer, index) => add(columns[index], answer.matches, next.k));
  title(found[0]);
  verdict(found[0]);
  if (second) compare();
  return { ...found[0], name: found[0].name };
}

export const matches = () => columns[0]?.matches ?? [];

export function clear() {
  columns = [];
  for (const id of ["matches", "matches-beside"]) at(id).replaceChildren();
  at("more").hidden = true;
}

// The next page. Several calls at once load one page.
export function more() {
  if (loading || !columns.some(({ isDone }) => !isDone)) return loading;
  const own = signal;
  const next = columns.filter(({ isDone }) => !isDone).map(async (column) => {
    const found = await page(view, column.matches.length, PAGE, column.collection, own);
    if (!own.aborted) add(column, found.matches, PAGE);
  });
  loading = Promise.all(next).then(() => onMore(), (error) => { if (error.name !== "AbortError") onMore(error); }).finally(() => { loading = null; });
  return loading;
}

// Lets scrolling load more, from the position where the results are in view.
export function arm() {
  scrollsFrom = scrollY;
}

// Loads more where the reader has scrolled towards the end of the results.
function fill() {
  if (scrollY <= scrollsFrom) return;
  const end = at("more").getBoundingClientRect();
  if (end.height && end.top < innerHeight + AHEAD) more();
}

function add(column, found, asked) {
  const isAnswer = view.step.kind !== "browse";
  const start = column.matches.length;
  column.list.append(...found.map((item, index) => card(
    item,
    address({ kind: column.collection ? "twin" : "item", id: item.id }, view),
    { rank: isAnswer ? start + index + 1 : undefined, asked: column.asked },
  )));
  column.matches.push(...found);
  column.isDone = found.length < asked || column.matches.length >= (column.total ?? 5000);
  at("more").hidden = columns.every(({ isDone }) => isDone);
  if (columns.length > 1) compare();
}

function title({ name, asked, cluster, total }) {
  at("answer-title").textContent = cluster ? `Cluster ${cluster.id + 1}${cluster.label ? `, mostly ${cluster.label}` : ""}: ${images(cluster.size)}, sorted by similarity to its centre`
    : view.step.kind === "browse" ? `${images(total)}${isFiltered(view) ? ` with ${inWords(view)}` : ""}`
    : `Closest to ${asked ? `${name}, ${shortPath(asked.path)}` : name}`;
}

function verdict({ known, threshold, threshold_reason: reason, matches: found, cluster }) {
  const line = at("verdict");
  const limit = threshold?.toFixed(3);
  const filters = isFiltered(view) && !cluster ? ` with ${inWords(view)}` : "";
  line.hidden = (known === null && found.length > 0 && (threshold !== null || !reason)) || (view.step.kind === "browse" && found.length > 0);
  line.className = known === false && found.length ? "unknown" : "";
  const [word, rest] = !found.length ? ["Nothing found", `the collection has no ${filters ? `image${filters}` : "other image"}.`]
    : known === null ? ["Known or unknown cannot be said", `${reason}${/[.?!]$/.test(reason ?? "") ? "" : "."}`]
    : known ? ["Known", `the closest image reaches the calibrated threshold of ${limit}.`]
    : ["Unknown", `no image in the collection${filters} reaches the calibrated threshold of ${limit}${view.qe ? "" : `; the closest has ${found[0].similarity?.toFixed(3)}`}.`];
  line.replaceChildren(element("strong", {}, word), `: ${rest}`);
}

// Says what the two collections agree on, and marks what only one of them has found.
function compare() {
  const [one, other] = columns;
  if (!one.matches.length || !other?.matches.length) return;
  const count = Math.min(one.matches.length, other.matches.length);
  const places = columns.map(({ matches: found }) => new Map(found.map(({ path }, index) => [path, index])));
  columns.forEach((column, index) => [...column.list.children].forEach((li) => {
    const there = places[1 - index].get(li.item.path);
    li.classList.toggle("alone", there === undefined);
    li.querySelector(".note")?.remove();
    li.querySelector("a").append(element("span", { className: "note" }, there === undefined ? "only here" : `rank ${there + 1} there`));
  }));
  const shared = one.matches.slice(0, count).filter(({ path }) => (places[1].get(path) ?? count) < count).length;
  const label = one.asked?.label;
  const same = label ? columns.map(({ matches: found }) => found.slice(0, count).filter((item) => item.label === label).length) : null;
  at("agreement").textContent = `${shared} of the first ${number(count)} are the same images${same ? `; ${same[0]} and ${same[1]} have the label ${label}` : ""}.`;
}

export function spoken({ known, matches: found }) {
  const [first] = found;
  if (!first) return "No images found";
  if (first.similarity === undefined) return `${images(found.length)} shown`;
  return `${known === false ? "Unknown. " : ""}${found.length} images; the closest is ${nameOf(first)}, similarity ${first.similarity.toFixed(2)}`;
}
