// The request as a program: curl, Python and JavaScript.

import { copyText } from "../page/copying.js";
import { h } from "../page/dom.js";
import { announce, openDialog } from "../page/messages.js";
import { BASE, endpoint } from "./api.js";

// Parameters of the SDK's `create`; all other fields go into `extra_body`.
const OF_THE_SDK = new Set([
  "frequency_penalty",
  "max_tokens",
  "messages",
  "model",
  "presence_penalty",
  "response_format",
  "seed",
  "stop",
  "stream",
  "stream_options",
  "temperature",
  "tool_choice",
  "tools",
  "top_p",
]);
const baseUrl = () => new URL("v1", BASE).href;

/** A command that sends the body, with the key from the environment. */
export function curl(body) {
  const json = JSON.stringify(body, null, 2).replaceAll("'", "\\u0027");
  return [
    `curl -sSN ${quoted(endpoint("v1/chat/completions"))} \\`,
    "  -H 'Content-Type: application/json' \\",
    '  -H "Authorization: Bearer ${INTERNVL_API_KEY:-none}" \\',
    "  --data-binary @- <<'JSON'",
    json,
    "JSON",
    "",
  ].join("\n");
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A program with OpenAI's SDK for Python. */
export function python(body) {
  const own = Object.entries(body).filter(([name]) => OF_THE_SDK.has(name));
  const extra = Object.entries(body).filter(([name]) => !OF_THE_SDK.has(name));
  const lines = own.map(([name, value]) => `    ${name}=${pythonValue(value, 1)},`);
  if (extra.length) lines.push(`    extra_body=${pythonValue(Object.fromEntries(extra), 1)},`);
  return `import os

from openai import OpenAI

client = OpenAI(base_url=${JSON.stringify(baseUrl())}, api_key=os.environ.get("INTERNVL_API_KEY", "none"))
stream = client.chat.completions.create(
${lines.join("\n")}
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
`;
}

function pythonValue(value, depth) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const [outer, inner] = ["    ".repeat(depth), "    ".repeat(depth + 1)];
  const isList = Array.isArray(value);
  const items = isList
    ? value.map((item) => pythonValue(item, depth + 1))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${pythonValue(item, depth + 1)}`);
  const [open, close] = isList ? "[]" : "{}";
  return items.length
    ? `${open}\n${items.map((item) => `${inner}${item},\n`).join("")}${outer}${close}`
    : open + close;
}

/** A program with OpenAI's SDK for JavaScript, which passes all fields on. */
export function javascript(body) {
  return `import OpenAI from "openai";

const client = new OpenAI({ baseURL: ${JSON.stringify(baseUrl())}, apiKey: process.env.INTERNVL_API_KEY ?? "none" });
const stream = await client.chat.completions.create(${JSON.stringify(body, null, 2)});
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
process.stdout.write("\\n");
`;
}

const shortened = (text) => text.replace(/(data:[\w./+-]*;base64,[^"]{0,24})[^"]{48,}/g, "$1…");
const LANGUAGES = { curl, Python: python, JavaScript: javascript };

/** Show the programs; copying takes the whole text, of which long pictures are shown shortened. */
export function showCode(body) {
  const panels = Object.entries(LANGUAGES).map(([name, write], index) => {
    const text = write(body);
    const copied = h("span", { class: "hint", role: "status" });
    const copy = h(
      "button",
      {
        type: "button",
        class: "primary",
        "aria-label": `Copy ${name}`,
        onclick: async () => {
          await copyText(text);
          copied.textContent = "Copied.";
          announce(`${name} copied.`);
        },
      },
      "Copy",
    );
    return h(
      "details",
      { open: index === 0, name: "code" },
      h("summary", {}, name),
      h("pre", { tabIndex: 0, class: "code-text", "aria-label": name }, shortened(text)),
      h("div", { class: "row" }, copy, copied),
    );
  });
  openDialog(
    "Copy as code",
    h(
      "p",
      { class: "hint" },
      "The request that was sent last, or would be sent now. The key is read from INTERNVL_API_KEY.",
    ),
    ...panels,
  ).classList.add("wide-dialog");
}
