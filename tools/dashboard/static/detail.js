// Everything that is known of one device, with its figures over time.

import { spark } from "./chart.js";
import { $, el, icon, text } from "./dom.js";
import { bytes, celsius, clock, count, duration, fixed, joules, loss, megabytes, rate, some, watts } from "./format.js";

const HISTORY_MS = 5_000;
const orNone = (value, format) => value === null || value === "" ? "–" : format(value);

// What is told of a device, in the order in which somebody asks for it.
const GROUPS = [
  ["Now", [
    ["State", (row) => row.state],
    ["Says", (row) => row.reason || "–"],
    ["Since", (row, tell) => orNone(row.since_s, tell.moment)],
    ["Last heard", (row, tell) => orNone(row.heard_s, tell.ago)],
    ["Declined", (row) => row.declined ? `round ${row.declined_round}: ${row.declined}` : "–"],
  ]],
  ["Training", [
    ["Round", (row) => row.train_round ? count(row.train_round) : "–"],
    ["Step", (row) => row.steps ? `${row.step} of ${row.steps}` : "–"],
    ["Loss", (row) => loss(row.train_loss)],
    ["Left", (row) => orNone(row.eta_s, duration)],
    ["Examples at once", (row) => row.micro_batch ? count(row.micro_batch) : "–"],
    ["Out of memory", (row) => some(row.out_of_memory, "time")],
  ]],
  ["Upload", [
    ["Round", (row) => row.upload_round ? count(row.upload_round) : "–"],
    ["Segments", (row) => row.segments ? `${count(row.segments_accepted)} of ${count(row.segments)} accepted` : "–"],
    ["Sent twice", (row) => `${count(row.segments_resent)} of ${count(row.segments_sent)}`],
    ["Sent", (row) => row.bytes_sent ? bytes(row.bytes_sent) : "–"],
    ["Goodput", (row) => rate(row.goodput_bps)],
    ["Update, at most", (row) => orNone(row.update_bytes, bytes)],
  ]],
  ["Power and heat", [
    ["Power", (row) => watts(row.power_w)],
    ["Energy of the round", (row) => row.energy_j === null ? "–" : `${joules(row.energy_j)} (round ${row.energy_round})`],
    ["Temperature", (row) => celsius(row.temp_c)],
    ["Power mode", (row) => row.power_mode || "–"],
    ["Battery", (row) => row.battery_pct === null ? "–" : `${fixed(row.battery_pct, 0, " %")}${row.on_mains === false ? ", not on mains" : ""}`],
  ]],
  ["Machine", [
    ["Board", (row) => row.board || "–"],
    ["CPU / GPU", (row) => `${fixed(row.cpu_pct, 0, " %")} / ${fixed(row.gpu_pct, 0, " %")}`],
    ["Memory", (row) => row.ram_mb ? `${megabytes(row.ram_used_mb)} of ${megabytes(row.ram_mb)}` : megabytes(row.ram_used_mb)],
    ["Swap used", (row) => megabytes(row.swap_used_mb)],
    ["Disk free", (row) => megabytes(row.disk_free_mb)],
    ["Base model in", (row) => row.base_precision || "–"],
    ["Agent", (row) => [row.agent_version, row.jetpack && `JetPack ${row.jetpack}`].filter(Boolean).join(", ") || "–"],
    ["Examples", (row) => row.examples ? `${count(row.examples)}, ${count(row.heldout_examples)} held out` : "–"],
  ]],
  ["Since this page's server began", [
    ["Updates accepted", (row) => count(row.updates_accepted)],
    ["Segments", (row) => `${count(row.sent_total)} sent, ${count(row.accepted_total)} accepted`],
    ["Sent twice", (row) => `${count(row.resent_total)}${row.sent_total ? ` (${fixed(100 * row.resent_total / row.sent_total, 1, " %")})` : ""}`],
    ["Restarts", (row) => count(row.restarts)],
    ["Evaluated", (row) => row.eval_loss === null ? "–" : `${loss(row.eval_loss)} at version ${row.eval_version}`],
  ]],
];
const CURVES = [["goodput_bps", "Goodput", rate], ["power_w", "Power", watts], ["temp_c", "Temperature", celsius]];

export class Detail {
  constructor(store) {
    this.store = store;
    this.id = null;
    this.fields = [];
    this.timer = 0;
    this.dialog = $("detail");
    this.dialog.addEventListener("close", () => this.#closed());
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close(); // beside it
    });
    addEventListener("hashchange", () => this.follow());
  }

  // Opens what the address names, so that a link to a device can be sent to somebody.
  follow() {
    const id = decodeURIComponent(/^#device=(.+)$/.exec(location.hash)?.[1] ?? "");
    if (id && this.store.document?.devices[id]) this.#show(id);
    else if (this.dialog.open) this.dialog.close();
  }

  open(id) {
    if (this.store.document?.devices[id]) location.hash = `device=${encodeURIComponent(id)}`;
  }

  draw(changed) {
    if (this.id === null || !changed.has(this.id)) return;
    const row = this.store.document.devices[this.id];
    if (row) this.#fill(row);
    else this.dialog.close();
  }

  // Once a second: what is told as "ago".
  tick() {
    const row = this.id === null ? null : this.store.document.devices[this.id];
    if (!row) return;
    this.#fill(row);
    const banner = $("banner"); // which this sheet covers
    text(this.banner, banner.hidden ? "" : banner.textContent);
    this.banner.hidden = banner.hidden;
    this.banner.dataset.level = banner.dataset.level;
  }

  #show(id) {
    if (this.id === id && this.dialog.open) return;
    this.id = id;
    this.#build();
    this.#fill(this.store.document.devices[id]);
    if (!this.dialog.open) this.dialog.showModal();
    this.tick();
    this.#history();
    clearInterval(this.timer);
    this.timer = setInterval(() => this.#history(), HISTORY_MS);
  }

  #closed() {
    clearInterval(this.timer);
    const id = this.id;
    this.id = null;
    if (location.hash.startsWith("#device=")) history.replaceState(null, "", location.pathname);
    if (id) document.querySelector(`[data-id="${CSS.escape(id)}"][role=row]`)?.focus({ preventScroll: true });
  }

  #build() {
    const close = el("button", { type: "button", class: "close", "aria-label": "Close" }, icon("lost"));
    close.addEventListener("click", () => this.dialog.close());
    this.mark = el("span", { class: "mark" });
    this.words = el("p", { class: "lead", "data-testid": "detail-words" });
    this.curves = new Map(CURVES.map(([key, name]) => [key, el("figure", {}, el("figcaption", {}, name))]));
    this.fields = [];
    const groups = GROUPS.map(([title, fields]) => {
      const list = el("dl");
      for (const [name, read] of fields) {
        const value = el("dd");
        this.fields.push([value, read]);
        list.append(el("dt", {}, name), value);
      }
      return el("section", {}, el("h3", {}, title), list);
    });
    this.banner = el("p", { class: "banner", hidden: "" });
    this.dialog.replaceChildren(this.banner, el("div", { class: "sheet" },
      el("header", {}, el("h2", { id: "detail-title" }, this.id), this.mark, close),
      this.words, el("div", { class: "sparks" }, ...this.curves.values()), el("div", { class: "groups" }, ...groups)));
  }

  #fill(row) {
    const tell = {
      moment: (moment) => clock(this.store.unix(moment)),
      ago: (moment) => `${duration(this.store.now() - moment)} ago`,
    };
    if (this.dialog.dataset.attention !== row.attention || !this.mark.firstChild) {
      this.dialog.dataset.attention = row.attention;
      this.mark.replaceChildren(icon(row.attention), el("span", {}, row.attention));
    }
    text(this.words, row.words);
    for (const [value, read] of this.fields) text(value, read(row, tell));
  }

  async #history() {
    const id = this.id;
    try {
      const answer = await fetch(`/history/${encodeURIComponent(id)}`);
      if (!answer.ok || id !== this.id) return;
      const points = await answer.json();
      for (const [key, name, format] of CURVES) {
        this.curves.get(key).replaceChildren(el("figcaption", {}, name), spark(points[key], format));
      }
    } catch {
      // The banner says that nothing answers.
    }
  }
}
