// The state of the page in the URL and the browser history: the query, its options and the trail of searches.

const DEFAULTS = { k: 20, qe: 0, label: "", path: "", groups: "", collection: "" };
// The kinds of a step, and how its id looks in the address. "i5,u3" are item 5 and upload 3 as one query.
// A twin is an item of the second collection; the step becomes the item of the first with the same path.
const KINDS = { twin: /^\d+$/, item: /^\d+$/, cluster: /^\d+$/, upload: /^\d+$/, several: /^[iu]\d+(,[iu]\d+)+$/, text: /\S/, browse: /^all$/, copies: /^(0\.\d+|1)$/ };
export const uploads = new Map(); // id -> { blob, url, name }; lost when the page is reloaded

// A step is { kind, id, name }. Filters without a step browse what they leave of the collection.
export function current() {
  const query = new URLSearchParams(location.search);
  const options = {
    k: within(query.get("k"), 1, 100, DEFAULTS.k),
    qe: within(query.get("qe"), 0, 20, DEFAULTS.qe),
    label: query.get("label") ?? "",
    path: query.get("path") ?? "",
    meta: query.getAll("meta").filter((text) => text.includes("=")),
    groups: /^[1-9]\d*$/.test(query.get("groups") ?? "") ? String(within(query.get("groups"), 1, 1000, 0)) : "",
    collection: query.get("collection") === "both" ? "both" : "",
  };
  const kind = Object.keys(KINDS).find((name) => KINDS[name].test(query.get(name) ?? ""));
  let step = kind ? stepOf(kind, query.get(kind)) : null;
  if (!step && isFiltered(options)) step = { kind: "browse", id: "", name: "" };
  const trail = history.state?.trail ?? (step ? [step] : []);
  return { step: step && (trail.at(-1) ?? step), trail, ...options };
}

export function stepOf(kind, id) {
  return { kind, id: /^(item|twin|cluster|upload|copies)$/.test(kind) ? Number(id) : id, name: "" };
}

export function isFiltered({ label, path, meta = [] }) {
  return Boolean(label || path || meta.length);
}

// The step that a link within the page leads to; null for the start.
export function linked(link) {
  const query = new URLSearchParams(link.search);
  const kind = Object.keys(KINDS).find((name) => KINDS[name].test(query.get(name) ?? ""));
  return kind ? stepOf(kind, query.get(kind)) : null;
}

export function address(step, options) {
  const query = new URLSearchParams(step && step.id !== "" ? { [step.kind]: step.id } : {});
  for (const [name, usual] of Object.entries(DEFAULTS)) {
    if (options[name] !== undefined && options[name] !== usual) query.set(name, options[name]);
  }
  for (const text of options.meta ?? []) query.append("meta", text);
  return `?${query}`;
}

// Adds a history entry.
export function push(trail, options) {
  history.pushState({ trail }, "", address(trail.at(-1), options));
}

// Replaces the current history entry, for other options or a name known only now.
export function amend(trail, options) {
  history.replaceState({ trail }, "", address(trail.at(-1), options));
}

// The images of a query: { kind: "item" | "upload", id }.
export function partsOf(step) {
  if (step.kind === "item" || step.kind === "upload") return [{ kind: step.kind, id: step.id }];
  if (step.kind !== "several") return [];
  return step.id.split(",").map((text) => ({ kind: text[0] === "i" ? "item" : "upload", id: Number(text.slice(1)) }));
}

// The step for some images as one query.
export function joined(parts) {
  if (parts.length === 1) return stepOf(parts[0].kind, parts[0].id);
  return { kind: "several", id: parts.map(({ kind, id }) => `${kind[0]}${id}`).join(","), name: "" };
}

let latest = Date.now(); // ids that no earlier page has used

export function keep(blob, name) {
  uploads.set(++latest, { blob, url: URL.createObjectURL(blob), name });
  return latest;
}

function within(text, low, high, usual) {
  const value = /^\d+$/.test(text ?? "") ? Number(text) : usual;
  return Math.min(high, Math.max(low, value));
}
