// Whether the fleet learns, and what each round took.

import { Chart } from "./chart.js";
import { $ } from "./dom.js";
import { bytes, count, loss, saved } from "./format.js";

const sorted = (rows, key) => Object.values(rows).sort((a, b) => a[key] - b[key]);

function column(rows, x, y) {
  return rows.filter((row) => row[y] !== null && row[y] !== undefined).map((row) => [row[x], row[y]]);
}

export class Curves {
  constructor() {
    this.loss = new Chart($("loss-chart"), {
      x: "adapter version", format: loss,
      tick: (value, step) => value.toFixed(Math.max(0, Math.min(6, -Math.floor(Math.log10(step) + 1e-9)))),
      empty: "No loss has been told yet.",
    });
    this.bytes = new Chart($("bytes-chart"), {
      x: "round", format: bytes, tick: (value) => bytes(value).replace(/\.0+(?=\D)/, ""), isLog: true,
      empty: "No round has closed yet.",
    });
  }

  drawLosses({ losses }) {
    const rows = sorted(losses, "version");
    const held = column(rows, "version", "eval_loss");
    const summary = held.length
      ? `Held-out loss from ${loss(held[0][1])} at version ${held[0][0]} to ${loss(held.at(-1)[1])} at version ${held.at(-1)[0]}.`
      : "No held-out loss yet.";
    this.loss.draw([
      { name: "held-out loss", kind: "one", points: held },
      { name: "training loss", kind: "two", points: column(rows, "version", "train_loss") },
    ], summary);
  }

  drawBytes({ rounds }) {
    const rows = sorted(rounds, "round_id");
    const positive = (key) => column(rows, "round_id", key).filter(([, value]) => value > 0);
    const up = positive("bytes_up");
    const dense = positive("bytes_up_fp32");
    const last = rows.at(-1);
    const summary = last && last.bytes_up && last.bytes_up_fp32
      ? `Round ${count(last.round_id)} took ${bytes(last.bytes_up)} up where dense FedAvg takes ${bytes(last.bytes_up_fp32)}: ${saved(last.bytes_up, last.bytes_up_fp32)} saved.`
      : "No round has closed yet.";
    this.bytes.draw([
      { name: "dense FedAvg, each way", kind: "three", points: dense },
      { name: "down", kind: "two", points: positive("bytes_down") },
      { name: "up", kind: "one", points: up },
    ], summary);
  }
}
