// Writes the current call as a program, for fal's clients, others, and without a client.

import { javascript, python, typescript } from "./fal_programs.js";
import { curl, queue } from "./http_programs.js";
import { mcp, openai, replicate } from "./other_programs.js";

export const LANGUAGES = {
  python: "Python",
  javascript: "JavaScript",
  typescript: "TypeScript",
  curl: "curl",
  queue: "HTTP queue",
  openai: "OpenAI",
  replicate: "Replicate",
  mcp: "MCP",
};

const WRITERS = { python, javascript, typescript, curl, queue, openai, replicate, mcp };

/** Languages in which an endpoint of this category can be called. */
export function languagesOf(category) {
  const isForOpenai = ["text-to-image", "image-to-image", "text-to-video"].includes(category);
  return Object.keys(LANGUAGES).filter((language) => language !== "openai" || isForOpenai);
}

/** Program that sends `input` to `endpoint`, of this `category`, at `base` (without a final slash). Data
 * URIs become files that it reads; it takes the key from the environment. */
export function codeFor(language, { endpoint, input, base, category }) {
  return WRITERS[language](endpoint, input, base, category);
}
