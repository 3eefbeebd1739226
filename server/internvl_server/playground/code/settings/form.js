// The form of what a request says beside its messages. An empty field is left to the server.

import { byId, count, h } from "../page/dom.js";
import { recall, remember } from "../page/kept.js";
import { NUMBERS, PICTURES, sections } from "./fields.js";
import { numberProblem, schemaProblem, toolsProblem } from "./problems.js";

const NAME = "internvl-playground-settings";
const DEFAULT_FRAMES = 8;

/** The settings form, and what it says. Call `read` for the values. */
export class Settings {
  #models = [];

  constructor(onchange) {
    this.form = byId("settings-form");
    this.errors = new Map();
    this.form.append(...sections());
    this.#restore();
    this.#showParts();
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", () => {
      this.#changed();
      onchange();
    });
  }

  /** Offer the models of the server; keeps the choice if it is still there. */
  showModels(models) {
    const chosen = this.#value("model");
    this.form.elements.model.replaceChildren(...models.map(({ id }) => h("option", { value: id }, id)));
    if (models.some(({ id }) => id === chosen)) this.form.elements.model.value = chosen;
    this.#models = models;
    this.#nameModel();
  }

  /** Name the chosen model; the list of another server may be empty, or tell no lengths. */
  #nameModel() {
    const model = this.#models.find(({ id }) => id === this.#value("model"));
    const length = model?.max_model_len ? ` · context of ${count(model.max_model_len)} tokens` : "";
    byId("model-line").textContent = model ? `${model.id}${length}` : "The server has no model.";
  }

  get numFrames() {
    const spec = PICTURES.find(({ name }) => name === "num_frames");
    if (numberProblem(spec, this.form.elements.num_frames)) return DEFAULT_FRAMES;
    return this.#number(spec) ?? DEFAULT_FRAMES;
  }

  get withTiles() {
    return this.form.elements.tiles.checked;
  }

  /**
   * The values of a request, or null if a field is wrong; the field then says why.
   * @returns {{fields: object, system: string, detail: string}|null}
   */
  read() {
    this.#validate();
    if (this.errors.size) return null;
    const fields = { model: this.#value("model") || undefined };
    for (const { name } of [...NUMBERS, ...PICTURES]) fields[name] = this.#number({ name });
    fields.num_frames = this.numFrames;
    const stops = this.#value("stop")
      .split("\n")
      .filter((line) => line !== "");
    if (stops.length) fields.stop = stops;
    if (this.form.elements.thinking.checked) fields.enable_thinking = true;
    if (this.#value("tools").trim())
      Object.assign(fields, {
        tools: JSON.parse(this.#value("tools")),
        tool_choice: this.#value("tool_choice"),
      });
    fields.response_format = this.#format();
    for (const name of Object.keys(fields)) if (fields[name] === undefined) delete fields[name];
    return { fields, system: this.#value("system"), detail: this.#value("detail") };
  }

  /** Focus the first field that is wrong. */
  focusError() {
    const [name] = this.errors.keys();
    const field = this.form.elements[name];
    field?.closest("details")?.setAttribute("open", "");
    field?.focus();
  }

  #format() {
    const format = this.#value("format");
    if (format === "json_object") return { type: "json_object" };
    if (format === "json_schema")
      return {
        type: "json_schema",
        json_schema: { name: "answer", strict: true, schema: JSON.parse(this.#value("schema")) },
      };
    return undefined;
  }

  #value(name) {
    return this.form.elements[name].value;
  }

  #number({ name }) {
    const text = this.#value(name).trim();
    return text === "" || !Number.isFinite(Number(text)) ? undefined : Number(text);
  }

  #changed() {
    this.#showParts();
    if (this.#models.length) this.#nameModel();
    this.#validate();
    const values = {};
    for (const field of this.form.elements) {
      if (field.name) values[field.name] = field.type === "checkbox" ? field.checked : field.value;
    }
    remember("localStorage", NAME, JSON.stringify(values));
  }

  #restore() {
    let values = {};
    try {
      values = JSON.parse(recall("localStorage", NAME)) ?? {};
    } catch {
      /* what another version wrote */
    }
    for (const [name, value] of Object.entries(values)) {
      const field = this.form.elements[name];
      if (!field) continue;
      if (field.type === "checkbox") field.checked = value === true;
      else if (name === "model") field.replaceChildren(h("option", { value }, value));
      else field.value = value;
    }
  }

  #showParts() {
    byId("schema-part").hidden = this.#value("format") !== "json_schema";
    byId("choice-part").hidden = !this.#value("tools").trim();
  }

  #validate() {
    this.errors.clear();
    for (const spec of [...NUMBERS, ...PICTURES])
      this.#report(spec.name, numberProblem(spec, this.form.elements[spec.name]));
    this.#report("tools", toolsProblem(this.#value("tools")));
    this.#report(
      "schema",
      this.#value("format") === "json_schema" ? schemaProblem(this.#value("schema")) : "",
    );
  }

  #report(name, problem) {
    const field = this.form.elements[name];
    const message = byId(`${name}-problem`);
    if (message.textContent !== problem) message.textContent = problem;
    field.setAttribute("aria-invalid", String(Boolean(problem)));
    if (problem) this.errors.set(name, problem);
  }
}
