// Calls the server that the page came from, below whatever path a proxy gives it.

import { currentKey } from "./key.js";

export const BASE = new URL(".", document.baseURI);

/** The address of an endpoint, such as "v1/models". */
export const endpoint = (path) => new URL(path, BASE).href;

/** An error that the server answered with, in a stream (status null), or a failure to reach it (status 0). */
export class ApiError extends Error {
  constructor({ status = 0, code = "", message = "", retryAfter = null, requestId = "" }) {
    super(message);
    Object.assign(this, { status, code, retryAfter, requestId });
  }

  /** What the user can do about it. */
  get advice() {
    if (this.status === 0) return "Check that the server is running and reachable.";
    if (this.status === 401) return "Enter a valid API key.";
    if (this.status === 413) return "Send fewer or smaller pictures.";
    if (this.status === 429 || this.status === 503) {
      return /^\d+$/.test(this.retryAfter) ? `Try again in ${this.retryAfter} s.` : "Try again shortly.";
    }
    if (this.code === "context_length_exceeded")
      return "Start a new conversation, use a lower detail, or shorten the answer.";
    if (this.status === null || this.status >= 500) return "Try again; the server's log has the details.";
    return "Change the request and send it again.";
  }
}

/** Make an ApiError of the body that says what was wrong. */
export function errorOf(body, response = null) {
  const error = body?.error ?? {};
  return new ApiError({
    status: response?.status ?? null,
    code: String(error.code ?? error.type ?? ""),
    message: error.message ?? "The server sent an error without a message.",
    retryAfter: response?.headers.get("retry-after") ?? null,
    requestId: response?.headers.get("x-request-id") ?? "",
  });
}

/**
 * Send a request. Throws an ApiError unless the answer is a 2xx; aborting throws an AbortError.
 * @param {string} path relative to the page
 * @param {{body?: object, signal?: AbortSignal}} options a body is sent as JSON by POST
 */
export async function call(path, { body, signal } = {}) {
  const headers = {};
  if (body !== undefined) headers["content-type"] = "application/json";
  if (currentKey()) headers.authorization = `Bearer ${currentKey()}`;
  let response;
  try {
    response = await fetch(endpoint(path), {
      method: body === undefined ? "GET" : "POST",
      headers,
      signal,
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError({ code: "unreachable", message: "The server did not answer." });
  }
  if (response.ok) return response;
  const text = await response.text();
  let parsed = null;
  try {
    parsed = JSON.parse(text);
  } catch {
    /* a proxy's page */
  }
  throw errorOf(parsed ?? { error: { message: `The answer has status ${response.status}.` } }, response);
}
