// A colour and a shape for each group, so that groups can be told apart without colour vision.

const SHAPES = ["circle", "square", "triangle", "diamond"];
const PATHS = {
  circle: "M0-1A1 1 0 1 1 0 1A1 1 0 1 1 0-1Z",
  square: "M-.9-.9H.9V.9H-.9Z",
  triangle: "M0-1.15L1.1.85H-1.1Z",
  diamond: "M0-1.3L1.3 0L0 1.3L-1.3 0Z",
};
const built = Object.fromEntries(Object.entries(PATHS).map(([name, path]) => [name, new Path2D(path)]));

export function shapeOf(group) {
  return SHAPES[Math.max(0, group) % SHAPES.length];
}

// Hues a golden angle apart, so that consecutive groups differ clearly. Points without a group are grey.
export function colourOf(group) {
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  if (group < 0) return isDark ? "#7d838c" : "#8b9098";
  return `oklch(${isDark ? 76 : 57}% .15 ${(260 + group * 137.508) % 360})`;
}

export function draw(context, group, x, y, size) {
  context.save();
  context.translate(x, y);
  context.scale(size, size);
  context.fillStyle = colourOf(group);
  context.fill(built[shapeOf(group)]);
  context.restore();
}

export function legendMark(group) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "-1.4 -1.4 2.8 2.8");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", PATHS[shapeOf(group)]);
  path.setAttribute("fill", colourOf(group));
  svg.append(path);
  return svg;
}
