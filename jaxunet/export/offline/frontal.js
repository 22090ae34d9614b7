// Whether a picture is usable as a frontal chest X-ray (prediction/frontal.py), and the answer for one file.
"use strict";
const SIDE = 64, TURNS = ["", "turned by 90 degrees", "upside down", "turned by 90 degrees"];
const grid = (n, f) => Array.from({ length: n * n }, (_, i) => f(Math.floor(i / n), i % n));

function refusal({ pixels, height, width }, lung) {
  let view = thumbnail(pixels, height, width), best = 0;
  const found = [];
  for (const light of [view, view.map((x) => 255 - x)]) {
    view = light;
    for (let turn = 0; turn < 4; turn++) {
      found.push(score(view));
      const before = view;
      view = grid(SIDE, (y, x) => before[x * SIDE + SIDE - 1 - y]);  // against the clock
    }
  }
  if (found[0] > 0) return !lung || twoLungs(lung, height, width) ? "" : "no two lungs side by side";
  found.forEach((x, i) => { if (x > found[best]) best = i; });
  if (found[best] <= 0) return "no frontal chest X-ray";
  return [best >= 4 ? "inverted" : "", TURNS[best % 4]].filter(Boolean).join(" and ");
}

function twoLungs(lung, height, width) {
  const share = count(lung) / lung.length;
  if (!(share > 0.04 && share < 0.65)) return false;
  const [atLeft, told] = splitSides(lung, height, width), both = [true, false].map((side) => lung.map((x, i) => x && atLeft(i) === side));
  const [smaller, larger] = both.map(count).sort((a, b) => a - b);
  if (told !== "components" || smaller < 0.2 * larger) return false;
  const [[a, b], [c, d]] = both.map((one) => [Math.floor(one.indexOf(1) / width), Math.floor(one.lastIndexOf(1) / width)]);
  return Math.min(b, d) - Math.max(a, c) >= 0.4 * (Math.max(b, d) - Math.min(a, c));
}

function thumbnail(pixels, height, width) {
  let at = (y, x) => pixels[y * width + x], h = height, w = width;
  const varied = (n, m, f) => {
    let first = -1, last = -1;
    for (let i = 0; i < n; i++) {
      let low = 255, high = 0;
      for (let j = 0; j < m; j++) { low = Math.min(low, f(i, j)); high = Math.max(high, f(i, j)); }
      if (high - low >= 8) [first, last] = [first < 0 ? i : first, i];
    }
    return first < 0 ? null : [first, last];
  };
  const rows = varied(h, w, at);
  if (!rows) return new Float32Array(SIDE * SIDE);
  h = rows[1] - rows[0] + 1;
  const columns = varied(w, h, (x, y) => at(rows[0] + y, x));
  if (!columns) return new Float32Array(SIDE * SIDE);
  w = columns[1] - columns[0] + 1;
  const cut = new Uint8Array(h * w);
  for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) cut[y * w + x] = at(rows[0] + y, columns[0] + x);
  return Float32Array.from(resize(cut, h, w, SIDE, SIDE, BOX, true));
}

function score(view) {
  const { mean, spread, weights, threshold } = facts.frontal, found = features(view);
  let sum = -threshold;
  found.forEach((x, i) => {
    const away = (x - mean[i]) / spread[i];
    sum += away * weights[i] + Math.min(away * away, 9) * weights[found.length + i];
  });
  return sum;
}

function features(view) {
  const n = SIDE * SIDE, average = view.reduce((a, b) => a + b, 0) / n;
  const deviation = Math.sqrt(view.reduce((a, b) => a + (b - average) ** 2, 0) / n);
  const gray = Array.from(view, (x) => (x - average) / Math.max(deviation, 2)), cells = SIDE / 8;
  const slope = (at, i) => (i === 0 ? at(1) - at(0) : i === SIDE - 1 ? at(i) - at(i - 1) : (at(i + 1) - at(i - 1)) / 2);
  const edges = grid(cells, () => new Float64Array(8));
  grid(SIDE, (y, x) => {
    const down = slope((i) => gray[i * SIDE + x], y), right = slope((i) => gray[y * SIDE + i], x);
    const strength = Math.hypot(down, right), direction = (Math.atan2(down, right) / (2 * Math.PI)) * 8;
    const cell = edges[(y >> 3) * cells + (x >> 3)];
    for (let i = 0; i < 8; i++) cell[i] += (strength * Math.max(1 - Math.abs(((direction - i + 12) % 8) - 4), 0)) / 64;
  });
  const total = edges.map((cell) => cell.reduce((a, b) => a + b, 0)), inside = (i) => clamp(i, 0, cells - 1);
  const scaled = grid(cells, (y, x) => {
    let around = 0;
    for (const a of [-1, 0, 1]) for (const b of [-1, 0, 1]) around += total[inside(y + a) * cells + inside(x + b)] / 9;
    return Array.from(edges[y * cells + x], (edge) => Math.sqrt(edge / (around + 0.02)));
  });
  const coarse = grid(16, (y, x) => grid(4, (a, b) => gray[(4 * y + a) * SIDE + 4 * x + b]).reduce((a, b) => a + b, 0) / 16);
  return [...scaled.flat(), ...coarse];
}

// ---- the answer for one file (prediction.py, overlay.py) ------------------------------------------------------------
const sigmoid = (x) => 1 / (1 + Math.exp(-clamp(x, -80, 80)));
const rounded = (x, digits = 4) => (typeof x === "number" ? Number(x.toFixed(digits)) : x);

async function answer(network, data) {
  const picture = await readXray(data), { height, width } = picture, { square, place } = fit(picture);
  const output = await network.run({ image: new ort.Tensor("uint8", square, [1, S, S]) });
  const { targets, rule, gate } = facts.network, probability = output.covid19 ? sigmoid(output.covid19.data[0]) : null;
  const blank = gate && probability !== null && !(probability > rule.threshold) ? facts.blanked : [];
  const masks = Object.fromEntries(targets.map((name, c) =>
    [name, blank.includes(name) ? new Uint8Array(height * width) : restore(output.masks.data, c, place)]));
  const lung = masks[facts.organ], refused = facts.checked ? picture.other.join("; ") || refusal(picture, lung) : "";
  const measures = measure(masks[facts.network.finding], lung, picture);
  if (refused) for (const name of facts.severity) measures[name] = null;
  const share = measures[rule.score === "image" ? "infected_share_percent" : "severity_percent"] ?? 0;
  const called = rule.score === "probability" ? probability > rule.threshold : share > 100 * rule.threshold;
  const row = {
    height, width, ...Object.fromEntries(Object.entries(measures).map(([name, x]) => [name, rounded(x)])),
    pixel_height_mm: picture.spacing?.[0] ?? null, pixel_width_mm: picture.spacing?.[1] ?? null,
    covid19_probability: refused ? null : rounded(probability, 6), covid19_detected: refused || measures.infected_pixels === null ? null : called,
    usable: !refused,
    warnings: [...(refused ? [`not usable as a frontal chest X-ray: ${refused}`] : []), ...picture.notes, ...qualityWarnings(picture, lung)],
  };
  return { row, refusal: refused, mirrored: picture.mirrored, ...(await pictures(picture, masks)) };
}

async function pictures({ pixels, height, width }, masks) {
  const step = Math.ceil(Math.max(height, width) / 1024), h = Math.ceil(height / step), w = Math.ceil(width / step);
  const thick = Math.max(1, Math.floor(Math.max(h, w) / 400)), layers = {}, whole = {};
  for (const [name, mask] of Object.entries(masks)) {
    const at = (y, x) => y >= 0 && x >= 0 && y < h && x < w && mask[y * step * width + x * step];
    const layer = new Uint8Array(h * w);
    for (let y = 0; y < h; y++)
      for (let x = 0; x < w; x++)
        if (at(y, x)) layer[y * w + x] = at(y - thick, x) && at(y + thick, x) && at(y, x - thick) && at(y, x + thick) ? 1 : 2;
    layers[name] = await png(layer, h, w);
    whole[name] = await png(mask.map((x) => 255 * x), height, width);
  }
  return { xray: await png(resize(pixels, height, width, h, w, BOX, true), h, w), layers, masks: whole };
}

// Gray bytes [height, width] -> a PNG file in base64.
async function png(pixels, height, width) {
  const rows = new Uint8Array(height * (width + 1));
  for (let y = 0; y < height; y++) rows.set(pixels.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const number = (x) => [24, 16, 8, 0].map((shift) => (x >>> shift) & 255);
  const chunk = (name, body) => {
    const named = Uint8Array.from(name, (c) => c.charCodeAt(0)), all = new Uint8Array(4 + body.length);
    all.set(named); all.set(body, 4);
    let crc = -1;
    for (const byte of all) { crc ^= byte; for (let k = 0; k < 8; k++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0); }
    return [Uint8Array.from(number(body.length)), all, Uint8Array.from(number(~crc))];
  };
  const packed = await through([rows], new CompressionStream("deflate"));
  const blob = new Blob([Uint8Array.from([137, 80, 78, 71, 13, 10, 26, 10]),
    ...chunk("IHDR", Uint8Array.from([...number(width), ...number(height), 8, 0, 0, 0, 0])), ...chunk("IDAT", packed), ...chunk("IEND", new Uint8Array())]);
  return new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1]);
    reader.readAsDataURL(blob);
  });
}
