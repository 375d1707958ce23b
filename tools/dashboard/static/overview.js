// What was saved, how far the round is, and who needs somebody.

import { $, attribute, el, icon, progress, share, text } from "./dom.js";
import { byName, bytes, celsius, count, duration, joules, rate, saved, some, times, watts } from "./format.js";

const SHOWN = 6;
export const CLASSES = ["refused", "lost", "stalled", "paused", "slow", "ok"];

export function byAttention(a, b) {
  return CLASSES.indexOf(a.attention) - CLASSES.indexOf(b.attention) || byName(a, b);
}

export function drawSavings({ savings, rounds: closed }) {
  const { bytes_up: up, bytes_up_fp32: dense, bytes_down: down, rounds } = savings;
  const isKnown = up > 0 && dense > 0;
  const isLess = isKnown && up < dense;
  text($("saved"), !isKnown ? "–" : isLess ? saved(up, dense) : "none");
  const last = Math.max(0, ...Object.keys(closed).map(Number));
  // Who comes late is told of the last round alone.
  const where = rounds < last ? `in the ${some(rounds, "round")} of ${count(last)} that this dashboard has seen` : `in ${some(rounds, "round")}`;
  const sum = `${bytes(up)} sent instead of ${bytes(dense)}, ${where}`;
  text($("saved-words"), !isKnown ? "No round has closed yet."
    : isLess ? `${times(dense / up)} times less than dense FedAvg: ${sum}.`
      : `${bytes(up)} sent, where dense FedAvg takes ${bytes(dense)}, ${where}.`);
  const most = Math.max(up, down, dense, 1);
  const rows = [
    ["Up", up, "up"],
    ["Down", down, "down"],
    ["Dense FedAvg", dense, "dense"],
  ];
  const home = $("volumes");
  if (!home.children.length) {
    for (const [name, , kind] of rows) {
      home.append(el("div", { class: "volume", "data-kind": kind },
        el("span", {}, name), el("div", { class: "bar" }, el("i")), el("span", { class: "n" })));
    }
  }
  rows.forEach(([, value], index) => {
    const [, bar, figure] = home.children[index].children;
    share(bar, "--part", value / most);
    text(figure, isKnown ? bytes(value) : "–");
  });
  text($("saved-energy"), savings.energy_j === null ? "" : `Energy that devices have told of: ${joules(savings.energy_j)}.`);
}

export function drawRound({ round, run, devices }) {
  const isKnown = round.round_id > 0;
  const of = run.rounds ? ` of ${count(run.rounds)}` : "";
  text($("round-name"), isKnown ? `Round ${count(round.round_id)}${of}` : "No round yet");
  progress($("updates-bar"), round.complete, round.goal);
  share($("updates-bar"), "--tick", round.goal ? Math.min(round.quorum / round.goal, 1) : 0);
  const more = [
    round.partial ? `${count(round.partial)} on their way` : "",
    round.late ? `${count(round.late)} late` : "",
    round.stalled ? `${count(round.stalled)} stalled` : "",
  ].filter(Boolean).map((one) => `, ${one}`).join("");
  text($("updates-words"), isKnown ? `${count(round.complete)} of ${count(round.goal)} (quorum ${count(round.quorum)})${more}` : "–");
  progress($("segments-bar"), round.segments_accepted, round.segments);
  const twice = round.segments_resent ? `, ${count(round.segments_resent)} sent twice` : "";
  text($("segments-words"), round.segments ? `${count(round.segments_accepted)} of ${count(round.segments)} accepted${twice}` : "none sent yet");
  drawStrip(devices, round);
}

// Ticks by itself, so that a round ends on time however seldom it is told of.
export function drawCountdown({ round }, now, until) {
  let words = round.phase && round.phase !== "open" ? round.phase : "";
  if (until) {
    words = round.phase ? `was ${round.phase} at ${until}` : "";
  } else if (round.deadline_at_s !== null) {
    const left = round.deadline_at_s - now;
    words = left > 0 ? `open, closes in ${duration(left)}` : "open, its deadline has passed";
  }
  text($("countdown"), words);
}

const cells = new Map();

function drawStrip(devices, round) {
  const home = $("strip");
  const rows = Object.values(devices);
  if (rows.length !== cells.size || rows.some((row) => !cells.has(row.id))) {
    cells.clear();
    const sorted = [...rows].sort(byName);
    home.replaceChildren(...sorted.map((row) => {
      const cell = el("i");
      cells.set(row.id, cell);
      return cell;
    }));
    attribute(home, "data-size", rows.length > 120 ? "small" : rows.length > 30 ? "medium" : "large");
    text($("strip-words"), rows.length ? "One cell per device, filled by its accepted segments." : "");
  }
  let begun = 0;
  for (const row of rows) {
    const isNow = round.round_id > 0 && row.upload_round === round.round_id && row.segments > 0;
    begun += isNow ? 1 : 0;
    const cell = cells.get(row.id);
    share(cell, "--part", isNow ? Math.min(row.segments_accepted / row.segments, 1) : 0);
    if (cell.dataset.attention !== row.attention) cell.dataset.attention = row.attention;
    const words = `${row.id}: ${isNow ? `${row.segments_accepted} of ${row.segments} segments` : "no segment yet"}`;
    if (cell.title !== words) cell.title = words;
  }
  attribute(home, "aria-label", `${some(begun, "device")} of ${count(rows.length)} upload or have uploaded in this round`);
}

// `until`: the moment of the last news in words where there is no more of it, "" while there is.
export function drawAttention({ fleet, devices }, until, open) {
  const wanting = Object.values(devices).filter((row) => row.attention !== "ok").sort(byAttention);
  const all = some(fleet.devices, "device");
  const words = !fleet.devices ? "no device is known yet"
    : wanting.length ? `${count(wanting.length)} of ${all}: ${told(fleet.attention)}`
      : until ? `none of ${all} needed attention` : `none of ${all} needs attention`;
  text($("fleet-words"), until ? `Last known at ${until}: ${words}. Nothing is known since.`
    : `${words.charAt(0).toUpperCase()}${words.slice(1)}.`);
  const home = $("attention-list");
  const shown = chosen(wanting);
  reconcile(home, shown, open);
  const facts = [];
  if (wanting.length > shown.length) facts.push(`and ${count(wanting.length - shown.length)} more in the list below`);
  text($("fleet-facts"), [
    ...facts,
    fleet.power_w === null ? "" : `fleet ${watts(fleet.power_w)}`,
    fleet.goodput_bps ? `uploads at ${rate(fleet.goodput_bps)}` : "",
    fleet.hottest_c === null ? "" : `hottest ${fleet.hottest_id} ${celsius(fleet.hottest_c)}`,
  ].filter(Boolean).join(" · "));
}

// The most urgent, but of every class that there is at least one: a slow device is seen beside ten
// lost ones.
function chosen(wanting) {
  if (wanting.length <= SHOWN) return wanting;
  const firsts = CLASSES.map((name) => wanting.find((row) => row.attention === name)).filter(Boolean);
  const others = wanting.filter((row) => !firsts.includes(row));
  return [...firsts, ...others].slice(0, SHOWN).sort(byAttention);
}

const told = (attention) =>
  CLASSES.filter((one) => one !== "ok" && attention[one]).map((one) => `${count(attention[one])} ${one}`).join(", ");

function reconcile(home, rows, open) {
  rows.forEach((row, index) => {
    let item = home.children[index];
    if (!item) {
      item = el("li", {}, el("button", { type: "button" },
        el("span", { class: "mark" }), el("b"), el("span", { class: "what" })));
      item.firstChild.addEventListener("click", () => open(item.dataset.id));
      home.append(item);
    }
    const [mark, name, what] = item.firstChild.children;
    if (item.dataset.attention !== row.attention) {
      item.dataset.attention = row.attention;
      mark.replaceChildren(icon(row.attention), ` ${row.attention}`);
    }
    if (item.dataset.id !== row.id) item.dataset.id = row.id;
    text(name, row.id);
    text(what, row.words);
  });
  while (home.children.length > rows.length) home.lastChild.remove();
}
