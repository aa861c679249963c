// What pictures show, by the model in this folder, in Node 18 or newer.
//
// `node predict.mjs some.jpg other.png` prints the classes of each as a line of JSON, and needs `npm install sharp`, which
// opens the files. `node predict.mjs --self-test` tells whether the model answers here as it did where it was made.

import { readFile } from "node:fs/promises";
import { Classifier } from "./classifier.mjs";
import { fit } from "./pixels.mjs";
import { runtime } from "./runtime.mjs";

const read = async (name) => new Uint8Array(await readFile(new URL(name, import.meta.url)));

async function decode(file) {
  const { default: sharp } = await import("sharp");
  const image = sharp(file).rotate().flatten({ background: "white" }).toColourspace("srgb").ensureAlpha();
  const { data, info } = await image.raw().toBuffer({ resolveWithObject: true });
  return { data, width: info.width, height: info.height, jpeg: /\.jpe?g$/i.test(file) };
}

const classifier = await Classifier.load(await runtime(read), read);
const files = process.argv.slice(2);
if (files.length === 1 && files[0] === "--self-test") {
  const report = await classifier.selfTest();
  console.log(JSON.stringify({ ...report, runtime: `node ${process.version}` }));
  process.exitCode = report.self_test === "passed" ? 0 : 1;
} else {
  for (const file of files) {
    const answer = await classifier.classify(fit(await decode(file), classifier.preprocessing));
    console.log(JSON.stringify({ file, ...answer }));
  }
}
