// Markdown of answers. What a model writes is untrusted: HTML in it is shown as text, and what is made of it is sanitised.

import { Marked } from "../../vendor/marked.esm.js";
import DOMPurify from "../../vendor/purify.es.mjs";
import { copyButton } from "../page/copying.js";
import { h } from "../page/dom.js";

const escape = (text) => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

// LaTeX is shown as it was written: Markdown would drop its backslashes and take its underscores for emphasis.
const MATH = /^(?:\\\([^]+?\\\)|\\\[[^]+?\\\]|\$\$[^]+?\$\$)/;

const mathOf = (level, begin, tag) => ({
  name: `${level}Math`,
  level,
  start: (source) => begin.exec(source)?.index,
  tokenizer: (source) => {
    const [raw] = (source.search(begin) === 0 && MATH.exec(source)) || [];
    return raw && { type: `${level}Math`, raw };
  },
  renderer: ({ raw }) => `<${tag}>${escape(raw)}</${tag}>`,
});

const marked = new Marked({
  extensions: [mathOf("block", /^(?:\\\[|\$\$)/m, "pre"), mathOf("inline", /\\[([]|\$\$/, "code")],
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escape(text),
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    image: ({ href, text }) => escape(`![${text}](${href})`), // nothing is loaded for an answer
  },
});

const ALLOWED = {
  ALLOWED_TAGS: [
    "a",
    "blockquote",
    "br",
    "code",
    "del",
    "em",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "li",
    "ol",
    "p",
    "pre",
    "strong",
    "table",
    "tbody",
    "td",
    "th",
    "thead",
    "tr",
    "ul",
  ],
  ALLOWED_ATTR: ["align", "href", "start", "class"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

/**
 * Safe nodes of a Markdown text.
 * @param {string} text
 * @returns {DocumentFragment}
 */
export function renderMarkdown(text) {
  const fragment = DOMPurify.sanitize(marked.parse(text), ALLOWED);
  for (const element of fragment.querySelectorAll("[class]")) {
    if (!/^language-[\w+#-]+$/.test(element.className)) element.removeAttribute("class");
  }
  for (const link of fragment.querySelectorAll("a[href]")) {
    Object.assign(link, { target: "_blank", rel: "noopener noreferrer nofollow" });
  }
  for (const block of fragment.children) if (block.tagName !== "PRE") block.dir = "auto";
  for (const table of fragment.querySelectorAll("table")) wrap(table);
  for (const block of fragment.querySelectorAll("pre")) addCopy(block);
  return fragment;
}

function wrap(table) {
  const box = h("div", { class: "table-box", tabIndex: 0, role: "group", "aria-label": "Table" });
  table.replaceWith(box);
  box.append(table);
}

function addCopy(block) {
  const text = block.textContent;
  block.tabIndex = 0;
  const box = h("div", { class: "code-box" });
  block.replaceWith(box);
  box.append(block, copyButton("Copy the code", text));
}

/** Replace the marks that `parseGrounding` left by elements. */
export function fillMarks(fragment, make) {
  const walker = document.createTreeWalker(fragment, NodeFilter.SHOW_TEXT);
  const nodes = [];
  while (walker.nextNode()) if (walker.currentNode.data.includes("\ue000")) nodes.push(walker.currentNode);
  for (const node of nodes) {
    const pieces = node.data
      .split(/\ue000(\d+)\ue001/)
      .map((piece, index) => (index % 2 ? make(Number(piece)) : piece));
    node.replaceWith(...pieces);
  }
  return fragment;
}
