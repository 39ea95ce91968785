// A small part of Markdown as elements: headings, lists, code, quotes, links and emphasis. All else is
// text, and text never becomes markup.

import { h } from "../interface/element.js";

const FENCE = /^\s*(```|~~~)/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*\s*$/;
const ITEM = /^\s*(?:[-*+]|(\d+)[.)])\s+(.*)$/;
const QUOTE = /^\s*>\s?(.*)$/;
const INLINE =
  /`([^`]+)`|\[([^\]]+)\]\((\S+?)(?:\s+"[^"]*")?\)|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|<(https?:\/\/[^\s>]+)>/g;

/** Elements of `text`. The highest heading becomes `<h{level}>`. */
export function markdown(text, level) {
  const lines = text.replaceAll("\r\n", "\n").split("\n");
  const highest = Math.min(...headingLevels(lines));
  const blocks = [];
  for (let at = 0; at < lines.length;) {
    const [block, next] = blockAt(lines, at, level - highest);
    if (block !== null) blocks.push(block);
    at = next;
  }
  return blocks;
}

function headingLevels(lines) {
  return [6, ...lines.map((line) => HEADING.exec(line)?.[1].length ?? 6)];
}

/** Block that begins in the line `at`, or null for an empty line, and the number of the line after it. */
function blockAt(lines, at, shift) {
  const line = lines[at];
  if (line.trim() === "") return [null, at + 1];
  if (FENCE.test(line)) return code(lines, at);
  const heading = HEADING.exec(line);
  if (heading !== null) {
    const level = Math.min(6, heading[1].length + shift);
    return [h[`h${level}`](...inline(heading[2])), at + 1];
  }
  if (ITEM.test(line)) return list(lines, at);
  if (QUOTE.test(line)) {
    const end = endOf(lines, at, (each) => QUOTE.test(each));
    const words = lines.slice(at, end).map((each) => QUOTE.exec(each)[1]);
    return [h.blockquote(h.p(...inline(words.join(" ")))), end];
  }
  const end = endOf(lines, at, isPlain);
  return [h.p(...inline(lines.slice(at, end).join(" "))), end];
}

function isPlain(line) {
  return line.trim() !== "" && ![FENCE, HEADING, ITEM, QUOTE].some((each) => each.test(line));
}

function endOf(lines, at, belongs) {
  let end = at + 1;
  while (end < lines.length && belongs(lines[end])) end += 1;
  return end;
}

function code(lines, at) {
  const end = endOf(lines, at, (line) => !FENCE.test(line));
  const text = lines.slice(at + 1, end).join("\n");
  return [h.pre({ tabindex: 0 }, h.code(text)), end + 1];
}

function list(lines, at) {
  const end = endOf(lines, at, (line) => ITEM.test(line) || /^\s+\S/.test(line));
  const items = [];
  for (const line of lines.slice(at, end)) {
    const item = ITEM.exec(line);
    if (item !== null) items.push(item[2]);
    else items[items.length - 1] += ` ${line.trim()}`;
  }
  const tag = ITEM.exec(lines[at])[1] === undefined ? "ul" : "ol";
  return [h[tag](items.map((item) => h.li(...inline(item)))), end];
}

/** Text and elements of a line. Links lead to web pages only. */
export function inline(text) {
  const parts = [];
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    parts.push(text.slice(at, found.index), inlineElement(found));
    at = found.index + found[0].length;
  }
  return [...parts, text.slice(at)].filter((part) => part !== "");
}

function inlineElement([whole, codeWords, linkWords, url, strong, emphasis, bareUrl]) {
  if (codeWords !== undefined) return h.code(codeWords);
  if (strong !== undefined) return h.strong(strong);
  if (emphasis !== undefined) return h.em(emphasis);
  const href = url ?? bareUrl;
  if (!/^https?:\/\//.test(href)) return linkWords ?? whole;
  return h.a({ href, target: "_blank", rel: "noopener noreferrer" }, linkWords ?? href);
}
