/** Colours of a share: how many times its even share a position has, on a logarithmic scale. */

import { element } from "./elements.js";

const LOWEST = -3,
  HIGHEST = 4; // powers of two: 1/8 or less, 16 or more
const SWATCHES = 29;

// From least to most: [power of two, red, green, blue]. Luminance falls (light) or rises (dark) above an even share, hue
// separates what lies below it: blue and ochre stay apart for all common kinds of colour blindness.
const LIGHT = [
  [-3, 232, 214, 178],
  [-1, 241, 233, 217],
  [0, 243, 244, 245],
  [1, 190, 214, 234],
  [2.5, 72, 137, 189],
  [4, 10, 48, 92],
];
const DARK = [
  [-3, 74, 57, 29],
  [-1, 55, 49, 40],
  [0, 41, 46, 51],
  [1, 42, 84, 116],
  [2.5, 78, 158, 212],
  [4, 228, 244, 255],
];

const darkScheme = matchMedia("(prefers-color-scheme: dark)");

/** Call when the colours change. */
export const onSchemeChange = (redraw) => darkScheme.addEventListener("change", redraw);

/** Colour of a share that is so many times its even share. */
export function shareColor(times) {
  const power = times > 0 ? Math.min(HIGHEST, Math.max(LOWEST, Math.log2(times))) : LOWEST;
  const anchors = darkScheme.matches ? DARK : LIGHT;
  const above = Math.max(
    1,
    anchors.findIndex(([at]) => at >= power),
  );
  const [from, ...low] = anchors[above - 1],
    [to, ...high] = anchors[above],
    part = (power - from) / (to - from);
  return `rgb(${low.map((value, channel) => Math.round(value + part * (high[channel] - value))).join(" ")})`;
}

/** Ink for letters and lines on the pictures. */
export const inkColor = () => (darkScheme.matches ? "#aab2ba" : "#59616a");

/** Where nothing was read yet. */
export const emptyColor = () => (darkScheme.matches ? "#1f2428" : "#f7f9fb");

/** The scale with its numbers. */
export function colorLegend() {
  const swatches = Array.from({ length: SWATCHES }, () => element("i"));
  const paint = () =>
    swatches.forEach((swatch, index) => {
      swatch.style.backgroundColor = shareColor(2 ** (LOWEST + (index / (SWATCHES - 1)) * (HIGHEST - LOWEST)));
    });
  paint();
  onSchemeChange(paint);
  const tick = (power, words) => {
    const mark = element("span", {}, words);
    mark.style.left = `${((power - LOWEST) / (HIGHEST - LOWEST)) * 100}%`;
    return mark;
  };
  return element(
    "div",
    { className: "legend" },
    element("div", { className: "swatches", "aria-hidden": "true" }, ...swatches),
    element("div", { className: "ticks" }, tick(-3, "≤ 1/8"), tick(0, "1, even"), tick(2, "4"), tick(4, "≥ 16")),
  );
}
