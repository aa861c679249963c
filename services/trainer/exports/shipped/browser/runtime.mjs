// ONNX Runtime for browsers and Node: from `vendor/` where its files lie there, else from jsDelivr. Either must have the
// hashes that runtime.json says, or it is not run.

// Node 18 has it in a module alone.
const { subtle } = globalThis.crypto ?? (await import("node:crypto")).webcrypto;

export async function runtime(read) {
  const { base, script, wasm } = JSON.parse(new TextDecoder().decode(await read("runtime.json")));
  const found = await Promise.all([script, wasm].map((one) => checked(read, base, one)));
  // An address that browsers and Node both import from.
  const text = Array.from(found[0], (one) => String.fromCharCode(one)).join("");
  const ort = await import(`data:text/javascript;base64,${btoa(text)}`);
  ort.env.wasm.wasmBinary = found[1];
  ort.env.wasm.numThreads = 1;
  return ort;
}

async function checked(read, base, { name, sha256 }) {
  const bytes = await read(`vendor/${name}`).catch(async () => {
    const answer = await fetch(base + name).catch((problem) => {
      throw new Error(`there is no vendor/${name}, and ${base}${name} cannot be had: ${problem.message}`);
    });
    if (!answer.ok) throw new Error(`${base}${name} answers ${answer.status}`);
    return new Uint8Array(await answer.arrayBuffer());
  });
  const digest = new Uint8Array(await subtle.digest("SHA-256", bytes));
  if (Array.from(digest, (one) => one.toString(16).padStart(2, "0")).join("") !== sha256) {
    throw new Error(`${name} is not the file that was asked for`);
  }
  return bytes;
}
