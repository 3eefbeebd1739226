// The page: wires the parts, and sends requests.

import { Composer } from "./conversation/composer.js";
import { ConversationList } from "./conversation/list.js";
import { assistantTurn, mediaOf, newConversation, newId, toolTurn, userTurn } from "./conversation/model.js";
import { Storage } from "./conversation/storage.js";
import { spokenText, Turns } from "./conversation/turns.js";
import { byId } from "./page/dom.js";
import { icon } from "./page/icons.js";
import { recall, remember } from "./page/kept.js";
import { announce, notify } from "./page/messages.js";
import { isNarrow, setUpPanel } from "./page/panels.js";
import { setUpTheme } from "./page/theme.js";
import { assignTilings } from "./pictures/tiles.js";
import { ApiError, call } from "./requests/api.js";
import { chatBody } from "./requests/body.js";
import { Cost } from "./requests/cost.js";
import { askForKey, setUpKey } from "./requests/key.js";
import { showCode } from "./requests/snippets.js";
import { addChunk, chunks } from "./requests/stream.js";
import { Settings } from "./settings/form.js";

const OPEN = "internvl-playground-open";

const storage = new Storage();
const settings = new Settings(settingsChanged);
const composer = new Composer(settings, { onchange: draftChanged, onsend: send, onstop: stop });
const turns = new Turns({ edit, again, proceed, answerCalls }, settings);
const list = new ConversationList(storage, open);
const cost = new Cost(draftBody, measured);

let conversation = newConversation();
let editedAt = null; // index of the turn that is being edited
let setAside = ["", []]; // the draft that was there before
let running = null; // AbortController of the answer that is being streamed
let lastBody = null;
let counted = []; // pictures and clips of the body that is being counted

/** The turns that a request would have now: those before the edited one, and the draft. */
function draftTurns() {
  const earlier = conversation.turns.slice(0, editedAt ?? conversation.turns.length);
  return composer.isEmpty ? earlier : [...earlier, userTurn(composer.text, composer.media)];
}

async function draftBody() {
  const values = settings.read();
  const now = draftTurns();
  counted = mediaOf(now);
  if (!values || !now.length || running) return null;
  return chatBody(now, values);
}

function measured(images) {
  const before = JSON.stringify(counted.map((item) => item.tiling));
  assignTilings(counted, images, settings.numFrames);
  if (JSON.stringify(counted.map((item) => item.tiling)) !== before) showPictures();
}

function draftChanged() {
  const numBytes = mediaOf(draftTurns()).reduce((sum, item) => sum + item.blob.size, 0);
  cost.refresh(numBytes);
}

async function settingsChanged() {
  await composer.retakeFrames();
  showPictures();
  draftChanged();
}

function showPictures() {
  composer.show();
  for (const turn of conversation.turns) if (turn.media?.length) turns.update(turn);
}

/** The settings, or null after the field that is wrong was shown. */
function validSettings() {
  const values = settings.read();
  if (values) return values;
  if (byId("settings").hidden) byId("toggle-settings").click();
  settings.focusError();
  notify("A setting is not valid.");
  return null;
}

async function send() {
  await composer.whenRead();
  if (running || composer.isEmpty || !validSettings()) return;
  const turn = userTurn(composer.text.trim(), composer.media);
  conversation.turns = [...conversation.turns.slice(0, editedAt ?? conversation.turns.length), turn];
  stopEditing();
  await answer();
}

/** Send the results of tool calls, given as pairs of id and text. */
async function answerCalls(results) {
  if (running || !validSettings()) return;
  conversation.turns.push(...results.map(([id, text]) => toolTurn(id, text)));
  await answer();
}

async function again(index) {
  if (running || !validSettings()) return;
  conversation.turns = conversation.turns.slice(0, index);
  await answer();
}

async function proceed(index) {
  const values = !running && validSettings();
  if (!values) return;
  await stream(conversation.turns[index], values, { continues: true });
}

/** Ask for the next turn of the assistant. */
async function answer() {
  if (!byId("set-model").value) await start(); // the server did not answer when the page was loaded
  const values = validSettings();
  if (!values) return;
  remember("sessionStorage", OPEN, conversation.id);
  const turn = assistantTurn();
  conversation.turns.push(turn);
  await stream(turn, values);
}

/** Stream an answer into a turn, the last one of the conversation. */
async function stream(turn, values, options = {}) {
  const own = conversation; // the user may open another one meanwhile
  running = new AbortController();
  Object.assign(turn, { state: "running", finish: null, error: null, usage: null });
  notify("");
  turns.show(conversation.turns);
  composer.setRunning(true);
  composer.focus();
  await keep(own, { isNew: true });
  try {
    lastBody = await chatBody(own.turns, values, options);
    await receive(turn, await begin(turn, lastBody));
    turn.state = "done";
  } catch (error) {
    failed(turn, error);
  }
  running = null;
  composer.setRunning(false);
  if (own === conversation) turns.update(turn);
  announce(turn.error ? `${turn.error.message} ${turn.error.advice}` : spokenText(turn));
  await keep(own);
  draftChanged();
}

async function begin(turn, body) {
  turn.timing = { started: performance.now() };
  const response = await call("v1/chat/completions", { body, signal: running.signal });
  const warnings = response.headers.get("x-warnings");
  if (warnings) notify(decoded(warnings), "note");
  return response;
}

/** A percent-encoded header; one that was cut off is shown as it is. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

async function receive(turn, response) {
  const { started } = turn.timing;
  let isDrawn = true;
  const draw = () => {
    isDrawn = true;
    if (turn.state === "running") turns.update(turn);
  };
  for await (const chunk of chunks(response)) {
    if (addChunk(turn, chunk)) turn.timing.firstMs ??= performance.now() - started;
    turn.timing.totalMs = performance.now() - started;
    if (isDrawn) requestAnimationFrame(draw);
    isDrawn = false;
  }
}

function failed(turn, error) {
  turn.state = error.name === "AbortError" ? "stopped" : "failed";
  if (turn.state === "stopped") return;
  const { status = 0, code = "", message, advice = "", retryAfter = null, requestId = "" } = error;
  turn.error = { status, code, message, advice, retryAfter, requestId };
  if (!(error instanceof ApiError)) console.error(error);
  if (status === 401) askForKey(start, "The server needs an API key.");
}

function stop() {
  running?.abort();
  composer.focus();
}

function edit(index) {
  if (running) return;
  if (editedAt === null) setAside = [composer.text, composer.media];
  editedAt = index;
  byId("editing").hidden = false;
  composer.fill(conversation.turns[index].text, conversation.turns[index].media);
  composer.focus();
}

/** Return to the draft that was there before. */
function stopEditing() {
  editedAt = null;
  byId("editing").hidden = true;
  composer.fill(...setAside);
  setAside = ["", []];
}

/** Keep the conversation in the browser, unless it was deleted during its answer. */
async function keep(own, { isNew = false } = {}) {
  try {
    const stored = await storage.get(own.id);
    if (!stored && !isNew) return;
    if (stored?.title) own.title = stored.title; // it may have been renamed in the list
    if (stored && stored.updated !== own.updated) becomeCopy(own);
    const updated = Date.now();
    await storage.put({ ...own, updated });
    own.updated = updated;
    await list.show(conversation.id);
  } catch (error) {
    const isFull = error.name === "QuotaExceededError";
    const reason = isFull ? "There is no room left. Delete conversations that you do not need." : error.message;
    notify(`The browser could not keep this conversation. ${reason}`);
  }
}

/** Go on beside a conversation that another tab has changed. */
function becomeCopy(own) {
  own.id = newId();
  if (own === conversation) remember("sessionStorage", OPEN, own.id);
  notify("Another tab changed this conversation. Both are kept: this one goes on as a copy.", "note");
}

/** Open a conversation of the list; null begins a new one. */
function open(chosen) {
  if (chosen && chosen.id === conversation.id && conversation.turns.length) return closeList();
  running?.abort();
  setAside = ["", []];
  lastBody = null;
  conversation = chosen ?? newConversation();
  for (const turn of conversation.turns) if (turn.state === "running") turn.state = "stopped"; // the page was left meanwhile
  remember("sessionStorage", OPEN, conversation.id);
  stopEditing();
  turns.show(conversation.turns);
  list.show(conversation.id);
  closeList();
  if (!matchMedia("(pointer: coarse)").matches) composer.focus(); // it would open the keyboard of a phone
}

async function start() {
  try {
    const { data } = await (await call("v1/models")).json();
    settings.showModels(data);
    draftChanged();
  } catch (error) {
    if (error.status === 401) askForKey(start, "The server needs an API key.");
    else notify(`${error.message} ${error.advice ?? ""}`);
  }
}

async function showRequestAsCode() {
  if (composer.isEmpty && lastBody) return showCode(lastBody);
  const values = validSettings();
  if (!values) return;
  const asked = draftTurns();
  while (asked.at(-1)?.role === "assistant") asked.pop(); // after a reload: what was asked last
  if (asked.length) showCode(await chatBody(asked, values));
  else notify("Write a message first.");
}

setUpTheme();
setUpKey(start);
byId("open-code").append(icon("code"));
byId("open-code").addEventListener("click", showRequestAsCode);
byId("cancel-edit").addEventListener("click", () => {
  stopEditing();
  composer.focus();
});
const closeList = setUpPanel("toggle-list", "list", "menu", !isNarrow());
setUpPanel("toggle-settings", "settings", "sliders", innerWidth >= 1200);
// What has come of an answer survives a reload.
addEventListener("pagehide", () => running && storage.put(conversation));
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running && !document.querySelector("dialog[open]")) stop();
});

if (!(await storage.open()))
  byId("storage-note").textContent = "This browser keeps no data: conversations end with this page.";
const last = await storage.get(recall("sessionStorage", OPEN) ?? "");
open(last ?? null);
await start();
