// An X-ray file -> { pixels: Uint8Array, height, width, spacing, aspect, mirrored, notes, other }, as jaxunet/xrays/ reads it.
// PNG, JPEG, and DICOM files that are gray and not compressed. What cannot be used throws an Error with a sentence.
"use strict";
const refuse = (words) => { throw new Error(words); };
const elsewhere = (what) => refuse(`it is ${what}, which this page does not read: use jaxunet predict.`);
const latin = (bytes) => String.fromCharCode(...bytes);
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

const filled = (Kind, n, f) => { const result = new Kind(n); for (let i = 0; i < n; i++) result[i] = f(i); return result; };

function rint(x) {  // half to even, as NumPy
  const down = Math.floor(x), rest = x - down;
  return rest < 0.5 || (rest === 0.5 && down % 2 === 0) ? down : down + 1;
}

async function readXray(data) {
  try {
    if (!data.length) refuse("it is empty.");
    if (latin(data.subarray(0, 8)) === "\x89PNG\r\n\x1a\n") return await readPng(data);
    if (latin(data.subarray(0, 3)) === "\xff\xd8\xff") return await readByBrowser(data, "image/jpeg", aspectOfJpeg(data));
    if (latin(data.subarray(128, 132)) === "DICM") return readDicom(data);
  } catch (error) {
    throw error.constructor === Error ? error : new Error(`it is damaged or cannot be decoded (${error.name}).`);
  }
  return refuse("it is not a PNG, JPEG or DICOM file.");
}

function checkSize(height, width) {
  if (!(height > 0 && width > 0)) refuse("it has no pixels.");
  if (height * width > 80e6 || Math.max(height, width) > 20000) refuse("it has more pixels than any X-ray.");
}

const notSquare = (height, width) =>
  height <= 0 || width <= 0 || Math.abs(height / width - 1) <= 0.02 || height / width <= 0.1 || height / width >= 10 ? []
    : [`its pixels are not square (height : width is ${Number((height / width).toPrecision(3))})`];

// ---- numbers -> gray (pixels.py) ------------------------------------------------------------------------------------
function percentiles(values, shares) {
  const sorted = Float64Array.from(values).sort();
  return shares.map((share) => {
    const at = (share / 100) * (sorted.length - 1), low = Math.floor(at), t = at - low;
    const [a, b] = [sorted[low], sorted[Math.min(low + 1, sorted.length - 1)]];
    return t < 0.5 ? a + (b - a) * t : b - (b - a) * (1 - t);
  });
}

function to8Bits(values, outside) {
  const counted = outside ? values.filter((_, i) => !outside[i]) : values;
  let [low, high] = percentiles(counted, [0.5, 99.5]);
  if (low === high) for (const x of counted) { low = Math.min(low, x); high = Math.max(high, x); }
  return stretch(values, low, high);
}

function stretch(values, low, high) {
  const result = new Uint8Array(values.length);
  if (high <= low) return result;
  const largest = Math.max(Math.abs(low), Math.abs(high)), { BYTES_PER_ELEMENT: size } = values;
  const exact = size > 2 && (largest > 4096 * (high - low) || largest > 1e30 || largest < 1e-30);
  const unit = exact ? largest : 1, f = exact ? (x) => x : Math.fround;
  const from = f(low / unit), scale = f(255 / (high / unit - low / unit));
  for (let i = 0; i < values.length; i++) result[i] = rint(clamp(f(f(f(values[i] / unit) - from) * scale), 0, 255));
  return result;
}

function shown(values, eight, { negative = false, outside = null } = {}) {
  if (outside && (outside.every(Boolean) || !outside.some(Boolean))) outside = null;
  const pixels = (eight || to8Bits(values, outside)).slice();
  if (negative) for (let i = 0; i < pixels.length; i++) pixels[i] = 255 - pixels[i];
  if (outside) for (let i = 0; i < pixels.length; i++) if (outside[i]) pixels[i] = 0;
  return pixels;
}

// `at(i, c)`: red (c = 0), green or blue of pixel i. Gray as Pillow computes it, and a note if the picture is in colour.
function luminance(at, height, width, wide) {
  const gray = wide ? new Float64Array(height * width) : new Uint8Array(height * width);
  for (let i = 0; i < gray.length; i++) {
    const r = at(i, 0), g = at(i, 1), b = at(i, 2);
    gray[i] = wide ? 0.299 * r + 0.587 * g + 0.114 * b : (19595 * r + 38470 * g + 7471 * b + 32768) >> 16;
  }
  let sum = 0, count = 0, most = wide ? 0 : 255;
  for (let y = 0; y < height; y += 1 + Math.floor(height / 256))
    for (let x = 0; x < width; x += 1 + Math.floor(width / 256), count += 1) {
      const rgb = [0, 1, 2].map((c) => at(y * width + x, c));
      sum += Math.max(...rgb) - Math.min(...rgb);
      if (wide) most = Math.max(most, ...rgb);
    }
  return { gray, notes: (sum / count) * (255 / (most || 1)) > 8 ? ["a picture in colour"] : [] };
}

const xray = (pixels, height, width, notes, more) =>
  ({ pixels, height, width, spacing: null, aspect: 1, mirrored: false, notes, other: [], ...more });

// ---- PNG and JPEG ---------------------------------------------------------------------------------------------------
const through = async (parts, stream) =>
  new Uint8Array(await new Response(new Blob(parts).stream().pipeThrough(stream)).arrayBuffer());

async function readPng(data) {
  const view = new DataView(data.buffer, data.byteOffset, data.length), chunks = {}, packed = [];
  const width = view.getUint32(16), height = view.getUint32(20), bits = data[24], kind = data[25];
  checkSize(height, width);
  for (let at = 8, name = ""; name !== "IEND" && at + 12 <= data.length; at += 12 + view.getUint32(at)) {
    name = latin(data.subarray(at + 4, at + 8));
    const body = data.subarray(at + 8, at + 8 + view.getUint32(at));
    name === "IDAT" ? packed.push(body) : (chunks[name] ??= body);
  }
  const u32 = (bytes, at) => new DataView(bytes.buffer, bytes.byteOffset).getUint32(at);
  const aspect = chunks.pHYs ? notSquare(u32(chunks.pHYs, 0), u32(chunks.pHYs, 4)) : [];
  if (data[28]) return bits === 16 ? elsewhere("an interlaced PNG file of 16 bits") : readByBrowser(data, "image/png", aspect);
  const channels = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }[kind] || refuse("it is damaged: its header has no kind of colour.");
  const stride = Math.ceil((width * channels * bits) / 8), raw = await through(packed, new DecompressionStream("deflate"));
  if (raw.length < height * (stride + 1)) refuse("it is damaged: it holds fewer pixels than its header says.");
  const rows = unfilter(raw, height, stride, Math.max(1, (channels * bits) / 8));
  const sample = bits === 16 ? (i) => (rows[2 * i] << 8) | rows[2 * i + 1] : bits === 8 ? (i) => rows[i]
    : (i) => (rows[Math.floor(i / width) * stride + (((i % width) * bits) >> 3)] >> (8 - bits - (((i % width) * bits) & 7))) & ((1 << bits) - 1);
  const n = height * width, all = Array.from({ length: channels }, (_, c) => c), alpha = channels - 1;
  const seen = chunks.tRNS && kind !== 3 && bits >= 8 ? all.map((c) => (chunks.tRNS[2 * c] << 8) | chunks.tRNS[2 * c + 1]) : null;
  const hidden = kind >= 4 ? (i) => sample(i * channels + alpha) === 0
    : kind === 3 && chunks.tRNS ? (i) => chunks.tRNS[sample(i)] === 0
    : seen ? (i) => all.every((c) => sample(i * channels + c) === seen[c]) : null;
  const outside = hidden && filled(Uint8Array, n, hidden);
  if (kind === 0 || kind === 4) {
    const scale = bits < 8 ? 255 / ((1 << bits) - 1) : 1, values = bits === 16 ? new Uint16Array(n) : new Uint8Array(n);
    for (let i = 0; i < n; i++) values[i] = sample(i * channels) * scale;
    return xray(shown(values, bits === 16 ? null : values, { outside }), height, width, aspect);
  }
  const at = kind === 3 ? (i, c) => chunks.PLTE[3 * sample(i) + c] : (i, c) => sample(i * channels + c);
  const { gray, notes } = luminance(at, height, width, bits === 16);
  return xray(shown(gray, bits === 16 ? null : gray, { outside }), height, width, [...aspect, ...notes]);
}

function unfilter(raw, height, stride, step) {
  const rows = new Uint8Array(height * stride);
  for (let y = 0; y < height; y++) {
    const kind = raw[y * (stride + 1)], from = y * (stride + 1) + 1, to = y * stride;
    for (let x = 0; x < stride; x++) {
      const a = x >= step ? rows[to + x - step] : 0, b = y ? rows[to + x - stride] : 0;
      const c = x >= step && y ? rows[to + x - stride - step] : 0;
      let guess = 0;
      if (kind === 1) guess = a;
      else if (kind === 2) guess = b;
      else if (kind === 3) guess = (a + b) >> 1;
      else if (kind === 4) {
        const p = a + b - c, pa = Math.abs(p - a), pb = Math.abs(p - b), pc = Math.abs(p - c);
        guess = pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
      }
      rows[to + x] = raw[from + x] + guess;
    }
  }
  return rows;
}

const aspectOfJpeg = (data) =>
  latin(data.subarray(6, 11)) === "JFIF\0" ? notSquare((data[14] << 8) | data[15], (data[16] << 8) | data[17]) : [];

async function readByBrowser(data, type, aspect) {
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" };
  const bitmap = await createImageBitmap(new Blob([data], { type }), options);
  const { height, width } = bitmap;
  checkSize(height, width);
  const pen = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d", { willReadFrequently: true });
  pen.drawImage(bitmap, 0, 0);
  const rgba = pen.getImageData(0, 0, width, height).data;
  const { gray, notes } = luminance((i, c) => rgba[4 * i + c], height, width, false);
  const outside = filled(Uint8Array, gray.length, (i) => rgba[4 * i + 3] === 0);
  return xray(shown(gray, gray, { outside }), height, width, [...aspect, ...notes]);
}
