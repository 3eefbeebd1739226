// openai-node: chat completions, responses, and its helpers for Zod and tools.
import assert from 'node:assert/strict';
import test from 'node:test';
import OpenAI from 'openai';
import { zodFunction, zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { baseURL, City, imageURL, MODEL, QUESTION, SEEN, Shapes } from './asking.mjs';

const client = new OpenAI({ baseURL, apiKey: 'none', maxRetries: 0 });
const ask = { model: MODEL, temperature: 0, max_completion_tokens: 256 };
const hello = [{ role: 'user', content: 'Who are you?' }];
const look = [{
  role: 'user',
  content: [{ type: 'image_url', image_url: { url: imageURL } }, { type: 'text', text: QUESTION }],
}];
const input = [{
  role: 'user',
  content: [{ type: 'input_image', image_url: imageURL, detail: 'auto' }, { type: 'input_text', text: QUESTION }],
}];

test('text', async () => {
  const answer = await client.chat.completions.create({ ...ask, messages: hello });
  assert.ok(answer.choices[0].message.content);
  const response = await client.responses.create({ model: MODEL, temperature: 0, input: 'Who are you?' });
  assert.equal(response.output_text, answer.choices[0].message.content);
});

test('stream', async () => {
  const whole = await client.chat.completions.create({ ...ask, messages: hello });
  const stream = client.chat.completions.stream({
    ...ask, messages: hello, stream_options: { include_usage: true },
  });
  const streamed = await stream.finalChatCompletion();
  assert.equal(streamed.choices[0].message.content, whole.choices[0].message.content);
  assert.deepEqual(streamed.usage, whole.usage);
});

test('picture', async () => {
  const answer = await client.chat.completions.create({ ...ask, messages: look });
  assert.match(answer.choices[0].message.content, SEEN);
  const response = await client.responses.create({ model: MODEL, temperature: 0, input });
  assert.equal(response.output_text, answer.choices[0].message.content);
});

test('object', async () => {
  const answer = await client.chat.completions.parse({
    ...ask, messages: look, response_format: zodResponseFormat(Shapes, 'shapes'),
  });
  const { parsed } = answer.choices[0].message;
  assert.deepEqual(Shapes.parse(parsed), parsed);
  const response = await client.responses.parse({
    model: MODEL, temperature: 0, input, text: { format: zodTextFormat(Shapes, 'shapes') },
  });
  assert.deepEqual(Shapes.parse(response.output_parsed), response.output_parsed);
});

test('tools', async () => {
  const given = [];
  const findCity = zodFunction({
    name: 'find_city', parameters: City, function: city => (given.push(City.parse(city)), 'Berlin'),
  });
  const runner = client.chat.completions.runTools({
    ...ask, messages: [{ role: 'user', content: 'Which city?' }], tools: [findCity],
    tool_choice: { type: 'function', function: { name: 'find_city' } },
  });
  await runner.done();
  assert.equal(given.length, 1);
  // A named tool ends the helper's loop after the call; the next turn is asked for by hand.
  const answer = await client.chat.completions.create({ ...ask, messages: runner.messages });
  assert.ok(answer.choices[0].message.content);
});
