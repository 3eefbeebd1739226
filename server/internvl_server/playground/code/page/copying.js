// Copies a text.

import { h } from "./dom.js";
import { icon, iconButton } from "./icons.js";
import { announce } from "./messages.js";

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

/** A button that copies a text, and says so. */
export function copyButton(label, text) {
  const button = iconButton("copy", label, async () => {
    await copyText(text);
    button.replaceChildren(icon("done"));
    announce("Copied.");
  });
  return button;
}
