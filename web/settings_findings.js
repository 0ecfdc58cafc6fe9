// Shows what is found in the pack's settings, each once: when the page is opened, and after a run where it is new.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const ROUTE = "/comfy_gpu_offload/findings";
const SUMMARY = "comfy-gpu-offload: settings";

let shown = new Set();

async function show() {
  const findings = await found();
  if (!findings) return;
  for (const { text, is_error } of findings) {
    // Without `life` it stays until it is closed: nothing else on the page says it.
    if (!shown.has(text)) app.extensionManager.toast.add({ severity: is_error ? "error" : "warn", summary: SUMMARY, detail: text });
  }
  shown = new Set(findings.map((each) => each.text)); // what was mended and comes back is shown again
}

async function found() {
  try {
    const reply = await api.fetchApi(ROUTE, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: "{}",
    });
    return reply.ok ? (await reply.json()).findings : null;
  } catch {
    return null; // ComfyUI itself does not answer, which the page says
  }
}

app.registerExtension({
  name: "comfy-gpu-offload.settings-findings",
  async setup() {
    for (const ended of ["execution_success", "execution_error", "execution_interrupted"]) {
      api.addEventListener(ended, () => void show());
    }
    void show();
  },
});
