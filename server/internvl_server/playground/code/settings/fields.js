// The fields of the settings form.

import { h } from "../page/dom.js";

/** Numbers of a request; `isWhole` ones have no fraction. */
export const NUMBERS = [
  {
    name: "temperature",
    label: "Temperature",
    min: 0,
    max: 2,
    step: 0.05,
    hint: "0 to 2; 0 always takes the likeliest token",
  },
  { name: "max_tokens", label: "Maximum tokens", min: 1, step: 1, isWhole: true, hint: "of the answer" },
  { name: "top_p", label: "Top p", min: 0, max: 1, step: 0.01, hint: "0 to 1" },
  { name: "top_k", label: "Top k", min: -1, step: 1, isWhole: true, hint: "0 means no limit" },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01, hint: "0 to 1" },
  { name: "seed", label: "Seed", step: 1, isWhole: true, hint: "a whole number repeats an answer" },
  { name: "frequency_penalty", label: "Frequency penalty", min: -2, max: 2, step: 0.1, hint: "-2 to 2" },
  { name: "presence_penalty", label: "Presence penalty", min: -2, max: 2, step: 0.1, hint: "-2 to 2" },
  {
    name: "repetition_penalty",
    label: "Repetition penalty",
    min: 0.01,
    max: 10,
    step: 0.05,
    hint: "above 0; 1 has no effect",
  },
];
/** Numbers about pictures and clips. */
export const PICTURES = [
  {
    name: "max_tiles",
    label: "Maximum tiles",
    min: 1,
    max: 40,
    step: 1,
    isWhole: true,
    hint: "1 to 40, of each picture with automatic detail",
  },
  {
    name: "num_frames",
    label: "Frames of a clip",
    min: 1,
    max: 32,
    step: 1,
    isWhole: true,
    hint: "1 to 32, normally 8",
  },
];
const DETAILS = [
  ["auto", "Automatic"],
  ["low", "Low: 1 tile"],
  ["medium", "Medium: up to 6 tiles"],
  ["high", "High: up to 12 tiles"],
];
const FORMATS = [
  ["text", "Text"],
  ["json_object", "Any JSON object"],
  ["json_schema", "JSON schema"],
];
const CHOICES = [
  ["auto", "The model decides"],
  ["required", "A call is required"],
  ["none", "No calls"],
];
const SCHEMA = {
  type: "object",
  properties: { answer: { type: "string" } },
  required: ["answer"],
  additionalProperties: false,
};

/** The parts of the form. */
export function sections() {
  return [
    h("h2", {}, "Settings"),
    select("model", "Model", []),
    area("system", "System text", 3, "The server's own, if empty"),
    group(
      "Pictures",
      true,
      select("detail", "Detail", DETAILS),
      ...PICTURES.map(numberField),
      h(
        "label",
        { class: "check" },
        h("input", { type: "checkbox", name: "tiles", checked: true }),
        "Draw tiles over pictures",
      ),
    ),
    group(
      "Sampling",
      true,
      h("div", { class: "numbers" }, ...NUMBERS.map(numberField)),
      area("stop", "Stop strings", 2, "One a line"),
      h(
        "label",
        { class: "check" },
        h("input", { type: "checkbox", name: "thinking" }),
        "Think first (models with reasoning)",
      ),
    ),
    group(
      "Format and tools",
      false,
      select("format", "Format of the answer", FORMATS),
      h("div", { id: "schema-part" }, area("schema", "JSON schema", 7, "", JSON.stringify(SCHEMA, null, 2))),
      area("tools", "Tools as JSON", 6, "A list of functions, as in OpenAI's API"),
      h("div", { id: "choice-part" }, select("tool_choice", "Use of tools", CHOICES)),
    ),
  ];
}

function group(title, isOpen, ...children) {
  return h("details", { open: isOpen }, h("summary", {}, title), h("div", { class: "stack" }, ...children));
}

const problemLine = (name) => h("p", { id: `${name}-problem`, class: "error-text", role: "status" });

function numberField({ name, label, step, min, max, hint }) {
  const field = h("input", {
    id: `set-${name}`,
    name,
    type: "number",
    inputMode: "decimal",
    placeholder: "default",
    "aria-describedby": `${name}-hint ${name}-problem`,
  });
  Object.assign(field, { step: String(step), min: String(min ?? ""), max: String(max ?? "") });
  return h(
    "div",
    { class: "field" },
    h("label", { for: field.id }, label),
    field,
    h("p", { id: `${name}-hint`, class: "hint" }, hint),
    problemLine(name),
  );
}

function area(name, label, rows, placeholder, value = "") {
  const field = h("textarea", {
    id: `set-${name}`,
    name,
    rows,
    placeholder,
    value,
    spellcheck: name === "system",
    "aria-describedby": `${name}-problem`,
  });
  return h("div", { class: "field" }, h("label", { for: field.id }, label), field, problemLine(name));
}

function select(name, label, options) {
  const field = h(
    "select",
    { id: `set-${name}`, name },
    ...options.map(([value, text]) => h("option", { value }, text)),
  );
  return h("div", { class: "field" }, h("label", { for: field.id }, label), field);
}
