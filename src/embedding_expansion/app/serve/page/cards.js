// Cards of images and clusters. Each is a link that starts a search.

import { picture, thumbnailOf } from "./api.js";

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// The last two parts of a path. The title attribute has the full path.
export function shortPath(path) {
  return path.split("/").slice(-2).join("/");
}

export function nameOf(item) {
  return item.label ?? shortPath(item.path);
}

export function thumbnail(item, alt = "") {
  const image = element("img", { alt, loading: "lazy", decoding: "async" });
  const frame = element("div", { className: "picture" }, image);
  frame.dataset.name = nameOf(item); // shown if there is no picture
  picture(image, thumbnailOf(item.id));
  return frame;
}

// One match. rank starts at 1; asked is the query if it is an item of the collection.
export function match(item, rank, href, asked) {
  const bar = element("i");
  bar.style.setProperty("--part", `${Math.max(0, item.similarity) * 100}%`);
  const isSame = Boolean(asked?.label) && item.label === asked.label;
  const link = element("a", { href, title: item.path });
  link.append(
    thumbnail(item),
    element("span", { className: "score" }, unseen(`${rank}. similarity `), item.similarity.toFixed(3), bar),
    element("span", { className: isSame ? "name same" : "name" }, item.label ?? "no label", unseen(isSame ? ", the same label" : "")),
    element("span", { className: "path" }, element("bdi", {}, shortPath(item.path))),
  );
  return element("li", {}, link);
}

export function sample(item, href) {
  const link = element("a", { href, title: item.path }, thumbnail(item, `${nameOf(item)}, image ${item.id}`));
  return element("li", {}, link);
}

export function group(cluster, href) {
  const share = cluster.label && cluster.share < 0.995 ? `${Math.round(100 * cluster.share)}% · ` : "";
  const name = cluster.label ?? `Cluster ${cluster.id + 1}`;
  const link = element("a", { href, title: cluster.label ? `mostly ${cluster.label}` : name });
  link.append(
    ...cluster.examples.map((item) => thumbnail(item)),
    element("span", {}, element("b", {}, name), element("small", {}, share, `${cluster.size}`, unseen(" images"))),
  );
  return element("li", {}, link);
}

function unseen(text) {
  return element("span", { className: "unseen" }, text);
}
