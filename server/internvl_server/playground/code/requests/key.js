// The API key: kept for this tab, or in this browser if the user asks for it.

import { byId, h } from "../page/dom.js";
import { icon } from "../page/icons.js";
import { recall, remember } from "../page/kept.js";
import { openDialog } from "../page/messages.js";

const NAME = "internvl-playground-key";

/** The key, or an empty text. */
export const currentKey = () => recall("sessionStorage", NAME) ?? recall("localStorage", NAME) ?? "";

function keep(key, isRemembered) {
  remember("sessionStorage", NAME, key && !isRemembered ? key : null);
  remember("localStorage", NAME, key && isRemembered ? key : null);
}

let open = null;

/** Ask for the key. `reason` says why; `onchange` is called after it was saved. */
export function askForKey(onchange, reason = "") {
  if (open) return;
  const field = h("input", {
    id: "key",
    type: "password",
    value: currentKey(),
    autocomplete: "off",
    spellcheck: false,
  });
  const isRemembered = h("input", {
    id: "remember-key",
    type: "checkbox",
    checked: recall("localStorage", NAME) !== null,
  });
  const problem = h("p", { class: "error-text", role: "alert" }, reason);
  const save = () => {
    const isWrong = /[^\x21-\x7e]/.test(field.value.trim()); // no header can carry it
    problem.textContent = isWrong ? "A key has no spaces, accents or other signs than those of ASCII." : "";
    if (isWrong) return field.focus();
    keep(field.value.trim(), isRemembered.checked);
    open.close();
    onchange();
  };
  const form = h(
    "form",
    {
      class: "stack",
      onsubmit: (event) => {
        event.preventDefault();
        save();
      },
    },
    problem,
    h("label", { for: "key" }, "API key"),
    field,
    h("label", { class: "check" }, isRemembered, "Remember it in this browser"),
    h(
      "p",
      { class: "hint" },
      "Otherwise it is forgotten when this tab closes. It is sent to this server only.",
    ),
    h(
      "div",
      { class: "row end" },
      h(
        "button",
        {
          type: "button",
          onclick: () => {
            field.value = "";
            save();
          },
        },
        "Forget",
      ),
      h("button", { type: "submit", class: "primary" }, "Save"),
    ),
  );
  open = openDialog("API key", form);
  open.addEventListener("close", () => {
    open = null;
  });
  field.focus();
}

/** Wire the button. */
export function setUpKey(onchange) {
  byId("open-key").append(icon("key"));
  byId("open-key").addEventListener("click", () => askForKey(onchange));
}
