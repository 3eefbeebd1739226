// A conversation: a list of turns by the user, the assistant and tools.

/** An id that no conversation has; the browser makes it, except over HTTP. */
export const newId = () => crypto.randomUUID?.() ?? String(Math.random());

/** An empty conversation. */
export const newConversation = () => ({
  id: newId(),
  title: "",
  created: Date.now(),
  updated: Date.now(),
  turns: [],
});

export const userTurn = (text, media) => ({ role: "user", text, media });

export const toolTurn = (callId, text) => ({ role: "tool", callId, text });

/** `state` is "running", "done", "stopped" or "failed". */
export const assistantTurn = () => ({
  role: "assistant",
  text: "",
  reasoning: "",
  calls: [],
  finish: null,
  usage: null,
  timing: null,
  error: null,
  state: "running",
});

/** Pictures and clips of all turns, in the order of the request. */
export const mediaOf = (turns) => turns.flatMap((turn) => turn.media ?? []);

/** The pictures of the newest turn that has any: what an answer at an index is about. */
export function picturesFor(turns, index) {
  for (const turn of turns.slice(0, index).reverse()) {
    const pictures = (turn.media ?? []).filter((item) => item.kind === "image");
    if (pictures.length) return pictures;
  }
  return [];
}

/** A title from the first message, unless the user gave one. */
export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const first = conversation.turns.find((turn) => turn.role === "user");
  const text = first?.text.trim().replace(/\s+/g, " ") || first?.media[0]?.name || "New conversation";
  return text.length > 48 ? `${text.slice(0, 47)}…` : text;
}

/** Whether the last answer can be continued: it was cut off in any way, and has nothing but text. */
export function canContinue(turn) {
  return (
    turn.role === "assistant" &&
    turn.text !== "" &&
    !turn.calls.length &&
    (turn.finish === "length" || turn.state === "stopped" || turn.state === "failed")
  );
}
