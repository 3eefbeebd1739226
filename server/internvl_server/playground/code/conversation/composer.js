// The message field: text, pictures and clips, and how they get there.

import { byId, h, replaceKeepingFocus } from "../page/dom.js";
import { icon, iconButton } from "../page/icons.js";
import { notify } from "../page/messages.js";
import { setUpCamera } from "../pictures/camera.js";
import { readFile, readFrames } from "../pictures/media.js";
import { figure } from "../pictures/picture.js";

const DETAILS = [
  ["", "Detail: default"],
  ["auto", "Automatic"],
  ["low", "Low"],
  ["medium", "Medium"],
  ["high", "High"],
];

/** The draft of a message. `onchange` is called for every change, `onsend` to send it, `onstop` to stop the answer. */
export class Composer {
  #field = byId("message");
  #settings;
  #onchange;
  #media = [];
  #reading = Promise.resolve();

  constructor(settings, { onchange, onsend, onstop }) {
    this.#settings = settings;
    this.#onchange = onchange;
    byId("attach").append(icon("picture"));
    byId("send").append(icon("send"));
    byId("stop").append(icon("stop"));
    byId("attach").addEventListener("click", () => byId("files").click());
    byId("files").addEventListener("change", (event) => {
      this.add([...event.target.files]);
      event.target.value = "";
    });
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      onsend();
    });
    byId("stop").addEventListener("click", onstop);
    this.#field.addEventListener("input", () => {
      this.#fit();
      onchange();
    });
    this.#field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      onsend();
    });
    setUpCamera((files) => this.add(files));
    this.#setUpDrop();
  }

  get text() {
    return this.#field.value;
  }

  get media() {
    return this.#media;
  }

  get isEmpty() {
    return !this.#field.value.trim() && !this.#media.length;
  }

  /** Put a draft into the field, such as a message to edit. */
  fill(text, media) {
    this.#field.value = text;
    this.#media = [...media];
    this.#fit();
    this.show();
    this.#onchange();
  }

  focus() {
    this.#field.focus();
  }

  /** Add files after those that are still being read; those that are neither pictures nor clips are named in a notice. */
  add(files) {
    this.#reading = this.#reading.then(() => this.#read(files));
  }

  async #read(files) {
    for (const file of files) {
      const item = await readFile(file, this.#settings.numFrames);
      if (!item) notify("Only pictures and clips can be added.");
      else this.#media = [...this.#media, item];
      this.show();
      this.#onchange(); // no count of the pictures so far is shown, or sent to the server
    }
  }

  /** Wait for pictures that were added and are not shown yet. */
  whenRead() {
    return this.#reading;
  }

  /** Show the pictures and clips anew, with the tiles that are known now. */
  show() {
    replaceKeepingFocus(
      byId("attachments"),
      this.#media.map((item, index) => this.#card(item, index)),
    );
  }

  /** Take the frames of all clips again, after their number has changed. */
  async retakeFrames() {
    const clips = this.#media.filter(
      (item) => item.kind === "video" && item.isShown && item.frames.length !== this.#settings.numFrames,
    );
    const { numFrames } = this.#settings;
    for (const item of clips) {
      const read = await readFrames(item.blob, numFrames);
      if (this.#settings.numFrames === numFrames) Object.assign(item, read); // else a later change takes them
    }
    if (clips.length) this.show();
  }

  /** Show the button that stops instead of the one that sends. */
  setRunning(isRunning) {
    byId("stop").hidden = !isRunning;
    byId("send").hidden = isRunning;
  }

  #card(item, index) {
    const last = this.#media.length - 1;
    return h(
      "li",
      {},
      figure(item, { withTiles: this.#settings.withTiles }),
      h(
        "div",
        { class: "card-row" },
        item.kind === "image" ? this.#detail(item) : h("span", { class: "hint" }, item.name),
        index > 0 && iconButton("left", `Move ${item.name} forward`, () => this.#move(index, index - 1)),
        index < last && iconButton("right", `Move ${item.name} back`, () => this.#move(index, index + 1)),
        iconButton("close", `Remove ${item.name}`, () => this.#remove(index)),
      ),
    );
  }

  #detail(item) {
    return h(
      "select",
      {
        "aria-label": `Detail of ${item.name}`,
        onchange: (event) => {
          item.detail = event.target.value || null;
          this.#onchange();
        },
      },
      ...DETAILS.map(([value, text]) =>
        h("option", { value, selected: (item.detail ?? "") === value }, text),
      ),
    );
  }

  #move(from, to) {
    const media = [...this.#media];
    media.splice(to, 0, ...media.splice(from, 1));
    this.#media = media;
    this.show();
    byId("attachments").children[to].querySelector(".card-row button").focus();
    this.#onchange();
  }

  #remove(index) {
    this.#media = this.#media.filter((_, other) => other !== index);
    this.show();
    this.#field.focus();
    this.#onchange();
  }

  #fit() {
    this.#field.style.height = "auto";
    this.#field.style.height = `${Math.min(this.#field.scrollHeight, innerHeight / 3)}px`;
  }

  #setUpDrop() {
    let depth = 0;
    const show = (isShown) => byId("drop").classList.toggle("shown", isShown);
    const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
    addEventListener("dragenter", (event) => {
      if (hasFiles(event)) {
        depth += 1;
        show(true);
      }
    });
    addEventListener("dragleave", (event) => {
      if (hasFiles(event)) {
        depth = Math.max(0, depth - 1);
        show(depth > 0);
      }
    });
    addEventListener("dragover", (event) => {
      if (hasFiles(event)) event.preventDefault();
    });
    addEventListener("drop", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      depth = 0;
      show(false);
      this.add([...event.dataTransfer.files]);
    });
    addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (!files.length) return;
      event.preventDefault();
      this.add(files);
    });
  }
}
