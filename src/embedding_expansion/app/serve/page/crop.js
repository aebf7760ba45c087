// A dialog in which a part of an image is marked, with the pointer or the arrow keys.

import { picture } from "./api.js";
import { at } from "./dom.js";

const MOST = 1024; // pixels of the longer side of what is sent
let box = { x: 0.15, y: 0.15, w: 0.7, h: 0.7 }; // in parts of the image
let corner = null; // where a drag began

// Resolves to a file of the marked part, or to null. Of several sources, the first that can be shown is taken.
export async function crop(sources) {
  const dialog = at("crop"), image = at("crop-picture");
  box = { x: 0.15, y: 0.15, w: 0.7, h: 0.7 };
  for (const source of sources) if (await shows(image, source)) break;
  draw();
  dialog.returnValue = "";
  dialog.showModal();
  at("crop-area").focus();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  return dialog.returnValue === "search" && image.naturalWidth ? cut(image) : null;
}

function shows(image, source) {
  return new Promise((resolve) => {
    image.addEventListener("load", () => {
      image.style.width = `min(34rem, 82vw, ${(60 * image.naturalWidth) / image.naturalHeight}vh)`;
      resolve(true);
    }, { once: true });
    picture(image, source, () => resolve(false));
  });
}

function cut(image) {
  const [width, height] = [box.w * image.naturalWidth, box.h * image.naturalHeight];
  const scale = Math.min(1, MOST / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  canvas.getContext("2d").drawImage(image, box.x * image.naturalWidth, box.y * image.naturalHeight, width, height, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

function draw() {
  const style = at("crop-box").style;
  for (const [side, value] of Object.entries({ left: box.x, top: box.y, width: box.w, height: box.h })) style[side] = `${100 * value}%`;
}

function within(event) {
  const area = at("crop-area").getBoundingClientRect();
  const part = (value, low, size) => Math.min(1, Math.max(0, (value - low) / size));
  return [part(event.clientX, area.left, area.width), part(event.clientY, area.top, area.height)];
}

at("crop-area").addEventListener("pointerdown", (event) => {
  event.preventDefault();
  at("crop-area").setPointerCapture(event.pointerId);
  at("crop-area").focus();
  corner = within(event);
});
at("crop-area").addEventListener("pointermove", (event) => {
  if (!corner) return;
  const [x, y] = within(event);
  const next = { x: Math.min(x, corner[0]), y: Math.min(y, corner[1]), w: Math.abs(x - corner[0]), h: Math.abs(y - corner[1]) };
  if (next.w < 0.02 || next.h < 0.02) return;
  box = next;
  draw();
});
at("crop-area").addEventListener("pointerup", () => { corner = null; });
at("crop-area").addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: [-0.02, 0], ArrowRight: [0.02, 0], ArrowUp: [0, -0.02], ArrowDown: [0, 0.02] };
  if (!(event.key in steps)) return;
  event.preventDefault();
  const [dx, dy] = steps[event.key];
  if (event.shiftKey) { // resize
    box.w = Math.min(1 - box.x, Math.max(0.05, box.w + dx));
    box.h = Math.min(1 - box.y, Math.max(0.05, box.h + dy));
  } else {
    box.x = Math.min(1 - box.w, Math.max(0, box.x + dx));
    box.y = Math.min(1 - box.h, Math.max(0, box.y + dy));
  }
  draw();
});
