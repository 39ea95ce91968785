// What a user of LangChain does for images: its tool for OpenAI's. One JSON object on standard output.
// usage: node langchain.mjs URL KEY
import { argv } from "node:process";

import { DallEAPIWrapper } from "@langchain/openai";

const [, , url, openAIApiKey] = argv;
const tool = new DallEAPIWrapper({ openAIApiKey, baseUrl: `${url}/openai/v1`, model: "dall-e-3" });
const drawn = await tool.invoke("a JPEG");
console.log(JSON.stringify({ type: (await fetch(drawn)).headers.get("content-type") }));
