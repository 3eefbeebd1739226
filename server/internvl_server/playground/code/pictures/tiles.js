// Draws the tiles that the server cuts a picture into. The numbers are the server's.

import { plural, svg } from "../page/dom.js";

/** Lines between the tiles, over the whole picture. */
export function tileGrid([columns, rows]) {
  const lines = [];
  for (let x = 1; x < columns; x += 1) lines.push(`M${x} 0V${rows}`);
  for (let y = 1; y < rows; y += 1) lines.push(`M0 ${y}H${columns}`);
  const shape = { d: lines.join("") || "M0 0", "vector-effect": "non-scaling-stroke" };
  return svg(
    "svg",
    {
      class: "tiles",
      viewBox: `0 0 ${columns} ${rows}`,
      preserveAspectRatio: "none",
      "aria-hidden": "true",
      "data-columns": columns,
      "data-rows": rows,
    },
    svg("path", { ...shape, class: "tiles-dark" }),
    svg("path", { ...shape, class: "tiles-light" }),
  );
}

/** "3 × 2 tiles and a thumbnail, 448 tokens". */
export function tilingText({ grid: [columns, rows], tiles, tokens, frames }) {
  if (frames) return `${plural(frames, "frame")}, ${plural(tokens, "token")}`;
  const hasThumbnail = tiles > columns * rows;
  const shape = columns * rows === 1 ? "1 tile" : `${columns} × ${rows} tiles`;
  return `${shape}${hasThumbnail ? " + thumbnail" : ""}, ${plural(tokens, "token")}`;
}

/**
 * Give each picture and clip its part of the list that the counting endpoint returns, which is flat and has one
 * entry for each frame of a clip.
 * @param {object[]} items in the order of the request
 * @param {object[]} measured
 * @param {number} numFrames of each clip
 */
export function assignTilings(items, measured, numFrames) {
  let index = 0;
  for (const item of items) {
    if (item.kind === "video") {
      const frames = measured.slice(index, index + numFrames);
      item.tiling = {
        grid: [1, 1],
        tiles: frames.length,
        frames: frames.length,
        tokens: frames.reduce((sum, frame) => sum + frame.tokens, 0),
      };
      index += numFrames;
    } else {
      item.tiling = measured[index] ?? null;
      index += 1;
    }
  }
}
