// LangChain for JavaScript, the client inside LibreChat, with the options that LibreChat gives it.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { HumanMessage, SystemMessage, ToolMessage } from '@langchain/core/messages';
import { tool } from '@langchain/core/tools';
import { ChatOpenAI } from '@langchain/openai';
import yaml from 'js-yaml';
import { configSchema } from 'librechat-data-provider';
import { baseURL, City, imageURL, MODEL, QUESTION, SEEN, Shapes } from './asking.mjs';

// `invoke` of a streaming model fetches tables of tokens from the Internet; LibreChat streams with `stream`, as here.
const model = new ChatOpenAI({
  model: MODEL, apiKey: 'none', configuration: { baseURL }, user: 'a-user', temperature: 0, maxTokens: 256, maxRetries: 0,
});
const hello = [new SystemMessage('Be brief.'), new HumanMessage('Who are you?')];
const look = [new HumanMessage({
  content: [{ type: 'text', text: QUESTION }, { type: 'image_url', image_url: { url: imageURL, detail: 'auto' } }],
})];

const collect = async chunks => {
  let whole;
  for await (const chunk of await chunks) whole = whole ? whole.concat(chunk) : chunk;
  return whole;
};

test('text', async () => {
  const answer = await model.invoke(hello);
  assert.ok(answer.content);
  assert.equal(answer.response_metadata.finish_reason, 'stop');
  assert.ok(answer.usage_metadata.input_tokens > 0 && answer.usage_metadata.output_tokens > 0);
});

test('stream', async () => {
  const whole = await model.invoke(hello);
  const streamed = await collect(model.stream(hello));
  assert.equal(streamed.content, whole.content);
  assert.deepEqual(streamed.usage_metadata.output_tokens, whole.usage_metadata.output_tokens);
});

test('picture', async () => {
  assert.match((await model.invoke(look)).content, SEEN);
  assert.match((await collect(model.stream(look))).content, SEEN);
});

test('object', async () => {
  for (const method of ['jsonSchema', 'functionCalling']) {
    const asking = model.withStructuredOutput(Shapes, { name: 'shapes', method, strict: true });
    const shapes = await asking.invoke(look);
    assert.deepEqual(Shapes.parse(shapes), shapes, method);
  }
});

test('tools', async () => {
  const given = [];
  const findCity = tool(city => (given.push(City.parse(city)), 'Berlin'), {
    name: 'find_city', description: 'The city with a zip code.', schema: City,
  });
  const question = new HumanMessage('Which city?');
  const asking = model.bindTools([findCity], { tool_choice: 'required', strict: true });
  const called = await collect(asking.stream([question]));
  const results = await Promise.all(called.tool_calls.map(call => findCity.invoke(call)));
  assert.ok(given.length > 0 && results.every(result => result instanceof ToolMessage));
  const answer = await model.bindTools([findCity], { tool_choice: 'none' }).invoke([question, called, ...results]);
  assert.ok(answer.content);
});

test('configuration of LibreChat', async () => {
  const config = yaml.load(readFileSync(`${process.env.CONFORMANCE_CONFIGS}/librechat.yaml`, 'utf8'));
  configSchema.strict().parse(config);
  const [endpoint] = config.endpoints.custom;
  const answer = await fetch(`${baseURL}/models`, { headers: { authorization: 'Bearer none' } });
  const [served] = (await answer.json()).data;
  assert.deepEqual(endpoint.models.default, [served.id]);
  assert.equal(endpoint.tokenConfig[served.id].context, served.max_model_len);
});
