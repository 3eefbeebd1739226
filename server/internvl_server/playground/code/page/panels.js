// The panels at the sides, which lie over the conversation on narrow screens.

import { byId } from "./dom.js";
import { icon } from "./icons.js";

const shows = [];

/** Wire the button of a side panel; wide screens begin with it as given. */
export function setUpPanel(buttonId, panelId, iconName, isOpen) {
  const [button, panel] = [byId(buttonId), byId(panelId)];
  const show = (open) => {
    panel.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
  };
  shows.push(show);
  button.append(icon(iconName));
  button.addEventListener("click", () => {
    const isOpened = panel.hidden;
    if (isOpened && isNarrow()) for (const other of shows) other(false); // one lies over the other
    show(isOpened);
    if (!panel.hidden && isNarrow()) panel.querySelector("button, select, input, textarea")?.focus();
  });
  panel.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !isNarrow()) return;
    show(false);
    button.focus();
    event.stopPropagation();
  });
  document.querySelector("main").addEventListener("pointerdown", () => {
    if (isNarrow() && !panel.hidden) show(false);
  });
  show(isOpen);
  return () => {
    if (isNarrow()) show(false);
  };
}

/** Whether panels lie over the conversation. */
export const isNarrow = () => matchMedia("(max-width: 60rem)").matches;
