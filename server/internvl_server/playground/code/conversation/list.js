// The list of conversations: open, rename, delete, export and import.

import { byId, h, replaceKeepingFocus } from "../page/dom.js";
import { iconButton } from "../page/icons.js";
import { notify } from "../page/messages.js";
import { titleOf } from "./model.js";
import { exported, imported } from "./storage.js";

/** Shows the conversations of a Storage; `onopen` gets the one that the user chooses, or null for a new one. */
export class ConversationList {
  #storage;
  #onopen;
  #current = null;
  #isRenamed = false;

  constructor(storage, onopen) {
    this.#storage = storage;
    this.#onopen = onopen;
    byId("new-chat").addEventListener("click", () => onopen(null));
    byId("export").addEventListener("click", () => this.#export());
    byId("import").addEventListener("click", () => byId("import-file").click());
    byId("import-file").addEventListener("change", (event) => this.#import(event.target));
  }

  /** Show all conversations and mark the one that is open. */
  async show(currentId = this.#current) {
    this.#current = currentId;
    const all = await this.#storage.all();
    if (byId("conversations").querySelector("input") && !this.#isRenamed) return; // a name is being written
    this.#isRenamed = false;
    replaceKeepingFocus(
      byId("conversations"),
      all.map((one) => this.#entry(one)),
    );
    byId("export").disabled = !all.length;
  }

  #entry(one) {
    const title = titleOf(one);
    const open = h("button", { type: "button", class: "open", onclick: () => this.#open(one.id) }, title);
    open.dir = "auto";
    if (one.id === this.#current) open.setAttribute("aria-current", "true");
    return h(
      "li",
      {},
      open,
      iconButton("edit", `Rename ${title}`, (event) => this.#rename(one, event.currentTarget.closest("li"))),
      iconButton("trash", `Delete ${title}`, () => this.#remove(one)),
    );
  }

  /** Open a conversation as it is now: another tab may have changed or deleted it. */
  async #open(id) {
    const now = await this.#storage.get(id);
    if (now) this.#onopen(now);
    else await this.show();
  }

  #rename(one, entry) {
    const field = h("input", { value: titleOf(one), "aria-label": "New name", maxLength: 200 });
    const finish = async () => {
      this.#isRenamed = true;
      await this.show();
    };
    const save = async () => {
      const current = await this.#storage.get(one.id);
      if (field.value.trim() && current) await this.#storage.put({ ...current, title: field.value.trim() });
      await finish();
    };
    field.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") save();
      if (event.key === "Escape") finish();
    });
    entry.replaceChildren(field, h("button", { type: "button", onclick: save }, "Save"));
    field.select();
    field.focus();
  }

  async #remove(one) {
    if (!confirm(`Delete “${titleOf(one)}”?`)) return;
    await this.#storage.remove(one.id);
    if (one.id === this.#current) this.#onopen(null);
    else await this.show();
  }

  async #export() {
    const text = await exported(await this.#storage.all());
    const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    h("a", {
      href: address,
      download: `internvl-conversations-${new Date().toISOString().slice(0, 10)}.json`,
    }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  }

  async #import(field) {
    const [file] = field.files;
    field.value = "";
    if (!file) return;
    try {
      for (const one of imported(await file.text())) await this.#storage.put(one);
    } catch (error) {
      notify(error.message);
    }
    await this.show();
  }
}
