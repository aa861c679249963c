// From what a model got wrong to the confidence up to which its answers are held back: what error_control.py of Handful does,
// by which the same model is served.

const ROUNDING = 1e-9; // a third of three is not quite one
const MOST = 1e9;

// `5%` or `0.05` as a number.
export function share(text) {
  const number = text.replace(/%$/, "");
  const value = number === text ? Number(text) : Number(number) / 100;
  if (!(value > 0 && value < 1)) throw new Error("write a share between 0% and 100%, such as 5% or 0.05");
  return value;
}

// Whether an answer whose best class has that score is held back; none is where the confidence is null.
export function isUnsure(score, confidence) {
  return confidence !== null && score <= confidence;
}

// The smallest confidence such that, where only surer answers are given, at most such a share of all that is asked is
// answered wrongly. `told` is error_control.json. An error says why it cannot be promised.
export function minConfidence(told, rate) {
  const { measured } = told;
  const allowed = measured && rate * (measured.num_groups + 1) - 1 + ROUNDING;
  const place = measured ? measured.errors.filter((one) => one <= allowed).length : 0;
  if (place) return measured.min_confidences[place - 1];
  throw new Error(`${general(rate)} cannot be promised by this export: ${told.refusal || whyNot(measured, rate)}`);
}

function whyNot(measured, rate) {
  const needed = Math.ceil(Math.min(1 / rate - 1 - ROUNDING, MOST));
  const takes = `it takes ${needed} examples of different groups`;
  if (!measured) {
    return `${takes} that the model was not fitted on, and it was measured on none, or an earlier release made it; `
      + "train it anew, with examples that validate or two of every class at least.";
  }
  const least = Math.ceil(1e3 / (measured.num_groups + 1)) / 1e3;
  return `${takes}, and the model was measured on ${measured.num_groups}. Ask for ${least} or more, or add examples.`;
}

// A number above 0 in six digits, as Python's :g has it.
function general(number) {
  const six = Number(number.toPrecision(6));
  return six < 1e-4 ? six.toExponential().replace(/-(\d)$/, "-0$1") : String(six);
}
