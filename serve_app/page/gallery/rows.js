// Layout of the gallery: rows of the same width whose tiles keep the shape of their file.

const GAP = 6; // pixels
const DAY = 52; // height of the row with the name of a day
const MOST_ASPECT = 2.6;
const LEAST_ASPECT = 0.55;
const BY_KIND = { video: 16 / 9, audio: 2, file: 1 };

/**
 * Rows of `items` for a width in pixels: `{rows, height}`. A row with the name of a day is `{day,
 * y, height}`, the others are `{from, to, y, height, widths}`: places of their items, and the
 * widths of the tiles. `target` is the height that rows have about.
 */
export function layout(items, width, target) {
  const rows = [];
  let y = 0;
  let from = 0;
  while (from < items.length) {
    const { date } = items[from];
    let to = from;
    while (to < items.length && items[to].date === date) to += 1;
    rows.push({ day: date, y, height: DAY });
    y += DAY;
    for (const row of rowsOf(items, from, to, width, target)) {
      rows.push({ ...row, y });
      y += row.height + GAP;
    }
    from = to;
  }
  return { rows, height: y };
}

function* rowsOf(items, from, to, width, target) {
  let start = from;
  let sum = 0;
  for (let place = from; place < to; place += 1) {
    sum += aspectOf(items[place]);
    const gaps = (place - start) * GAP;
    if (sum * target + gaps < width) continue;
    yield row(items, start, place + 1, (width - gaps) / sum);
    start = place + 1;
    sum = 0;
  }
  if (start < to) yield row(items, start, to, target); // the last one is not stretched
}

function row(items, from, to, height) {
  const widths = items.slice(from, to).map((item) => aspectOf(item) * height);
  return { from, to, height, widths };
}

/** Width through height of an item's tile. */
function aspectOf({ file, request }) {
  if (file === null) return request.state === "failed" ? 4 / 3 : 1;
  const { width, height } = file.width && file.height ? file : (file.thumbnail ?? {});
  const aspect = width && height ? width / height : (BY_KIND[file.kind] ?? 1);
  return Math.min(MOST_ASPECT, Math.max(LEAST_ASPECT, aspect));
}

/** Place of the first row that ends below `y`. */
export function rowAt(rows, y) {
  let [low, high] = [0, rows.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle].y + rows[middle].height > y) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Place of the row with the item at `place`. */
export function rowOf(rows, place) {
  let [low, high] = [0, rows.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (firstItem(rows, middle) <= place) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** First item of a row; of the row below, if it is the name of a day. */
export function firstItem(rows, at) {
  return rows[at].from ?? rows[at + 1].from;
}

/** Place that a key leads to from `place`, or null. `count` is the number of items, `page` the
 * height of the window in pixels. */
export function placeAfter(key, place, count, rows, page) {
  if (key === "ArrowRight") return Math.min(count - 1, place + 1);
  if (key === "ArrowLeft") return Math.max(0, place - 1);
  if (key === "ArrowDown") return neighbour(rows, place, 1);
  if (key === "ArrowUp") return neighbour(rows, place, -1);
  if (key === "Home") return 0;
  if (key === "End") return count - 1;
  if (key !== "PageDown" && key !== "PageUp") return null;
  const y = rows[rowOf(rows, place)].y + (key === "PageDown" ? page : -page);
  return firstItem(rows, Math.min(rows.length - 1, rowAt(rows, Math.max(0, y))));
}

/** Place of the item above (-1) or below (1) the item at `place`; itself at the edge. */
function neighbour(rows, place, direction) {
  const at = rowOf(rows, place);
  const middle = middleOf(rows[at], place - rows[at].from);
  let other = at + direction;
  if (rows[other]?.day !== undefined) other += direction;
  const row = rows[other];
  if (row === undefined) return place;
  let best = 0;
  for (let each = 1; each < row.widths.length; each += 1)
    if (Math.abs(middleOf(row, each) - middle) < Math.abs(middleOf(row, best) - middle))
      best = each;
  return row.from + best;
}

function middleOf({ widths }, at) {
  const before = widths.slice(0, at).reduce((sum, width) => sum + width + GAP, 0);
  return before + widths[at] / 2;
}
