// Cards of images and clusters. Each is a link that starts a search; an image can also be opened and selected.

import { picture, thumbnailOf } from "./api.js";
import { element, unseen } from "./dom.js";

// The last two parts of a path. The title attribute has the full path.
export function shortPath(path) {
  return path.split("/").slice(-2).join("/");
}

export function nameOf(item) {
  return item.label ?? shortPath(item.path);
}

export function thumbnail(item, alt = "") {
  const image = element("img", { alt, loading: "lazy", decoding: "async", draggable: false });
  const frame = element("div", { className: "picture" }, image);
  frame.dataset.name = nameOf(item); // shown if there is no picture
  picture(image, thumbnailOf(item));
  return frame;
}

// An image of a list. Its li carries the item, which the lightbox and the selection read.
//   href: the search that the card starts
//   rank: its place in an answer, from 1; left out where there is none
//   asked: the query if it is an item of the collection
//   note: a remark after the name
export function card(item, href, { rank, asked, note } = {}) {
  const isSame = Boolean(asked?.label) && item.label === asked.label;
  const link = element("a", { href, title: item.path, draggable: false }, thumbnail(item));
  if (item.similarity !== undefined) link.append(score(item.similarity, rank));
  link.append(
    element("span", { className: isSame ? "name same" : "name" }, item.label ?? "no label", unseen(isSame ? ", the same label" : "")),
    element("span", { className: "path" }, element("bdi", {}, shortPath(item.path))),
  );
  if (note) link.append(element("span", { className: "note" }, note));
  const name = nameOf(item);
  // What is selected are images of the first collection.
  const pick = item.collection ? [] : [element("input", { type: "checkbox", className: "pick", ariaLabel: `select ${name}` })];
  const made = element("li", { className: "card", item }, link, ...pick,
    element("button", { type: "button", className: "open", title: "open in full", ariaLabel: `open ${name} in full` }, "⤢"));
  made.dataset.id = item.id;
  return made;
}

export function sample(item, href) {
  const link = element("a", { href, title: item.path, draggable: false }, thumbnail(item, `${nameOf(item)}, image ${item.id}`));
  return element("li", { item }, link);
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

function score(similarity, rank) {
  const bar = element("i");
  bar.style.setProperty("--part", `${Math.max(0, similarity) * 100}%`);
  return element("span", { className: "score" }, unseen(rank ? `${rank}. similarity ` : "similarity "), similarity.toFixed(3), bar);
}
