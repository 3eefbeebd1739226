// Reads server-sent events of a chat stream.

import { errorOf } from "./api.js";

function brokenOff(error) {
  if (error.name === "AbortError") throw error;
  throw errorOf({
    error: { code: "connection_lost", message: "The connection broke off before the answer ended." },
  });
}

/** The data of each event as text. Comments and other fields are left out. */
async function* dataOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(brokenOff);
    if (done) return;
    rest += value;
    const events = rest.split(/\r?\n\r?\n/);
    rest = events.pop();
    for (const event of events) {
      const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}

/**
 * The chunks of a stream. Throws an ApiError for an error in the stream, or if it ends without `[DONE]`.
 * @param {Response} response
 */
export async function* chunks(response) {
  for await (const data of dataOf(response)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw errorOf(chunk);
    yield chunk;
  }
  throw errorOf({ error: { code: "stream_ended", message: "The connection ended before the answer did." } });
}

/** Add a chunk's pieces to an assistant's turn. Returns whether it had any. */
export function addChunk(turn, chunk) {
  if (chunk.usage) turn.usage = chunk.usage;
  const [choice] = chunk.choices ?? [];
  if (!choice) return false;
  if (choice.finish_reason) turn.finish = choice.finish_reason;
  const { content, reasoning_content: reasoning, tool_calls: calls = [] } = choice.delta ?? {};
  if (content) turn.text += content;
  if (reasoning) turn.reasoning += reasoning;
  for (const part of calls) addCall(turn.calls, part);
  return Boolean(content || reasoning || calls.length);
}

function addCall(calls, part) {
  const call = (calls[part.index ?? 0] ??= { id: "", name: "", arguments: "" });
  if (part.id) call.id = part.id;
  if (part.function?.name) call.name += part.function.name;
  if (part.function?.arguments) call.arguments += part.function.arguments;
}
