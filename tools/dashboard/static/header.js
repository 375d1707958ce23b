// Whose page this is, what the aggregator does, and whether any of it is true now.

import { $, attribute, text } from "./dom.js";
import { clock, count } from "./format.js";

const QUIET_S = 60;
const WELL = new Set(["running", "waiting", "starting", "finished"]);

export class Header {
  constructor(store) {
    this.store = store;
    this.page = { state: "connecting", reason: "", since: Date.now() / 1000 };
  }

  connection(state, reason) {
    if (state !== this.page.state) this.page.since = Date.now() / 1000;
    this.page.state = state;
    this.page.reason = reason;
    this.tick();
  }

  draw() {
    const { federation, run, model } = this.store.document;
    text($("federation"), federation);
    const facts = [];
    if (run.run) facts.push(`run ${run.run.slice(0, 8)}`);
    if (run.codec) facts.push(`up ${run.codec}`, `down ${run.downlink_codec || "whole"}`);
    if (model.version >= 0) facts.push(`adapter ${count(model.version)}`);
    text($("run"), facts.join(" · "));
  }

  // The moment of the last news in words where no more of it comes, "" while it does.
  until() {
    const known = this.store.document;
    if (!known) return "";
    const { link, now_s: told } = known;
    if (link.state === "disconnected" || link.state === "refused") return clock(this.store.unix(link.heard_s ?? link.since_s));
    return this.page.state === "lost" ? clock(this.store.unix(told)) : "";
  }

  // Once a second, and whenever the connection changes.
  tick() {
    const { level, short, words } = this.#told();
    this.#service(level);
    attribute(document.body, "data-page", level);
    text($("live"), short);
    attribute($("live"), "data-mood", level === "live" ? "good" : level === "connecting" ? "calm" : "bad");
    const banner = $("banner");
    attribute(banner, "data-level", level);
    if (banner.hidden !== !words) banner.hidden = !words;
    text(banner, words);
    const federation = this.store.document?.federation ?? "Fed-FSTQ";
    const title = level === "stale" ? `STALE – ${federation}` : `${federation} – Fed-FSTQ`;
    if (document.title !== title) document.title = title;
  }

  #service(level) {
    const state = this.store.document?.service.state;
    if (!state) return;
    const verb = level === "stale" ? "was " : "";
    text($("service"), state === "unknown" ? "aggregator not heard of" : `aggregator ${verb}${state}`);
    const mood = !WELL.has(state) ? "bad" : state === "running" && !verb ? "good" : "calm";
    attribute($("service"), "data-mood", mood);
  }

  #told() {
    const { document: known } = this.store;
    if (this.page.state === "lost") {
      const from = known ? ` What you see is from ${clock(this.page.since)} and may be wrong by now.` : "";
      const why = this.page.reason ? ` (${this.page.reason})` : "";
      return { level: "stale", short: "disconnected", words: `Not connected to the dashboard's server${why}.${from} Trying again…` };
    }
    if (this.page.state === "connecting" || !known) {
      return { level: "connecting", short: "connecting", words: "" };
    }
    return this.#broker(known);
  }

  #broker({ link, service }) {
    const since = clock(this.store.unix(link.since_s));
    const why = link.reason ? ` (${link.reason})` : "";
    if (link.state === "refused") {
      return { level: "stale", short: "refused", words: `The broker refuses the dashboard's login${why}. Nothing new will come until somebody mends that.` };
    }
    if (link.state === "disconnected") {
      return { level: "stale", short: "broker lost", words: `The dashboard has no broker since ${since}${why}. ${link.heard_s === null ? "Nothing has come yet." : "What you see is from before."} Trying again…` };
    }
    if (link.state === "connecting") {
      return { level: "connecting", short: "connecting", words: "The dashboard is connecting to the broker…" };
    }
    const now = this.store.now();
    const heard = Math.max(link.heard_s ?? link.since_s, link.since_s);
    // A moment, not how long ago: what a screen reader is told must not change every second.
    if (now - heard > QUIET_S) {
      return { level: "quiet", short: "silent", words: `Connected to the broker, but nothing was heard since ${clock(this.store.unix(heard))}.` };
    }
    if (!WELL.has(service.state) && service.state !== "unknown") {
      const reason = service.reason ? `: ${service.reason}` : "";
      return { level: "quiet", short: "live", words: `The aggregator is ${service.state} since ${clock(this.store.unix(service.since_s))}${reason}. No round goes on without it.` };
    }
    return { level: "live", short: "live", words: "" };
  }
}
