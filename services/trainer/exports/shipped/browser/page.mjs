// The page: a file or the camera to pixels, pixels to classes, classes to bars.

import { Classifier } from "./classifier.mjs";
import { isUnsure, minConfidence } from "./error_control.mjs";
import { fit } from "./pixels.mjs";
import { runtime } from "./runtime.mjs";

const SHOWN = 5;
const MAX_LEVELS = 4; // of 255: decoders of JPEG round differently
const [canvas, note, video] = ["shown", "note", "video"].map((id) => document.getElementById(id));
const [choose, camera, file, wrong] = ["choose", "camera", "file", "wrong"].map((id) => document.getElementById(id));
let last = null; // the last answer

async function read(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
}

// An upright picture in sRGB on white, of a file or of a moment of the camera.
async function decode(source) {
  const bitmap = source instanceof Blob ? await createImageBitmap(source, { imageOrientation: "from-image" }) : source;
  const [width, height] = [bitmap.width || bitmap.videoWidth, bitmap.height || bitmap.videoHeight];
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const begin = source instanceof Blob ? new Uint8Array(await source.slice(0, 3).arrayBuffer()) : [];
  const jpeg = begin[0] === 0xff && begin[1] === 0xd8 && begin[2] === 0xff;
  return { picture: { data, width, height, jpeg }, bitmap };
}

const loading = runtime(read).then((ort) => Classifier.load(ort, read));

export async function classify(source) {
  const classifier = await loading;
  const { picture, bitmap } = await decode(source);
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  last = await classifier.classify(fit(picture, classifier.preprocessing));
  return judge(classifier);
}

// Shows the last answer, and whether it is sure enough for what is chosen.
function judge({ errorControl }) {
  const confidence = wrong.value ? minConfidence(errorControl, Number(wrong.value)) : null;
  const answer = { ...last, unsure: isUnsure(last.predictions[0].score, confidence) };
  show(answer);
  return answer;
}

// What so few examples cannot promise is not to be chosen.
function offer({ errorControl }) {
  for (const option of wrong.options) {
    try {
      if (option.value) minConfidence(errorControl, Number(option.value));
    } catch (problem) {
      option.disabled = true;
      option.title = problem.message;
    }
  }
}

// As predict.py has it: the golden pictures, and how far the first of them, read from its file, is from its pixels.
export async function selfTest() {
  const classifier = await loading;
  const report = await classifier.selfTest();
  const { picture } = await decode(new Blob([await read(classifier.golden.picture)]));
  const pixels = fit(picture, classifier.preprocessing);
  const levels = pixels.reduce((most, one, place) => Math.max(most, Math.abs(one - classifier.golden.pixels[place])), 0);
  const passed = report.self_test === "passed" && levels <= MAX_LEVELS;
  return { ...report, self_test: passed ? "passed" : "failed", max_pixel_diff: levels };
}

function show({ predictions, unknown, unsure }) {
  const rows = predictions.slice(0, SHOWN).map(({ label, score }) => {
    const row = document.createElement("li");
    const [name, bar, share] = ["span", "meter", "span"].map((kind) => row.appendChild(document.createElement(kind)));
    name.textContent = label;
    bar.value = score;
    share.textContent = `${(100 * score).toFixed(1)} %`;
    return row;
  });
  document.getElementById("classes").replaceChildren(...rows);
  note.textContent = unknown ? "It is like nothing that was trained on." : unsure ? "It is unsure." : "";
}

async function watch() {
  if (video.srcObject) {
    video.srcObject.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
    camera.textContent = "Use the camera";
    return;
  }
  video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  await video.play();
  camera.textContent = "Stop";
  while (video.srcObject) {
    await classify(video);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const said = (work) => work.catch((problem) => { note.textContent = `That did not work: ${problem.message}`; });
choose.onclick = () => file.click();
file.onchange = () => said(classify(file.files[0]));
camera.onclick = () => said(watch());
wrong.onchange = () => { if (last) said(loading.then(judge)); };
said(loading.then((classifier) => {
  offer(classifier);
  choose.disabled = camera.disabled = false;
  note.textContent = "Ready.";
}));
