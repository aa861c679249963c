// The model in this folder: from pixels to the classes, best first. The same in browsers and in Node.

import { isUnsure } from "./error_control.mjs";

export class Classifier {
  // `ort` is ONNX Runtime; `read` gives the bytes of a file of this folder.
  static async load(ort, read) {
    const json = async (name) => JSON.parse(new TextDecoder().decode(await read(name)));
    const made = new Classifier();
    made.ort = ort;
    made.told = await json("export.json");
    made.preprocessing = (await json("preprocessing.json")).image;
    const { id2label } = await json("labels.json");
    made.labels = Object.keys(id2label).map((index) => id2label[index]);
    made.golden = { ...(await json("golden.json")), pixels: await read("golden.bin") };
    made.errorControl = await json("error_control.json");
    made.neighbours = await json("neighbours.json");
    made.rows = new Float32Array((await read("neighbours.bin")).slice().buffer);
    made.session = await ort.InferenceSession.create(await read("model.onnx"), { executionProviders: ["wasm"] });
    return made;
  }

  // Float32Array of probabilities, by class, and of features, of Uint8Array[size * size * 3].
  async run(pixels) {
    const { size } = this.preprocessing;
    const tensor = new this.ort.Tensor("uint8", pixels, [1, size, size, 3]);
    const { probabilities, features } = await this.session.run({ pixels: tensor });
    return { probabilities: probabilities.data, features: features.data };
  }

  // The classes, best first, whether the picture is like nothing that was trained on, and whether the best is no surer
  // than a confidence, if that is given.
  async classify(pixels, confidence = null) {
    const { probabilities, features } = await this.run(pixels);
    const predictions = this.labels.map((label, index) => ({ label, score: probabilities[index] }));
    predictions.sort((one, other) => other.score - one.score);
    const known = !this.rows.length || this.distance(features) <= this.neighbours.max_distance;
    return { predictions, unknown: !known, unsure: isUnsure(predictions[0].score, confidence) };
  }

  // One minus the mean cosine with the nearest training examples, in [0, 2].
  distance(features) {
    const width = features.length;
    const length = Math.max(Math.sqrt(features.reduce((sum, one) => sum + one * one, 0)), 1e-12);
    const cosines = [];
    for (let start = 0; start < this.rows.length; start += width) {
      let sum = 0;
      for (let one = 0; one < width; one++) sum += this.rows[start + one] * features[one];
      cosines.push(sum / length);
    }
    const nearest = cosines.sort((one, other) => other - one).slice(0, this.neighbours.nearest);
    return 1 - nearest.reduce((sum, one) => sum + one, 0) / nearest.length;
  }

  // Its answers to the golden pictures, against those that were stored with it.
  async selfTest() {
    const { probabilities } = this.golden;
    const each = this.golden.pixels.length / probabilities.length;
    let [same, difference] = [0, 0];
    for (const [place, expected] of probabilities.entries()) {
      const found = (await this.run(this.golden.pixels.slice(place * each, (place + 1) * each))).probabilities;
      const differences = expected.map((one, index) => Math.abs(one - found[index]));
      difference = Math.max(difference, ...differences.map((one) => (Number.isNaN(one) ? 1 : one)));
      same += best(expected) === best(found) ? 1 : 0;
    }
    const passed = same === probabilities.length && difference <= this.told.max_abs_diff;
    return {
      self_test: passed ? "passed" : "failed",
      golden: probabilities.length,
      top1_agreement: same / probabilities.length,
      max_abs_diff: difference,
    };
  }
}

function best(probabilities) {
  return probabilities.indexOf(Math.max(...probabilities));
}
