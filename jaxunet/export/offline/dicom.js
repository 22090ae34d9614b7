// An uncompressed gray DICOM file -> what readXray of reading.js gives, as jaxunet/xrays/dicom*.py read it.
"use strict";
const ITEM = "fffee000", LONG = ["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"];
const SEQUENCES = ["00082218", "00283000", "00283010", "00540220", "52009229"];

class Header {
  // Reads elements up to `end`, or to the delimiter of an item, or past the pixels.
  constructor(view, start, end, explicit) {
    Object.assign(this, { view, elements: new Map(), at: start, explicit });
    while (this.at + 8 <= end && !this.elements.has("7fe00010")) {
      const tag = this.tag(), at = this.at;
      if (tag === "fffee00d") { this.at += 8; break; }
      let type = "", length = view.getUint32(at + 4, true), body = at + 8;
      if (explicit && !tag.startsWith("fffe")) {
        type = String.fromCharCode(view.getUint8(at + 4), view.getUint8(at + 5));
        if (LONG.includes(type)) [length, body] = [view.getUint32(at + 8, true), at + 12];
        else length = view.getUint16(at + 6, true);
      }
      const open = length === 0xffffffff;
      if (open && tag === "7fe00010") elsewhere("a compressed DICOM file");
      this.at = body;
      if (type === "SQ" || open || (!explicit && SEQUENCES.includes(tag))) {
        const items = this.items(open ? end : body + length, explicit && type !== "UN");
        this.elements.set(tag, { type, items });
        if (open) continue;
      } else if (body + length > end) refuse("it is damaged: it ends within a header or its pixels.");
      else this.elements.set(tag, { type, body, length });
      this.at = body + length;
    }
  }

  tag() {
    const part = (at) => this.view.getUint16(at, true).toString(16).padStart(4, "0");
    return part(this.at) + part(this.at + 2);
  }

  items(end, explicit) {
    const found = [];
    while (this.at + 8 <= end) {
      const tag = this.tag(), length = this.view.getUint32(this.at + 4, true);
      this.at += 8;
      if (tag !== ITEM) break;
      const item = new Header(this.view, this.at, length === 0xffffffff ? end : this.at + length, explicit);
      this.at = length === 0xffffffff ? item.at : this.at + length;
      if (item.elements.size) found.push(item);
    }
    return found;
  }

  inside(tag) { return this.elements.get(tag)?.items ?? []; }
  bytes(tag) {
    const { body, length } = this.elements.get(tag) ?? {};
    return body === undefined ? new Uint8Array() : new Uint8Array(this.view.buffer, this.view.byteOffset + body, length);
  }
  texts(tag) { return latin(this.bytes(tag)).split("\\").map((s) => s.replace(/^[ \0]+|[ \0]+$/g, "").toUpperCase()); }
  text(tag) { return this.texts(tag)[0]; }
  numbers(tag) { return this.texts(tag).filter(Boolean).map((s) => (isNaN(s) ? refuse("it is damaged: a number in its header is none.") : Number(s))); }
  number(tag, otherwise) { return this.numbers(tag)[0] ?? otherwise; }
  words(tag) {
    const { body, length = 0 } = this.elements.get(tag) ?? {};
    return Array.from({ length: length >> 1 }, (_, i) => this.view.getUint16(body + 2 * i, true));
  }
  word(tag, otherwise) { return this.words(tag)[0] ?? otherwise; }
}

function readDicom(data) {
  const view = new DataView(data.buffer, data.byteOffset, data.length), meta = new Header(view, 132, 132 + metaLength(view), true);
  const syntax = meta.text("00020010"), explicit = syntax !== "1.2.840.10008.1.2";
  if (explicit && syntax !== "1.2.840.10008.1.2.1") elsewhere("a compressed or big-endian DICOM file");
  const said = new Header(view, meta.at, data.length, explicit);
  if (!said.elements.has("7fe00010")) refuse("it is a DICOM file that holds no image.");
  const kind = said.text("00280004") || "MONOCHROME2";
  if (said.word("00280002", 1) !== 1 || !/^MONOCHROME[12]$/.test(kind)) elsewhere("a DICOM file in colour");
  if (said.inside("52009229").length || said.inside("00283000").length) elsewhere("a DICOM file with tables or groups");
  const height = said.word("00280010", 0), width = said.word("00280011", 0), notes = [];
  checkSize(height, width);
  const { stored, values: counts } = significant(said, height * width);
  const outside = padding(said, stored, counts), values = rescaled(said, counts);
  let eight = byTable(said, values) ?? byWindow(said, values);
  const same = (array) => array.every((x) => x === array[0]);
  if (eight && same(eight) && !same(values)) {
    notes.push("its window shows nothing, so the 0.5 and 99.5 percentiles were used");
    eight = null;
  }
  const shape = said.text("20500020");
  if (kind === "MONOCHROME1" && shape === "IDENTITY")
    notes.push("PhotometricInterpretation and PresentationLUTShape contradict each other: it may be inverted");
  const pixels = shown(values, eight, { negative: kind === "MONOCHROME1" || shape === "INVERSE", outside });
  return byPatient(said, pixels, height, width, notes);
}

// Group 2 says its own length first; old files do not.
function metaLength(view) {
  if (view.getUint16(132, true) === 2 && view.getUint16(134, true) === 0) return 12 + view.getUint32(140, true);
  return elsewhere("an old DICOM file");
}

function significant(said, n) {
  const allocated = said.word("00280100", 16), bits = said.word("00280101", allocated), signed = said.word("00280103", 0) === 1;
  const bytes = said.bytes("7fe00010");
  if (![8, 16].includes(allocated)) elsewhere(`a DICOM file with samples of ${allocated} bits`);
  if (bits > allocated || said.word("00280102", bits - 1) !== bits - 1) elsewhere("a DICOM file whose header contradicts its samples");
  if (bytes.length < (n * allocated) / 8) refuse("it is damaged: it holds fewer pixels than its header says.");
  const stored = allocated === 8 ? bytes.slice(0, n) : new Uint16Array(bytes.slice(0, 2 * n).buffer);
  if (!signed) {
    if (stored.some((x) => x >= 2 ** bits)) elsewhere("a DICOM file whose header contradicts its samples");
    return { stored, values: stored };
  }
  const as = (count) => filled(Int16Array, n, (i) => ((stored[i] & (2 ** count - 1)) ^ (2 ** (count - 1))) - 2 ** (count - 1));
  const values = as(bits);
  if (as(allocated).some((x, i) => x !== values[i])) elsewhere("a DICOM file whose header contradicts its samples");
  return { stored, values };
}

function padding(said, stored, values) {
  const ends = [...said.words("00280120").slice(0, 1), ...said.words("00280121").slice(0, 1)];
  if (!said.words("00280120").length) return null;
  const [a, b = a] = values instanceof Int16Array ? ends.map((x) => (x << 16) >> 16) : ends;
  const [low, high] = [Math.min(a, b), Math.max(a, b)];
  const outside = filled(Uint8Array, values.length, (i) => values[i] >= low && values[i] <= high);
  if (ends.length > 1 || outside.some(Boolean)) return outside;
  return filled(Uint8Array, stored.length, (i) => stored[i] === ends[0] % 2 ** (8 * stored.BYTES_PER_ELEMENT));
}

function rescaled(said, values) {
  const slope = said.number("00281053", 1) || 1, intercept = said.number("00281052", 0);
  return slope === 1 && intercept === 0 ? values : filled(Float64Array, values.length, (i) => values[i] * slope + intercept);
}

function byTable(said, values) {
  for (const item of said.inside("00283010")) {
    const [count, first, bits] = item.words("00283002"), data = item.bytes("00283006"), length = count || 65536;
    if (bits === undefined || !data.length) continue;
    const table = [length, length + 1].includes(data.length) ? data.subarray(0, length) : item.words("00283006").slice(0, length);
    const most = table.reduce((a, b) => Math.max(a, b), 0);
    if (table.every((x) => x === most)) continue;
    let low = Infinity, high = -Infinity;
    for (const x of values) { low = Math.min(low, x); high = Math.max(high, x); }
    const beside = (start) => high < start || low >= start + table.length;
    const signed = first >= 32768 ? first - 65536 : first, start = beside(first) && !beside(signed) ? signed : first;
    const found = filled(Uint16Array, values.length, (i) => table[clamp(rint(values[i]) - start, 0, table.length - 1)]);
    return stretch(found, 0, 2 ** Math.max(most.toString(2).length, Math.min(8, bits)) - 1);
  }
  return null;
}

function byWindow(said, values) {
  const centers = said.numbers("00281050"), widths = said.numbers("00281051"), kind = said.text("00281056") || "LINEAR";
  if (!centers.length || !widths.length) return null;
  if (!["LINEAR", "LINEAR_EXACT", "SIGMOID"].includes(kind)) refuse("its VOILUTFunction is not LINEAR, LINEAR_EXACT or SIGMOID.");
  const both = centers.map((c, i) => [c, widths[i]]).filter(([, w]) => w > 0 && (w >= 1 || kind !== "LINEAR"));
  if (!both.length) refuse(`its WindowWidth ${widths[0]} is too small.`);
  const [center, width] = both[0];
  if (kind === "LINEAR_EXACT") return stretch(values, center - width / 2, center + width / 2);
  const each = (f) => filled(Uint8Array, values.length, (i) => f(values[i]));
  if (kind === "SIGMOID") return each((x) => rint(255 / (1 + Math.exp(clamp((-4 * (x - center)) / width, -80, 80)))));
  if (width === 1) return each((x) => (x > center - 0.5 ? 255 : 0));
  return stretch(values, center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2);
}

// ---- what lies where (orientation.py), and what makes it no frontal chest X-ray (dicom.py) --------------------------
function byPatient(said, pixels, height, width, notes) {
  const OPPOSITE = { L: "R", R: "L", H: "F", F: "H", A: "P", P: "A" };
  let [row = "", column = ""] = said.texts("00200020").map((s) => s.slice(0, 1));
  const cosines = said.numbers("00200037");
  if (!row && !column && cosines.length === 6)
    [row, column] = [cosines.slice(0, 3), cosines.slice(3)].map((v) => {
      const axis = v.map(Math.abs).indexOf(Math.max(...v.map(Math.abs)));
      return v[axis] > 0 ? "LPH"[axis] : OPPOSITE["LPH"[axis]];
    });
  const known = row in OPPOSITE && column in OPPOSITE, sideways = [row, column].filter((x) => "LR".includes(x)).length === 1;
  const frontal = known && sideways && !"AP".includes(row) && !"AP".includes(column), moved = frontal && column !== "F";
  const other = doubts(said), frames = said.number("00280008", 1);
  let spacing = ["00280030", "00181164", "00182010"].map((tag) => said.numbers(tag))
    .find((s) => s.length === 2 && s.every((x) => x > 0 && x < 1000)) ?? null;
  let sides = spacing ?? [...said.numbers("00280034"), 0, 0].slice(0, 2);
  let turned = known && !frontal ? [`PatientOrientation ${row}\\${column}: not a frontal view`] : [];
  if (moved) {
    turned = [`turned upright: PatientOrientation was ${row}\\${column}`];
    const across = "HF".includes(row), [first, second] = across ? [column, row] : [row, column];
    [pixels, height, width] = move(pixels, height, width, across, second === "H", first === "R");
    if (across) [spacing, sides] = [spacing?.slice().reverse() ?? null, sides.slice().reverse()];
  }
  const uneven = notSquare(...sides), aspect = uneven.length ? sides[0] / sides[1] : 1;
  const all = [...(frames > 1 ? [`first of ${frames} frames`] : []), ...notes, ...turned, ...other, ...uneven];
  return xray(pixels, height, width, all, { spacing, aspect, mirrored: !moved && row === "R", other });
}

function move(pixels, height, width, transposed, upsideDown, leftToRight) {
  const [h, w] = transposed ? [width, height] : [height, width], result = new Uint8Array(h * w);
  for (let y = 0; y < h; y++)
    for (let x = 0; x < w; x++) {
      const a = upsideDown ? h - 1 - y : y, b = leftToRight ? w - 1 - x : x;
      result[y * w + x] = pixels[transposed ? b * width + a : a * width + b];
    }
  return [result, h, w];
}

function doubts(said) {
  const notes = [], modality = said.texts("00080060").join("\\"), view = said.text("00185101");
  if (!["CR", "DX", "DR", "RG", "RF", "XA", "PX", "OT", "SC", ""].includes(modality))
    notes.push(/^[A-Z]{2,4}$/.test(modality) ? `modality ${modality}, not radiography` : "a modality other than radiography");
  const meanings = (tag) => said.inside(tag).map((item) => item.text("00080104"));
  const words = `${said.text("0008103e")} ${said.text("00181030")}`.match(/[A-Z]+/g) ?? [], has = (...w) => w.some((x) => words.includes(x));
  if (["LL", "RL", "LLD", "RLD", "LLO", "RLO", "LAT", "LATERAL"].includes(view)) notes.push(`view ${view}, not frontal`);
  else if (/LATERAL|OBLIQUE/.test(`${view} ${meanings("00540220").join(" ")}`) || (has("LAT", "LATERAL") && !has("PA", "AP", "FRONTAL")))
    notes.push("a view that is not frontal");
  const regions = [...meanings("00082218"), said.text("00180015")].filter(Boolean);
  if (regions.length && !regions.some((r) => /CHEST|THORA|TORAX|LUNG|RIB|HEART|TRUNK|BODY|PULMON|CLAVIC|MEDIASTIN/.test(r)))
    notes.push("a part of the body other than the chest");
  return notes;
}
