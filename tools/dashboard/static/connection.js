// The stream of changes: opened again for ever, and never trusted when it is silent.

const SILENT_MS = 5_000; // the server says something four times a second
const FIRST_MS = 30_000; // for a whole snapshot over a slow link
const HIDDEN_MS = 30_000; // after so long in the background it is closed; phones pay for it
const LONGEST_WAIT_MS = 10_000;

export class Connection {
  constructor({ snapshot, changes, state }) {
    this.told = { snapshot, changes, state };
    this.source = null;
    this.heardAt = performance.now();
    this.limitMs = SILENT_MS;
    this.failures = 0;
    this.retry = 0;
    this.hiding = 0;
    this.state = "connecting";
  }

  start() {
    this.#open();
    setInterval(() => this.#look(), 1000);
    document.addEventListener("visibilitychange", () => this.#seen());
  }

  #open() {
    this.#close();
    this.heardAt = performance.now();
    this.limitMs = FIRST_MS;
    const source = new EventSource("/events");
    this.source = source;
    source.addEventListener("snapshot", (event) => this.#heard(event, this.told.snapshot));
    source.addEventListener("changes", (event) => this.#heard(event, this.told.changes));
    source.addEventListener("error", () => this.#failed("the connection broke"));
  }

  #heard(event, tell) {
    this.heardAt = performance.now();
    this.limitMs = SILENT_MS;
    this.failures = 0;
    tell(JSON.parse(event.data));
    this.#say("live", "");
  }

  #look() {
    if (this.source && performance.now() - this.heardAt > this.limitMs) this.#failed("it says nothing");
  }

  async #failed(reason) {
    this.#close();
    const ms = Math.min(500 * 2 ** this.failures, LONGEST_WAIT_MS) * (0.5 + Math.random());
    this.failures += 1;
    clearTimeout(this.retry);
    this.retry = setTimeout(() => this.#open(), ms);
    this.#say("lost", reason);
    const why = await this.#why();
    if (why && this.state === "lost") this.#say("lost", why);
  }

  async #why() {
    try {
      const answer = await fetch("/about", { cache: "no-store" });
      if (answer.status === 401) return "it wants its token again: reload this page";
      if (!answer.ok) return `it answers ${answer.status}`;
      const about = await answer.json();
      return about.pages >= about.max_pages ? `${about.pages} pages are open, no more are served` : "";
    } catch {
      return "it does not answer";
    }
  }

  #seen() {
    clearTimeout(this.hiding);
    if (document.hidden) {
      this.hiding = setTimeout(() => {
        clearTimeout(this.retry);
        this.#close();
        this.#say("lost", "this page was in the background");
      }, HIDDEN_MS);
    } else if (!this.source) {
      clearTimeout(this.retry);
      this.#open();
    }
  }

  #close() {
    this.source?.close();
    this.source = null;
  }

  #say(state, reason) {
    this.state = state;
    this.told.state(state, reason);
  }
}
