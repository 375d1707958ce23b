// Figures as people read them: three digits, decimal units, never a wall of zeros.

const whole = new Intl.NumberFormat("en");

// A figure and its unit stay on one line.
const GAP = "\u00a0";
const names = new Intl.Collator("en", { numeric: true });

export const NONE = "–";
export const byName = (a, b) => names.compare(a.id, b.id);

const three = (value) =>
  Math.abs(value) >= 99.95 ? value.toFixed(0) : Math.abs(value) >= 9.995 ? value.toFixed(1) : value.toFixed(2);

function scaled(value, units) {
  let index = 0;
  while (Math.abs(value) >= 999.5 && index < units.length - 1) {
    value /= 1000;
    index += 1;
  }
  return `${index === 0 ? Math.round(value) : three(value)}${GAP}${units[index]}`;
}

export const count = (value) => whole.format(value);
export const some = (value, noun) => `${count(value)}${GAP}${noun}${value === 1 ? "" : "s"}`;
export const bytes = (value) => value === null ? NONE : scaled(value, ["B", "kB", "MB", "GB", "TB"]);
export const rate = (bps) => bps === null ? NONE : scaled(bps, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"]);
export const fixed = (value, digits, unit) => value === null ? NONE : `${value.toFixed(digits)}${unit}`;
export const watts = (value) => value === null ? NONE : value < 99.95 ? `${value.toFixed(1)}${GAP}W` : scaled(value, ["W", "kW", "MW"]);
export const celsius = (value) => fixed(value, 0, `${GAP}°C`);
export const loss = (value) => fixed(value, 3, "");
export const joules = (value) => value === null ? NONE : scaled(value, ["J", "kJ", "MJ", "GJ"]);
export const megabytes = (value) => value === null ? NONE : bytes(value * 1e6);
export const times = (value) => `${three(value)}`;

// Rounded down, so that nothing is ever said to cost nothing.
export function saved(up, dense) {
  const part = 100 * (1 - up / dense);
  const digits = part >= 99 ? 2 : 1;
  const scale = 10 ** digits;
  return `${(Math.floor(part * scale) / scale).toFixed(digits)}${GAP}%`;
}

export function duration(seconds) {
  const s = Math.max(Math.round(seconds), 0);
  if (s < 60) return `${s}${GAP}s`;
  if (s < 3600) return `${Math.floor(s / 60)}${GAP}min ${String(s % 60).padStart(2, "0")}${GAP}s`;
  if (s < 172_800) return `${Math.floor(s / 3600)} h ${String(Math.floor(s / 60) % 60).padStart(2, "0")} min`;
  return `${Math.floor(s / 86_400)} days`;
}

export function clock(unixS) {
  const moment = new Date(unixS * 1000);
  const hours = moment.toLocaleTimeString("en-GB");
  const isToday = Math.abs(Date.now() / 1000 - unixS) < 86_400 && moment.getDate() === new Date().getDate();
  return isToday ? hours : `${moment.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${hours}`;
}
