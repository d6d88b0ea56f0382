// OpenAI's and Anthropic's own clients.

import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';

import { address, failure, key, report } from './report.mjs';

const openai = new OpenAI({ baseURL: `${address}/v1`, apiKey: key, maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: address, apiKey: key, maxRetries: 0 });
const SAY = 'one two three four five six seven eight';
const messages = [{ role: 'user', content: SAY }];

const surfaces = {
  chat: {
    ask: async (model) => {
      const answer = await openai.chat.completions.create({ model, messages });
      const [{ message, finish_reason }] = answer.choices;
      return { text: message.content, reason: finish_reason, output: answer.usage.completion_tokens, model: answer.model };
    },
    stream: async (model, signal, say) => {
      const asked = { model, messages, stream: true };
      const stream = await openai.chat.completions.create(asked, { signal });
      for await (const chunk of stream) if (chunk.choices[0]?.delta.content) say(chunk.choices[0].delta.content);
    },
  },
  responses: {
    ask: async (model) => {
      const answer = await openai.responses.create({ model, input: SAY });
      return { text: answer.output_text, reason: answer.status, output: answer.usage.output_tokens, model: answer.model };
    },
    stream: async (model, signal, say) => {
      const stream = await openai.responses.create({ model, input: SAY, stream: true }, { signal });
      for await (const event of stream) if (event.type === 'response.output_text.delta') say(event.delta);
    },
  },
  messages: {
    ask: async (model) => {
      const answer = await anthropic.messages.create({ model, messages, max_tokens: 100 });
      const { content, stop_reason, usage } = answer;
      return { text: content[0].text, reason: stop_reason, output: usage.output_tokens, model: answer.model };
    },
    stream: async (model, signal, say) => {
      const stream = anthropic.messages.stream({ model, messages, max_tokens: 10000 }, { signal });
      stream.on('text', say);
      await stream.finalMessage();
    },
  },
};

const subjects = {};
for (const [surface, made] of Object.entries(surfaces)) {
  for (const provider of ['', 'openai:', 'anthropic:', 'gemini:']) {
    subjects[`${surface} ${provider}sim`] = { ...made, model: (options) => `${provider}sim:echo${options}` };
  }
}

await report(subjects, {
  plain: async ({ ask, model }) => await ask(model('')),

  stream: async ({ stream, model }) => {
    const pieces = [];
    await stream(model(''), undefined, (piece) => pieces.push(piece));
    return { text: pieces.join(''), several: pieces.length > 1 };
  },

  refused: async ({ ask, model }) => await failure(() => ask(model('?fault=too-long'))),

  cut: async ({ stream, model }) => {
    let text = '';
    const say = (piece) => {
      text += piece;
    };
    return { error: await failure(() => stream(model('?itl=5ms&fault=cut:3'), undefined, say)), text };
  },

  left: async ({ stream, model }) => {
    const leave = new AbortController();
    let pieces = 0;
    const say = () => {
      if (++pieces === 3) leave.abort();
    };
    return { error: await failure(() => stream(model('?itl=20ms&tokens=5000'), leave.signal, say)), pieces };
  },
});
