// The map: a canvas of points, coloured and shaped by label or cluster, usable with pointer and keyboard.

import { picture, thumbnailOf } from "./api.js";
import { at, element } from "./dom.js";
import { draw, legendMark, shapeOf } from "./marks.js";

const REACH = 14; // pixels around the pointer within which a point is selected
const MARGIN = 16;

export class CollectionMap {
  constructor(onChoice, browse) {
    this.onChoice = onChoice;
    this.browse = browse; // the address for { label } or { cluster }
    this.canvas = document.getElementById("canvas");
    this.tip = document.getElementById("tip");
    this.data = null;
    this.place = new Map(); // id -> index
    this.askedId = null;
    this.matchIds = [];
    this.pointed = -1;
    this.emphasised = null;
    this.view = { x: 0.5, y: 0.5, zoom: 1 };
    this.listen();
  }

  show(data) {
    this.data = data;
    this.place = new Map(data.ids.map((id, index) => [id, index]));
    if (this.pointed >= data.ids.length) this.pointed = -1;
    const hasLabels = data.labels.length > 0;
    const select = document.getElementById("colour");
    select.options[0].disabled = !hasLabels;
    if (!hasLabels) select.value = "cluster";
    this.legend();
    this.draw();
  }

  // Draws rings around the query and those of its matches that the map shows.
  mark(askedId, matchIds) {
    this.askedId = askedId;
    this.matchIds = matchIds;
    this.draw();
  }

  groupOf(index) {
    return document.getElementById("colour").value === "label" ? this.data.label[index] : this.data.cluster[index];
  }

  nameOf(index) {
    const label = this.data.label[index];
    return label < 0 ? `image ${this.data.ids[index]}` : this.data.labels[label];
  }

  listen() {
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.legend(); this.draw(); });
    document.getElementById("colour").addEventListener("change", () => { this.emphasised = null; this.legend(); this.draw(); });
    document.getElementById("closer").addEventListener("click", () => this.zoom(1.6));
    document.getElementById("farther").addEventListener("click", () => this.zoom(1 / 1.6));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    this.canvas.addEventListener("pointerleave", () => { this.dragged = null; this.point(-1); });
    this.canvas.addEventListener("pointerdown", (event) => { this.dragged = { x: event.offsetX, y: event.offsetY, far: 0 }; });
    this.canvas.addEventListener("pointerup", (event) => this.up(event));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("blur", () => this.point(-1));
    this.canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== this.canvas) return; // scroll the page, unless the map has focus
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15, event);
    }, { passive: false });
  }

  toScreen(index) {
    const side = this.canvas.clientWidth;
    const scale = (side - 2 * MARGIN) * this.view.zoom;
    return [side / 2 + (this.data.x[index] - this.view.x) * scale, side / 2 - (this.data.y[index] - this.view.y) * scale];
  }

  nearest(x, y) {
    let best = -1, least = REACH * REACH;
    for (let index = 0; index < (this.data?.ids.length ?? 0); index++) {
      const [px, py] = this.toScreen(index);
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) [best, least] = [index, distance];
    }
    return best;
  }

  // The closest point within 45 degrees of this direction.
  neighbour(dx, dy) {
    if (this.pointed < 0) return this.place.get(this.askedId) ?? this.central();
    const [x, y] = this.toScreen(this.pointed);
    let best = this.pointed, least = Infinity;
    for (let index = 0; index < this.data.ids.length; index++) {
      const [px, py] = this.toScreen(index);
      const along = (px - x) * dx + (py - y) * dy, aside = Math.abs((px - x) * dy - (py - y) * dx);
      if (index !== this.pointed && along > 0 && aside <= along && along + 2 * aside < least) [best, least] = [index, along + 2 * aside];
    }
    return best;
  }

  central() {
    let best = -1, least = Infinity;
    this.data.ids.forEach((_, index) => {
      const distance = Math.hypot(this.data.x[index] - this.view.x, this.data.y[index] - this.view.y);
      if (distance < least) [best, least] = [index, distance];
    });
    return best;
  }

  move(event) {
    if (this.dragged && event.buttons) {
      const scale = (this.canvas.clientWidth - 2 * MARGIN) * this.view.zoom;
      this.view.x -= event.movementX / scale;
      this.view.y += event.movementY / scale;
      this.dragged.far += Math.abs(event.movementX) + Math.abs(event.movementY);
      if (this.dragged.far > 4) this.point(-1);
      this.draw();
      return;
    }
    this.point(this.nearest(event.offsetX, event.offsetY));
  }

  up(event) {
    const wasDragged = (this.dragged?.far ?? 0) > 4;
    this.dragged = null;
    const index = this.nearest(event.offsetX, event.offsetY);
    if (!wasDragged && index >= 0) this.choose(index);
  }

  key(event) {
    const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (!this.data?.ids.length || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in directions) this.point(this.neighbour(...directions[event.key]), true);
    else if ((event.key === "Enter" || event.key === " ") && this.pointed >= 0) this.choose(this.pointed);
    else if (event.key === "+" || event.key === "=") this.zoom(1.6);
    else if (event.key === "-") this.zoom(1 / 1.6);
    else return;
    event.preventDefault();
  }

  zoom(factor) {
    const zoom = Math.min(40, Math.max(1, this.view.zoom * factor));
    if (this.pointed >= 0 && factor > 1) [this.view.x, this.view.y] = [this.data.x[this.pointed], this.data.y[this.pointed]];
    this.view = zoom === 1 ? { x: 0.5, y: 0.5, zoom } : { ...this.view, zoom };
    this.draw();
  }

  choose(index) {
    this.onChoice({ kind: "item", id: this.data.ids[index], name: this.nameOf(index) });
  }

  point(index, aloud = false) {
    if (index === this.pointed && !aloud) return;
    this.pointed = index;
    this.tip.hidden = index < 0;
    if (index >= 0) {
      this.tip.querySelector("span").textContent = this.nameOf(index);
      picture(this.tip.querySelector("img"), thumbnailOf({ id: this.data.ids[index] }));
      const [x, y] = this.toScreen(index);
      const side = this.canvas.clientWidth;
      this.tip.style.left = x < side / 2 ? `${x + 14}px` : "auto";
      this.tip.style.right = x < side / 2 ? "auto" : `${side - x + 14}px`;
      this.tip.style.top = `${Math.min(Math.max(0, y - 28), side - 60)}px`;
    }
    if (aloud && index >= 0) document.getElementById("pointed").textContent = `${this.nameOf(index)}, image ${this.data.ids[index]}`;
    this.draw();
  }

  draw() {
    const side = this.canvas.clientWidth, ratio = devicePixelRatio || 1;
    if (!side) return;
    this.canvas.width = this.canvas.height = Math.round(side * ratio);
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (!this.data) return;
    const size = (this.data.ids.length > 2000 ? 2 : 2.6) * Math.min(2.2, Math.sqrt(this.view.zoom));
    for (let index = 0; index < this.data.ids.length; index++) {
      const group = this.groupOf(index);
      context.globalAlpha = this.emphasised === null ? 0.8 : group === this.emphasised ? 1 : 0.1;
      draw(context, group, ...this.toScreen(index), size);
    }
    context.globalAlpha = 1;
    context.strokeStyle = context.fillStyle = getComputedStyle(this.canvas).color;
    context.globalAlpha = 0.75;
    for (const id of this.matchIds) this.ring(context, this.place.get(id), size + 1.5, 1);
    context.globalAlpha = 1;
    this.ring(context, this.place.get(this.askedId), size + 6, 2.5);
    if (this.pointed >= 0) this.ring(context, this.pointed, size + 4, 1.5);
  }

  ring(context, index, radius, width) {
    if (index === undefined) return;
    context.lineWidth = width;
    context.beginPath();
    context.arc(...this.toScreen(index), radius, 0, 2 * Math.PI);
    context.stroke();
  }

  // The legend: a button for each group, which highlights it. A highlighted label can also be browsed.
  legend() {
    if (!this.data) return;
    const byLabel = at("colour").value === "label";
    const groups = byLabel ? this.data.labels.map((name, index) => [index, name])
      : [...new Set(this.data.cluster)].sort((a, b) => a - b).map((index) => [index, `cluster ${index + 1}`]);
    at("legend").replaceChildren(...groups.map(([index, name]) => {
      const button = element("button", { type: "button", title: `highlight ${name} (${shapeOf(index)})` }, legendMark(index), element("span", {}, name));
      button.setAttribute("aria-pressed", String(this.emphasised === index));
      button.addEventListener("click", () => {
        this.emphasised = this.emphasised === index ? null : index;
        for (const other of at("legend").querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button && this.emphasised !== null));
        this.offer(this.emphasised === null ? "" : this.browse(byLabel ? { label: name } : { cluster: index }), name);
        this.draw();
      });
      return element("li", {}, button);
    }));
    this.offer("");
  }

  offer(href, name = "") {
    at("legend-browse").hidden = !href;
    at("legend-browse").href = href;
    at("legend-browse").textContent = `Browse ${name}`;
  }
}
