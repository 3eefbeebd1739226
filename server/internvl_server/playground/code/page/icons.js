// Line icons, and buttons with one.

import { h, svg } from "./dom.js";

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
  done: "M5 12.5l4.5 4.5L19 7.5",
  edit: "M5 19h3.500L19 8.500 15.500 5 5 15.500z",
  again: "M19.500 12a7.500 7.500 0 1 1-2.200-5.300M19.500 4v4.500H15",
  more: "M5 12h14M13 6l6 6-6 6",
  trash: "M5 7h14M10 7V4.500h4V7M7 7l1 13h8l1-13",
};

/** A line icon; it is decoration, the button's label says what it does. */
export function icon(name) {
  return svg(
    "svg",
    { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" },
    svg("path", { d: PATHS[name] }),
  );
}

/** A button with an icon and a label for screen readers. */
export function iconButton(name, label, onclick, extra = {}) {
  return h(
    "button",
    { type: "button", class: "icon-button small", "aria-label": label, title: label, onclick, ...extra },
    icon(name),
  );
}
