// The form of what a request says beside its messages. An empty field is left to the server.

import { byId, h, icon } from "./dom.js";

const NAME = "internvl-playground-settings";

const NUMBERS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, hint: "0 to 2; 0 always takes the likeliest token" },
  { name: "max_tokens", label: "Maximum tokens", min: 1, step: 1, isWhole: true, hint: "of the answer" },
  { name: "top_p", label: "Top p", min: 0, max: 1, step: 0.01, hint: "0 to 1" },
  { name: "top_k", label: "Top k", min: -1, step: 1, isWhole: true, hint: "0 means no limit" },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01, hint: "0 to 1" },
  { name: "seed", label: "Seed", step: 1, isWhole: true, hint: "a whole number repeats an answer" },
  { name: "frequency_penalty", label: "Frequency penalty", min: -2, max: 2, step: 0.1, hint: "-2 to 2" },
  { name: "presence_penalty", label: "Presence penalty", min: -2, max: 2, step: 0.1, hint: "-2 to 2" },
  { name: "repetition_penalty", label: "Repetition penalty", min: 0.01, max: 10, step: 0.05, hint: "above 0; 1 has no effect" },
];
const PICTURES = [
  { name: "max_tiles", label: "Maximum tiles", min: 1, max: 40, step: 1, isWhole: true, hint: "1 to 40, of each picture with automatic detail" },
  { name: "num_frames", label: "Frames of a clip", min: 1, max: 32, step: 1, isWhole: true, hint: "1 to 32, normally 8" },
];
const DETAILS = [["auto", "Automatic"], ["low", "Low: 1 tile"], ["medium", "Medium: up to 6 tiles"], ["high", "High: up to 12 tiles"]];
const FORMATS = [["text", "Text"], ["json_object", "Any JSON object"], ["json_schema", "JSON schema"]];
const CHOICES = [["auto", "The model decides"], ["required", "A call is required"], ["none", "No calls"]];
const SCHEMA = { type: "object", properties: { answer: { type: "string" } }, required: ["answer"], additionalProperties: false };
const DEFAULT_FRAMES = 8;

/** The settings form, and what it says. Call `read` for the values. */
export class Settings {
  constructor(onchange) {
    this.form = byId("settings-form");
    this.errors = new Map();
    this.form.append(...this.#sections());
    this.#restore();
    this.#showParts();
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", () => { this.#changed(); onchange(); });
  }

  /** Offer the models of the server; keeps the choice if it is still there. */
  showModels(models) {
    const chosen = this.#value("model");
    this.form.elements.model.replaceChildren(...models.map(({ id }) => h("option", { value: id }, id)));
    if (models.some(({ id }) => id === chosen)) this.form.elements.model.value = chosen;
  }

  get numFrames() { return this.#number({ name: "num_frames" }) ?? DEFAULT_FRAMES; }

  get withTiles() { return this.form.elements.tiles.checked; }

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
    const stops = this.#value("stop").split("\n").filter((line) => line !== "");
    if (stops.length) fields.stop = stops;
    if (this.form.elements.thinking.checked) fields.enable_thinking = true;
    if (this.#value("tools").trim()) Object.assign(fields, { tools: JSON.parse(this.#value("tools")), tool_choice: this.#value("tool_choice") });
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
    if (format === "json_schema") return { type: "json_schema", json_schema: { name: "answer", strict: true, schema: JSON.parse(this.#value("schema")) } };
    return undefined;
  }

  #value(name) { return this.form.elements[name].value; }

  #number({ name }) {
    const text = this.#value(name).trim();
    return text === "" || !Number.isFinite(Number(text)) ? undefined : Number(text);
  }

  #changed() {
    this.#showParts();
    this.#validate();
    const values = {};
    for (const field of this.form.elements) {
      if (field.name) values[field.name] = field.type === "checkbox" ? field.checked : field.value;
    }
    localStorage.setItem(NAME, JSON.stringify(values));
  }

  #restore() {
    let values = {};
    try { values = JSON.parse(localStorage.getItem(NAME)) ?? {}; } catch { /* what another version wrote */ }
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
    for (const spec of [...NUMBERS, ...PICTURES]) this.#report(spec.name, numberProblem(spec, this.form.elements[spec.name]));
    this.#report("tools", toolsProblem(this.#value("tools")));
    this.#report("schema", this.#value("format") === "json_schema" ? schemaProblem(this.#value("schema")) : "");
  }

  #report(name, problem) {
    const field = this.form.elements[name];
    const message = byId(`${name}-problem`);
    if (message.textContent !== problem) message.textContent = problem;
    field.setAttribute("aria-invalid", String(Boolean(problem)));
    if (problem) this.errors.set(name, problem);
  }

  #sections() {
    return [
      h("h2", {}, "Settings"),
      select("model", "Model", []),
      area("system", "System text", 3, "The server's own, if empty"),
      group("Pictures", true,
        select("detail", "Detail", DETAILS),
        ...PICTURES.map(numberField),
        h("label", { class: "check" }, h("input", { type: "checkbox", name: "tiles", checked: true }), "Draw tiles over pictures")),
      group("Sampling", true, h("div", { class: "numbers" }, ...NUMBERS.map(numberField)), area("stop", "Stop strings", 2, "One a line"),
        h("label", { class: "check" }, h("input", { type: "checkbox", name: "thinking" }), "Think first (models with reasoning)")),
      group("Format and tools", false,
        select("format", "Format of the answer", FORMATS),
        h("div", { id: "schema-part" }, area("schema", "JSON schema", 7, "", JSON.stringify(SCHEMA, null, 2))),
        area("tools", "Tools as JSON", 6, "A list of functions, as in OpenAI's API"),
        h("div", { id: "choice-part" }, select("tool_choice", "Use of tools", CHOICES))),
    ];
  }
}

function group(title, isOpen, ...children) {
  return h("details", { open: isOpen }, h("summary", {}, title), h("div", { class: "stack" }, ...children));
}

const problemLine = (name) => h("p", { id: `${name}-problem`, class: "error-text", role: "status" });

function numberField({ name, label, step, min, max, hint }) {
  const field = h("input", {
    id: `set-${name}`, name, type: "number", inputMode: "decimal", placeholder: "default", "aria-describedby": `${name}-hint ${name}-problem`,
  });
  Object.assign(field, { step: String(step), min: String(min ?? ""), max: String(max ?? "") });
  return h("div", { class: "field" }, h("label", { for: field.id }, label), field,
    h("p", { id: `${name}-hint`, class: "hint" }, hint), problemLine(name));
}

function area(name, label, rows, placeholder, value = "") {
  const field = h("textarea", { id: `set-${name}`, name, rows, placeholder, value, spellcheck: name === "system", "aria-describedby": `${name}-problem` });
  return h("div", { class: "field" }, h("label", { for: field.id }, label), field, problemLine(name));
}

function select(name, label, options) {
  const field = h("select", { id: `set-${name}`, name }, ...options.map(([value, text]) => h("option", { value }, text)));
  return h("div", { class: "field" }, h("label", { for: field.id }, label), field);
}

function numberProblem({ min, max, isWhole }, field) {
  if (field.validity.badInput) return "This is not a number.";
  if (field.value.trim() === "") return "";
  const number = Number(field.value);
  if (isWhole && !Number.isInteger(number)) return "Give a whole number.";
  if (min !== undefined && number < min) return `Give at least ${min}.`;
  if (max !== undefined && number > max) return `Give at most ${max}.`;
  return "";
}

function parseProblem(text) {
  try { JSON.parse(text); } catch (error) { return `This is not JSON: ${error.message}`; }
  return "";
}

function toolsProblem(text) {
  if (!text.trim()) return "";
  const problem = parseProblem(text);
  if (problem) return problem;
  const tools = JSON.parse(text);
  if (!Array.isArray(tools)) return "Give a list: [{\"type\": \"function\", \"function\": {…}}].";
  const wrong = tools.findIndex((tool) => tool?.type !== "function" || typeof tool.function?.name !== "string");
  return wrong < 0 ? "" : `Tool ${wrong + 1} needs "type": "function" and a "function" with a "name".`;
}

function schemaProblem(text) {
  const problem = parseProblem(text);
  if (problem) return problem;
  const schema = JSON.parse(text);
  return schema !== null && typeof schema === "object" && !Array.isArray(schema) ? "" : "A schema is an object.";
}

/** Wire the button of a side panel; wide screens begin with it as given. */
export function setUpPanel(buttonId, panelId, iconName, isOpen) {
  const [button, panel] = [byId(buttonId), byId(panelId)];
  const show = (open) => {
    panel.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
  };
  button.append(icon(iconName));
  button.addEventListener("click", () => {
    show(panel.hidden);
    if (!panel.hidden && isNarrow()) panel.querySelector("button, select, input, textarea")?.focus();
  });
  panel.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !isNarrow()) return;
    show(false);
    button.focus();
    event.stopPropagation();
  });
  document.querySelector("main").addEventListener("pointerdown", () => { if (isNarrow() && !panel.hidden) show(false); });
  show(isOpen);
  return () => { if (isNarrow()) show(false); };
}

/** Whether panels lie over the conversation. */
export const isNarrow = () => matchMedia("(max-width: 60rem)").matches;
