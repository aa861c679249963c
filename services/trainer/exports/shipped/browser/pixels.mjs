// From a decoded picture to what the network takes: what images.py and Pillow do where the model was trained, in whole
// numbers as there, but rows always first. It knows neither files nor the network.

const PRECISION_BITS = 22; // of weights, as in Pillow
const FILTERS = {
  bilinear: { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, at: bicubic },
};

function bicubic(x) {
  const a = -0.5;
  const d = Math.abs(x);
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
}

// Uint8Array[size * size * 3], RGB, of an upright picture {data, width, height} in RGBA without transparency, and of
// `image` in preprocessing.json.
export function fit(picture, how) {
  const drafted = shrink(picture, how.draft);
  const { width, height } = drafted;
  let box = [0, 0, width, height];
  if (how.fit === "center_crop") {
    const side = (Math.min(width, height) * how.size) / how.resize;
    const [left, top] = [(width - side) / 2, (height - side) / 2];
    box = [left, top, left + side, top + side].map(Math.fround);
  }
  return resize(drafted, box, how.size, FILTERS[how.filter]);
}

// A JPEG is decoded at the smallest fraction whose sides are no shorter than `draft`; here means of squares stand for that.
function shrink(picture, draft) {
  const { data, width, height } = picture;
  const fits = draft && picture.jpeg ? Math.min(Math.floor(width / draft), Math.floor(height / draft)) : 1;
  const by = [8, 4, 2, 1].find((one) => one <= Math.max(fits, 1));
  const [columns, rows] = [Math.ceil(width / by), Math.ceil(height / by)];
  const pixels = new Uint8Array(columns * rows * 3);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      for (let channel = 0; channel < 3; channel++) {
        let [sum, count] = [0, 0];
        for (let v = y * by; v < Math.min((y + 1) * by, height); v++) {
          for (let u = x * by; u < Math.min((x + 1) * by, width); u++) {
            sum += data[(v * width + u) * 4 + channel];
            count++;
          }
        }
        pixels[(y * columns + x) * 3 + channel] = Math.floor(sum / count + 0.5);
      }
    }
  }
  return { data: pixels, width: columns, height: rows };
}

// A part of a picture, [left, top, right, bottom], at size x size: first along rows, then along columns.
function resize(picture, box, size, filter) {
  const across = weights(picture.width, box[0], box[2], size, filter);
  const down = weights(picture.height, box[1], box[3], size, filter);
  const between = new Uint8Array(picture.height * size * 3);
  for (let y = 0; y < picture.height; y++) {
    for (let x = 0; x < size; x++) {
      sum(picture.data, (y * picture.width + across[x].first) * 3, 3, across[x].of, between, (y * size + x) * 3);
    }
  }
  const pixels = new Uint8Array(size * size * 3);
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      sum(between, (down[y].first * size + x) * 3, size * 3, down[y].of, pixels, (y * size + x) * 3);
    }
  }
  return pixels;
}

function sum(from, start, step, of, to, place) {
  for (let channel = 0; channel < 3; channel++) {
    let total = 1 << (PRECISION_BITS - 1);
    for (let one = 0; one < of.length; one++) total += from[start + one * step + channel] * of[one];
    to[place + channel] = Math.min(255, Math.max(0, total >> PRECISION_BITS));
  }
}

// Of each of `size` pixels: the first of the `length` it is made of, and their weights as whole numbers.
function weights(length, from, to, size, filter) {
  const scale = Math.fround(to - from) / size;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  return Array.from({ length: size }, (_, place) => {
    const centre = from + (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(length, Math.trunc(centre + support + 0.5));
    const exact = [];
    for (let one = first; one < last; one++) exact.push(filter.at((one - centre + 0.5) * (1 / stretch)));
    const whole = exact.reduce((one, other) => one + other, 0);
    return { first, of: exact.map((one) => rounded((one / whole) * (1 << PRECISION_BITS))) };
  });
}

function rounded(number) {
  return number < 0 ? Math.trunc(number - 0.5) : Math.trunc(number + 0.5);
}
