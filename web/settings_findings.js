// Shows faults in the pack's settings as toasts, each once: when the page is opened, and after each run. Toasts of
// faults that have been mended are removed.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { translate } from "./translation.js";

const ROUTE = "/comfy_gpu_offload/findings";

const shown = new Map(); // toasts by their text; a fault that was mended and comes back is shown again

async function show() {
  const findings = await found();
  if (!findings) return;
  const { toast } = app.extensionManager;
  const texts = new Set(findings.map((each) => each.text));
  for (const [text, message] of [...shown]) {
    if (texts.has(text)) continue;
    toast.remove(message);
    shown.delete(text);
  }
  for (const { text, is_error } of findings) {
    if (shown.has(text)) continue;
    // Without `life` it stays until the user closes it: nothing else on the page shows the fault.
    const summary = translate("comfy-gpu-offload: settings");
    const message = { severity: is_error ? "error" : "warn", summary, detail: text };
    shown.set(text, message);
    toast.add(message);
  }
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
    return null; // ComfyUI itself does not answer, which its page shows
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
