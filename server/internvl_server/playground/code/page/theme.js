// Colours: those of the system, light or dark.

import { byId } from "./dom.js";
import { icon } from "./icons.js";
import { recall, remember } from "./kept.js";

const NAME = "internvl-playground-theme";
const ORDER = ["system", "light", "dark"];
const ICONS = { system: "contrast", light: "sun", dark: "moon" };

function show(theme) {
  const button = byId("toggle-theme");
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  button.replaceChildren(icon(ICONS[theme]));
  button.setAttribute("aria-label", `Colours: ${theme}`);
  button.title = `Colours: ${theme}`;
}

/** Wire the button, which goes on to the next choice. */
export function setUpTheme() {
  const saved = recall("localStorage", NAME);
  let theme = ORDER.includes(saved) ? saved : "system";
  show(theme);
  byId("toggle-theme").addEventListener("click", () => {
    theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
    remember("localStorage", NAME, theme);
    show(theme);
  });
}
