// Changing the collection, where the server allows it: add, relabel, remove, and undo.

import { ask, post, send } from "./api.js";
import { at } from "./dom.js";
import { ofUploads } from "./query.js";
import { uploads } from "./route.js";
import * as selection from "./selection.js";

let changed = async () => {};
let canEdit = false;

// `onChange` is called after each change; `problem` shows an error.
export function listen(onChange, problem) {
  changed = onChange;
  const guarded = (change) => () => change().catch(problem);
  at("undo").addEventListener("click", guarded(undo));
  at("remove").addEventListener("click", guarded(async () => done(await post("/api/remove", { ids: selection.ids() }))));
  at("relabel").addEventListener("click", guarded(async () => {
    const label = await askLabel(`Label of ${at("selection-count").textContent.replace(" selected", "")}`);
    if (label !== null) await done(await post("/api/relabel", { ids: selection.ids(), label: label || null }));
  }));
  at("add").addEventListener("click", guarded(add));
}

export async function allow(about) {
  canEdit = about.can_edit;
  for (const id of ["relabel", "remove"]) at(id).hidden = !canEdit;
  if (about.can_edit) await offerUndo();
}

// Offers to add the images of the query, if they are uploads.
export function offerAdding(isQuery) {
  at("add").hidden = !canEdit || !isQuery || !ofUploads().length;
}

async function add() {
  const images = ofUploads();
  const label = await askLabel(`Label of ${images.length === 1 ? "the image" : `the ${images.length} images`}`);
  if (label === null) return;
  let last = null;
  for (const { id } of images) {
    const { blob, name } = uploads.get(id);
    last = await send(`/api/items?${new URLSearchParams({ name, ...(label && { label }) })}`, blob);
  }
  offerAdding(false);
  await done(last, images.length > 1 ? `added ${images.length} images` : last.done);
}

async function undo() {
  at("undo").disabled = true;
  try {
    await done(await post("/api/undo", {}));
  } finally {
    await offerUndo();
  }
}

async function done(change, what = change.done) {
  selection.clear();
  at("done").textContent = `${what[0].toUpperCase()}${what.slice(1)}.`;
  at("done").hidden = false;
  await Promise.all([offerUndo(), changed()]);
}

async function offerUndo() {
  const { changes, limit } = await ask("/api/changes");
  at("undo").hidden = false;
  at("undo").disabled = !changes.length;
  at("undo").title = changes.length ? `undo: ${changes[0]}` : `nothing to undo. ${limit}`;
}

// Resolves to the label, "" for none, or null if the dialog was closed.
async function askLabel(title) {
  const dialog = at("label-ask");
  at("label-ask-title").textContent = title;
  at("new-label").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  return dialog.returnValue === "label" ? at("new-label").value.trim() : null;
}
