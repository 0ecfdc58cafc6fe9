// Shows the text of the pack's errors, which says what failed and what to do, as a toast. ComfyUI's page from 1.48 on
// shows only "threw an error during execution" at first. Older pages, and those without its tab for errors, show the
// text in a dialog by themselves.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const OURS = "comfy_gpu_offload.errors.";
const HIDES_TEXT = "Comfy.RightSidePanel.ShowErrorsTab";

const shown = new Set();

function showError({ exception_type: type, exception_message: text, node_type: node }) {
  const { toast, setting } = app.extensionManager;
  if (!type?.includes(OURS) || !setting.get(HIDES_TEXT)) return;
  const title = window.LiteGraph?.registered_node_types[node]?.title ?? node;
  const message = { severity: "error", summary: title, detail: text.trim() };
  shown.add(message);
  toast.add(message);
}

function clear() {
  for (const message of shown) app.extensionManager.toast.remove(message);
  shown.clear();
}

app.registerExtension({
  name: "comfy-gpu-offload.run-errors",
  setup() {
    api.addEventListener("execution_error", ({ detail }) => showError(detail));
    api.addEventListener("execution_start", clear);
  },
});
