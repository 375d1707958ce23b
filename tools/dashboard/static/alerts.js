// The alerts that stand, and those that stood; new ones are spoken.

import { $, el, text } from "./dom.js";
import { clock, count, some } from "./format.js";

const HISTORY = 100;

export class Alerts {
  constructor(store, open) {
    this.store = store;
    this.open = open;
    this.spoken = null;
    $("alert-history").open = matchMedia("(min-width: 761px)").matches;
  }

  // `until`: the moment of the last news in words where there is no more of it, "" while there is.
  draw(until) {
    const { alerts, alert_log: log } = this.store.document;
    const standing = Object.values(alerts).sort((a, b) => b.raised_s - a.raised_s);
    text($("alerts-title"), standing.length ? `Alerts (${count(standing.length)})` : "Alerts");
    $("standing").replaceChildren(...(standing.length
      ? standing.map((one) => this.#item(one))
      : [el("li", { class: "muted" }, until ? `No alert stood at ${until}, when the last news came.` : "No alert stands.")]));
    const past = Object.values(log).filter((one) => one.cleared_s !== null).sort((a, b) => b.cleared_s - a.cleared_s);
    text($("history-words"), past.length ? `History: ${some(past.length, "alert")} cleared` : "History: none was cleared yet");
    $("alert-log").replaceChildren(...past.slice(0, HISTORY).map((one) => this.#item(one)));
    this.#speak(standing);
  }

  #item(one) {
    const when = clock(this.store.unix(one.raised_s));
    const isPast = typeof one.cleared_s === "number";
    const cleared = isPast ? ` to ${clock(this.store.unix(one.cleared_s))}` : "";
    const who = one.client_id ? el("button", { type: "button", class: "link" }, one.client_id) : "";
    if (who) who.addEventListener("click", () => this.open(one.client_id));
    return el("li", { "data-state": isPast ? "cleared" : "stands", "data-code": one.code },
      el("p", { class: "alert-head" }, el("b", {}, one.code), one.count > 1 ? el("span", { class: "muted" }, `× ${count(one.count)}`) : "", who,
        el("span", { class: "when muted" }, `${when}${cleared}`)),
      el("p", {}, one.text));
  }

  #speak(standing) {
    const now = new Map(standing.map((one) => [one.code, one]));
    if (this.spoken) {
      const words = [
        ...standing.filter((one) => !this.spoken.has(one.code)).map((one) => `New alert ${one.code}: ${one.text}`),
        ...[...this.spoken.keys()].filter((code) => !now.has(code)).map((code) => `Alert ${code} is cleared.`),
      ];
      for (const one of words) $("spoken").append(el("p", {}, one));
      while ($("spoken").children.length > 20) $("spoken").firstChild.remove();
    }
    this.spoken = now;
  }
}
