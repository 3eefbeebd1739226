// A picture with its tiles and boxes over it, small or large, and a clip as a strip of frames.

import { h } from "../page/dom.js";
import { openDialog } from "../page/messages.js";
import { boxFrames, groupName } from "./boxes.js";
import { objectUrl } from "./media.js";
import { tileGrid, tilingText } from "./tiles.js";

function stage(item, blob, { groups = [], withTiles = true } = {}) {
  if (!item.isShown) return h("div", { class: "stage unseen" }, h("span", {}, item.name));
  const image = h("img", { src: objectUrl(blob), alt: altText(item, groups), draggable: false });
  const grid = withTiles && item.tiling && item.kind === "image" ? tileGrid(item.tiling.grid) : null;
  return h("div", { class: "stage" }, image, grid, ...boxFrames(groups, item));
}

function altText(item, groups) {
  if (!groups.length) return item.name;
  return `${item.name} with boxes: ${groups.map(groupName).join(", ")}`;
}

/**
 * A figure of a picture or a clip.
 * @param {object} item
 * @param {{groups?: object[], withTiles?: boolean}} options boxes to draw, and whether to draw tiles
 */
export function figure(item, options = {}) {
  const caption = h(
    "figcaption",
    {},
    item.tiling && options.withTiles !== false ? tilingText(item.tiling) : item.name,
  );
  if (item.kind === "video") return h("figure", { class: "picture clip" }, strip(item), caption);
  const open = stage(item, item.blob, options);
  if (item.isShown) {
    open.append(
      h("button", {
        type: "button",
        class: "enlarge",
        "aria-label": `Enlarge ${item.name}`,
        onclick: () => enlarge(item, item.blob, options),
      }),
    );
  }
  const thumbnail =
    hasThumbnail(item) && options.withTiles !== false && item.isShown
      ? h("img", {
          class: "thumbnail",
          src: objectUrl(item.blob),
          alt: "",
          title: "The thumbnail, one more tile",
        })
      : null;
  return h("figure", { class: "picture" }, open, h("div", { class: "caption" }, thumbnail, caption));
}

const hasThumbnail = ({ tiling }) => Boolean(tiling) && tiling.tiles > tiling.grid[0] * tiling.grid[1];

/** The frames that the server takes from a clip. */
export function strip(item) {
  if (!item.isShown) return stage(item);
  return h(
    "ol",
    { class: "strip", "aria-label": `Frames of ${item.name}`, tabIndex: 0 },
    ...item.frames.map((blob, index) =>
      h("li", {}, h("img", { src: objectUrl(blob), alt: `Frame ${index + 1}` })),
    ),
  );
}

function enlarge(item, blob, options) {
  const text = item.tiling
    ? `${item.width} × ${item.height} px, ${tilingText(item.tiling)}`
    : `${item.width} × ${item.height} px`;
  const large = h("div", { class: "large" }, stage(item, blob, options));
  openDialog(item.name, large, h("p", { class: "hint" }, text)).classList.add("viewer");
}
