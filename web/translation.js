// Texts of the pack's own scripts in the language of the page. ComfyUI translates nodes and settings, and offers
// nothing for an extension's other texts, but it gives out what all packs have in locales/. These texts are in
// locales/<language>/main.json under SECTION, by their English wording.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const SECTION = "comfyGpuOffload";

// The page waits for its extensions' modules, so no text is asked for before this is here.
const locales = await Promise.resolve()
  .then(() => api.getCustomNodesI18n())
  .catch(() => ({}));

// `values`: by the name that stands in braces in the text.
export function translate(text, values = {}) {
  const language = app.extensionManager.setting.get("Comfy.Locale");
  const wording = locales[language]?.[SECTION]?.[text] ?? text;
  return wording.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
