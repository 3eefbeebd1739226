// The page: wires the parts, and sends requests.

import { Composer } from "./conversation/composer.js";
import { ConversationList } from "./conversation/list.js";
import { assistantTurn, mediaOf, newConversation, toolTurn, userTurn } from "./conversation/model.js";
import { Storage } from "./conversation/storage.js";
import { Turns } from "./conversation/turns.js";
import { copyText } from "./page/copying.js";
import { byId, count } from "./page/dom.js";
import { icon } from "./page/icons.js";
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
const turns = new Turns({ edit, again, proceed, answerCalls, copy: copyText }, settings);
const list = new ConversationList(storage, open);
const cost = new Cost(draftBody, measured);

let conversation = newConversation();
let editedAt = null; // index of the turn that is being edited
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
  if (running || composer.isEmpty || !validSettings()) return;
  const turn = userTurn(composer.text.trim(), composer.media);
  conversation.turns = [...conversation.turns.slice(0, editedAt ?? conversation.turns.length), turn];
  stopEditing();
  composer.fill("", []);
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
  const values = validSettings();
  if (!values) return;
  sessionStorage.setItem(OPEN, conversation.id);
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
  await keep(own);
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
  announce(turn.error ? `${turn.error.message} ${turn.error.advice}` : turn.text || "The answer has ended.");
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
  editedAt = index;
  byId("editing").hidden = false;
  composer.fill(conversation.turns[index].text, conversation.turns[index].media);
  composer.focus();
}

function stopEditing() {
  editedAt = null;
  byId("editing").hidden = true;
}

/** Keep the conversation in the browser. */
async function keep(own) {
  own.updated = Date.now();
  try {
    const stored = await storage.get(own.id);
    if (stored?.title) own.title = stored.title; // it may have been renamed in the list
    await storage.put(own);
    await list.show(conversation.id);
  } catch (error) {
    notify(`The browser could not keep this conversation: ${error.message}`);
  }
}

/** Open a conversation of the list; null begins a new one. */
function open(chosen) {
  if (chosen && chosen.id === conversation.id && conversation.turns.length) return closeList();
  running?.abort();
  stopEditing();
  lastBody = null;
  conversation = chosen ?? newConversation();
  for (const turn of conversation.turns) if (turn.state === "running") turn.state = "stopped"; // the page was left meanwhile
  sessionStorage.setItem(OPEN, conversation.id);
  composer.fill("", []);
  turns.show(conversation.turns);
  list.show(conversation.id);
  closeList();
  if (!matchMedia("(pointer: coarse)").matches) composer.focus(); // it would open the keyboard of a phone
}

async function start() {
  try {
    const { data } = await (await call("v1/models")).json();
    settings.showModels(data);
    const [model] = data;
    byId("model-line").textContent = `${model.id} · context of ${count(model.max_model_len)} tokens`;
    draftChanged();
  } catch (error) {
    if (error.status === 401) askForKey(start, "The server needs an API key.");
    else notify(`${error.message} ${error.advice ?? ""}`);
  }
}

async function showRequestAsCode() {
  const body = composer.isEmpty ? lastBody : await draftBody();
  const values = body ? null : validSettings();
  if (body || values) showCode(body ?? (await chatBody(conversation.turns, values)));
}

setUpTheme();
setUpKey(start);
byId("open-code").append(icon("code"));
byId("open-code").addEventListener("click", showRequestAsCode);
byId("cancel-edit").addEventListener("click", () => {
  stopEditing();
  composer.fill("", []);
  composer.focus();
});
const closeList = setUpPanel("toggle-list", "list", "menu", !isNarrow());
setUpPanel("toggle-settings", "settings", "sliders", innerWidth >= 1200);
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running && !document.querySelector("dialog[open]")) stop();
});

if (!(await storage.open()))
  byId("storage-note").textContent = "This browser keeps no data: conversations end with this page.";
const last = await storage.get(sessionStorage.getItem(OPEN) ?? "");
open(last ?? null);
await start();
