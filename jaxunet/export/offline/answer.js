// The pixels of an X-ray -> masks, measures, warnings and pictures, as jaxunet/prediction/ computes them. page.py puts
// these files into one page with the network and ONNX Runtime; `answerHere` is in place of the server of --mode=serve.
"use strict";
const own = (id) => document.getElementById(`inside-${id}`).textContent;
const facts = JSON.parse(own("facts")), S = facts.image_size;

async function unpacked(id) {
  const text = atob(own(id)), bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  return through([bytes], new DecompressionStream("gzip"));
}

const session = (async () => {
  await new Promise((resolve) => addEventListener("DOMContentLoaded", resolve));  // the runtime is loaded before
  if (!globalThis.ort) throw new Error("this browser is too old for this page.");
  Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: (await unpacked("runtime")).buffer });
  return ort.InferenceSession.create(await unpacked("weights"), { executionProviders: ["wasm"] });
})();

globalThis.answerHere = async (path, options) => {
  const network = await session;
  return path === "network" ? facts.network : answer(network, new Uint8Array(await options.body.arrayBuffer()));
};
for (const [selector, words] of Object.entries(facts.words)) document.querySelector(selector).firstChild.data = words;

// ---- Pillow's resize (letterbox.py) ---------------------------------------------------------------------------------
const BOX = [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)], BILINEAR = [1, (x) => Math.max(0, 1 - Math.abs(x))];

// Where each of `to` pixels reads, and with what weights; whole numbers of 22 bits for `eight`.
function weights(from, to, [reach, filter], eight) {
  const scale = from / to, wide = Math.max(scale, 1);
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale, start = Math.max(0, Math.trunc(center - reach * wide + 0.5));
    const end = Math.min(from, Math.trunc(center + reach * wide + 0.5));
    let k = Array.from({ length: end - start }, (_, j) => filter((j + start - center + 0.5) * (1 / wide)));
    const sum = k.reduce((a, b) => a + b, 0);
    k = k.map((x) => (eight ? Math.trunc(0.5 + (x / sum) * 2 ** 22) : x / sum));
    return [start, k];
  });
}

// [height, width] -> [rows, columns]: Float32Array, or Uint8Array for `eight`.
function resize(image, height, width, rows, columns, method, eight = false) {
  const Kind = eight ? Uint8Array : Float32Array, finish = eight ? (x) => clamp((x + 2 ** 21) >> 22, 0, 255) : (x) => x;
  const pass = (source, lines, length, to, at, put) => {
    if (length === to) return source;
    const result = new Kind(lines * to);
    weights(length, to, method, eight).forEach(([start, k], i) => {
      for (let line = 0; line < lines; line++) {
        let sum = 0;
        for (let j = 0; j < k.length; j++) sum += source[at(line, start + j)] * k[j];
        result[put(line, i)] = finish(sum);
      }
    });
    return result;
  };
  const across = pass(Kind.from(image), height, width, columns, (y, x) => y * width + x, (y, x) => y * columns + x);
  return pass(across, columns, height, rows, (x, y) => y * columns + x, (x, y) => y * columns + x);
}

function fit({ pixels, height, width, aspect }) {
  const tall = height * aspect, scale = S / Math.max(tall, width);
  const [rows, columns] = [tall, width].map((n) => Math.min(S, Math.max(1, rint(n * scale))));
  const top = (S - rows) >> 1, left = (S - columns) >> 1, whole = height % rows === 0 && width % columns === 0;
  const scaled = resize(pixels, height, width, rows, columns, whole ? BOX : BILINEAR), square = new Uint8Array(S * S);
  for (let y = 0; y < rows; y++)
    for (let x = 0; x < columns; x++) square[(top + y) * S + left + x] = clamp(rint(scaled[y * columns + x]), 0, 255);
  return { square, place: { height, width, top, left, rows, columns } };
}

// Logits [S, S, C] of mask c -> bytes [height, width], 1 where it is marked.
function restore(logits, c, { height, width, top, left, rows, columns }) {
  const C = facts.network.targets.length, inside = new Float32Array(rows * columns), limit = Math.fround(facts.logit);
  for (let y = 0; y < rows; y++)
    for (let x = 0; x < columns; x++) inside[y * columns + x] = logits[((top + y) * S + left + x) * C + c];
  const whole = resize(inside, rows, columns, height, width, BILINEAR);
  return filled(Uint8Array, whole.length, (i) => whole[i] > limit);
}

// ---- measures and warnings (measures.py) ----------------------------------------------------------------------------
const count = (mask) => { let n = 0; for (const x of mask) n += x; return n; };

// Regions of pixels that touch by edges or corners: the number of each pixel's region, from 1, and by number their sizes
// and middle columns.
function regions(mask, height, width) {
  const labels = new Int32Array(mask.length), sizes = [0], middles = [0], stack = [];
  for (let i = 0; i < mask.length; i++) {
    if (!mask[i] || labels[i]) continue;
    const label = sizes.push(0) - 1;
    let left = width, right = 0;
    for (stack.push(i), labels[i] = label; stack.length; ) {
      const at = stack.pop(), y = Math.floor(at / width), x = at % width;
      sizes[label] += 1;
      left = Math.min(left, x);
      right = Math.max(right, x);
      for (let b = Math.max(0, y - 1); b <= Math.min(height - 1, y + 1); b++)
        for (let a = Math.max(0, x - 1); a <= Math.min(width - 1, x + 1); a++)
          if (mask[b * width + a] && !labels[b * width + a]) { labels[b * width + a] = label; stack.push(b * width + a); }
    }
    middles.push((left + right) / 2 + 0.5);
  }
  return { labels, sizes, middles };
}

// Whether pixel i is at the left of the image, and by what it was told.
function splitSides(lung, height, width) {
  const { labels, sizes, middles } = regions(lung, height, width), total = count(lung);
  const [one, two] = sizes.map((_, i) => i).sort((a, b) => sizes[b] - sizes[a] || a - b);
  if (sizes.length > 2 && sizes[two] >= 0.1 * total && Math.abs(middles[one] - middles[two]) > width / 8) {
    const first = middles[one] < middles[two], border = (middles[one] + middles[two]) / 2;
    return [(i) => (labels[i] === one ? first : labels[i] === two ? !first : (i % width) + 0.5 < border), "components"];
  }
  return [(i) => (i % width) + 0.5 < width / 2, "midline"];
}

function measure(infection, lung, { height, width, spacing, mirrored }) {
  const result = Object.fromEntries(facts.measures.map((name) => [name, null]));
  if (lung) result.lung_pixels = count(lung);
  if (infection) {
    const { sizes } = regions(infection, height, width);
    Object.assign(result, { infected_pixels: count(infection), regions: sizes.length - 1, largest_region_pixels: Math.max(...sizes) });
    result.infected_share_percent = (100 * result.infected_pixels) / infection.length;
  }
  for (const name of ["lung", "infected", "largest_region"])
    if (spacing && result[`${name}_pixels`] !== null) result[`${name}_cm2`] = (result[`${name}_pixels`] * spacing[0] * spacing[1]) / 100;
  if (infection && result.lung_pixels) {
    const [atLeft, sides] = splitSides(lung, height, width), pixels = [0, 0], marked = [0, 0];  // at the right, at the left
    for (let i = 0; i < lung.length; i++) if (lung[i]) { pixels[+atLeft(i)] += 1; marked[+atLeft(i)] += infection[i]; }
    const percent = (a, b) => (b ? (100 * a) / b : null), [left, right] = mirrored ? [1, 0] : [0, 1];
    Object.assign(result, {
      sides, severity_percent: percent(marked[0] + marked[1], pixels[0] + pixels[1]),
      severity_right_percent: percent(marked[right], pixels[right]), severity_left_percent: percent(marked[left], pixels[left]),
    });
  }
  return result;
}

function qualityWarnings({ pixels, height, width }, lung) {
  const found = [], some = [], mean = (f, a, b) => { let sum = 0; for (let i = a; i < b; i++) sum += f(i); return b > a ? sum / (b - a) : 0; };
  for (let y = 0; y < height; y += 1 + Math.floor(height / 512))
    for (let x = 0; x < width; x += 1 + Math.floor(width / 512)) some.push(pixels[y * width + x]);
  const [low, high] = percentiles(some, [1, 99]), gray = mean((i) => some[i], 0, some.length);
  if (Math.min(height, width) < 128) found.push(`small: ${height} x ${width} pixels`);
  if (Math.max(height, width) > 2 * Math.min(height, width)) found.push("shape unlike a chest X-ray");
  if (high - low < 80) found.push("low contrast");
  if (gray < 50) found.push("very dark");
  if (gray > 205) found.push("very bright");
  if (!lung) return found;
  const row = (y) => mean((x) => lung[y * width + x], 0, width), column = (x) => mean((y) => lung[y * width + x], 0, height);
  if (count(lung) / lung.length < 0.05) found.push("hardly any lung found");
  else if (Math.max(row(0), row(height - 1), column(0), column(width - 1)) > 0.15) found.push("lung cut off by the edge of the image");
  return found;
}
