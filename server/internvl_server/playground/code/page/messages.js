// What the page says to the user beside the conversation: dialogs, notices and announcements.

import { byId, h } from "./dom.js";
import { iconButton } from "./icons.js";

/** Open a modal dialog with a title and remove it when it closes. */
export function openDialog(title, ...children) {
  const heading = h("h2", {}, title);
  const close = iconButton("close", "Close", () => dialog.close());
  const dialog = h(
    "dialog",
    { "aria-label": title, class: "dialog" },
    h("div", { class: "dialog-head" }, heading, close),
    ...children,
  );
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
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
  notice.append(
    h("span", {}, text),
    iconButton("close", "Dismiss", () => notify("")),
  );
}

/** Say a finished sentence to screen readers once. */
export function announce(text) {
  const line = h("p", {}, text);
  const log = byId("announcer");
  log.append(line);
  while (log.childElementCount > 3) log.firstElementChild.remove();
}
