// Where the reader is: what was asked, with which options, and the way there. The address bar and the history hold it.

const DEFAULTS = { k: 20, qe: 0, label: "" };
export const uploads = new Map(); // number -> { blob, url, name }; gone when the page is loaded again

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

// A new place in the history.
export function push(trail, options) {
  history.pushState({ trail }, "", address(trail.at(-1), options));
}

// The same place with other options, or with a name that has become known.
export function amend(trail, options) {
  history.replaceState({ trail }, "", address(trail.at(-1), options));
}

function within(text, low, high, usual) {
  const value = /^\d+$/.test(text ?? "") ? Number(text) : usual;
  return Math.min(high, Math.max(low, value));
}
