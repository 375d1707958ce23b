// What is known: the server's document, brought up to date by what has changed.

const KEYED = new Set(["devices", "rounds", "losses", "alerts", "alert_log"]);

export class Store {
  constructor() {
    this.document = null;
    this.#toldAt = 0;
  }

  #toldAt;

  // Returns what is to be drawn: sections, and devices by id with their changed fields (null: gone).
  begin(snapshot) {
    const before = this.document;
    this.document = snapshot;
    this.#toldAt = performance.now();
    const devices = new Map();
    for (const id of Object.keys(before?.devices ?? {})) {
      if (!(id in snapshot.devices)) devices.set(id, null);
    }
    for (const [id, row] of Object.entries(snapshot.devices)) devices.set(id, row);
    return { sections: new Set(Object.keys(snapshot)), devices };
  }

  apply(changes) {
    const sections = new Set();
    const devices = new Map();
    for (const [path, value] of Object.entries(changes)) {
      const dot = path.indexOf(".");
      const section = dot < 0 ? path : path.slice(0, dot);
      sections.add(section);
      if (dot < 0 || !KEYED.has(section)) {
        this.document[section] = value;
        continue;
      }
      const key = path.slice(dot + 1);
      const rows = this.document[section];
      if (value === null) delete rows[key];
      else if (key in rows) Object.assign(rows[key], value);
      else rows[key] = value;
      if (section === "devices") devices.set(key, value);
    }
    if (sections.has("now_s")) this.#toldAt = performance.now();
    return { sections, devices };
  }

  // The observer's clock now.
  now() {
    return this.document ? this.document.now_s + (performance.now() - this.#toldAt) / 1000 : 0;
  }

  unix(moment) {
    return moment + this.document.unix_offset_s;
  }
}
