// Elements of the page: finding them, making them, and texts that only screen readers get.

export const at = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function unseen(text) {
  return element("span", { className: "unseen" }, text);
}

export const number = (value) => value.toLocaleString("en");

export const images = (count) => (count === 1 ? "1 image" : `${number(count)} images`);

export function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}${/[.?!]$/.test(text) ? "" : "."}`;
}
