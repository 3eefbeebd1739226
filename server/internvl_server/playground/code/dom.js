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
    else if (name === "class" || name === "for" || name === "role" || name.includes("-")) element.setAttribute(name, value);
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

const PATHS = {
  menu: "M4 7h16M4 12h16M4 17h16",
  sliders: "M4 7h9M17 7h3M4 17h3M11 17h9M15 5v4M9 15v4",
  key: "M7.500 20a3.500 3.500 0 1 0 0-7 3.500 3.500 0 0 0 0 7zM10 14l9-9M15.500 8.500l3 3",
  code: "M9 7l-5 5 5 5M15 7l5 5-5 5",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2.500v2M12 19.500v2M4.600 4.600l1.400 1.400M18 18l1.400 1.400M2.500 12h2M19.500 12h2M4.600 19.400L6 18M18 6l1.400-1.400",
  moon: "M19.500 14.500A8 8 0 0 1 9.500 4.500a8 8 0 1 0 10 10z",
  contrast: "M12 3.500a8.500 8.500 0 1 0 0 17zM12 3.500a8.500 8.500 0 0 1 0 17",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-2 4 4M15.500 9.500h.01",
  camera: "M4 8h3.500l1.500-2.500h6L16.500 8H20v11H4zM12 10.500a3 3 0 1 0 0 6 3 3 0 0 0 0-6z",
  send: "M12 20V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  left: "M14.500 6l-6 6 6 6",
  right: "M9.500 6l6 6-6 6",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h10v10H9zM15 9V5H5v10h4",
  edit: "M5 19h3.500L19 8.500 15.500 5 5 15.500z",
  again: "M19.500 12a7.500 7.500 0 1 1-2.200-5.300M19.500 4v4.500H15",
  more: "M5 12h14M13 6l6 6-6 6",
  trash: "M5 7h14M10 7V4.500h4V7M7 7l1 13h8l1-13",
};

/** A line icon; it is decoration, the button's label says what it does. */
export function icon(name) {
  return svg("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" }, svg("path", { d: PATHS[name] }));
}

/** A button with an icon and a label for screen readers. */
export function iconButton(name, label, onclick, extra = {}) {
  return h("button", { type: "button", class: "icon-button small", "aria-label": label, title: label, onclick, ...extra }, icon(name));
}

/** Open a modal dialog with a title and remove it when it closes. */
export function openDialog(title, ...children) {
  const heading = h("h2", {}, title);
  const close = iconButton("close", "Close", () => dialog.close());
  const dialog = h("dialog", { "aria-label": title, class: "dialog" }, h("div", { class: "dialog-head" }, heading, close), ...children);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/**
 * Show a sentence above the message field; an empty one hides it.
 * @param {string} text
 * @param {"problem"|"note"} kind
 */
export function notify(text, kind = "problem") {
  const notice = byId("notice");
  notice.hidden = !text;
  notice.classList.toggle("note", kind === "note");
  notice.replaceChildren();
  if (!text) return;
  notice.append(h("span", {}, text), iconButton("close", "Dismiss", () => notify("")));
}

/** Say a finished sentence to screen readers once. */
export function announce(text) {
  const line = h("p", {}, text);
  const log = byId("announcer");
  log.append(line);
  while (log.childElementCount > 3) log.firstElementChild.remove();
}

/** 12345 as "12,345". */
export const count = (number) => Number(number).toLocaleString("en");

/** "1 tile", "2 tiles". */
export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

/** Copy a text, also where the page has no clipboard because it was not loaded over HTTPS. */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = h("textarea", { value: text, class: "hidden-text", "aria-hidden": "true" });
  const place = document.querySelector("dialog[open]") ?? document.body; // all else is inert while a dialog is open
  const focused = document.activeElement;
  place.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
  focused?.focus();
}

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
