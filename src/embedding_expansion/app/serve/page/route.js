// The state of the page in the URL and the browser history: the query, its options and the trail of searches.

const DEFAULTS = { k: 20, qe: 0, label: "" };
export const uploads = new Map(); // id -> { blob, url, name }; lost when the page is reloaded

// A step is { kind: "item" | "cluster" | "upload", id, name }.
export function current() {
  const query = new URLSearchParams(location.search);
  const kind = ["item", "cluster", "upload"].find((name) => /^\d+$/.test(query.get(name) ?? ""));
  const step = kind ? { kind, id: Number(query.get(kind)), name: "" } : null;
  const trail = history.state?.trail ?? (step ? [step] : []);
  return {
    step: step && (trail.at(-1) ?? step),
    trail,
    k: within(query.get("k"), 1, 100, DEFAULTS.k),
    qe: within(query.get("qe"), 0, 20, DEFAULTS.qe),
    label: query.get("label") ?? DEFAULTS.label,
  };
}

export function address(step, options) {
  const query = new URLSearchParams(step ? { [step.kind]: step.id } : {});
  for (const [name, usual] of Object.entries(DEFAULTS)) {
    if (options[name] !== usual) query.set(name, options[name]);
  }
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

function within(text, low, high, usual) {
  const value = /^\d+$/.test(text ?? "") ? Number(text) : usual;
  return Math.min(high, Math.max(low, value));
}
