// Builds elements without markup in strings.

/**
 * Make an element. Properties that begin with "on" are listeners; "class", "aria-…" and "data-…" are attributes.
 * @param {string} tag
 * @param {Record<string, any>} properties
 * @param {...(Node|string|null|undefined|false)} children
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class" || name === "for" || name === "role" || name.includes("-"))
      element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child || child === 0));
  return element;
}

/** The element with an id, which the page has. */
export const byId = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element with attributes. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** 12345 as "12,345". */
export const count = (number) => Number(number).toLocaleString("en");

/** "1 tile", "2 tiles". */
export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

const nameOf = (element) => element.getAttribute("aria-label") ?? element.textContent;

/** Replace the children of a list; if one has the focus, the control of the same name in the same place gets it. */
export function replaceKeepingFocus(list, children) {
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  const place = focused ? [...list.children].findIndex((child) => child.contains(focused)) : -1;
  list.replaceChildren(...children);
  if (place < 0) return;
  const controls = list.children[place]?.querySelectorAll("button, select, input, [tabindex]") ?? [];
  [...controls].find((control) => nameOf(control) === nameOf(focused))?.focus();
}
