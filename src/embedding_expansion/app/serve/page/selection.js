// Selecting several images, by click, shift or drag, and what can be done with them: search, export.

import { Problem, save } from "./api.js";
import { at, element, images } from "./dom.js";
import { joined } from "./route.js";

const FAR = 6; // pixels from which a movement of the pointer is a drag
const selected = new Map(); // id -> item
let latest = null; // the card that was selected last, from which Shift extends
let band = null; // the rectangle of a drag
let go = () => {};

export const ids = () => [...selected.keys()];

export function listen(onQuery, problem) {
  go = onQuery;
  document.addEventListener("click", clicked, true);
  document.addEventListener("keydown", (event) => event.key === "Escape" && selected.size && !document.querySelector("dialog[open]") && clear());
  at("found").addEventListener("pointerdown", press);
  addEventListener("pointermove", drag);
  addEventListener("pointerup", release);
  addEventListener("pointercancel", release);
  at("selection-clear").addEventListener("click", clear);
  at("selection-search").addEventListener("click", () => {
    const parts = ids().slice(0, 100).map((id) => ({ kind: "item", id }));
    clear();
    go(joined(parts));
  });
  at("selection-all").addEventListener("click", () => {
    for (const card of document.querySelectorAll(".card:has(.pick)")) if (card.checkVisibility()) choose(card, true);
    show();
  });
  for (const format of ["paths", "csv", "zip"]) {
    at(`export-${format}`).addEventListener("click", async (event) => {
      const button = event.target;
      button.disabled = true;
      try {
        await save(`/api/export?format=${format}`, { ids: ids() }, { paths: "paths.txt", csv: "images.csv", zip: "images.zip" }[format]);
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        problem(error);
      } finally {
        button.disabled = false;
      }
    });
  }
  // Cards that appear later show whether they are selected.
  new MutationObserver(() => marks()).observe(at("found"), { childList: true, subtree: true });
}

export function allow(about) {
  at("export-zip").hidden = !about.originals;
}

export function clear() {
  selected.clear();
  latest = null;
  marks();
  show();
}

export function select(cards) {
  for (const card of cards) choose(card, true);
  show();
}

function clicked(event) {
  const card = event.target.closest?.(".card");
  if (band?.isFar) { // the end of a drag is no click
    event.preventDefault();
    event.stopPropagation();
    return;
  }
  const box = card?.querySelector(".pick");
  if (!box || event.ctrlKey || event.metaKey || event.altKey || event.target.closest(".open")) return;
  const isBox = event.target === box;
  // While images are selected, or with Shift, a click on a card selects instead of searching.
  if (!isBox && !event.shiftKey && !selected.size) return;
  if (!isBox) {
    event.preventDefault();
    event.stopPropagation();
  }
  const on = isBox ? box.checked : !selected.has(card.item.id);
  const list = [...card.parentElement.children];
  if (event.shiftKey && latest?.parentElement === card.parentElement) {
    const [from, to] = [list.indexOf(latest), list.indexOf(card)].sort((a, b) => a - b);
    for (const one of list.slice(from, to + 1)) choose(one, true);
  } else {
    choose(card, on);
  }
  latest = card;
  show();
}

function choose(card, on) {
  if (!card.querySelector(".pick")) return;
  if (on) selected.set(card.item.id, card.item);
  else selected.delete(card.item.id);
  mark(card);
}

function press(event) {
  if (event.button || event.pointerType !== "mouse" || !event.target.closest("#answer, #copies") || event.target.closest("button, input, select, nav")) return;
  band = { x: event.pageX, y: event.pageY, isFar: false };
}

function drag(event) {
  if (!band) return;
  if (!event.buttons) return release();
  if (!band.isFar && Math.hypot(event.pageX - band.x, event.pageY - band.y) < FAR) return;
  if (!band.isFar) {
    band.isFar = true;
    band.frame = element("div", { id: "band" });
    document.body.append(band.frame);
    document.body.classList.add("banding");
  }
  const [left, top] = [Math.min(band.x, event.pageX), Math.min(band.y, event.pageY)];
  const [width, height] = [Math.abs(event.pageX - band.x), Math.abs(event.pageY - band.y)];
  Object.assign(band.frame.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
  for (const card of document.querySelectorAll(".card")) {
    const place = card.getBoundingClientRect();
    const [x, y] = [place.left + scrollX, place.top + scrollY];
    if (x < left + width && x + place.width > left && y < top + height && y + place.height > top) choose(card, true);
  }
  show();
}

function release() {
  if (!band) return;
  band.frame?.remove();
  document.body.classList.remove("banding");
  const old = band;
  setTimeout(() => { if (band === old) band = null; }); // after the click that ends a drag
}

function marks() {
  for (const card of document.querySelectorAll(".card")) mark(card);
}

function mark(card) {
  const on = selected.has(card.item.id) && !card.item.collection;
  if (card.classList.contains("selected") === on) return;
  card.classList.toggle("selected", on);
  const box = card.querySelector(".pick");
  if (box) box.checked = on;
}

function show() {
  at("selection").hidden = !selected.size;
  at("selection-count").textContent = `${images(selected.size)} selected`;
  document.body.classList.toggle("selecting", selected.size > 0);
}
