// What a request would take, counted by the server before it is sent.

import { byId, count, plural } from "../page/dom.js";
import { call } from "./api.js";

const PAUSE_MS = 350;
const PAUSE_PER_MEGABYTE_MS = 150;
const LONGEST_PAUSE_MS = 3000;

/** Counts the newest draft; older counts are given up. */
export class Cost {
  #timer = 0;
  #running = null;
  #make;
  #onmeasured;

  /**
   * @param {() => Promise<object|null>} make the body of the request as it is now; null for nothing to count
   * @param {(images: object[]) => void} onmeasured gets the tiles of each picture and frame
   */
  constructor(make, onmeasured) {
    this.#make = make;
    this.#onmeasured = onmeasured;
  }

  /** Count again once nothing has changed for a moment, which is longer for large pictures. */
  refresh(numBytes = 0) {
    clearTimeout(this.#timer);
    this.#running?.abort();
    const pause = Math.min(LONGEST_PAUSE_MS, PAUSE_MS + (numBytes / 1e6) * PAUSE_PER_MEGABYTE_MS);
    this.#timer = setTimeout(() => this.#count(), pause);
  }

  async #count() {
    const running = new AbortController();
    this.#running = running;
    try {
      const body = await this.#make();
      if (running.signal.aborted) return;
      if (!body) return this.#show("");
      const response = await call("v1/chat/completions/input_tokens", { body, signal: running.signal });
      const counted = await response.json();
      this.#onmeasured(counted.images);
      this.#show(costText(counted), counted);
    } catch (error) {
      if (error.name !== "AbortError")
        this.#show(error.status === 401 ? "" : `Cannot be counted: ${error.message}`, null, true);
    }
  }

  #show(text, counted = null, isProblem = false) {
    const line = byId("cost");
    line.textContent = text;
    line.classList.toggle("error-text", isProblem || counted?.fits === false);
    line.dataset.inputTokens = counted?.input_tokens ?? "";
  }
}

function costText({
  input_tokens: input,
  image_tokens: ofImages,
  images,
  max_tokens: most,
  max_model_len: context,
  fits,
}) {
  const tiles = images.reduce((sum, image) => sum + image.tiles, 0);
  const pictures = images.length ? ` (${count(ofImages)} for ${plural(tiles, "tile")})` : "";
  const rest = fits
    ? ` · up to ${count(most)} for the answer`
    : ` · too long for the context of ${count(context)}`;
  return `${plural(input, "prompt token")}${pictures}${rest}`;
}

/** What an answer took, in words. */
export function usageText({ usage, timing }) {
  const parts = [];
  if (usage) {
    parts.push(
      `${plural(usage.prompt_tokens, "prompt token")}, ${plural(usage.completion_tokens, "answer token")}`,
    );
    const images = usage.prompt_tokens_details?.image_tokens;
    if (images)
      parts[0] = `${plural(usage.prompt_tokens, "prompt token")} (${count(images)} for pictures), ${plural(usage.completion_tokens, "answer token")}`;
  }
  if (timing?.firstMs !== undefined) parts.push(`first token after ${(timing.firstMs / 1000).toFixed(2)} s`);
  const seconds = timing?.firstMs === undefined ? 0 : (timing.totalMs - timing.firstMs) / 1000;
  if (usage?.completion_tokens > 1 && seconds > 0)
    parts.push(`${((usage.completion_tokens - 1) / seconds).toFixed(1)} tokens/s`);
  return parts.join(" · ");
}
