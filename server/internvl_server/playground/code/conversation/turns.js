// Shows the turns of a conversation.

import { byId, h } from "../page/dom.js";
import { copyButton } from "../page/copying.js";
import { iconButton } from "../page/icons.js";
import { chip, groupName, parseGrounding } from "../pictures/boxes.js";
import { figure } from "../pictures/picture.js";
import { usageText } from "../requests/cost.js";
import { fillMarks, renderMarkdown } from "./markdown.js";
import { canContinue, picturesFor } from "./model.js";

/**
 * Shows a conversation in the page.
 * @param {object} actions what the buttons do: edit(index), again(index), proceed(index), answerCalls(results)
 */
export class Turns {
  #list = byId("turns");
  #actions;
  #settings;
  #turns = [];
  #wasAtEnd = true;

  constructor(actions, settings) {
    this.#actions = actions;
    this.#settings = settings;
    byId("scroll").addEventListener("scroll", () => {
      this.#wasAtEnd = this.#isAtEnd();
    });
    // The message field grows over the end of the conversation, and pictures load after their place was made.
    const observer = new ResizeObserver(() => {
      if (this.#wasAtEnd) this.#scroll();
    });
    observer.observe(byId("scroll"));
    observer.observe(this.#list);
  }

  /** Show all turns anew. */
  show(turns) {
    this.#turns = turns;
    byId("welcome").hidden = turns.length > 0;
    this.#list.replaceChildren(...turns.map((turn, index) => this.#element(turn, index)));
    this.#scroll();
  }

  /** Show one turn anew, such as the one that is being streamed. */
  update(turn) {
    const index = this.#turns.indexOf(turn);
    const old = this.#list.children[index];
    if (!old) return;
    const wasOpen = old.querySelector("details.reasoning")?.open;
    const element = this.#element(turn, index);
    if (wasOpen) element.querySelector("details.reasoning").open = true;
    old.replaceWith(element); // the observer keeps the end in view
  }

  #isAtEnd() {
    const box = byId("scroll");
    return box.scrollHeight - box.scrollTop - box.clientHeight < 80;
  }

  #scroll() {
    byId("scroll").scrollTop = byId("scroll").scrollHeight;
  }

  #element(turn, index) {
    if (turn.role === "user") return this.#user(turn, index);
    if (turn.role === "tool")
      return h(
        "li",
        { class: "turn tool" },
        h("h3", {}, "Tool result"),
        h("pre", { tabIndex: 0 }, turn.text),
      );
    return this.#assistant(turn, index);
  }

  #user(turn, index) {
    const options = { withTiles: this.#settings.withTiles };
    const pictures = turn.media.length
      ? h("div", { class: "pictures" }, ...turn.media.map((item) => figure(item, options)))
      : null;
    return h(
      "li",
      { class: "turn user" },
      h("h3", { class: "hidden-text" }, "You"),
      pictures,
      h(
        "div",
        { class: "said-row" },
        iconButton("edit", "Edit this message", () => this.#actions.edit(index)),
        turn.text && h("div", { class: "said", dir: "auto" }, turn.text),
      ),
    );
  }

  #assistant(turn, index) {
    const isRunning = turn.state === "running";
    const { text, groups } = parseGrounding(turn.text, { isWhole: !isRunning });
    const shown = groups.length ? h("div", { class: "grounded" }) : null;
    const mark = (group) =>
      shown
        ?.querySelectorAll(".box")
        .forEach((box) =>
          box.classList.toggle("marked", group !== null && box.dataset.group === String(group)),
        );
    const body = h("div", { class: "markdown" });
    body.append(fillMarks(renderMarkdown(text), (group) => chip(groups[group], group, mark)));
    if (shown) fillGrounded(shown, picturesFor(this.#turns, index), groups);
    const item = h(
      "li",
      { class: "turn assistant" },
      h("h3", { class: "hidden-text" }, "Answer"),
      turn.reasoning && reasoning(turn),
      isRunning && !turn.text && !turn.calls.length ? h("p", { class: "waiting" }, "Working…") : body,
      shown,
      turn.calls.length > 0 && this.#calls(turn, index),
      turn.error && failure(turn.error),
      this.#footer(turn, index),
    );
    item.setAttribute("aria-busy", String(isRunning));
    return item;
  }

  /** The calls of a turn, and fields for their results if it is the last one. */
  #calls(turn, index) {
    const isOpen = index === this.#turns.length - 1 && turn.state !== "running";
    const fields = turn.calls.map(({ name }) =>
      h("textarea", {
        rows: 2,
        "aria-label": `Result of ${name}`,
        placeholder: "Result, sent back to the model",
      }),
    );
    const boxes = turn.calls.map((call, number) =>
      h(
        "div",
        { class: "call" },
        h("h4", {}, "Tool call: ", h("code", {}, call.name)),
        h("pre", { tabIndex: 0 }, pretty(call.arguments)),
        isOpen && fields[number],
      ),
    );
    if (!isOpen) return h("div", { class: "calls" }, ...boxes);
    const send = h(
      "button",
      { type: "submit" },
      turn.calls.length === 1 ? "Send the result" : "Send the results",
    );
    return h(
      "form",
      {
        class: "calls",
        onsubmit: (event) => {
          event.preventDefault();
          this.#actions.answerCalls(turn.calls.map(({ id }, number) => [id, fields[number].value]));
        },
      },
      ...boxes,
      h("div", { class: "row end" }, send),
    );
  }

  #footer(turn, index) {
    if (turn.state === "running") return null;
    const isLast = index === this.#turns.length - 1;
    const actions = h(
      "div",
      { class: "turn-actions" },
      copyButton("Copy the answer", turn.text),
      isLast && iconButton("again", "Answer again", () => this.#actions.again(index)),
      isLast &&
        canContinue(turn) &&
        h("button", { type: "button", onclick: () => this.#actions.proceed(index) }, "Continue"),
    );
    return h(
      "div",
      { class: "turn-foot" },
      h("p", { class: "usage" }, [endText(turn), usageText(turn)].filter(Boolean).join(" · ")),
      actions,
    );
  }
}

/** What screen readers hear of an answer: its text with the names of its boxes, and its calls. */
export function spokenText(turn) {
  const { text, groups } = parseGrounding(turn.text);
  const said = text.replace(/\ue000(\d+)\ue001/g, (_, index) => groupName(groups[index], Number(index)));
  const calls = turn.calls.map(({ name }) => `Tool call: ${name}.`);
  return [said, ...calls].filter(Boolean).join(" ") || "The answer has ended.";
}

function endText(turn) {
  if (turn.state === "stopped") return "Stopped";
  if (turn.finish === "length") return "Cut off at the maximum of tokens";
  return "";
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function reasoning(turn) {
  const isThinking = turn.state === "running" && !turn.text;
  return h(
    "details",
    { class: "reasoning" },
    h("summary", {}, isThinking ? "Thinking…" : "Reasoning"),
    h("div", { class: "reasoning-text", dir: "auto" }, turn.reasoning),
  );
}

function failure({ status, code, message, advice, requestId }) {
  const head = [status ? `Error ${status}` : "Error", code].filter(Boolean).join(" · ");
  return h(
    "div",
    { class: "failure" },
    h("strong", {}, head),
    h("p", {}, message),
    h("p", {}, advice),
    requestId && h("p", { class: "hint" }, `Request ${requestId}`),
  );
}

/** Draw the boxes on the picture that the answer is about: the last one, or the one that the user chooses. */
function fillGrounded(box, pictures, groups) {
  if (!pictures.length) {
    box.append(h("p", { class: "hint" }, "There is no picture to draw the boxes on."));
    return;
  }
  const place = h("div");
  const show = (index) => place.replaceChildren(figure(pictures[index], { groups, withTiles: false }));
  show(pictures.length - 1);
  if (pictures.length > 1) {
    const choice = h(
      "select",
      { onchange: (event) => show(Number(event.target.value)) },
      ...pictures.map((item, index) =>
        h("option", { value: index, selected: index === pictures.length - 1 }, `${index + 1}: ${item.name}`),
      ),
    );
    box.append(h("label", { class: "row" }, "Boxes on picture", choice));
  }
  box.append(place);
}
