// The AI SDK's functions, through its own clients of every format.

import { createAnthropic } from '@ai-sdk/anthropic';
import { createGoogle } from '@ai-sdk/google';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { embedMany, generateObject, generateText, isStepCount, Output, streamText, tool } from 'ai';
import { z } from 'zod';

import { address, failure, key, report, told } from './report.mjs';

globalThis.AI_SDK_LOG_WARNINGS = false;

const openai = createOpenAI({ baseURL: `${address}/v1`, apiKey: key });
const compatible = createOpenAICompatible({
  name: 'backstay',
  baseURL: `${address}/v1`,
  apiKey: key,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const anthropic = createAnthropic({ baseURL: `${address}/v1`, apiKey: key });
const google = createGoogle({ baseURL: `${address}/v1beta`, apiKey: key });

const clients = {
  chat: { model: (id) => openai.chat(id), embedding: (id) => openai.embeddingModel(id) },
  responses: { model: (id) => openai.responses(id) },
  compatible: { model: (id) => compatible.chatModel(id), embedding: (id) => compatible.embeddingModel(id) },
  anthropic: { model: (id) => anthropic(id) },
  google: { model: (id) => google(id), embedding: (id) => google.embeddingModel(id) },
};
const providers = ['', 'openai:', 'anthropic:', 'gemini:'];
const subjects = {};
for (const [client, made] of Object.entries(clients)) {
  for (const provider of providers) {
    subjects[`${client} ${provider}sim`] = {
      model: (behaviour) => made.model(`${provider}sim:${behaviour}`),
      embedding: provider === 'anthropic:' ? undefined : made.embedding?.(`${provider}sim:dev-hash`),
    };
  }
}

const SAY = 'one two three four five six seven eight';
const QUESTION = 'What is the weather in Oslo?';
const weather = tool({
  description: 'the weather of a city',
  inputSchema: z.object({ city: z.string(), days: z.number().int().optional() }),
  execute: async ({ city }) => ({ sky: 'grey', city }),
});
const person = z.object({
  name: z.string(),
  age: z.number().int().min(18),
  role: z.enum(['clerk', 'sailor']),
  ships: z.array(z.object({ name: z.string(), masts: z.number() })),
  note: z.string().nullable(),
});
// The simulator's options: not in the model's name, which some clients write into a path as it is.
const once = (options) => ({ maxRetries: 0, headers: { 'backstay-sim': options } });
const quietly = { onError: () => {} };

await report(subjects, {
  text: async ({ model }) => {
    const { text, finishReason, usage, response } = await generateText({ model: model('echo'), prompt: SAY });
    return { text, finishReason, output: usage.outputTokens, input: usage.inputTokens, model: response.modelId };
  },

  stream: async ({ model }) => {
    const result = streamText({ model: model('echo'), prompt: SAY });
    const pieces = [];
    for await (const piece of result.textStream) pieces.push(piece);
    return {
      text: pieces.join(''),
      several: pieces.length > 1,
      finishReason: await result.finishReason,
      output: (await result.usage).outputTokens,
    };
  },

  tools: async ({ model }) => {
    const asked = { model: model('tools'), prompt: QUESTION, tools: { weather }, stopWhen: isStepCount(4) };
    return steps(await generateText(asked));
  },

  streamed_tools: async ({ model }) => {
    const asked = { model: model('tools'), prompt: QUESTION, tools: { weather }, stopWhen: isStepCount(4) };
    const result = streamText(asked);
    await result.consumeStream();
    return steps({ steps: await result.steps, text: await result.text });
  },

  output: async ({ model }) => {
    const asked = { model: model('json'), prompt: 'A sailor of 44 with 3 masts', output: Output.object({ schema: person }) };
    return (await generateText(asked)).output;
  },

  streamed_output: async ({ model }) => {
    const asked = { model: model('json'), prompt: 'A sailor of 44 with 3 masts', output: Output.object({ schema: person }) };
    const result = streamText(asked);
    let parts = 0;
    for await (const _ of result.partialOutputStream) parts += 1;
    return { last: await result.output, several: parts > 1 };
  },

  object: async ({ model }) =>
    (await generateObject({ model: model('json'), prompt: 'A clerk of 27 with 2 masts', schema: person })).object,

  reasoning: async ({ model }) => {
    const result = streamText({ model: model('echo'), prompt: SAY, ...once('think=3') });
    await result.consumeStream();
    const final = await result.finalStep;
    return { text: await result.text, thought: final.reasoningText, tokens: (await result.usage).outputTokenDetails.reasoningTokens };
  },

  embeddings: async ({ embedding }) => {
    if (embedding === undefined) return null;
    const { embeddings, usage } = await embedMany({ model: embedding, values: ['a cat', 'a dog', 'a cat'] });
    return { lengths: embeddings.map((one) => one.length), alike: String(embeddings[0]) === String(embeddings[2]), usage };
  },

  refused: async ({ model }) => ({
    overloaded: await failure(() => generateText({ model: model('echo'), prompt: SAY, ...once('fault=status:503') })),
    unknown: await failure(() => generateText({ model: model('nothing'), prompt: SAY, maxRetries: 0 })),
  }),


  cut: async ({ model }) => {
    const result = streamText({ model: model('echo'), prompt: SAY, ...once('itl=5ms&fault=cut:3'), ...quietly });
    const found = { text: '', error: null, finished: false };
    for await (const part of result.fullStream) {
      if (part.type === 'text-delta') found.text += part.text;
      if (part.type === 'error') found.error = told(part.error);
      if (part.type === 'finish') found.finished = part.finishReason;
    }
    return found;
  },

  left: async ({ model }) => {
    const leave = new AbortController();
    const asked = { model: model('echo'), prompt: SAY, abortSignal: leave.signal };
    const result = streamText({ ...asked, ...once('itl=20ms&tokens=5000'), ...quietly });
    const found = { pieces: 0, last: null };
    for await (const part of result.fullStream) {
      found.last = part.type;
      if (part.type === 'text-delta' && ++found.pieces === 3) leave.abort();
    }
    return found;
  },
});

function steps({ steps, text }) {
  const calls = steps.flatMap((step) => step.toolCalls.map((call) => [call.toolName, call.input.city]));
  const results = steps.flatMap((step) => step.toolResults.map((result) => result.output.sky));
  return { count: steps.length, reasons: steps.map((step) => step.finishReason), calls, results, text };
}
