// The list of devices: one element per device for as long as it is known, changed where it changes.

import { $, attribute, el, icon, share, text } from "./dom.js";
import { byName, celsius, count, rate, some, watts } from "./format.js";
import { CLASSES, byAttention } from "./overview.js";

const REORDER_MS = 2_000; // figures that change all the time do not shuffle the list all the time
const PAGE = 10;

export function done(row, roundId) {
  const uploads = row.segments > 0 && (!roundId || row.upload_round === roundId);
  const trains = row.steps > 0 && (!roundId || row.train_round === roundId);
  if (uploads && !(row.state === "training" && row.train_round > row.upload_round)) {
    return { part: row.segments_accepted / row.segments, words: `${count(row.segments_accepted)}/${count(row.segments)} seg.`, kind: "upload" };
  }
  if (trains) return { part: row.step / row.steps, words: `step ${row.step}/${row.steps}`, kind: "train" };
  return { part: 0, words: "–", kind: "none" };
}

class Row {
  constructor(id) {
    this.id = id;
    this.name = el("span", { role: "gridcell", class: "name" }, el("b", {}, id), el("small"));
    this.mark = el("span", { role: "gridcell", class: "mark" });
    this.quiet = el("span", { class: "muted" });
    this.why = el("strong");
    this.what = el("span", { role: "gridcell", class: "what" }, this.quiet, this.why);
    this.bar = el("span", { class: "bar" }, el("i"));
    this.steps = el("span", { class: "n" });
    this.progress = el("span", { role: "gridcell", class: "progress" }, this.bar, this.steps);
    this.figures = ["goodput", "resent", "power", "temp"].map((name) => el("span", { role: "gridcell", class: `n ${name}`, "data-field": name }));
    this.element = el("div", { role: "row", class: "row", tabindex: "-1", "data-id": id, "data-testid": `device-${id}` },
      this.name, this.mark, this.what, this.progress, ...this.figures);
    this.attention = "";
  }

  draw(row, roundId) {
    if (row.attention !== this.attention) {
      this.attention = row.attention;
      this.element.dataset.attention = row.attention;
      this.mark.replaceChildren(icon(row.attention), el("span", {}, row.attention));
    }
    attribute(this.element, "data-state", row.state);
    text(this.name.lastChild, row.board);
    const isBoth = row.why && row.words.endsWith(row.why);
    text(this.quiet, isBoth ? row.words.slice(0, -row.why.length) : row.why ? "" : row.words);
    text(this.why, isBoth ? row.why : row.why ? row.words : "");
    const { part, words, kind } = done(row, roundId);
    share(this.bar, "--part", part);
    attribute(this.bar, "data-kind", kind);
    text(this.steps, words);
    const [goodput, resent, power, temp] = this.figures;
    text(goodput, rate(row.goodput_bps));
    text(resent, row.sent_total ? `${count(row.resent_total)} of ${count(row.sent_total)}` : "–");
    text(power, watts(row.power_w));
    text(temp, celsius(row.temp_c));
  }
}

export class Devices {
  constructor(store, open) {
    this.store = store;
    this.open = open;
    this.rows = new Map();
    this.only = new Set();
    this.words = "";
    this.sort = "attention";
    this.current = null;
    this.orderedAt = -Infinity;
    this.roundId = 0;
    this.body = $("rows");
    this.chips = new Map(CLASSES.map((name) => [name, this.#chip(name)]));
    this.#listen();
  }

  // changed: device id → its changed fields, null where it is gone.
  draw(changed) {
    const { devices, round } = this.store.document;
    const all = round.round_id !== this.roundId ? Object.keys(devices) : [];
    this.roundId = round.round_id;
    let isMoved = false;
    for (const id of new Set([...changed.keys(), ...all])) {
      const known = this.rows.get(id);
      if (!(id in devices)) {
        known?.element.remove();
        this.rows.delete(id);
        isMoved = true;
        continue;
      }
      const row = known ?? new Row(id);
      const before = row.attention;
      if (!known) this.rows.set(id, row);
      row.draw(devices[id], this.roundId);
      isMoved ||= !known || before !== row.attention;
      this.#show(row);
    }
    this.#count();
    const isOld = performance.now() - this.orderedAt > REORDER_MS;
    if (isMoved || (isOld && this.sort !== "attention" && this.sort !== "id")) this.#order();
  }

  #count() {
    const { fleet } = this.store.document;
    for (const [name, { button, figure }] of this.chips) {
      const number = fleet.attention[name] ?? 0;
      text(figure, count(number));
      attribute(button, "data-none", number ? null : "");
    }
    this.#tell();
  }

  #tell() {
    let shown = 0;
    for (const row of this.rows.values()) shown += row.element.hidden ? 0 : 1;
    const total = this.rows.size;
    text($("shown"), shown === total ? some(total, "device") : `${count(shown)} of ${some(total, "device")}`);
    const none = $("none");
    none.hidden = shown > 0;
    text(none, total ? "No device is like that." : "No device is known yet.");
    attribute($("grid"), "aria-rowcount", shown + 1);
  }

  #show(row) {
    const told = this.store.document.devices[row.id];
    const isWanted = (!this.only.size || this.only.has(told.attention))
      && (!this.words || `${told.id} ${told.state} ${told.attention} ${told.words} ${told.board}`.toLowerCase().includes(this.words));
    if (row.element.hidden === isWanted) row.element.hidden = !isWanted;
  }

  #filter() {
    for (const row of this.rows.values()) this.#show(row);
    this.#tell();
    this.#stop();
  }

  #order() {
    this.orderedAt = performance.now();
    const { devices } = this.store.document;
    const sorted = Object.values(devices).sort((a, b) => this.#compare(a, b));
    const focused = this.body.contains(document.activeElement) ? document.activeElement : null;
    let cursor = this.body.firstElementChild;
    for (const { id } of sorted) {
      const { element } = this.rows.get(id);
      if (element === cursor) {
        cursor = cursor.nextElementSibling;
      } else if (cursor?.nextElementSibling === element) {
        this.body.append(cursor); // it went down: it finds its place when its turn comes
        cursor = element.nextElementSibling;
      } else {
        this.body.insertBefore(element, cursor);
      }
    }
    if (focused && focused !== document.activeElement) focused.focus({ preventScroll: true });
    this.#stop();
  }

  #compare(a, b) {
    switch (this.sort) {
      case "attention": return byAttention(a, b);
      case "id": return byName(a, b);
      case "progress": return done(a, this.roundId).part - done(b, this.roundId).part || byName(a, b);
      // What is slow stands first, and what is hot; what is not known last.
      case "goodput_bps": return (a.goodput_bps ?? Infinity) - (b.goodput_bps ?? Infinity) || byName(a, b);
      default: return (b[this.sort] ?? -1) - (a[this.sort] ?? -1) || byName(a, b);
    }
  }

  // Keys: one row is in the tab order, arrows move it -------------------------------------------

  #visible() {
    return [...this.body.children].filter((one) => !one.hidden);
  }

  #stop() {
    const here = this.current && this.rows.get(this.current)?.element;
    const stop = here && !here.hidden ? here : this.#visible()[0];
    if (stop === this.stopAt && stop?.tabIndex === 0) return;
    if (this.stopAt) this.stopAt.tabIndex = -1;
    this.stopAt = stop;
    if (stop) stop.tabIndex = 0;
  }

  #go(element) {
    if (!element) return;
    this.current = element.dataset.id;
    this.#stop();
    element.focus();
    element.scrollIntoView({ block: "nearest" });
  }

  #key(event) {
    const row = event.target.closest?.("[role=row]");
    if (!row || event.ctrlKey || event.altKey || event.metaKey) return;
    const visible = this.#visible();
    const at = visible.indexOf(row);
    const to = {
      ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + PAGE, PageUp: at - PAGE, Home: 0, End: visible.length - 1,
    }[event.key];
    if (to !== undefined) {
      this.#go(visible[Math.max(0, Math.min(to, visible.length - 1))]);
    } else if (event.key === "Enter" || event.key === " ") {
      this.open(row.dataset.id);
    } else {
      return;
    }
    event.preventDefault();
  }

  #chip(name) {
    const figure = el("span", { class: "n" }, "0");
    const button = el("button", { type: "button", class: "chip", "aria-pressed": "false", "data-attention": name, "data-testid": `chip-${name}` },
      icon(name), name, figure);
    button.addEventListener("click", () => {
      if (!this.only.delete(name)) this.only.add(name);
      button.setAttribute("aria-pressed", String(this.only.has(name)));
      if (this.store.document) this.#filter();
    });
    $("chips").append(button);
    return { button, figure };
  }

  #listen() {
    const filter = $("filter");
    filter.addEventListener("input", () => {
      this.words = filter.value.trim().toLowerCase();
      if (this.store.document) this.#filter();
    });
    filter.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && filter.value) {
        filter.value = "";
        filter.dispatchEvent(new Event("input"));
      } else if (event.key === "ArrowDown" || event.key === "Enter") {
        event.preventDefault();
        this.#go(this.#visible()[0]);
      }
    });
    $("sort").addEventListener("change", () => {
      this.sort = $("sort").value;
      if (this.store.document) this.#order();
    });
    this.body.addEventListener("keydown", (event) => this.#key(event));
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("[role=row]");
      if (!row || getSelection()?.toString()) return;
      this.current = row.dataset.id;
      this.#stop();
      this.open(row.dataset.id);
    });
    this.body.addEventListener("focusin", (event) => {
      const row = event.target.closest("[role=row]");
      if (row) this.current = row.dataset.id;
    });
    document.addEventListener("keydown", (event) => {
      const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName ?? "");
      if (event.key !== "/" || isTyping || event.ctrlKey || event.altKey || event.metaKey || $("detail").open) return;
      event.preventDefault();
      filter.focus();
      filter.select();
    });
  }
}
