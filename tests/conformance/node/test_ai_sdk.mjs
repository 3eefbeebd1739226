// The Vercel AI SDK through its provider for OpenAI-compatible servers.
import assert from 'node:assert/strict';
import test from 'node:test';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateObject, generateText, Output, stepCountIs, streamObject, streamText, tool } from 'ai';
import { baseURL, City, image, MODEL, QUESTION, SEEN, Shapes } from './asking.mjs';

const provider = createOpenAICompatible({
  name: 'internvl', baseURL, apiKey: 'none', includeUsage: true, supportsStructuredOutputs: true,
});
const ask = { model: provider(MODEL), temperature: 0, maxOutputTokens: 256, maxRetries: 0 };
const look = [{ role: 'user', content: [{ type: 'image', image }, { type: 'text', text: QUESTION }] }];

test('text', async () => {
  const answer = await generateText({ ...ask, prompt: 'Who are you?' });
  assert.equal(answer.finishReason, 'stop');
  assert.ok(answer.text);
  assert.ok(answer.usage.inputTokens > 0 && answer.usage.outputTokens > 0);
});

test('stream', async () => {
  const whole = await generateText({ ...ask, prompt: 'Who are you?' });
  const streamed = streamText({ ...ask, prompt: 'Who are you?' });
  let text = '';
  for await (const piece of streamed.textStream) text += piece;
  assert.equal(text, whole.text);
  assert.deepEqual((await streamed.usage).outputTokens, whole.usage.outputTokens);
});

test('picture', async () => {
  const answer = await generateText({ ...ask, messages: look });
  assert.match(answer.text, SEEN);
});

test('object', async () => {
  const { object } = await generateObject({ ...ask, schema: Shapes, messages: look });
  assert.deepEqual(Shapes.parse(object), object);
  const streamed = streamObject({ ...ask, schema: Shapes, messages: look });
  for await (const part of streamed.partialObjectStream) assert.equal(typeof part, 'object');
  assert.deepEqual(await streamed.object, object);
  const { output } = await generateText({ ...ask, output: Output.object({ schema: Shapes }), messages: look });
  assert.deepEqual(output, object);
});

test('tools', async () => {
  const given = [];
  const tools = {
    find_city: tool({
      description: 'The city with a zip code.',
      inputSchema: City,
      execute: async input => (given.push(City.parse(input)), 'Berlin'),
    }),
  };
  // The first step must call the tool, the second answers.
  const prepareStep = ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? 'required' : 'none' });
  const loop = { ...ask, tools, prepareStep, stopWhen: stepCountIs(3), prompt: 'Which city?' };
  const answer = await generateText(loop);
  assert.ok(given.length > 0);
  assert.equal(answer.steps.length, 2);
  assert.equal(answer.steps[0].toolResults[0].output, 'Berlin');
  const streamed = streamText(loop);
  await streamed.consumeStream();
  assert.equal((await streamed.steps).length, 2);
  assert.equal(await streamed.text, answer.text);
});
