// A line chart with axes, as SVG: drawn again as a whole, since it changes once a round.

import { el, svg } from "./dom.js";

const MARGIN = { top: 10, right: 14, bottom: 34, left: 58 };
const HEIGHT = 230;
const DOTS_UP_TO = 40;

// Ticks at 1, 2 or 5 times a power of ten.
function linearTicks(low, high, wanted) {
  const raw = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw);
  const first = Math.ceil(low / step - 1e-9);
  const ticks = [];
  for (let index = first; index * step <= high + step * 1e-9; index += 1) ticks.push(index * step);
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high * 1.001; power += 1) {
    if (10 ** power >= low * 0.999) ticks.push(10 ** power);
  }
  return ticks;
}

function vertical(values, isLog) {
  let low = Math.min(...values);
  let high = Math.max(...values);
  if (isLog) {
    low = 10 ** Math.floor(Math.log10(low));
    high = 10 ** Math.ceil(Math.log10(high) + 1e-9);
    const span = Math.log10(high / low) || 1;
    return { ticks: logTicks(low, high), place: (value) => Math.log10(value / low) / span };
  }
  const room = (high - low || Math.abs(high) || 1) * 0.08;
  low -= room;
  high += room;
  return { ticks: linearTicks(low, high, 8), place: (value) => (value - low) / (high - low) };
}

const path = (points) => points.map(([x, y], index) => `${index ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

export class Chart {
  // series: [{name, kind, points: [[x, y]]}]
  constructor(home, { x, format, tick, isLog = false, empty }) {
    this.told = { x, format, tick, isLog, empty };
    this.series = [];
    this.width = 0;
    this.plot = null;
    this.legend = el("ul", { class: "legend" });
    this.canvas = svg("svg", { class: "plot", role: "img", height: HEIGHT });
    this.readout = el("p", { class: "readout note", "aria-hidden": "true" });
    this.table = el("details", { class: "figures" }, el("summary", {}, "As a table"), el("div", { class: "scroll" }));
    home.append(this.legend, this.canvas, this.readout, this.table);
    new ResizeObserver(([entry]) => this.#fit(entry.contentRect.width)).observe(home);
    this.canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.canvas.addEventListener("pointerleave", () => this.#leave());
    this.table.addEventListener("toggle", () => this.#tabulate());
  }

  #fit(width) {
    if (Math.abs(width - this.width) < 1) return;
    this.width = width;
    this.#draw();
  }

  draw(series, summary) {
    this.series = series.filter((one) => one.points.length);
    this.canvas.setAttribute("aria-label", summary);
    this.#draw();
    this.#tabulate();
  }

  #draw() {
    const { width } = this;
    if (width < 40) return;
    this.canvas.setAttribute("width", width);
    this.canvas.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.legend.replaceChildren(...this.series.map((one) => el("li", { "data-kind": one.kind },
      svg("svg", { width: 22, height: 8, "aria-hidden": "true" }, svg("path", { class: "line", d: "M0 4H22" })), one.name)));
    this.plot = null;
    if (!this.series.length) {
      this.canvas.replaceChildren(svg("text", { class: "empty", x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, this.told.empty));
      return;
    }
    const points = this.series.flatMap((one) => one.points);
    const xs = points.map(([x]) => x);
    const [first, last] = [Math.min(...xs), Math.max(...xs)];
    const { ticks, place } = vertical(points.map(([, y]) => y), this.told.isLog);
    const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
    const px = (x) => MARGIN.left + (last > first ? (x - first) / (last - first) : 0.5) * inner.width;
    const py = (y) => MARGIN.top + (1 - place(y)) * inner.height;
    this.plot = { px, py, first, last };
    this.marker = svg("g", { class: "marker" });
    this.canvas.replaceChildren(...this.#axes(ticks, first, last, inner), ...this.series.map((one) => this.#line(one)), this.marker);
  }

  #axes(ticks, first, last, inner) {
    const { px, py } = this.plot;
    const bottom = MARGIN.top + inner.height;
    const wanted = Math.max(2, Math.min(8, Math.floor(inner.width / 60)));
    const columns = last > first ? linearTicks(first, last, wanted).filter(Number.isInteger) : [first];
    return [
      ...ticks.flatMap((tick) => [
        svg("path", { class: "rule", d: `M${MARGIN.left} ${py(tick).toFixed(1)}h${inner.width}` }),
        svg("text", { x: MARGIN.left - 8, y: py(tick) + 4, "text-anchor": "end" }, this.told.tick(tick, ticks[1] - ticks[0])),
      ]),
      svg("path", { class: "axis", d: `M${MARGIN.left} ${MARGIN.top}V${bottom}h${inner.width}` }),
      ...columns.flatMap((tick) => [
        svg("path", { class: "axis", d: `M${px(tick).toFixed(1)} ${bottom}v4` }),
        svg("text", { x: px(tick), y: bottom + 16, "text-anchor": "middle" }, String(tick)),
      ]),
      svg("text", { class: "name", x: MARGIN.left + inner.width, y: HEIGHT - 3, "text-anchor": "end" }, this.told.x),
    ];
  }

  #line({ kind, points }) {
    const { px, py } = this.plot;
    const placed = points.map(([x, y]) => [px(x), py(y)]);
    const dots = points.length <= DOTS_UP_TO ? placed.map(([cx, cy]) => svg("circle", { cx, cy, r: 2.75 })) : [];
    return svg("g", { class: "series", "data-kind": kind }, svg("path", { class: "line", d: path(placed) }), ...dots);
  }

  #point(event) {
    if (!this.plot) return;
    const at = event.clientX - this.canvas.getBoundingClientRect().left;
    const xs = [...new Set(this.series.flatMap((one) => one.points.map(([x]) => x)))];
    const x = xs.reduce((best, one) => Math.abs(this.plot.px(one) - at) < Math.abs(this.plot.px(best) - at) ? one : best);
    const here = this.series.map((one) => [one, one.points.find(([other]) => other === x)]).filter(([, found]) => found);
    this.readout.textContent = `${this.told.x} ${x}: ${here.map(([one, [, y]]) => `${one.name} ${this.told.format(y)}`).join(", ")}`;
    this.marker.replaceChildren(
      svg("path", { class: "cross", d: `M${this.plot.px(x).toFixed(1)} ${MARGIN.top}V${HEIGHT - MARGIN.bottom}` }),
      ...here.map(([one, [, y]]) => svg("circle", { "data-kind": one.kind, cx: this.plot.px(x), cy: this.plot.py(y), r: 4.5 })),
    );
  }

  #leave() {
    this.readout.textContent = "";
    this.marker?.replaceChildren();
  }

  // The same figures for who does not see the curve; built only while it is open.
  #tabulate() {
    const home = this.table.querySelector(".scroll");
    if (!this.table.open) return;
    const xs = [...new Set(this.series.flatMap((one) => one.points.map(([x]) => x)))].sort((a, b) => b - a);
    const figure = (one, x) => one.points.find(([other]) => other === x)?.[1];
    home.replaceChildren(el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, this.told.x), ...this.series.map((one) => el("th", { scope: "col" }, one.name)))),
      el("tbody", {}, ...xs.map((x) => el("tr", {}, el("th", { scope: "row" }, String(x)),
        ...this.series.map((one) => el("td", {}, figure(one, x) === undefined ? "–" : this.told.format(figure(one, x)))))))));
  }
}

// A small line without axes, with its range in words.
export function spark(points, format) {
  if (points.length < 2) return el("p", { class: "note" }, "not enough points yet");
  const [width, height] = [260, 46];
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  const [left, right, low, high] = [xs[0], xs.at(-1), Math.min(...ys), Math.max(...ys)];
  const d = path(points.map(([x, y]) => [
    (x - left) / (right - left || 1) * width,
    3 + (1 - (high > low ? (y - low) / (high - low) : 0.5)) * (height - 6),
  ]));
  return el("div", { class: "spark" },
    svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": `from ${format(low)} to ${format(high)}` },
      svg("path", { class: "line", d, "vector-effect": "non-scaling-stroke" })),
    el("p", { class: "note" }, `${format(low)} to ${format(high)}`));
}
