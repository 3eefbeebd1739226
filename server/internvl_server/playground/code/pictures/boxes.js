// Boxes of grounding answers: finds them in a text and draws them.

import { h } from "../page/dom.js";

const GROUNDING = /(?:<ref>([\s\S]*?)<\/ref>\s*)?<box>([\s\S]*?)<\/box>/g;
const UNFINISHED = /<(?:ref|box)>(?:(?!<\/box>)[\s\S])*$|<\/?(?:r(?:e(?:f)?)?|b(?:o(?:x)?)?)?$/;
const NUMBER_OF_COLOURS = 6;

/** The boxes in a JSON text: `[[x1, y1, x2, y2], …]` or one such list, thousandths of the picture. */
function parseBoxes(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    return [];
  }
  const boxes = Array.isArray(value) && value.every(Number.isFinite) ? [value] : value;
  if (!Array.isArray(boxes)) return [];
  return boxes
    .filter((box) => Array.isArray(box) && box.length === 4 && box.every(Number.isFinite))
    .map(upright);
}

function upright(box) {
  const [x1, y1, x2, y2] = box.map((number) => Math.min(1000, Math.max(0, number)));
  return [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)];
}

/**
 * Divide a text into what is around its boxes and the boxes.
 * @param {string} text an answer
 * @param {{isWhole: boolean}} state while an answer is streamed, a box that has not ended is left out
 * @returns {{text: string, groups: {label: string, boxes: number[][]}[]}} in the text the n-th group is U+E000 n U+E001
 */
export function parseGrounding(text, { isWhole = true } = {}) {
  const groups = [];
  let shown = text.replace(/[\ue000\ue001]/g, "").replace(GROUNDING, (match, label, coordinates) => {
    const boxes = parseBoxes(coordinates);
    if (!boxes.length) return match;
    groups.push({ label: label?.trim() ?? "", boxes });
    return `\ue000${groups.length - 1}\ue001`;
  });
  if (!isWhole) shown = shown.replace(UNFINISHED, "");
  return { text: shown.replace(/<ref>([\s\S]*?)<\/ref>/g, "$1"), groups };
}

/** The name of a group, also without a label. */
export const groupName = (group, index) => group.label || `Box ${index + 1}`;

// Of a picture in the conversation, at most.
const SHOWN_PX = 272;
const LABEL_PX = 20;

/** Where the label of a box is: inside below the upper edge of the picture, and on the side that has more room. */
function placeLabel(label, [x1, y1, x2], item) {
  const height = Math.min(SHOWN_PX, (item.height / item.width) * 2 * SHOWN_PX || SHOWN_PX);
  const isRight = x1 > 1000 - x2;
  label.classList.toggle("inside", (y1 / 1000) * height < LABEL_PX);
  label.classList.toggle("right", isRight);
  label.style.maxWidth = `min(14rem, ${((isRight ? x2 : 1000 - x1) / Math.max(1, x2 - x1)) * 100}%)`;
}

/** One frame with a label for each box, to lie over a picture. */
export function boxFrames(groups, item) {
  return groups.flatMap((group, index) =>
    group.boxes.map((box) => {
      const [x1, y1, x2, y2] = box;
      const name = groupName(group, index);
      const label = h("span", { class: "box-label", title: name, dir: "auto" }, name);
      placeLabel(label, box, item);
      const frame = h(
        "div",
        {
          class: `box colour-${index % NUMBER_OF_COLOURS}`,
          "data-group": index,
          "data-box": box.join(","),
        },
        label,
      );
      Object.assign(frame.style, {
        left: `${x1 / 10}%`,
        top: `${y1 / 10}%`,
        width: `${(x2 - x1) / 10}%`,
        height: `${(y2 - y1) / 10}%`,
      });
      return frame;
    }),
  );
}

/** What stands in an answer's text for a group; the pointer or the focus on it marks its boxes. */
export function chip(group, index, onmark) {
  const where = group.boxes.map((box) => box.join(", ")).join("; ");
  return h(
    "button",
    {
      type: "button",
      class: `chip colour-${index % NUMBER_OF_COLOURS}`,
      title: `Boxes: ${where}`,
      onmouseenter: () => onmark(index),
      onfocus: () => onmark(index),
      onmouseleave: () => onmark(null),
      onblur: () => onmark(null),
    },
    groupName(group, index),
  );
}
