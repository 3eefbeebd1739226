// Conversations in the browser's database, pictures included; and as JSON files.

import { blobOf, dataUrl } from "../pictures/media.js";
import { newId } from "./model.js";

const DATABASE = "internvl-playground";
const STORE = "conversations";
const FORMAT = "internvl-playground-1";

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

/** The conversations of this browser. Without a database they live as long as the page. */
export class Storage {
  #database = null;
  #memory = new Map();

  /** Open the database. Returns whether conversations will be kept. */
  async open() {
    try {
      const request = indexedDB.open(DATABASE, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
      this.#database = await done(request);
    } catch {
      return false;
    }
    return true;
  }

  #store(mode) {
    return this.#database.transaction(STORE, mode).objectStore(STORE);
  }

  /** All conversations, the newest first. */
  async all() {
    const found = this.#database ? await done(this.#store("readonly").getAll()) : [...this.#memory.values()];
    return found.sort((one, other) => other.updated - one.updated);
  }

  async get(id) {
    return this.#database ? done(this.#store("readonly").get(id)) : this.#memory.get(id);
  }

  /** Resolves once it is on the disk: a request succeeds even if there is no room for it. */
  async put(conversation) {
    if (!this.#database) return void this.#memory.set(conversation.id, conversation);
    const transaction = this.#database.transaction(STORE, "readwrite");
    transaction.objectStore(STORE).put(conversation);
    transaction.commit(); // at once, as the page may be about to close
    await new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });
  }

  async remove(id) {
    if (!this.#database) return this.#memory.delete(id);
    return done(this.#store("readwrite").delete(id));
  }
}

/** Conversations as a JSON text, with pictures as `data:` URLs. */
export async function exported(conversations) {
  const turns = (turn) =>
    Promise.all((turn.media ?? []).map(exportedItem)).then((media) =>
      turn.media ? { ...turn, media } : turn,
    );
  const list = await Promise.all(
    conversations.map(async (one) => ({ ...one, turns: await Promise.all(one.turns.map(turns)) })),
  );
  return JSON.stringify({ format: FORMAT, conversations: list });
}

async function exportedItem(item) {
  const frames = item.frames ? await Promise.all(item.frames.map(dataUrl)) : undefined;
  return { ...item, blob: await dataUrl(item.blob), ...(frames ? { frames } : {}) };
}

/** Conversations of a JSON text, with new ids. Throws an Error that says what is wrong. */
export function imported(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("The file is not JSON.");
  }
  if (file?.format !== FORMAT || !Array.isArray(file.conversations))
    throw new Error("The file is not an export of this page.");
  return file.conversations.map(importedConversation);
}

function importedConversation(one) {
  if (!Array.isArray(one?.turns)) throw new Error("A conversation in the file has no turns.");
  return {
    id: newId(),
    title: String(one.title ?? ""),
    created: Number(one.created) || Date.now(),
    updated: Number(one.updated) || Date.now(),
    turns: one.turns.map(importedTurn),
  };
}

function importedTurn(turn) {
  const text = String(turn?.text ?? "");
  if (turn?.role === "tool") return { role: "tool", callId: String(turn.callId ?? ""), text };
  if (turn?.role === "user") return { role: "user", text, media: (turn.media ?? []).map(importedItem) };
  if (turn?.role !== "assistant") throw new Error("A turn in the file has an unknown role.");
  const calls = (turn.calls ?? []).map((call) => ({
    id: String(call.id),
    name: String(call.name),
    arguments: String(call.arguments),
  }));
  return {
    role: "assistant",
    text,
    reasoning: String(turn.reasoning ?? ""),
    calls,
    finish: turn.finish ?? null,
    usage: turn.usage ?? null,
    timing: turn.timing ?? null,
    error: turn.error ?? null,
    state: turn.state ?? "done",
  };
}

function importedItem(item) {
  if (!String(item?.blob).startsWith("data:")) throw new Error("A picture in the file cannot be read.");
  const frames = Array.isArray(item.frames) ? item.frames.map(blobOf) : [];
  return {
    kind: item.kind === "video" ? "video" : "image",
    name: String(item.name),
    blob: blobOf(item.blob),
    frames,
    isShown: item.isShown === true,
    width: Number(item.width) || 0,
    height: Number(item.height) || 0,
    detail: item.detail ? String(item.detail) : null,
    tiling: null, // counted anew
  };
}
