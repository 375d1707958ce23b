// Brings what is told to what is shown, and measures what that takes.

import { Alerts } from "./alerts.js";
import { Connection } from "./connection.js";
import { Curves } from "./curves.js";
import { Detail } from "./detail.js";
import { Devices } from "./devices.js";
import { Header } from "./header.js";
import { drawAttention, drawCountdown, drawRound, drawSavings } from "./overview.js";
import { Store } from "./store.js";
import { startTheme } from "./theme.js";

const store = new Store();
const header = new Header(store);
const curves = new Curves();
const detail = new Detail(store);
const open = (id) => detail.open(id);
const devices = new Devices(store, open);
const alerts = new Alerts(store, open);

// For whoever looks from outside: what the last batch took, in the script and on the screen.
const measured = { store, state: "connecting", batches: 0, firstApplyMs: 0, lastApplyMs: 0, maxApplyMs: 0, lastRenderMs: 0, maxRenderMs: 0, recent: [] };
const RECENT = 240;
let doubted = "";
window.fedfstq = measured;

function draw({ sections, devices: changed }, isFirst) {
  const begun = performance.now();
  const known = store.document;
  const has = (...names) => isFirst || names.some((name) => sections.has(name));
  if (has("federation", "service", "run", "model")) header.draw();
  if (has("link", "service")) tick();
  if (has("savings", "rounds")) drawSavings(known);
  if (has("round", "run", "devices")) drawRound(known);
  if (has("devices", "fleet")) drawAttention(known, header.until(), open);
  if (has("losses")) curves.drawLosses(known);
  if (has("rounds")) curves.drawBytes(known);
  if (has("alerts", "alert_log")) alerts.draw(header.until());
  if (has("devices", "fleet", "round")) devices.draw(changed);
  detail.draw(changed);
  if (isFirst) measured.firstApplyMs = performance.now() - begun;
  else measure(begun, changed.size);
}

function measure(begun, devicesChanged) {
  measured.batches += 1;
  measured.lastApplyMs = performance.now() - begun;
  measured.maxApplyMs = Math.max(measured.maxApplyMs, measured.lastApplyMs);
  const one = { applyMs: measured.lastApplyMs, renderMs: null, devices: devicesChanged };
  measured.recent.push(one);
  if (measured.recent.length > RECENT) measured.recent.shift();
  requestAnimationFrame(() => {
    const painting = performance.now();
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      one.renderMs = measured.lastRenderMs = performance.now() - painting;
      measured.maxRenderMs = Math.max(measured.maxRenderMs, measured.lastRenderMs);
      port1.close();
    };
    port2.postMessage(0);
  });
}

function tick() {
  header.tick();
  if (!store.document) return;
  const until = header.until();
  drawCountdown(store.document, store.now(), until);
  detail.tick();
  if (until === doubted) return;
  // What stood there as true is told as what was last known, and the other way round.
  doubted = until;
  drawAttention(store.document, until, open);
  alerts.draw(until);
}

startTheme();
new Connection({
  snapshot: (snapshot) => {
    draw(store.begin(snapshot), true);
    tick();
    detail.follow();
  },
  changes: (changes) => draw(store.apply(changes), false),
  state: (state, reason) => {
    measured.state = state;
    header.connection(state, reason);
    tick();
  },
}).start();
setInterval(tick, 1000);
