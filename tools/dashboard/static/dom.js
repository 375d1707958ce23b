// Elements without markup in strings, and writes that touch the page only where something changes.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((one) => one !== null && one !== ""));
  return node;
}

export const el = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

export function icon(name) {
  return svg("svg", { class: "icon", "aria-hidden": "true", focusable: "false" },
    svg("use", { href: `#i-${name}` }));
}

export function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

export function attribute(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

export function share(node, name, value) {
  const told = String(Math.round(value * 1000) / 1000);
  if (node.style.getPropertyValue(name) !== told) node.style.setProperty(name, told);
}

export function progress(node, value, most) {
  const part = most > 0 ? Math.min(value / most, 1) : 0;
  share(node, "--part", part);
  attribute(node, "aria-valuemax", Math.max(most, 1));
  attribute(node, "aria-valuenow", Math.min(value, Math.max(most, 1)));
}
