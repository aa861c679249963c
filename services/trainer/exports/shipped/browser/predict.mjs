// What pictures show, by the model in this folder, in Node 18.17 or newer, as sharp asks for.
//
// `node predict.mjs some.jpg other.png` prints the classes of each as a line of JSON, and needs `npm install sharp@0.34`, which
// opens the files. `node predict.mjs --max-wrong 5% some.jpg` says `unsure` where an answer is not sure enough for that;
// README.md has what is promised. `node predict.mjs --self-test` tells whether the model answers here as it did where it was
// made.

import { readFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { Classifier } from "./classifier.mjs";
import { minConfidence, share } from "./error_control.mjs";
import { fit } from "./pixels.mjs";
import { runtime } from "./runtime.mjs";

const read = async (name) => new Uint8Array(await readFile(new URL(name, import.meta.url)));

async function decode(sharp, file) {
  const image = sharp(file).rotate().flatten({ background: "white" }).toColourspace("srgb").ensureAlpha();
  const { data, info } = await image.raw().toBuffer({ resolveWithObject: true });
  return { data, width: info.width, height: info.height, jpeg: /\.jpe?g$/i.test(file) };
}

// The confidence up to which answers are held back; null where no share of wrong ones is asked for.
async function heldBack(wanted) {
  if (wanted === undefined) return null;
  try {
    return minConfidence(JSON.parse(await readFile(new URL("error_control.json", import.meta.url))), share(wanted));
  } catch (problem) {
    throw new Error(`--max-wrong: ${problem.message}`);
  }
}

async function show(files, confidence) {
  const classifier = await Classifier.load(await runtime(read), read);
  const { default: sharp } = await import("sharp").catch((problem) => {
    throw new Error(`npm install sharp@0.34, which opens the files: ${problem.message}`);
  });
  for (const file of files) {
    try {
      const answer = await classifier.classify(fit(await decode(sharp, file), classifier.preprocessing), confidence);
      console.log(JSON.stringify({ file, ...answer }));
    } catch (problem) {
      console.error(`${file}: ${problem.message}`);
      process.exitCode = 1;
    }
  }
}

async function selfTest() {
  const classifier = await Classifier.load(await runtime(read), read);
  const report = await classifier.selfTest();
  console.log(JSON.stringify({ ...report, runtime: `node ${process.version}` }));
  process.exitCode = report.self_test === "passed" ? 0 : 1;
}

const options = { "self-test": { type: "boolean" }, "max-wrong": { type: "string" } };
try {
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  if (!values["self-test"] === !positionals.length) throw new Error("give pictures, or --self-test");
  await (values["self-test"] ? selfTest() : show(positionals, await heldBack(values["max-wrong"])));
} catch (problem) {
  console.error(problem.message);
  process.exitCode = 1;
}
