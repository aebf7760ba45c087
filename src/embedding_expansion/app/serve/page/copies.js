// The near-duplicates: groups of images that are almost the same, from a similarity on that can be set.

import { ask } from "./api.js";
import { card } from "./cards.js";
import { at, element, images, number } from "./dom.js";
import { address } from "./route.js";
import * as selection from "./selection.js";

const GROUPS = 50; // groups that are shown at a time
let view = null;
let shown = 0;

export function listen(changed) {
  let patience = 0;
  at("similarity").addEventListener("input", () => {
    at("similarity-value").value = Number(at("similarity").value).toFixed(3);
    clearTimeout(patience);
    patience = setTimeout(() => changed(Number(at("similarity").value)), 300);
  });
  at("copies-more").addEventListener("click", () => add());
  // Of each group all but the first, which are those that somebody may want to remove.
  at("copies-select").addEventListener("click", () => {
    selection.clear();
    selection.select(document.querySelectorAll("#copies .card:not(:first-child)"));
  });
}

export async function show(next, signal) {
  view = next;
  shown = 0;
  at("similarity").value = next.step.id;
  at("similarity-value").value = next.step.id.toFixed(3);
  at("copies-list").replaceChildren();
  at("copies-hint").textContent = "being computed…";
  at("copies-select").hidden = at("copies-more").hidden = true;
  let found = await ask(`/api/duplicates?similarity=${next.step.id}&n=${GROUPS}`, { signal });
  while (found.state === "computing") {
    await new Promise((resolve) => setTimeout(resolve, 500));
    if (signal.aborted) return;
    found = await ask(`/api/duplicates?similarity=${next.step.id}&n=${GROUPS}`, { signal });
  }
  const part = found.compared < found.total ? `, among ${number(found.compared)} images drawn from ${number(found.total)}` : "";
  at("copies-hint").textContent = found.groups ? `${images(found.images)} in ${found.groups === 1 ? "1 group" : `${number(found.groups)} groups`}${part}. Each is that similar to another of its group.`
    : `No two images are that similar${part}.`;
  at("copies-select").hidden = !found.groups;
  fill(found);
}

async function add() {
  fill(await ask(`/api/duplicates?similarity=${view.step.id}&n=${GROUPS}&offset=${shown}`));
}

function fill({ listed, groups }) {
  shown += listed.length;
  at("copies-list").append(...listed.map((group) => {
    const list = element("ol", { className: "cards" }, ...group.items.map((item) => card(item, address({ kind: "item", id: item.id }, view))));
    const rest = group.size - group.items.length;
    return element("li", {}, list, ...(rest > 0 ? [element("p", { className: "hint" }, `and ${images(rest)} more`)] : []));
  }));
  at("copies-more").hidden = shown >= groups;
}
