// Makes the body of a chat request from a conversation.

import { dataUrl } from "../pictures/media.js";

async function partOf(item, settings) {
  const url = await dataUrl(item.blob);
  if (item.kind === "video") return { type: "video_url", video_url: { url } };
  const detail = item.detail ?? settings.detail;
  return { type: "image_url", image_url: detail && detail !== "auto" ? { url, detail } : { url } };
}

async function messageOf(turn, settings) {
  if (turn.role === "tool") return { role: "tool", tool_call_id: turn.callId, content: turn.text };
  if (turn.role === "assistant") {
    const calls = turn.calls.map(({ id, name, arguments: text }) => ({
      id,
      type: "function",
      function: { name, arguments: text },
    }));
    return { role: "assistant", content: turn.text, ...(calls.length ? { tool_calls: calls } : {}) };
  }
  if (!turn.media.length) return { role: "user", content: turn.text };
  const parts = await Promise.all(turn.media.map((item) => partOf(item, settings)));
  return { role: "user", content: [...parts, ...(turn.text ? [{ type: "text", text: turn.text }] : [])] };
}

/** Whether an assistant's turn has anything to send back. */
const hasContent = (turn) => turn.role !== "assistant" || turn.text !== "" || turn.calls.length > 0;

/**
 * The body of `POST v1/chat/completions`.
 * @param {object[]} turns those of the conversation
 * @param {{fields: object, system: string, detail: string}} settings
 * @param {{continues?: boolean}} options whether the last turn, an assistant's, is continued
 */
export async function chatBody(turns, settings, { continues = false } = {}) {
  const messages = await Promise.all(turns.filter(hasContent).map((turn) => messageOf(turn, settings)));
  if (settings.system) messages.unshift({ role: "system", content: settings.system });
  const hasVideo = turns.some((turn) => turn.media?.some((item) => item.kind === "video"));
  const { num_frames: frames, ...fields } = settings.fields;
  return {
    ...fields,
    ...(hasVideo ? { num_frames: frames } : {}),
    ...(continues ? { continue_final_message: true, add_generation_prompt: false } : {}),
    messages,
    stream: true,
    stream_options: { include_usage: true },
  };
}
